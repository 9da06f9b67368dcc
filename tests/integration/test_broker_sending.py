"""Sending to real Kafka: what is confirmed is in the log, and what is not says so."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import dramatiq
import pytest
from confluent_kafka import Producer
from dramatiq import Worker

from brokers import KafkaBroker
from brokers.envelope import Envelope
from brokers.errors import DeliveryRefused, TooLarge, WrongTopic
from brokers.records import Outgoing
from brokers.topics import TopicSpec
from tests.support import unique, wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def broker(kafka: str) -> Iterator[KafkaBroker]:
    """A broker with topics of its own."""
    prefix = unique("send-")
    broker = KafkaBroker(kafka, prefix=prefix, group_id=prefix)
    yield broker
    broker.close()


def test_a_confirmed_message_says_where_it_is(broker: KafkaBroker) -> None:
    """Topic, partition, offset and time, as Kafka assigned them."""

    @dramatiq.actor(broker=broker, ordered=True)
    def note(number: int) -> None: ...

    deliveries = [note.send(number).delivery for number in range(3)]  # type: ignore[attr-defined]  # the broker's gift
    topic = broker.get_queue("default").topic.name
    assert [(one.topic, one.partition, one.offset) for one in deliveries] == [
        (topic, 0, 0),
        (topic, 0, 1),
        (topic, 0, 2),
    ]
    assert all(one.timestamp_ms > 0 for one in deliveries)


def test_a_batch_is_confirmed_when_it_ends(broker: KafkaBroker) -> None:
    """In order, faster than one by one, and each message knows its place afterwards."""

    @dramatiq.actor(broker=broker, ordered=True)
    def note(number: int) -> None: ...

    with broker.batching():
        messages: list[Any] = [note.send(number) for number in range(1000)]
        assert not hasattr(messages[-1], "delivery")
    assert [message.delivery.offset for message in messages] == list(range(1000))


def test_a_batch_with_a_bad_message_confirms_the_others_and_raises(broker: KafkaBroker) -> None:
    """Also when the body of the batch raises: what was sent is sent, and the body's error is the one that counts."""
    broker.envelope = Envelope(record_bytes=3_900_000)  # so that Kafka is the one to refuse

    @dramatiq.actor(broker=broker, ordered=True)
    def note(text: str) -> None: ...

    note.send("warm")
    messages: list[Any] = []
    with pytest.raises(DeliveryRefused), broker.batching():
        messages += [note.send(text) for text in ("a", "b" * 1_500_000, "c")]
    assert [getattr(message, "delivery", None) is not None for message in messages] == [True, False, True]

    def broken() -> None:
        with broker.batching():
            messages.append(note.send("d"))
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        broken()
    assert messages[-1].delivery.offset == 3


def test_a_message_that_is_too_large_is_refused(broker: KafkaBroker) -> None:
    """With its size, the topic and the ways out, before it is sent; what is no message is refused by Kafka."""

    @dramatiq.actor(broker=broker)
    def note(text: str) -> None: ...

    topic = broker.get_queue("default").topic
    for size in (1_500_000, 6_000_000):
        with pytest.raises(TooLarge, match=rf"{size // 1_000_000},[\d,]+ bytes for '.*default'.*CLAIM_STORE"):
            note.send("x" * size)
        with pytest.raises(DeliveryRefused, match=r"refused a record of [\d,]+ bytes for '.*default'"):
            broker.publish(Outgoing(topic.name, b"x" * size), topic)
    note.send("small")


def test_messages_of_one_key_share_a_partition(broker: KafkaBroker) -> None:
    """Those of many keys do not."""

    @dramatiq.actor(broker=broker)
    def note() -> None: ...

    def partition(key: str | int) -> int:
        sent: Any = note.send_with_options(key=key)
        found: int = sent.delivery.partition
        return found

    assert len({partition("user-1") for _ in range(5)}) == 1
    assert len({partition(number) for number in range(40)}) > 3


def test_threads_send_at_once(broker: KafkaBroker) -> None:
    """Each waits for its own confirmation."""
    places: list[tuple[int, int]] = []

    @dramatiq.actor(broker=broker)
    def note() -> None: ...

    def send() -> None:
        for _ in range(50):
            sent: Any = note.send()
            places.append((sent.delivery.partition, sent.delivery.offset))

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(places)) == 400


def test_a_topic_with_too_many_partitions_is_refused_for_an_ordered_queue(broker: KafkaBroker) -> None:
    """Offset order is the order of work; the error says what to do."""
    broker.topics.ensure(TopicSpec(f"{broker.prefix}log", 4))

    @dramatiq.actor(broker=broker, queue_name="log", ordered=True)
    def note() -> None: ...

    with pytest.raises(WrongTopic, match="has 4 partitions and needs exactly 1"):
        note.send()
    with pytest.raises(WrongTopic):
        broker.consume("log")


def test_topics_are_described_as_they_are(broker: KafkaBroker) -> None:
    """With what is wrong about them."""
    spec = TopicSpec(f"{broker.prefix}log", 1, retention_s=-1, exact=True)
    broker.topics.ensure(TopicSpec(spec.name, 2, retention_s=60))
    [told] = broker.topics.describe([spec])
    assert told["wrong"] == ["has 2 partitions, needs exactly 1", "retention.ms is 60000, needs -1"]
    with pytest.raises(WrongTopic, match="there is no topic"):
        broker.topics.describe([TopicSpec(f"{broker.prefix}nowhere")])


def test_records_that_are_no_messages_are_published(broker: KafkaBroker) -> None:
    """On a topic of any kind, confirmed, many together where wanted."""
    spec = TopicSpec(f"{broker.prefix}news", 1, compacted=True)
    first = broker.publish(Outgoing(spec.name, b"one", b"k", {"h": b"1"}), spec)
    others = broker.producer.send_all([Outgoing(spec.name, b"two", b"k"), Outgoing(spec.name, None, b"k", partition=0)])
    assert [first.offset, *(one.offset for one in others)] == [0, 1, 2]


def test_messages_of_a_transaction_are_run_and_its_marker_is_passed(broker: KafkaBroker) -> None:
    """Committed ones run, aborted ones do not, and a queue that ends in a marker is done."""
    ran: Counter[int] = Counter()

    @dramatiq.actor(broker=broker)
    def note(number: int) -> None:
        ran[number] += 1

    topic = broker.get_queue("default").topic
    broker.topics.ensure(topic)
    client = Producer(broker.client_settings | {"transactional.id": unique("tx")})
    client.init_transactions(10)
    for number in range(6):
        client.begin_transaction()
        client.produce(topic.name, note.message(number).encode())
        client.flush(10)
        client.abort_transaction(10) if number % 2 else client.commit_transaction(10)
    worker = Worker(broker, worker_timeout=100, worker_threads=2)
    worker.start()
    wait_until(lambda: set(ran) == {0, 2, 4}, 20, "the committed messages")
    broker.join("default", timeout=20_000)
    worker.stop()
    assert ran == Counter([0, 2, 4])
