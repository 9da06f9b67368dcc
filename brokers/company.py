"""Messages of one kind that wait for each other are run in one call: who waits for whom.  Pure: times come in.

Of a kind one message, or several, run at a time.  What comes meanwhile waits, and then goes as one.  So nothing waits
for company: a message that finds nobody goes at once, as it would have without any of this, and the busier a worker is,
the more messages share what a call costs: changes of threads, a question to a database, the wait for Kafka.  Nor does
anything wait for long: what has waited for `PATIENCE_S` goes alone, beside whatever takes so long.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar


if TYPE_CHECKING:
    from collections.abc import Hashable

M = TypeVar("M")

#: Seconds that a message waits for others.
PATIENCE_S = 0.1

#: Messages that go together, at most.
MOST = 64

#: Kinds after which those are forgotten of which nothing is under way.
KINDS = 64


class Going(Protocol):
    """What went: a message, or several."""

    @property
    def out(self) -> bool:
        """Whether it has not ended yet."""


class Company(Generic[M]):
    """The messages that wait, by kind.  One thread."""

    def __init__(self, patience_s: float = PATIENCE_S, most: int = MOST) -> None:
        self._patience_s = patience_s
        self._most = most
        self._waiting: dict[Hashable, deque[tuple[float, M]]] = {}  # with the time since when; none is empty
        self._under_way: dict[Hashable, Going] = {}

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(map(len, self._waiting.values()))

    def join(self, kind: Hashable, message: M, now: float) -> None:
        """*message* waits from *now* on."""
        self._waiting.setdefault(kind, deque()).append((now, message))

    def may_go(self, now: float) -> bool:
        """Whether `late` or `go` have something."""
        return any(not self._is_busy(kind) or self._is_late(line, now) for kind, line in self._waiting.items())

    def due_in(self, now: float) -> float:
        """Seconds until somebody will have waited too long."""
        since = min((line[0][0] for line in self._waiting.values()), default=float("inf"))
        return max(since + self._patience_s - now, 0.0)

    def late(self, now: float) -> list[M]:
        """Take out those that have waited too long for what is under way of their kind: each goes alone."""
        found = []
        for kind, line in list(self._waiting.items()):
            while line and self._is_busy(kind) and self._is_late(line, now):
                found.append(line.popleft()[1])
            self._keep(kind, line)
        return found

    def go(self) -> tuple[Hashable, list[M]] | None:
        """Take out those of a kind of which nothing is under way; then say as what they `went`."""
        for kind, line in self._waiting.items():
            if not self._is_busy(kind):
                found = [line.popleft()[1] for _ in range(min(len(line), self._most))]
                self._keep(kind, line)
                return kind, found
        return None

    def went(self, kind: Hashable, going: Going) -> None:
        """Others of the *kind* wait until *going* has ended."""
        if len(self._under_way) >= KINDS:
            self._under_way = {name: other for name, other in self._under_way.items() if other.out}
        self._under_way[kind] = going

    def leave(self) -> list[M]:
        """Take out all that wait."""
        found = [message for line in self._waiting.values() for _, message in line]
        self._waiting = {}
        return found

    def _is_busy(self, kind: Hashable) -> bool:
        going = self._under_way.get(kind)
        return going is not None and going.out

    def _is_late(self, line: deque[tuple[float, M]], now: float) -> bool:
        return now - line[0][0] >= self._patience_s

    def _keep(self, kind: Hashable, line: deque[tuple[float, M]]) -> None:
        if not line:
            del self._waiting[kind]
