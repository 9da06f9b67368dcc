"""Queries of one kind that wait for each other go to the server together.  Pure: what asks the server is given.

Of one kind one query, or several, are on the server at a time.  What comes meanwhile waits, and then goes as one.  So
nothing waits for company: a query that finds nobody goes at once, and the more there are, the more travel together.
Nor does anybody wait for long: whoever has waited for `PATIENCE_S`, for its turn or for an answer to several, goes
alone, and what had it among others is ended on the server.  Nothing is lost by that: it is a read.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar


if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

#: What queries of one kind have in common, what each asks, and what comes back for it.
K = TypeVar("K", bound="Hashable")
A = TypeVar("A")
P = TypeVar("P")

#: Seconds that a query waits for others; one that goes together with others takes a hundredth of that.
PATIENCE_S = 0.1

#: Queries that go together, at most.
MOST = 64


class Turn(Generic[A, P]):
    """One query that waits, or goes.  Guarded by the lock of its `Joining` until it is woken."""

    __slots__ = ("asked", "leads", "others", "part", "together", "woken")

    def __init__(self, asked: A) -> None:
        self.asked = asked
        #: Those that wait for it: it has to `Joining.leave` when the server has answered.
        self.leads = False
        #: Its part of an answer to several; none where it goes alone.
        self.part: P | None = None
        self.others: Sequence[Turn[A, P]] = ()  # that it asks for, too
        self.together = False  # another one asks for it
        self.woken = threading.Lock()


class Joining(Generic[K, A, P]):
    """Lets queries of one kind go together.  Any thread.

    *ask* asks the server for several of a kind at once: their parts, in order, or none where each has to go alone.
    *end* ends on the server what was asked together with one of them.
    """

    def __init__(
        self,
        ask: Callable[[K, list[A]], Sequence[P] | None],
        end: Callable[[A], object],
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._ask = ask
        self._end = end
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._waiting: dict[K, deque[Turn[A, P]]] = {}  # by kind, while one of it is on the server

    def turn(self, kind: K, asked: A) -> Turn[A, P]:
        """Wait until *asked* may go, or has its part of what went together."""
        turn = Turn[A, P](asked)
        with self._lock:
            waiting = self._waiting.get(kind)
            if waiting is None:
                self._waiting[kind] = deque()
                turn.leads = True
                return turn
            turn.woken.acquire()
            waiting.append(turn)
        if not turn.woken.acquire(timeout=self._patience_s):
            self._go_alone(kind, turn)
        if turn.others:
            self._go_together(kind, turn)
        return turn

    def waiting(self, kind: K) -> int:
        """How many wait for their turn."""
        with self._lock:
            return len(self._waiting.get(kind, ()))

    def leave(self, kind: K) -> None:
        """The server has answered who leads: those that wait are next."""
        with self._lock:
            waiting = self._waiting.get(kind)
            if not waiting:
                self._waiting.pop(kind, None)
                return
            first, *others = (waiting.popleft() for _ in range(min(len(waiting), MOST)))
            first.leads, first.others = True, others
            for other in others:
                other.together = True
        first.woken.release()

    def _go_together(self, kind: K, turn: Turn[A, P]) -> None:
        """Ask for *turn* and the others; then each of them goes on, with its part or alone."""
        turns = [turn, *turn.others]
        parts: Sequence[P] | None = None
        try:
            parts = self._ask(kind, [each.asked for each in turns])
        finally:
            turn.leads = False
            self.leave(kind)
            for each, part in zip(turns, parts or (), strict=bool(parts)):
                each.part = part
            for other in turn.others:
                other.woken.release()

    def _go_alone(self, kind: K, turn: Turn[A, P]) -> None:
        """Wait no longer, unless its turn has come just now.

        What waits for its turn leads from now on: whoever did may take long yet, or its thread has died.
        """
        with self._lock:
            if not turn.leads and not turn.together:
                self._waiting[kind].remove(turn)
                turn.leads = True
        if turn.together and not turn.woken.acquire(blocking=False):
            self._end(turn.asked)
