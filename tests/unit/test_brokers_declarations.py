"""What can be declared without any server: topics, queues, actors, client settings."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import dramatiq
import pytest
from dramatiq.errors import QueueNotFound
from dramatiq.middleware import AgeLimit, default_middleware

from brokers import KafkaBroker
from brokers.consumer import consumer_config
from brokers.errors import DelayRefused, Unreachable, WrongSetting, WrongTopic
from brokers.records import Outgoing
from brokers.topics import DAY_S, FOR_EVER, Queue, TopicSpec


if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def broker() -> Iterator[KafkaBroker]:
    """A broker without a server."""
    broker = KafkaBroker("127.0.0.1:1", prefix="p-", group_id="g", delivery_timeout_s=0.2)
    yield broker
    broker.close()


def actor(broker: KafkaBroker, **options: Any) -> dramatiq.Actor[Any, Any]:
    """Another actor of *broker*."""
    name = f"actor-{len(broker.actors)}"
    return dramatiq.actor(broker=broker, actor_name=name, **options)(lambda: None)


def test_importing_and_making_a_broker_touches_nothing() -> None:
    """A web process that imports its actors while Kafka is away starts as always: no thread, no connection, no wait."""
    script = """
import sys, threading, time
sys.path.insert(0, ".")
import dramatiq, confluent_kafka, msgspec
began = time.monotonic()
from brokers import KafkaBroker
broker = KafkaBroker("127.0.0.1:1")
broker.declare_queue("q")
dramatiq.actor(lambda: None, actor_name="a", broker=broker)
assert time.monotonic() - began < 1, time.monotonic() - began
print([t.name for t in threading.enumerate() if "kafka" in t.name.lower()])
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "[]\n", "")


@pytest.mark.parametrize("name", ["", "a b", "a/b", "ä", "x" * 250])
def test_a_name_that_kafka_refuses_is_refused_where_it_is_written(name: str) -> None:
    """Not at the first send, and not as a time-out."""
    with pytest.raises(WrongTopic):
        TopicSpec(name)


def test_a_topics_settings_follow_from_its_spec() -> None:
    """Kept for ever, kept for a time, or compacted; and safe from the loss of a server where there are three."""
    assert TopicSpec("a", retention_s=FOR_EVER).config(3) == {
        "min.insync.replicas": "2",
        "cleanup.policy": "delete",
        "retention.ms": "-1",
    }
    assert TopicSpec("a", retention_s=DAY_S).config(1)["retention.ms"] == "86400000"
    assert TopicSpec("a", compacted=True).config(1) == {"min.insync.replicas": "1", "cleanup.policy": "compact"}


@pytest.mark.parametrize(
    "fields",
    [
        {"ordered": True},
        {"ordered": True, "topic": TopicSpec("t", 1)},
        {"batch": 0},
        {"ordered": True, "topic": TopicSpec("t", 1, exact=True), "batch": 0},
        {"start": lambda *_: 0},
    ],
)
def test_a_queue_that_could_not_keep_its_promise_is_refused(fields: dict[str, Any]) -> None:
    """Order needs one partition, a batch a size, and a start of one's own order."""
    with pytest.raises(WrongTopic):
        Queue("q", **{"topic": TopicSpec("t"), "group_id": "g", **fields})


def test_dead_letters_lie_beside_their_queue_for_longer(broker: KafkaBroker) -> None:
    """With room for the reason beside the largest record that Kafka takes."""
    broker.declare_queue("q")
    spec = broker.get_queue("q").dead_letters
    assert (spec.name, spec.partitions, spec.retention_s) == ("p-q.XQ", 8, 30 * DAY_S)
    assert spec.max_message_bytes is not None
    assert spec.max_message_bytes > 1_048_588


def test_a_queue_may_be_declared_again(broker: KafkaBroker) -> None:
    """Bare, as every actor of it does, or with the same properties; never with others."""
    where: dict[str, Any] = {"topic": TopicSpec("t", 1, exact=True), "group_id": "other", "ordered": True, "batch": 5}
    broker.declare_queue("q", **where, start=lambda *_: 0)
    broker.declare_queue("q")
    broker.declare_queue("q", **where)
    broker.declare_queue("q", batch=5)
    others: list[dict[str, Any]] = [{"batch": 6}, {"topic": TopicSpec("u")}, {"group_id": "x"}, {"start": lambda *_: 1}]
    for different in others:
        with pytest.raises(WrongTopic, match="declared already"):
            broker.declare_queue("q", **different)
    with pytest.raises(WrongTopic, match="another decode"):
        broker.declare_queue("q", decode=lambda *_: dramatiq.Message("q", "a", (), {}, {}))


def test_declaring_emits_once(broker: KafkaBroker) -> None:
    """A worker opens one reader a queue."""
    seen = []

    class Watching(dramatiq.Middleware):
        def after_declare_queue(self, broker: dramatiq.Broker, queue_name: str) -> None:
            seen.append(queue_name)

    broker.add_middleware(Watching())
    broker.declare_queue("a")
    actor(broker, queue_name="a")
    assert seen == ["a"]
    assert broker.get_declared_queues() == {"a"}
    assert broker.get_declared_delay_queues() == set()


@pytest.mark.parametrize("name", ["q.DQ", "q.XQ"])
def test_names_of_delay_and_dead_letter_queues_are_taken(broker: KafkaBroker, name: str) -> None:
    """They stand for the queue without the ending."""
    with pytest.raises(WrongTopic):
        broker.declare_queue(name)


