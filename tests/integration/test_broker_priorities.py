"""Queues with levels: what is urgent overtakes what waits in Kafka, through retries, delays, joins and flushes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import dramatiq
import pytest
from dramatiq.errors import QueueJoinTimeout
from dramatiq.middleware import CurrentMessage

from brokers import KafkaBroker
from brokers.errors import WrongPriority, WrongTopic
from brokers.replies import Place, TopicReader
from tests.support import unique


if TYPE_CHECKING:
    from collections.abc import Iterator

    from brokers.records import Record


@pytest.fixture
def broker(kafka: str) -> Iterator[KafkaBroker]:
    """A broker of its own."""
    prefix = unique("levels-")
    broker = KafkaBroker(kafka, prefix=prefix, group_id=prefix)
    broker.add_middleware(CurrentMessage())
    yield broker
    broker.close()


def working(broker: KafkaBroker) -> dramatiq.Worker:
    """A worker with one thread."""
    worker = dramatiq.Worker(broker, worker_timeout=100, worker_threads=1)
    worker.start()
    return worker


def test_what_is_urgent_overtakes_what_waits(broker: KafkaBroker) -> None:
    """All but what the worker has fetched; a retry and a delayed message stay on their level; nothing is lost."""
    ran: list[tuple[str, int]] = []
    topics: list[str] = []
    begun, go_on = threading.Event(), threading.Event()

    @dramatiq.actor(broker=broker, max_priority=2, min_backoff=1, max_backoff=1)
    def note(what: str, number: int) -> None:
        begun.set()
        go_on.wait(20)
        message = CurrentMessage.get_current_message()
        assert message is not None
        topics.append(message.record.topic)  # type: ignore[attr-defined]  # of our proxy
        if (what, topics.count(f"{broker.prefix}default.p2")) == ("again", 1):
            raise RuntimeError("once")
        ran.append((what, number))

    for number in range(20):
        note.send("plain", number)
    worker = working(broker)
    assert begun.wait(20)
    for number in range(10):
        note.send_with_options(args=("urgent", number), broker_priority=1)
    note.send_with_options(args=("again", 0), broker_priority=2)
    note.send_with_options(args=("late", 0), broker_priority=1, delay=100)
    with pytest.raises(QueueJoinTimeout):
        broker.join("default", timeout=300)
    go_on.set()
    broker.join("default", timeout=30_000)
    worker.stop()
    assert sorted(ran) == sorted(
        [("plain", n) for n in range(20)] + [("urgent", n) for n in range(10)] + [("again", 0), ("late", 0)]
    )
    place = [what for what, _ in ran]
    assert max(n for n, what in enumerate(place) if what == "urgent") < place.index("plain", 8)
    assert topics.count(f"{broker.prefix}default.p1") == 11
    assert topics.count(f"{broker.prefix}default.p2") == 2


def test_what_fails_on_any_level_is_parked_on_one_topic(broker: KafkaBroker) -> None:
    """With the level's topic among the reasons, so that it can go back to where it was."""

    @dramatiq.actor(broker=broker, max_priority=1, max_retries=0)
    def fail() -> None:
        raise ValueError("on purpose")

    for priority in (0, 1):
        fail.send_with_options(broker_priority=priority)
    worker = working(broker)
    broker.join("default", timeout=30_000)
    worker.stop()
    spec = broker.get_queue("default").dead_letters
    found: list[Record] = []
    places = [Place(spec.name, number, from_start=True) for number in range(broker.topics.ensure(spec))]
    reader = TopicReader(broker.client_settings, places, found.append, timeout_s=10)
    assert reader.wait_caught_up(10)
    reader.close()
    prefix = broker.prefix.encode()
    assert sorted(record.headers["xq.topic"] for record in found) == [prefix + b"default", prefix + b"default.p1"]


def test_all_levels_are_flushed_and_refuse_what_does_not_fit(broker: KafkaBroker) -> None:
    """A level that is not there; a queue that would share a level's topic."""
    ran: list[int] = []

    @dramatiq.actor(broker=broker, max_priority=1)
    def note(number: int) -> None:
        ran.append(number)

    for priority in (0, 1):
        note.send_with_options(args=(priority,), broker_priority=priority)
    broker.flush("default")
    note.send_with_options(args=(9,), broker_priority=1)
    worker = working(broker)
    broker.join("default", timeout=30_000)
    worker.stop()
    assert ran == [9]
    with pytest.raises(WrongPriority, match="levels 0 to 1"):
        note.send_with_options(args=(0,), broker_priority=2)
    with pytest.raises(WrongTopic, match="share"):
        broker.declare_queue("default.p1")
