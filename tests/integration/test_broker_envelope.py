"""Signed messages and large ones through a real Kafka: delays, retries, dead letters, and a log of replicas."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import dramatiq
import pytest
from click.testing import CliRunner
from confluent_kafka import Producer
from dramatiq import Worker

import cli
from brokers import KafkaBroker
from brokers.claims import claim_of
from brokers.envelope import Envelope
from brokers.keyring import KeyRing, new_key
from brokers.replies import Place, TopicReader
from brokers.signing import Signing
from brokers.stores import FileStore, RedisStore
from settings import Settings, environment_names
from tasks.app import App
from tests.support import unique, wait_until


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from brokers.records import Outgoing, Record
    from brokers.topics import TopicSpec

    Make = Callable[..., KafkaBroker]

LARGE = "x" * 1_500_000

RING = KeyRing().with_key(new_key("hmac-sha256"))


@pytest.fixture
def make(kafka: str) -> Iterator[Make]:
    """Brokers that share topics and a group."""
    prefix = unique("envelope-")
    made: list[Any] = []

    def make(envelope: Envelope, *, working: bool = False) -> KafkaBroker:
        broker = KafkaBroker(kafka, prefix=prefix, group_id=prefix, envelope=envelope)
        made.append(broker)
        if working:
            worker = Worker(broker, worker_timeout=100, worker_threads=2)
            worker.start()
            made.append(worker)
        return broker

    yield make
    for one in reversed(made):
        one.stop() if isinstance(one, Worker) else one.close()


def records(broker: KafkaBroker, spec: TopicSpec) -> list[Record]:
    """All that lies on a topic."""
    found: list[Record] = []
    places = [Place(spec.name, number, from_start=True) for number in range(broker.topics.ensure(spec))]
    reader = TopicReader(broker.client_settings, places, found.append, timeout_s=10)
    assert reader.wait_caught_up(10)
    reader.close()
    return found


def put(broker: KafkaBroker, topic: str, record: Record | Outgoing, **changes: bytes) -> None:
    """Put a record that was read somewhere on a topic, unchanged but for *changes*, as any Kafka client may."""
    fields: dict[str, Any] = {"key": record.key, "value": record.value} | changes
    headers: Any = [(name, value) for name, value in record.headers.items() if not name.startswith("xq.")]
    client = Producer(broker.client_settings)
    client.produce(topic, headers=headers, **fields)
    assert client.flush(10) == 0


def test_a_signed_large_message_is_retried_parked_and_sent_again(make: Make, tmp_path: Path) -> None:
    """One content for all its attempts; its dead letter, put back as it was, is run."""
    broker = make(Envelope(Signing(RING), FileStore(tmp_path)), working=True)
    seen: list[int] = []
    works: list[bool] = []

    @dramatiq.actor(broker=broker, max_retries=1, min_backoff=50, max_backoff=50)
    def work(text: str) -> None:
        seen.append(len(text))
        if not works:
            raise RuntimeError("not yet")

    work.send_with_options(args=(LARGE,), delay=50)
    queue = broker.get_queue("default")
    [letter] = wait_until(lambda: records(broker, queue.dead_letters), 30, "the dead letter")
    assert letter.headers["xq.error"] == b"RuntimeError"
    assert len(letter.value or b"") < 10_000
    assert len(seen) == 2
    assert len(list(tmp_path.glob("*/*/*"))) == 1
    works.append(True)
    put(broker, queue.topic.name, letter)
    wait_until(lambda: len(seen) == 3, 20, "the message to run again")
    broker.join("default", timeout=20_000)
    assert seen == [len(LARGE)] * 3
    assert len(records(broker, queue.dead_letters)) == 1


def test_what_is_not_signed_well_is_parked(make: Make) -> None:
    """Unsigned, changed, from another queue, with another's key; and by its kind, undecoded, beside one that runs."""
    broker = make(Envelope(Signing(RING)), working=True)
    stranger = make(Envelope(Signing(KeyRing().with_key(new_key("ed25519")))))
    nobody = make(Envelope())
    ran: list[int] = []

    @dramatiq.actor(broker=broker, max_retries=0)
    def work(number: int) -> None:
        ran.append(number)

    @dramatiq.actor(broker=broker, queue_name="other", max_retries=0)
    def other() -> None: ...

    message = work.message(1)
    queue = broker.get_queue("default")
    for foreign in (stranger, nobody):
        foreign.declare_queue("default")
        foreign.enqueue(message)
    put(broker, queue.topic.name, broker.envelope.close(other.message(), broker.get_queue("other").topic))
    put(broker, queue.topic.name, broker.envelope.close(message, queue.topic), value=work.message(2).encode())
    work.send(3)
    wait_until(lambda: ran, 20, "the good one")
    broker.join("default", timeout=20_000)
    assert ran == [3]
    letters = records(broker, queue.dead_letters)
    kinds = sorted(letter.headers["xq.error"].decode() for letter in letters)
    assert kinds == ["BadSignature", "BadSignature", "UnknownKey", "Unsigned"]


