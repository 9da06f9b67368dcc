"""The parts of an answer as its caller waits for them, in a thread or in an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

from brokers import claims
from tasks import answers
from tasks.errors import WaitTimeout, query_failed
from tasks.parts import Parts


if TYPE_CHECKING:
    from collections.abc import Callable

    import dramatiq

    from brokers.claims import ClaimStore
    from brokers.records import Record
    from brokers.waiter import Waiter
    from tasks.answers import Answer


class Arrivals:
    """What has come of the answer to *message*.  One thread, or one task, at a time.

    Times are seconds from the call.  All methods that wait raise `WaitTimeout`, `QueryFailed` when the answer is an
    error, `AnswerBroken`, and what a claim store raises (see `brokers.errors`).
    """

    def __init__(
        self,
        message: dramatiq.Message[Any],
        waiter: Waiter,
        topic: str,
        claim_store: ClaimStore | None,
        saw: Callable[[Answer], None],
    ) -> None:
        self.parts = Parts()
        self._message = message
        self._waiter = waiter
        self._topic = topic
        self._claim_store = claim_store
        self._saw = saw

    def end(self, timeout_s: float) -> Answer:
        """The last part, when it is there; all others are kept."""
        deadline = time.monotonic() + timeout_s
        while self.parts.last is None:
            self._take(self._waiter.get(deadline - time.monotonic()), timeout_s)
        return self._checked(self.parts.last)

    async def end_async(self, timeout_s: float) -> Answer:
        """As `end`."""
        deadline = time.monotonic() + timeout_s
        while self.parts.last is None:
            await self._take_async(deadline, timeout_s)
        return self._checked(self.parts.last)

    def next(self, timeout_s: float) -> Answer | None:
        """The next part, which is not kept; none after the last one."""
        deadline = time.monotonic() + timeout_s
        while (part := self.parts.hand_out()) is None and self.parts.last is None:
            self._take(self._waiter.get(deadline - time.monotonic()), timeout_s)
        return self._handed_out(part)

    async def next_async(self, timeout_s: float) -> Answer | None:
        """As `next`."""
        deadline = time.monotonic() + timeout_s
        while (part := self.parts.hand_out()) is None and self.parts.last is None:
            await self._take_async(deadline, timeout_s)
        return self._handed_out(part)

    def close(self) -> None:
        """Wait no longer.  Idempotent."""
        self._waiter.close()

    def _handed_out(self, part: Answer | None) -> Answer | None:
        if self.parts.last is not None and (part is None or part.error is not None):
            self._checked(self.parts.last)
        return part

    def _checked(self, last: Answer) -> Answer:
        self._waiter.close()
        if last.error is not None:
            raise query_failed(
                last.error.code, last.error.message, replica=last.replica, retryable=last.error.retryable
            )
        self._saw(last)
        return last

    def _take(self, record: Record | None, timeout_s: float) -> None:
        if record is None:
            raise WaitTimeout(self._missing(timeout_s))
        answer = answers.decode(self._content(record))
        if answer is not None:
            self.parts.take(answer)

    def _content(self, record: Record) -> bytes | None:
        header = record.headers.get(claims.HEADER)
        return record.value if header is None else claims.fetched(claims.read_claim(header), self._claim_store)

    async def _take_async(self, deadline: float, timeout_s: float) -> None:
        record = await self._arrival(deadline)
        if record is not None and claims.HEADER in record.headers:
            await asyncio.to_thread(self._take, record, timeout_s)
        else:
            self._take(record, timeout_s)

    async def _arrival(self, deadline: float) -> Record | None:
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()

        def told() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(arrived.set)

        self._waiter.on_arrival(told)
        try:
            while not self._waiter.behind:
                record = self._waiter.take()
                if record is not None or not await _within(arrived, deadline - time.monotonic()):
                    return record
        finally:
            self._waiter.on_arrival(None)
        return await asyncio.to_thread(self._waiter.get, deadline - time.monotonic())

    def _missing(self, timeout_s: float) -> str:
        message_id, where = self._message.message_id, f"on {self._topic!r} within {timeout_s:g} s"
        if self.parts.came:
            return f"query {message_id}: {self.parts.came} parts came and no end, {where}"
        actor = self._message.actor_name
        return f"query {message_id} ({actor}): no answer {where}; is a worker with this actor running?"


async def _within(event: asyncio.Event, seconds: float) -> bool:
    """Whether *event* came in time; it is cleared."""
    try:
        await asyncio.wait_for(event.wait(), max(seconds, 0))
    except TimeoutError:
        return False
    event.clear()
    return True