@pytest.mark.parametrize("name", ["control", "delayed"])
def test_the_brokers_own_topics_are_taken(broker: KafkaBroker, name: str) -> None:
    """Messages there would be read as something else."""
    with pytest.raises(WrongTopic, match="the broker's own"):
        broker.declare_queue(name)


def test_two_queues_of_a_group_cannot_share_a_topic(broker: KafkaBroker) -> None:
    """Each would get a part of the other's messages; two groups get all of them, each."""
    broker.declare_queue("a", topic=TopicSpec("t"))
    with pytest.raises(WrongTopic):
        broker.declare_queue("b", topic=TopicSpec("t"))
    broker.declare_queue("c", topic=TopicSpec("t"), group_id="another")


@pytest.mark.parametrize("name", ["nowhere", "nowhere.DQ"])
def test_a_queue_that_nobody_declared_is_not_found(broker: KafkaBroker, name: str) -> None:
    """By no operation."""
    message: dramatiq.Message[Any] = dramatiq.Message(name, "a", (), {}, {})
    for call in (
        lambda: broker.enqueue(message),
        lambda: broker.consume(name),
        lambda: broker.flush(name),
        lambda: broker.join(name),
    ):
        with pytest.raises(QueueNotFound):
            call()


def test_an_ordered_actor_makes_its_queue_ordered_and_is_never_sent_again(broker: KafkaBroker) -> None:
    """Also where the middleware's own defaults would retry."""
    one = actor(broker, queue_name="q", ordered=True, batch=10)
    queue = broker.get_queue("q")
    assert (queue.ordered, queue.batch, queue.topic.partitions, queue.topic.retention_s) == (True, 10, 1, FOR_EVER)
    assert one.options["max_retries"] == 0
    assert one.options["retry_when"] is None


@pytest.mark.parametrize(
    "option", [{"max_retries": 3}, {"retry_when": lambda *_: True}, {"on_retry_exhausted": "other"}]
)
def test_an_ordered_actor_cannot_ask_for_retries(broker: KafkaBroker, option: dict[str, Any]) -> None:
    """A retry would put a copy behind its successors."""
    with pytest.raises(WrongTopic, match=next(iter(option))):
        actor(broker, queue_name="q", ordered=True, **option)


def test_an_unordered_queue_cannot_get_an_ordered_actor(broker: KafkaBroker) -> None:
    """The order of its messages is lost already."""
    actor(broker, queue_name="q")
    with pytest.raises(WrongTopic):
        actor(broker, queue_name="q", ordered=True)


def test_middleware_is_dramatiqs_own_unless_given(broker: KafkaBroker) -> None:
    """The broker's own guard is no middleware: it shows up in no list and can be left out of none."""
    assert [type(m) for m in broker.middleware] == default_middleware
    assert [type(m) for m in KafkaBroker(middleware=[AgeLimit()]).middleware] == [AgeLimit]


def test_client_settings_keep_the_names_of_librdkafka() -> None:
    """With _ for ., since they are keyword arguments."""
    broker = KafkaBroker("h:1", security_protocol="SASL_SSL", sasl_username="u")
    assert broker.client_settings == {
        "bootstrap.servers": "h:1",
        "security.protocol": "SASL_SSL",
        "sasl.username": "u",
    }


def test_a_setting_that_the_client_does_not_know_is_named() -> None:
    """At the first use, by an error of ours."""
    broker = KafkaBroker("h:1", no_such_thing=1)
    with pytest.raises(WrongSetting, match=r"no\.such\.thing"):
        broker.publish(Outgoing("t", b""), TopicSpec("t"))


def test_a_message_of_an_ordered_queue_cannot_be_delayed(broker: KafkaBroker) -> None:
    """Its place in the log is its time; zero milliseconds mean now."""
    one = actor(broker, ordered=True)
    with pytest.raises(DelayRefused, match="5000 ms"):
        one.send_with_options(delay=5000)
    with pytest.raises(Unreachable):
        one.send_with_options(delay=0)


def test_a_send_without_kafka_fails_in_time_and_says_why(broker: KafkaBroker) -> None:
    """Nothing was sent, and the error says so by its class."""
    began = time.monotonic()
    with pytest.raises(Unreachable):
        actor(broker).send()
    assert time.monotonic() - began < 2


def test_an_error_in_a_batching_body_wins(broker: KafkaBroker) -> None:
    """And the thread sends one by one again afterwards."""
    with pytest.raises(KeyError, match="mine"), broker.batching(), broker.batching():
        raise KeyError("mine")
    assert broker._sending._batch is None


def test_an_open_batch_belongs_to_its_thread(broker: KafkaBroker) -> None:
    """Another thread's send must not wait for it."""
    seen = []
    with broker.batching():
        thread = threading.Thread(target=lambda: seen.append(broker._sending._batch))
        thread.start()
        thread.join()
        assert broker._sending._batch is not None
    assert seen == [None]


def test_each_protocol_gets_only_the_settings_that_it_takes() -> None:
    """The client of KIP-848 refuses to be made with a session time-out."""
    classic, consumer = consumer_config("g", "classic"), consumer_config("g", "consumer")
    assert classic["session.timeout.ms"] == 6000
    assert classic["partition.assignment.strategy"] == "cooperative-sticky"
    assert not {"session.timeout.ms", "heartbeat.interval.ms", "partition.assignment.strategy"} & consumer.keys()
    for config in (classic, consumer):
        assert config["enable.auto.commit"] is False
        assert config["auto.offset.reset"] == "error"
        assert config["isolation.level"] == "read_committed"
