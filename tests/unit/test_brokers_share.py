"""Rounds of a share group, with a client that hands out what it is told: what is accepted, released, parked, moved."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import confluent_kafka
import dramatiq
import pytest
from confluent_kafka import AcknowledgeType

from brokers import KafkaBroker, share
from brokers.errors import DeliveryRefused, WrongSetting, WrongTopic
from brokers.topics import Queue, TopicSpec
from tests.support import wait_until


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from brokers.assignment import Unit
    from brokers.records import Outgoing


class Message(confluent_kafka.Message):
    """One of a share group, handed out for the nth time."""

    def __init__(self, offset: int, times: int = 1) -> None:
        super().__init__(topic="q", partition=0, offset=offset, value=b"%d" % offset, timestamp=(1, 0))
        self._times = times

    def delivery_count(self) -> int:
        return self._times


class Kafka:
    """The client of a share group, its admin client, and the log that copies and dead letters go to."""

    def __init__(self) -> None:
        self.batches: list[list[Message]] = []
        self.told: dict[int | None, AcknowledgeType] = {}
        self.sent: list[Outgoing] = []
        self.away = False
        self.closed = False

    def subscribe(self, topics: list[str]) -> None: ...

    def poll(self, timeout: float) -> list[Message]:
        threading.Event().wait(0.001)
        return self.batches.pop(0) if self.batches else []

    def acknowledge(self, message: Message, kind: AcknowledgeType) -> None:
        self.told[message.offset()] = kind

    def commit_sync(self, timeout: float) -> dict[Any, Any]:
        return {}

    def close(self) -> None:
        self.closed = True

    def send(self, record: Outgoing, spec: TopicSpec) -> None:
        if self.away:
            raise DeliveryRefused("away")
        self.sent.append(record)


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch) -> Kafka:
    """Nothing waits for long here."""
    kafka = Kafka()
    monkeypatch.setattr("brokers.clients.opened", lambda _kind, _config: kafka)
    monkeypatch.setattr(share, "prepare", lambda _admin, _group: 5)
    monkeypatch.setattr(share, "BEGIN_S", 0.2)
    monkeypatch.setattr(share, "RUN_S", 0.2)
    return kafka


@pytest.fixture
def group(kafka: Kafka) -> Iterator[share.ShareGroup]:
    """A running one."""
    admin: Any = None
    group = share.ShareGroup("g.share", {}, admin, kafka.send)
    yield group
    group.close()
    assert kafka.closed


@pytest.fixture
def take(kafka: Kafka, group: share.ShareGroup) -> Callable[..., list[Unit]]:
    """Delivers messages in one round, and takes so many of them out of the buffer."""
    buffer = group.open(Queue("q", TopicSpec("q"), "g.share", share=True))

    def take(count: int, *messages: Message) -> list[Unit]:
        kafka.batches.append(list(messages))
        return [unit for _ in range(count) if (unit := buffer.take(100, 5))]

    return take


def test_what_is_done_is_accepted_and_what_is_not_is_released(kafka: Kafka, take: Callable[..., list[Unit]]) -> None:
    """In whatever order Kafka hands it out; what still runs when the time is over is somebody else's."""
    first, second = take(2, Message(7), Message(3))
    buffer = first.assignment.buffer
    assert buffer.begin(first)
    assert buffer.begin(second)
    buffer.finish(second)
    wait_until(lambda: len(kafka.told) == 2)
    assert first.records[0].offset == 3
    assert kafka.told == {7: AcknowledgeType.ACCEPT, 3: AcknowledgeType.RELEASE}
    buffer.finish(first)
    [again] = take(1, Message(3, times=2))
    assert buffer.begin(again)
    buffer.finish(again)
    wait_until(lambda: kafka.told[3] is AcknowledgeType.ACCEPT)


def test_what_finds_no_thread_in_time_goes_to_the_end_of_the_queue(
    kafka: Kafka, take: Callable[..., list[Unit]]
) -> None:
    """Handed out or not: to give it back would count as one of its few deliveries.  It is given back if that fails."""
    [unit] = take(1, Message(0), Message(1))
    wait_until(lambda: len(kafka.told) == 2)
    assert not unit.assignment.buffer.begin(unit)
    assert [(record.topic, record.value) for record in kafka.sent] == [("q", b"0"), ("q", b"1")]
    assert set(kafka.told.values()) == {AcknowledgeType.ACCEPT}
    kafka.away = True
    take(0, Message(2))
    wait_until(lambda: 2 in kafka.told)
    assert kafka.told[2] is AcknowledgeType.RELEASE


def test_a_record_that_was_never_acknowledged_is_parked_before_kafka_drops_it(
    kafka: Kafka, take: Callable[..., list[Unit]]
) -> None:
    """Of five deliveries three run; at the fourth it is parked, and the fifth is left for when that fails."""
    kafka.away = True
    assert take(0, Message(0, times=4)) == []
    wait_until(lambda: kafka.told == {0: AcknowledgeType.RELEASE})
    kafka.away = False
    take(0, Message(0, times=5))
    wait_until(lambda: kafka.told == {0: AcknowledgeType.ACCEPT})
    [letter] = kafka.sent
    assert (letter.topic, letter.value, letter.headers["xq.error"]) == ("q.XQ", b"0", b"Unacknowledged")


def test_the_client_and_the_servers_have_to_know_share_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a queue is refused, and the error says what it needs."""
    answer = SimpleNamespace(result=lambda _timeout: {"consumer.session.timeout.ms": None})
    admin: Any = SimpleNamespace(describe_configs=lambda asked, **_: dict.fromkeys(asked, answer))
    with pytest.raises(WrongSetting, match=r"Kafka 4\.2"):
        share.prepare(admin, "g.share")
    monkeypatch.delattr(confluent_kafka, "ShareConsumer")
    with pytest.raises(WrongSetting, match=r"confluent-kafka 2\.15"):
        KafkaBroker().declare_queue("q", share=True)


def test_actors_of_a_share_queue_end_before_their_locks() -> None:
    """Without a word they get the longest time there is; more is refused, and so is order."""
    broker = KafkaBroker()

    @dramatiq.actor(broker=broker, share=True)
    def short() -> None: ...

    assert short.options["time_limit"] == share.RUN_S * 1000
    assert broker.get_queue("default").group_id == "dramatiq.share"
    with pytest.raises(WrongTopic, match="set time_limit to 15000 at most"):
        dramatiq.actor(broker=broker, actor_name="long", share=True, time_limit=60_000)(short.fn)
    with pytest.raises(WrongTopic, match="no order"):
        broker.declare_queue("log", share=True, ordered=True)
    for ask in (broker.join, broker.flush):
        with pytest.raises(WrongTopic, match="neither joined nor flushed"):
            ask("default")
