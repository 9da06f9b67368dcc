"""Unique, limited and expiring messages on real Kafka, with their keys in a real Valkey."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

import dramatiq
import pytest
from dramatiq import Worker
from dramatiq.middleware import CurrentMessage, Middleware
from dramatiq.rate_limits.backends import RedisBackend

from brokers import KafkaBroker
from brokers.errors import Duplicate, WrongKey
from brokers.expiry import Expires
from brokers.limits import RateLimits
from brokers.unique import Unique
from tests.support import unique, wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator


class Tried(Middleware):
    """When each message was about to ask whether it may begin, in seconds since the epoch."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    def before_process_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
        """Note it."""
        self.moments.append(time.time())


@pytest.fixture
def tried() -> Tried:
    """What the broker's messages were asked before their limits."""
    return Tried()


@pytest.fixture
def broker(kafka: str, redis_url: str, tried: Tried) -> Iterator[KafkaBroker]:
    """A broker with topics, groups and keys of its own."""
    prefix = unique("limits") + "-"
    broker = KafkaBroker(kafka, prefix=prefix, group_id=prefix + "workers")
    backend = RedisBackend(url=redis_url)
    own = (Unique(backend, namespace=f"{prefix}unique"), RateLimits(backend, namespace=f"{prefix}limit"))
    for middleware in (CurrentMessage(), Expires(), tried, *own):
        broker.add_middleware(middleware)
    yield broker
    broker.close()


def test_unique_limited_and_expiring_messages(broker: KafkaBroker, tried: Tried) -> None:
    """What is over the limit comes back through the delayed topic, under its id, once; what is late never runs."""
    ran: list[tuple[str, float]] = []

    @dramatiq.actor(broker=broker, rate_limit="2/s", max_retries=0)
    def limited() -> None:
        message = CurrentMessage.get_current_message()
        assert message is not None
        ran.append((message.message_id, time.time()))

    @dramatiq.actor(broker=broker, unique_for=60_000, expires_in=60_000)
    def single(name: str) -> None: ...

    @dramatiq.actor(broker=broker)
    def late() -> None:
        ran.append(("late", 0))

    # A send that is refused frees its key; one that is taken keeps it until it is done.
    with pytest.raises(WrongKey):
        single.send_with_options(args=("a",), key=1.5)
    single.send("a")
    with pytest.raises(Duplicate):
        single.send("a")
    late.send_with_options(expires_in=1)
    with broker.batching():
        sent = [limited.send().message_id for _ in range(5)]
    worker = Worker(broker, worker_timeout=100, worker_threads=4)
    worker.start()
    try:
        wait_until(lambda: len(ran) >= 5, 40, "all to run")
        broker.join("default", timeout=20_000)
        single.send("a")
        broker.join("default", timeout=20_000)
    finally:
        worker.stop()
    assert Counter(one for one, _ in ran) == Counter(sent)
    # A message may run later than in the second that let it begin, never sooner.
    first = int(min(tried.moments))
    assert all(second >= first + before // 2 for before, second in enumerate(sorted(second for _, second in ran)))
    assert broker.topics.partitions(f"{broker.prefix}default.XQ") is None
