"""What a caller gets for a query."""

from __future__ import annotations

import contextlib
from itertools import chain
from typing import TYPE_CHECKING, Any, Self

from replica import values
from tasks import answers
from tasks.arrivals import Arrivals
from tasks.errors import query_failed
from tasks.streaming import Stream, rows_of


if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence
    from types import TracebackType

    import dramatiq

    from brokers.claims import ClaimStore
    from brokers.waiter import Waiter
    from tasks.answers import Answer, Ending
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


class Summary:
    """What is known of an answer when it has ended."""

    def __init__(self, header: Answer, last: Answer) -> None:
        #: Names in their order; none for what a query function returned.
        self.columns = header.columns
        #: The level that was asked for, in words; none for any.
        self.level = header.level
        #: As of `Rows`.
        self.replica, self.position, self.truncated = last.replica, last.position, last.truncated
        told: Ending = last.summary or answers.Ending()
        #: How many rows were sent.
        self.rows = told.rows
        #: Milliseconds, see `answers.Ending`.
        self.waited_ms, self.took_ms = told.waited_ms, told.took_ms
        self.available_ms, self.consumed_ms = told.available_ms, told.consumed_ms
        #: What the server says: which one, ``r`` for what reads, counters that are not zero, warnings.
        self.server, self.query_type = told.server, told.query_type
        self.counters, self.notifications = told.counters, told.notifications
        #: Of EXPLAIN: the plan, as the server draws it.
        self.plan = told.plan

    def __repr__(self) -> str:
        told = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"Summary({told})"


class Result:
    """A query on its way.  One thread, or one task, at a time.

        result.get()                  the whole answer, once or again
        for row in result: ...        rows as they come, in bounded memory, once
        await result                  as get, for asyncio; ``async for row in result`` as the loop
        result.summary()              when it has ended: from where, how long, warnings
        result.cancel()               end it, wherever it runs or waits; so does leaving ``with result:`` too soon

    All that wait take *timeout*, in seconds, and raise:
      QueryFailed: the answer is an error; `StaleRead`, where no replica was as fresh as asked for.
      WaitTimeout: no answer in time.
      AnswerBroken: a part of it is gone, or another worker began anew after rows were taken; ask again.
      StoreAway, ClaimGone, ClaimBroken: it lies in a claim store, and cannot be had there; see `brokers.errors`.
    """

    def __init__(
        self,
        message: dramatiq.Message[Any],
        waiter: Waiter,
        topic: str,
        claim_store: ClaimStore | None = None,
        cancel: Callable[[str], None] | None = None,
    ) -> None:
        self.message = message
        self._cancel = cancel
        self.session: Session | None = None  #: goes on from what the answer has shown
        self._arrivals = Arrivals(message, waiter, topic, claim_store, self._saw)
        self._stream: Stream | None = None

    @property
    def message_id(self) -> str:
        """The query's id, and that of its answer."""
        return self.message.message_id

    def get(self, timeout: float = WAIT_S) -> Any:
        """The rows of a text query (see `Rows`), or what a query function returned.  All of it is in memory.

        Raises, besides what all do:
          RuntimeError: the rows were taken one by one.
        """
        self._refuse_streamed()
        self._arrivals.end(timeout)
        return opened(self._arrivals.parts.whole())

    def rows(self, timeout: float = WAIT_S) -> Rows:
        """As `get`, of a text query.  Raises TypeError for a value of a query function."""
        found = self.get(timeout)
        if not isinstance(found, Rows):
            raise TypeError("the answer of a query function is a value, and has no rows: take it with get()")
        return found

    def stream(self, timeout: float = WAIT_S) -> Stream:
        """Rows as they come, once, in bounded memory on both sides; *timeout* is the longest wait for the next part.

        What is not taken yet waits in Kafka, for as long as the response topic keeps answers (an hour).
        """
        if self._stream is None:
            self._stream = Stream(self._arrivals, timeout)
        return self._stream

    def __iter__(self) -> Stream:
        return self.stream()

    def __aiter__(self) -> Stream:
        return self.stream()

    def __await__(self) -> Generator[Any, None, Any]:
        return self.get_async().__await__()

    async def get_async(self, timeout: float = WAIT_S) -> Any:  # noqa: ASYNC109 - as `get` has it; the text names who was waited for
        """As `get`, and the event loop runs on."""
        self._refuse_streamed()
        await self._arrivals.end_async(timeout)
        return opened(self._arrivals.parts.whole())

    def summary(self, timeout: float = WAIT_S) -> Summary:
        """What is known when the answer has ended; waits for that.  In the middle of a stream it drops the rest."""
        while self._stream is not None and self._arrivals.next(timeout) is not None:
            continue
        last = self._arrivals.end(timeout)
        return Summary(self._arrivals.parts.header or last, last)

    def to_pandas(self, timeout: float = WAIT_S) -> Any:
        """The rows as a ``pandas.DataFrame``, a column for each column; Neo4j's own values stay what they are.

        Raises, besides what `rows` does:
          ImportError: pandas is not installed.
        """
        try:
            import pandas as pd  # noqa: PLC0415 - only where it is wanted
        except ImportError as exc:
            raise ImportError("to_pandas needs pandas, which is not installed: pip install pandas") from exc
        rows = self.rows(timeout)
        return pd.DataFrame.from_records(rows, columns=list(rows.columns))

    def cancel(self) -> None:
        """End the query, on whichever replica it runs, or before it begins; nothing happens when it has ended.

        The answer is an error then, `QueryCancelled`, unless it was quicker.  Returns when Kafka has told all workers.

        Raises:
          Unreachable, DeliveryUnknown, DeliveryRefused: see `brokers.errors`; it may go on.
        """
        if self._arrivals.parts.last is None and self._cancel is not None:
            self._cancel(self.message_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def _refuse_streamed(self) -> None:
        if self._stream is not None:
            raise RuntimeError(f"the rows of query {self.message_id} are taken one by one already, and not kept")

    def _saw(self, last: Answer) -> None:
        if self.session is not None:
            self.session.saw(last.seen)

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # the interpreter may be gone half
            self._arrivals.close()


def opened(parts: Sequence[Answer]) -> Any:
    """The rows or the value of a whole answer.

    Raises:
      QueryFailed: it is an error.
    """
    columns, last = parts[0].columns, parts[-1]
    if (error := last.error) is not None:
        raise query_failed(error.code, error.message, replica=last.replica, retryable=error.retryable)
    if columns is None:
        return values.decode(last.value)
    return Rows(chain.from_iterable(map(rows_of, parts)), last, columns)
