"""Sending from asyncio with a producer that answers as told: order, threads, cancellation, and a loop that runs on."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import asynccontextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker

from brokers import KafkaBroker, send_async, send_with_options_async
from brokers.errors import DeliveryUnknown
from brokers.producer import Producer
from tests.support import wait_until


if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from brokers.producer import Pending

#: Seconds that whatever blocks here takes, and that a loop may stand still: other programs want the machine too.
BLOCKS_S, STILL_S = 0.5, 0.3


class SlowProducer(Producer):
    """Takes records, at once or slowly, and lets the test say when they are confirmed."""

    def __init__(self, patience_s: float = 10) -> None:
        super().__init__({"bootstrap.servers": "nowhere:1"}, delivery_timeout_s=0.05)
        self.full = False
        self.taken: list[Pending] = []
        self.threads: list[str] = []
        self._patience_s = patience_s

    @property
    def patience_s(self) -> float:
        return self._patience_s

    def offer(self, pending: Pending) -> bool:
        if not self.full:
            self.taken.append(pending)
        return not self.full

    def put(self, pending: Pending) -> None:
        self.threads.append(threading.current_thread().name)
        time.sleep(BLOCKS_S)
        self.taken.append(pending)

    def confirm_all(self) -> None:
        """In the client's thread."""
        for offset, pending in enumerate(self.taken):
            pending(None, _reported(pending, offset))


def _reported(pending: Pending, offset: int) -> Any:
    values = {"topic": pending.record.topic, "partition": 0, "offset": offset, "timestamp": (1, 5)}
    return SimpleNamespace(**{name: (lambda value=value: value) for name, value in values.items()})


class Bench:
    """A broker whose topics exist already, unless told otherwise, and an actor."""

    def __init__(self, **producer: Any) -> None:
        self.broker = KafkaBroker(middleware=[])
        self.producer = self.broker.producer = SlowProducer(**producer)
        self.known = True
        self.broker.topics.knows = lambda _: self.known  # type: ignore[assignment,method-assign]
        self.broker.topics.ensure = self.ensure  # type: ignore[method-assign]
        self.actor = dramatiq.actor(broker=self.broker, actor_name="a")(print)

    def ensure(self, spec: Any) -> int:
        time.sleep(BLOCKS_S)
        self.known = True
        return 1

    def confirm_soon(self, after_s: float = 0.05) -> None:
        threading.Timer(after_s, self.producer.confirm_all).start()

    @property
    def sent(self) -> list[str]:
        return [pending.record.headers["message_id"].decode() for pending in self.producer.taken]


@asynccontextmanager
async def running_loop() -> AsyncIterator[None]:
    """Fails when the event loop stands still within."""
    longest, before = 0.0, time.monotonic()

    async def tick() -> None:
        nonlocal longest, before
        while True:
            await asyncio.sleep(0.01)
            now = time.monotonic()
            longest, before = max(longest, now - before), now

    ticking = asyncio.create_task(tick())
    yield
    ticking.cancel()
    assert longest < STILL_S


def test_a_send_returns_when_it_is_confirmed_and_not_before() -> None:
    """With the place of the message, as ``send`` has it."""

    async def main() -> None:
        bench = Bench()
        sending = asyncio.create_task(send_async(bench.actor, 1))
        await asyncio.sleep(0.05)
        assert not sending.done()
        bench.producer.confirm_all()
        message = await sending
        assert message.delivery.offset == 0  # type: ignore[attr-defined]  # the broker's own attribute

    asyncio.run(main())


@pytest.mark.parametrize("first_use", [True, False])
def test_what_blocks_goes_to_a_thread_and_the_order_of_calls_stays(first_use: bool) -> None:
    """A topic that is used for the first time, and a client whose buffer is full; those behind wait for their turn."""

    async def main() -> None:
        bench = Bench()
        bench.known, bench.producer.full = not first_use, not first_use
        messages = [bench.actor.message(number) for number in range(3)]
        async with running_loop():
            tasks = [asyncio.create_task(bench.broker.enqueue_async(message)) for message in messages]
            await asyncio.to_thread(wait_until, lambda: len(bench.sent) == 3)
            bench.producer.confirm_all()
            await asyncio.gather(*tasks)
        assert bench.sent == [message.message_id for message in messages]
        assert threading.current_thread().name not in bench.producer.threads

    asyncio.run(main())


def test_many_reports_wake_the_loop_together() -> None:
    """Not five thousand times."""

    async def main() -> None:
        bench = Bench()
        loop = asyncio.get_running_loop()
        wakes = 0
        call_soon_threadsafe = loop.call_soon_threadsafe

        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal wakes
            wakes += 1
            return call_soon_threadsafe(*args, **kwargs)

        tasks = [asyncio.create_task(send_async(bench.actor, number)) for number in range(500)]
        await asyncio.sleep(0)
        loop.call_soon_threadsafe = counted  # type: ignore[assignment,method-assign]
        bench.producer.confirm_all()  # in this thread, so that the loop sees none of it before the end
        await asyncio.gather(*tasks)
        assert wakes == 1

    asyncio.run(main())


def test_a_cancelled_send_disturbs_no_other() -> None:
    """Neither one that waits for its confirmation, nor one that waits for its turn."""

    async def main() -> None:
        bench = Bench()
        bench.known = False
        first, second, third = (asyncio.create_task(send_async(bench.actor, number)) for number in range(3))
        await asyncio.sleep(0.01)
        second.cancel()
        await asyncio.to_thread(wait_until, lambda: len(bench.sent) == 2)
        first.cancel()
        await asyncio.sleep(0)
        bench.confirm_soon()
        assert (await third).args == (2,)
        assert (first.cancelled(), second.cancelled()) == (True, True)

    asyncio.run(main())


def test_a_report_after_the_loop_has_ended_harms_nobody() -> None:
    """The client's thread serves all other senders too."""
    bench = Bench()

    async def main() -> None:
        asyncio.create_task(send_async(bench.actor, 1))  # noqa: RUF006 - abandoned on purpose
        await asyncio.sleep(0.01)

    asyncio.run(main())
    bench.producer.confirm_all()

    async def again() -> None:
        bench.confirm_soon()
        await send_async(bench.actor, 2)

    bench.producer.taken.clear()
    asyncio.run(again())


def test_no_report_at_all_is_an_unknown_outcome() -> None:
    """With the id; and the topic is looked up again before its next use."""

    async def main() -> None:
        bench = Bench(patience_s=0.05)
        message = bench.actor.message(1)
        with pytest.raises(DeliveryUnknown) as unknown:
            await bench.broker.enqueue_async(message)
        assert unknown.value.message_id == message.message_id

    asyncio.run(main())


def test_options_and_delays_are_those_of_dramatiq() -> None:
    """Also with the broker of an application's own tests."""
    stub = StubBroker()
    actor = dramatiq.actor(broker=stub, actor_name="b")(print)

    async def main() -> None:
        bench = Bench()
        bench.confirm_soon(0.2)
        message = await send_with_options_async(bench.actor, args=(1,), delay=timedelta(seconds=5), key="k")
        assert message.options == {"key": "k"}
        [pending] = bench.producer.taken
        assert pending.record.topic == "delayed"
        late = int(pending.record.headers["delayed.eta_ms"]) - time.time() * 1000
        assert 3000 < late <= 5000
        await send_async(actor, 1)
        assert stub.queues["default"].qsize() == 1

    asyncio.run(main())
