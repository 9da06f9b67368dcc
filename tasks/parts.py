"""The parts of one answer put together again.  Pure.

Usually there is one run.  There are two when a worker was killed half-way, or lost its partition, and another one began
anew: the first that is whole counts.  Rows that were handed out while they came cannot be taken back, so once some
were, only their own run counts.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tasks.errors import AnswerBroken


if TYPE_CHECKING:
    from tasks.answers import Answer


@dataclass(slots=True)
class _Run:
    header: Answer | None = None
    parts: deque[Answer] = field(default_factory=deque)
    expected: int = 0
    broken: bool = False


class Parts:
    """All parts that have come and are not handed out.  *last* is the end, when there is one."""

    def __init__(self) -> None:
        self.last: Answer | None = None
        self._runs: dict[str, _Run] = {}
        self._shown: str | None = None

    @property
    def header(self) -> Answer | None:
        """The first part of the run that counts, or may count."""
        run = self._counting()
        return None if run is None else run.header

    @property
    def came(self) -> int:
        """How many parts of it came."""
        run = self._counting()
        return 0 if run is None else run.expected

    def take(self, answer: Answer) -> None:
        """One more part, in the order of the log; what comes twice, or late, changes nothing.

        Raises:
          AnswerBroken: rows were handed out of a run that nobody will end.
        """
        if self.last is not None:
            return
        if self._shown not in {None, answer.run}:
            if answer.end:
                raise AnswerBroken(
                    f"query {answer.id}: the worker was lost half-way, and {answer.replica} has answered from the"
                    " beginning after rows were taken already: ask again, or take the rows with get()"
                )
            return
        run = self._runs.setdefault(answer.run, _Run())
        failed = answer.end and answer.error is not None  # whatever was lost before it, it says why
        if answer.seq > run.expected and not failed:
            self._break(answer, run)
        if answer.seq < run.expected or (run.broken and not failed):
            return
        self._add(answer, run)

    def _add(self, answer: Answer, run: _Run) -> None:
        run.header = run.header or answer
        run.parts.append(answer)
        run.expected = answer.seq + 1
        if answer.end:
            self.last, self._shown = answer, answer.run
            self._runs = {answer.run: run}

    def _break(self, answer: Answer, run: _Run) -> None:
        run.broken = True
        run.parts.clear()
        if self._shown == answer.run:
            raise AnswerBroken(
                f"query {answer.id}: part {run.expected} of its answer is gone: the topic keeps answers for an hour,"
                " and they were read too late, or somebody deleted them"
            )

    def hand_out(self) -> Answer | None:
        """The next part of the run whose parts are handed out, if it has come; then nobody else sees it."""
        run = self._counting()
        if run is None or not run.parts:
            return None
        part = run.parts.popleft()
        self._shown = part.run
        return part

    def whole(self) -> list[Answer]:
        """All parts of the answer; to be called when *last* is there, and nothing was handed out."""
        run = self._counting()
        return [] if run is None else list(run.parts)

    def _counting(self) -> _Run | None:
        if self._shown is not None:
            return self._runs[self._shown]
        return next((run for run in self._runs.values() if not run.broken), None)