def test_a_log_of_replicas_refuses_or_holds_and_never_differs(make: Make) -> None:
    """Unsigned from a place on: refused in its place.  Signed with a key that is not here: held until it is."""
    later = new_key("ed25519")
    told: list[Any] = []
    signing = Signing(RING, since={})
    broker = make(Envelope(signing))

    def decode(record: Record, queue_name: str) -> dramatiq.Message[Any]:
        return broker.envelope.decode(record, queue_name)

    def refused(record: Record, queue_name: str, reason: str) -> dramatiq.Message[Any]:
        return dramatiq.Message(queue_name, "apply", (reason,), {}, {})

    broker.declare_queue("log", ordered=True, batch=10, start=lambda *_: len(told), decode=decode, refused=refused)
    topic = broker.get_queue("log").topic
    signing.since[topic.name] = 1  # type: ignore[index]  # a mapping that this test has made

    @dramatiq.actor(broker=broker, queue_name="log")
    def apply(messages: list[Any]) -> None:
        told.extend(one.args[0] for one in messages)

    broker.topics.ensure(topic)
    nobody, somebody = Envelope(), Envelope(Signing(KeyRing().with_key(later)))
    for envelope, text in ((nobody, "before"), (nobody, "unsigned"), (broker.envelope, "good"), (somebody, "later")):
        put(broker, topic.name, envelope.close(dramatiq.Message("log", "apply", (text,), {}, {}), topic))
    worker = Worker(broker, worker_timeout=100, worker_threads=1)
    worker.start()
    wait_until(broker.blocked, 20, "the log to stand still")
    [blocked] = broker.blocked().values()
    assert later.id in blocked.reason
    assert [text.partition(":")[0] for text in told] == ["before", "Unsigned", "good"]
    broker.envelope = Envelope(Signing(RING.with_key(later), since=signing.since))
    worker.stop()
    broker.close()
    worker = Worker(broker, worker_timeout=100, worker_threads=1)
    worker.start()
    wait_until(lambda: told[3:] == ["later"], 20, "the held one")
    worker.stop()


def test_while_the_store_is_away_messages_wait(make: Make, redis_url: str) -> None:
    """Small ones go on; the large one runs when the store is back, and is never parked."""
    import redis

    client = redis.Redis.from_url(redis_url, socket_timeout=5)
    store = RedisStore(client, keeps_s=10**6)
    sender = make(Envelope(claims=store))
    broken: Any = object()
    worker = make(Envelope(claims=RedisStore(broken)), working=True)
    ran: list[int] = []

    @dramatiq.actor(broker=worker, max_retries=0)
    def work(text: str) -> None:
        ran.append(len(text))

    sender.declare_queue("default")
    sender.enqueue(work.message(LARGE))
    sender.enqueue(work.message("small"))
    wait_until(lambda: ran == [5], 20, "the small one")
    worker.envelope.claims._client = client  # type: ignore[union-attr]  # it is back
    wait_until(lambda: ran == [5, len(LARGE)], 20, "the large one")
    worker.join("default", timeout=20_000)
    assert records(worker, worker.get_queue("default").dead_letters) == []
    sent = records(worker, worker.get_queue("default").topic)
    [claim] = [record.headers["claim"] for record in sent if "claim" in record.headers]
    assert client.pttl("claim:" + json.loads(claim)["key"]) > 0


def test_pruning_deletes_what_no_record_can_lead_to(kafka: str, tmp_path: Path) -> None:
    """Kafka knows how long records are kept; those of commands, for ever."""
    prefix = unique("prune-")
    settings = {"BROKERS": kafka, "B_TOPIC_PREFIX": prefix, "CLAIM_STORE": f"file://{tmp_path}"}
    clean: dict[str, str | None] = dict.fromkeys(environment_names())

    def prune() -> dict[str, tuple[float | None, int]]:
        result = CliRunner().invoke(cli.main, ["claims", "prune", "--json"], env={**clean, **settings})
        assert result.exit_code == 0, result.output
        rows = json.loads(result.stdout)["topics"]
        return {row["topic"].removeprefix(prefix): (row["kept_days"], row["deleted"]) for row in rows}

    values: dict[str, Any] = settings
    app = App(Settings(**values))
    store = app.broker.envelope.claims
    assert isinstance(store, FileStore)
    for spec in (app.command_topic, app.request_topic, app.broker.get_queue("request").dead_letters):
        app.broker.topics.ensure(spec)
    for topic in (app.command_topic.name, app.request_topic.name, f"{prefix}gone"):
        for text in (b"old", b"fresh"):
            store.put(claim_of(text, store="file", topic=topic).key, text)
        old = store._path(claim_of(b"old", store="file", topic=topic).key)
        os.utime(old, (0, 0))
    app.close()
    assert prune() == {"command": (None, 0), "gone": (68.0, 1), "request": (39.0, 1)}
    assert len(list(tmp_path.glob("*/*/*"))) == 4
