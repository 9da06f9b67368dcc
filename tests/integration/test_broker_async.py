"""Sending from asyncio on real Kafka, and without any."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import dramatiq
import pytest
from dramatiq.errors import QueueNotFound
from dramatiq.middleware import Middleware

from brokers import KafkaBroker, send_async, send_with_options_async
from brokers.errors import DelayRefused, DeliveryRefused, Unreachable
from tests.support import unique


if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def broker(kafka: str) -> Iterator[KafkaBroker]:
    """On topics of its own."""
    prefix = unique("async-")
    broker = KafkaBroker(kafka, prefix=prefix, group_id=prefix)
    yield broker
    broker.close()


class Noting(Middleware):
    """Counts what is told about enqueues."""

    def __init__(self) -> None:
        self.before = self.after = 0

    def before_enqueue(self, broker: Any, message: Any, delay: Any) -> None:
        self.before += 1

    def after_enqueue(self, broker: Any, message: Any, delay: Any) -> None:
        assert message.delivery.offset >= 0
        self.after += 1


def test_five_thousand_sends_at_once_are_confirmed_in_their_order(broker: KafkaBroker, record_property: Any) -> None:
    """Without a thread for each; middleware sees every one of them before and after."""
    before = threading.active_count()
    noting = Noting()
    broker.add_middleware(noting)
    actor = dramatiq.actor(broker=broker, actor_name="a")(print)

    async def main() -> list[Any]:
        await send_async(actor, -1)  # makes the topic, and connects
        began = time.monotonic()
        sent = await asyncio.gather(
            *(send_with_options_async(actor, args=(number,), key="k") for number in range(5000))
        )
        record_property("seconds", round(time.monotonic() - began, 2))
        return sent

    sent = asyncio.run(main())
    offsets = [message.delivery.offset for message in sent]
    assert offsets == list(range(offsets[0], offsets[0] + 5000))
    assert len({message.delivery.partition for message in sent}) == 1
    assert (noting.before, noting.after) == (5001, 5001)
    assert threading.active_count() < before + 20


def test_errors_are_those_of_enqueue(broker: KafkaBroker) -> None:
    """And one refused message harms none that is sent beside it."""
    actor = dramatiq.actor(broker=broker, actor_name="a")(print)
    ordered = dramatiq.actor(broker=broker, actor_name="b", queue_name="steps", ordered=True)(print)
    stray: dramatiq.Message[Any] = dramatiq.Message("nowhere", "a", (), {}, {})

    async def main() -> list[Any]:
        sent: list[Any] = await asyncio.gather(
            send_async(actor, "x" * 2_000_000),
            send_async(actor, 1),
            send_with_options_async(ordered, delay=5),
            broker.enqueue_async(stray),
            send_with_options_async(actor, delay=60_000),
            return_exceptions=True,
        )
        return sent

    large, good, late, lost, delayed = asyncio.run(main())
    assert isinstance(large, DeliveryRefused)
    assert isinstance(late, DelayRefused)
    assert isinstance(lost, QueueNotFound)
    assert good.delivery.topic == f"{broker.prefix}default"
    assert [entry.key.decode().split("/")[0] for entry in broker.delayed().entries] == [delayed.message_id]


def test_the_loop_runs_on_while_kafka_is_away() -> None:
    """Looking the topic up takes its whole time-out, in a thread."""
    broker = KafkaBroker("127.0.0.1:9", delivery_timeout_s=1)
    actor = dramatiq.actor(broker=broker, actor_name="a")(print)
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.02)
            ticks += 1

    async def main() -> None:
        ticking = asyncio.create_task(tick())
        with pytest.raises(Unreachable):
            await send_async(actor, 1)
        ticking.cancel()

    began = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - began >= 1
    assert ticks >= 10
    broker.close()
