"""Sending from asyncio: confirmed as any other send, and the event loop is never kept waiting.

Kafka's client reports in a thread of its own, which leaves a note for the loop: one wake-up for all reports that came
together.  No send has a thread.  Only what is rare and blocks goes to one: a topic that is used for the first time, the
client's own start, and a client whose buffer is full.
"""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from brokers.producer import Pending
from brokers.sending import Posted


if TYPE_CHECKING:
    import dramatiq
    from confluent_kafka import KafkaError
    from confluent_kafka import Message as KafkaMessage

    from brokers.kafka import KafkaBroker
    from brokers.records import Outgoing
    from brokers.sending import Sending

P = ParamSpec("P")
R = TypeVar("R")


class AsyncPending(Pending):
    """A record on its way, whose sender waits in an event loop."""

    __slots__ = ("_notes", "arrived")

    def __init__(self, record: Outgoing, notes: Notes) -> None:
        super().__init__(record)
        self.arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._notes = notes

    def __call__(self, error: KafkaError | None, message: KafkaMessage | None) -> None:
        """The client's delivery report, in a thread of the client."""
        super().__call__(error, message)
        self._notes.leave(self)


class Notes:
    """Reports that an event loop has not seen yet, and the order in which its senders take their turn."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()  # first come, first served
        self._reported: deque[AsyncPending] = deque()
        self._waking = False

    def leave(self, pending: AsyncPending) -> None:
        """Any thread: tell the loop."""
        self._reported.append(pending)
        if not self._waking:  # else the wake-up that is on its way finds this one too
            self._waking = True
            try:
                pending.arrived.get_loop().call_soon_threadsafe(self._wake)
            except RuntimeError:  # the loop is closed: nobody waits any more
                self._reported.clear()

    def _wake(self) -> None:
        self._waking = False  # first: what is reported from now on may miss this look, and wakes again
        while self._reported:
            arrived = self._reported.popleft().arrived
            if not arrived.done():  # cancelled
                arrived.set_result(None)


class AsyncSending:
    """How one broker sends for event loops, of any thread."""

    def __init__(self, broker: KafkaBroker, sending: Sending) -> None:
        self._broker = broker
        self._sending = sending
        self._notes: dict[asyncio.AbstractEventLoop, Notes] = {}

    async def message(self, message: dramatiq.Message[Any], delay: int | None) -> None:
        """See `KafkaBroker.enqueue_async`."""
        try:
            await self._send(message, delay)
        except Exception as exc:
            self._sending.failed(message, exc)
            raise

    async def _send(self, message: dramatiq.Message[Any], delay: int | None) -> None:
        notes = self._notes_of(asyncio.get_running_loop())
        async with notes.turn:
            pending, posted = await self._post(message, delay, notes)
        producer = self._broker.producer
        try:
            async with asyncio.timeout(producer.patience_s):
                await pending.arrived
        except TimeoutError:
            pass  # not even a report: the outcome is unknown
        self._sending.settle(posted, producer.outcome)

    def _notes_of(self, loop: asyncio.AbstractEventLoop) -> Notes:
        notes = self._notes.get(loop)
        if notes is None:
            for other in [one for one in list(self._notes) if one.is_closed()]:
                self._notes.pop(other, None)
            notes = self._notes[loop] = Notes()
        return notes

    async def _post(
        self, message: dramatiq.Message[Any], delay: int | None, notes: Notes
    ) -> tuple[AsyncPending, Posted]:
        broker = self._broker
        topics = self._sending.topics_for(message, delay)
        for topic in topics:
            if not broker.topics.knows(topic):
                await asyncio.to_thread(broker.topics.ensure, topic)
        pending = AsyncPending(self._sending.prepared(message, delay, topics), notes)
        broker.producer.attend(pending)
        if not broker.producer.offer(pending):
            await asyncio.to_thread(broker.producer.put, pending)
        return pending, Posted(message, pending, topics[-1], delay)


async def send_async(actor: dramatiq.Actor[P, R], *args: P.args, **kwargs: P.kwargs) -> dramatiq.Message[R]:
    """``actor.send`` for asyncio; see `KafkaBroker.enqueue_async`."""
    return await send_with_options_async(actor, args=args, kwargs=kwargs)


async def send_with_options_async(
    actor: dramatiq.Actor[P, R],
    *,
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
    delay: timedelta | int | None = None,
    **options: Any,
) -> dramatiq.Message[R]:
    """``actor.send_with_options`` for asyncio; *delay* in milliseconds, or a timedelta.

    On a broker of another kind, such as Dramatiq's StubBroker in tests, its own ``enqueue`` runs in a thread.
    """
    delay_ms = int(delay.total_seconds() * 1000) if isinstance(delay, timedelta) else delay
    message = actor.message_with_options(args=args, kwargs=kwargs, **options)
    enqueue_async = getattr(actor.broker, "enqueue_async", None)
    if enqueue_async is None:
        await asyncio.to_thread(actor.broker.enqueue, message, delay=delay_ms)
    else:
        await enqueue_async(message, delay=delay_ms)
    return message
