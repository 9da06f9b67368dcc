"""Whatever lies on a queue's topic: it is parked with its reason, and the next good message is run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import dramatiq
import pytest
from confluent_kafka import Producer
from dramatiq import Worker

from brokers import KafkaBroker
from brokers.replies import Place, TopicReader
from tests.support import unique, wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator

    from brokers.records import Record
    from brokers.topics import TopicSpec


def message(**changes: Any) -> bytes:
    """A message of the actor ``good``, with *changes*."""
    made: dramatiq.Message[Any] = dramatiq.Message("default", "good", (), {}, {})
    return json.dumps(made.asdict() | {"args": []} | changes).encode()


#: What is on the topic, and what its dead letter says.
BAD = {
    "bytes": (b"\x00\x01\xfe\xff", "not a Dramatiq message"),
    "text": (b"hello", "not a Dramatiq message"),
    "list": (b"[1, 2]", "not a Dramatiq message"),
    "null": (b"null", "not a Dramatiq message"),
    "nothing": (None, "the record has no value"),
    "empty": (b"", "not a Dramatiq message"),
    "broken utf-8": (message(actor_name="x").replace(b'"x"', b'"\xff"'), "not a Dramatiq message"),
    "null options": (message(options=None), "options"),
    "kwargs as a list": (message(kwargs=[]), "kwargs"),
    "unknown actor": (message(actor_name="ghost"), "no actor 'ghost'"),
    "wrong arguments": (message(args=[1, 2, 3]), "TypeError"),
}


@pytest.fixture
def broker(kafka: str) -> Iterator[KafkaBroker]:
    """A broker with topics of its own."""
    prefix = unique("bad-")
    broker = KafkaBroker(kafka, prefix=prefix, group_id=prefix)
    yield broker
    broker.close()


@pytest.fixture
def worker(broker: KafkaBroker) -> Iterator[Worker]:
    """A running worker."""
    worker = Worker(broker, worker_timeout=100, worker_threads=2)
    worker.start()
    yield worker
    worker.stop()


def put(broker: KafkaBroker, topic: str, *values: bytes | None) -> None:
    """As any Kafka client may."""
    client = Producer(broker.client_settings)
    for value in values:
        client.produce(topic, value=value, partition=0)
    assert client.flush(10) == 0


def parked(broker: KafkaBroker, spec: TopicSpec) -> list[Record]:
    """All dead letters, in the order of their places in the queue."""
    found: list[Record] = []
    places = [Place(spec.name, number, from_start=True) for number in range(broker.topics.ensure(spec))]
    reader = TopicReader(broker.client_settings, places, found.append, timeout_s=10)
    assert reader.wait_caught_up(10)
    reader.close()
    return sorted(found, key=lambda record: int(record.headers["xq.offset"]))


@pytest.mark.parametrize("ordered", [False, True])
def test_bad_input_is_parked_and_good_input_is_run(broker: KafkaBroker, worker: Worker, ordered: bool) -> None:
    """Each with its reason and its value untouched; a good message claims another queue and is run all the same."""
    ran: list[int] = []

    @dramatiq.actor(broker=broker, **({"ordered": True} if ordered else {"max_retries": 0}))
    def good() -> None:
        ran.append(1)

    queue = broker.get_queue("default")
    bad = {name: one for name, one in BAD.items() if not (ordered and name == "wrong arguments")}  # that one is held
    broker.topics.ensure(queue.topic)
    put(broker, queue.topic.name, *[value for value, _ in bad.values()], message(queue_name="elsewhere"))
    wait_until(lambda: ran, 20, "the good message")
    broker.join("default", timeout=20_000)
    letters = parked(broker, queue.dead_letters)
    assert ran == [1]
    assert [letter.value for letter in letters] == [value for value, _ in bad.values()]
    for letter, (_, reason) in zip(letters, bad.values(), strict=True):
        assert reason in letter.headers["xq.reason"].decode()
        assert letter.headers["xq.topic"].decode() == queue.topic.name


def test_bad_input_in_a_batch_cuts_it_and_keeps_the_order(broker: KafkaBroker, worker: Worker) -> None:
    """The actor gets the good ones around it, consecutive and in order."""
    ran: list[int] = []
    broker.declare_queue("log", ordered=True, batch=100)
    topic = broker.get_queue("log").topic
    broker.topics.ensure(topic)
    good = [message(args=[number], actor_name="apply") for number in range(6)]
    put(broker, topic.name, *good[:3], b"garbage", None, *good[3:])

    @dramatiq.actor(broker=broker, queue_name="log")
    def apply(messages: list[Any]) -> None:
        ran.extend(one.args[0] for one in messages)

    broker.join("log", timeout=20_000)
    assert ran == list(range(6))
    assert len(parked(broker, broker.get_queue("log").dead_letters)) == 2


def test_an_error_is_parked_with_where_it_was_raised(broker: KafkaBroker, worker: Worker) -> None:
    """The dead letter has the record, the error's class and text, and the end of the traceback."""

    @dramatiq.actor(broker=broker, max_retries=0)
    def fails(number: int) -> None:
        raise KeyError(f"number {number}")

    sent = fails.send(7)
    broker.join("default", timeout=20_000)
    [letter] = parked(broker, broker.get_queue("default").dead_letters)
    assert letter.headers["message_id"].decode() == sent.message_id
    assert letter.headers["xq.error"] == b"KeyError"
    assert letter.headers["xq.reason"] == b"KeyError: 'number 7'"
    assert b"in fails" in letter.headers["xq.traceback"]
    assert dramatiq.Message.decode(letter.value or b"").args == (7,)


def test_a_callback_that_cannot_be_sent_parks_its_message(broker: KafkaBroker, worker: Worker) -> None:
    """Dramatiq would log the error and ack; the callback would be lost without a trace."""
    ran: list[int] = []
    broker.add_middleware(dramatiq.middleware.CurrentMessage())

    @dramatiq.actor(broker=broker)
    def told(message: dict[str, Any], result: Any) -> None: ...

    @dramatiq.actor(broker=broker, on_success="told")
    def unwritable() -> object:
        ran.append(1)
        return object()

    unwritable.send()
    broker.join("default", timeout=20_000)
    [letter] = parked(broker, broker.get_queue("default").dead_letters)
    assert ran == [1]
    assert letter.headers["xq.error"] == b"TypeError"
    assert b"it ran, and what should follow could not be sent" in letter.headers["xq.reason"]
    assert b"not JSON serializable" in letter.headers["xq.reason"]
