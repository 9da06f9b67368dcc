"""What a caller gets for a query."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from replica import values
from tasks import answers
from tasks.errors import WaitTimeout, query_failed


if TYPE_CHECKING:
    from collections.abc import Iterable

    import dramatiq

    from brokers.replies import Waiter
    from tasks.answers import Answer
    from tasks.sessions import Session

#: Seconds that `Result.get` waits unless told otherwise.
WAIT_S = 30.0


class Rows(list[dict[str, Any]]):
    """The rows of an answer, each a dictionary from column to value, and where they come from."""

    def __init__(self, rows: Iterable[dict[str, Any]], last: Answer, columns: tuple[str, ...]) -> None:
        super().__init__(rows)
        self.columns = columns
        #: The replica that answered.
        self.replica = last.replica
        #: The last command that it had applied, at least; none where no log was ever applied.
        self.position = last.position
        #: Whether a limit cut the answer.
        self.truncated = last.truncated


class Result:
    """A query on its way.  `get` waits for the answer, once or again."""

    def __init__(self, message: dramatiq.Message[Any], waiter: Waiter, topic: str) -> None:
        self.message = message
        self._waiter = waiter
        self._topic = topic
        self.session: Session | None = None  #: goes on from what the answer has shown
        self._runs: dict[str, list[Answer]] = {}
        self._whole: list[Answer] | None = None

    @property
    def message_id(self) -> str:
        """The query's id, and that of its answer."""
        return self.message.message_id

    def get(self, timeout: float = WAIT_S) -> Any:
        """The rows of a text query (see `Rows`), or what a query function returned; *timeout* in seconds.

        Raises:
          QueryFailed: the answer is an error; `StaleRead`, where no replica was as fresh as asked for.
          WaitTimeout: no complete answer in time.
        """
        parts = self._complete(timeout)
        last = parts[-1]
        if last.error is not None:
            raise query_failed(
                last.error.code, last.error.message, replica=last.replica, retryable=last.error.retryable
            )
        if self.session is not None:
            self.session.saw(last.seen)
        columns = parts[0].columns
        if columns is None:
            return values.decode(last.value)
        rows = (values.decode(row) for part in parts for row in part.rows or ())
        return Rows((dict(zip(columns, row, strict=True)) for row in rows), last, columns)

    def _complete(self, timeout_s: float) -> list[Answer]:
        deadline = time.monotonic() + timeout_s
        while self._whole is None:
            record = self._waiter.get(deadline - time.monotonic())
            if record is None:
                raise WaitTimeout(self._missing(timeout_s))
            answer = answers.decode(record.value)
            if answer is not None:
                self._take(answer)
        self._waiter.close()
        return self._whole

    def _take(self, answer: Answer) -> None:
        parts = self._runs.setdefault(answer.run, [])
        if answer.seq == len(parts):
            parts.append(answer)
            self._whole = parts if answer.end else None

    def _missing(self, timeout_s: float) -> str:
        where = f"on {self._topic!r} within {timeout_s:g} s"
        if self._runs:
            parts = max(self._runs.values(), key=len)
            return f"query {self.message_id}: {len(parts)} parts came and no end, {where}"
        actor = self.message.actor_name
        return f"query {self.message_id} ({actor}): no answer {where}; is a worker with this actor running?"

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # the interpreter may be gone half
            self._waiter.close()
