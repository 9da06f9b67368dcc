"""Delayed messages on real Kafka: on time, once, and also when timers are killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import dramatiq
import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public, though not marked so
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)
from dramatiq import Worker
from dramatiq.errors import QueueJoinTimeout, Retry

from brokers import KafkaBroker, clients
from brokers.delays import parked_topic
from brokers.errors import DelayRefused
from brokers.replies import Place, TopicReader
from brokers.timers import Timers
from tests.support import unique, wait_until


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from brokers.records import Record

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def broker(kafka: str) -> Iterator[KafkaBroker]:
    """A broker with topics and groups of its own."""
    prefix = unique("delays") + "-"
    broker = KafkaBroker(bootstrap_servers=kafka, prefix=prefix, group_id=prefix + "workers")
    yield broker
    broker.close()


@pytest.fixture
def worker(broker: KafkaBroker) -> Iterator[Worker]:
    """A running worker; actors may be declared after it has started."""
    worker = Worker(broker, worker_timeout=100, worker_threads=4)
    worker.start()
    yield worker
    worker.stop()


def test_a_delayed_message_runs_at_its_time(broker: KafkaBroker, worker: Worker) -> None:
    """Not before, within a second of it, and once; what was sent behind it does not wait."""
    ran: list[tuple[str, float]] = []

    @dramatiq.actor(broker=broker)
    def note(name: str) -> None:
        ran.append((name, time.time()))

    note.send("warm")
    wait_until(lambda: ran, 30, "the worker to work")
    sent = time.time()
    note.send_with_options(args=("late",), delay=2000)
    note.send_with_options(args=("zero",), delay=0)
    note.send("now")

    wait_until(lambda: len(ran) == 4, 20, "all to run")
    times = dict(ran)
    assert times["now"] < times["late"]
    assert times["zero"] < times["late"]
    assert sent + 2 <= times["late"] <= sent + 3
    assert broker.topics.describe([broker.delayed_topic])[0]["wrong"] == []  # its compaction is set
    broker.join("default", timeout=10_000)
    assert len(ran) == 4


def test_timers_begin_again_when_their_client_fails_even_at_its_close(
    broker: KafkaBroker, worker: Worker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Kafka may fence a member for good while a server is away; nobody else fires delayed messages in this process."""
    ran: list[str] = []
    failed: list[str] = []

    @dramatiq.actor(broker=broker)
    def note(name: str) -> None:
        ran.append(name)

    def fails_once(what: str, method: Callable[..., None]) -> Callable[..., None]:
        def call(*args: object) -> None:
            if threading.current_thread().name == "kafka-timers" and what not in failed:
                failed.append(what)
                raise KafkaException(KafkaError(KafkaError._FATAL))
            method(*args)

        return call

    note.send_with_options(args=("before",), delay=100)
    wait_until(lambda: ran == ["before"], 30, "the timers to work")
    monkeypatch.setattr(clients.Consumer, "close", fails_once("close", clients.Consumer.close), raising=False)
    monkeypatch.setattr(Timers, "_step", fails_once("step", Timers._step))
    wait_until(lambda: failed == ["step", "close"], 10, "the client to fail")
    note.send_with_options(args=("after",), delay=100)
    wait_until(lambda: ran == ["before", "after"], 30, "new timers to work")
    assert [line.message.split()[0] for line in caplog.records if line.levelname == "ERROR"] == [
        "kafka_timers_failed",
        "kafka_timers_close_failed",
    ]


def test_a_failing_actor_is_retried_with_backoff_and_then_parked(broker: KafkaBroker, worker: Worker) -> None:
    """As on Dramatiq's other brokers; `join` waits for the retries too."""
    attempts: list[float] = []

    @dramatiq.actor(broker=broker, max_retries=2, min_backoff=300, max_backoff=300)
    def fails() -> None:
        attempts.append(time.monotonic())
        raise RuntimeError("again")

    fails.send()
    broker.join("default", timeout=30_000)

    assert len(attempts) == 3
    pauses = [after - before for before, after in pairwise(attempts)]
    assert all(0.1 < pause < 3 for pause in pauses)
    assert broker.delayed().entries == ()


def test_a_retry_waits_as_long_as_dramatiq_says(broker: KafkaBroker, worker: Worker) -> None:
    """Backoff that doubles, with jitter, up to its limit; or what the actor itself asks for."""
    attempts: dict[str, list[float]] = {"backoff": [], "asked": []}

    @dramatiq.actor(broker=broker, max_retries=3, min_backoff=200, max_backoff=800)
    def backoff() -> None:
        attempts["backoff"].append(time.monotonic())
        raise RuntimeError("again")

    @dramatiq.actor(broker=broker)
    def asked() -> None:
        attempts["asked"].append(time.monotonic())
        if len(attempts["asked"]) == 1:
            raise Retry(delay=1500)

    backoff.send()
    asked.send()
    broker.join("default", timeout=30_000)

    pauses = [after - before for before, after in pairwise(attempts["backoff"])]
    for pause, shortest, longest in zip(pauses, (0.2, 0.4, 0.4), (0.4, 0.8, 0.8), strict=True):
        assert shortest <= pause < longest + 4  # above: a busy machine
    [pause] = [after - before for before, after in pairwise(attempts["asked"])]
    assert 1.5 <= pause < 5.5


def test_what_its_queue_does_not_take_is_parked(broker: KafkaBroker, worker: Worker) -> None:
    """With the reason; what is due at the same time is fired all the same."""
    ran: list[str] = []

    @dramatiq.actor(broker=broker)
    def work(text: str) -> None:
        ran.append(text)

    work.send("warm")
    wait_until(lambda: ran, 30, "the worker to work")
    topic = broker.get_queue("default").topic.name
    setting = AlterConfigOpType.SET
    entry = ConfigEntry("max.message.bytes", "2000", incremental_operation=setting)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    broker._admin().incremental_alter_configs([resource])[resource].result(10)

    for text in ("small", "x" * 5000, "also small"):
        work.send_with_options(args=(text,), delay=300)

    wait_until(lambda: len(ran) == 3, 30, "the small ones to run")
    assert sorted(ran[1:]) == ["also small", "small"]
    parked: list[Record] = []
    spec = parked_topic(broker.delayed_topic)
    places = [Place(spec.name, n, from_start=True) for n in range(spec.partitions)]
    reader = TopicReader(broker.client_settings, places, parked.append, timeout_s=10)
    wait_until(lambda: parked, 20, "the large one to be parked")
    reader.close()
    [letter] = parked
    assert letter.headers["xq.topic"] == broker.delayed_topic.name.encode()
    assert letter.headers["xq.to"] == topic.encode()
    assert b"too large" in letter.headers["xq.reason"]
    assert b"x" * 5000 in (letter.value or b"")
    wait_until(lambda: broker.delayed().total == 0, 10, "nothing to wait any more")


def test_join_waits_for_what_is_delayed(broker: KafkaBroker, worker: Worker) -> None:
    """And gives up in time."""

    @dramatiq.actor(broker=broker)
    def work() -> None: ...

    work.send_with_options(delay=60_000)

    with pytest.raises(QueueJoinTimeout):
        broker.join("default", timeout=1500)


def test_a_delayed_message_can_be_seen_and_cancelled(broker: KafkaBroker, worker: Worker) -> None:
    """By its id; another one stays."""
    ran: list[int] = []

    @dramatiq.actor(broker=broker)
    def work(n: int) -> None:
        ran.append(n)

    messages = [work.send_with_options(args=(n,), delay=3000) for n in (1, 2)]
    assert {entry.message_id for entry in broker.delayed().entries} == {m.message_id for m in messages}

    assert broker.cancel(messages[0].message_id) == 1
    assert broker.cancel("unknown") == 0

    broker.join("default", timeout=20_000)
    assert ran == [2]


def test_a_message_of_an_ordered_queue_is_not_delayed(broker: KafkaBroker) -> None:
    """Its place is its time."""

    @dramatiq.actor(broker=broker, queue_name="ordered", ordered=True)
    def work() -> None: ...

    with pytest.raises(DelayRefused, match="ordered"):
        work.send_with_options(delay=1000)


ACTORS = """
import os, sys, time
import dramatiq
from brokers import KafkaBroker, every
prefix = os.environ["PREFIX"]
broker = KafkaBroker(bootstrap_servers=os.environ["BROKERS"], prefix=prefix, group_id=prefix)
dramatiq.set_broker(broker)

@dramatiq.actor
def work(n):
    with open(os.environ["OUT"], "a") as out:
        out.write(f"{n} {time.time()}\\n")

@dramatiq.actor(periodic=every(1))
def tick(): ...
"""


@pytest.mark.parametrize(
    ("messages", "kills"), [(1500, 6), pytest.param(6000, 25, marks=[pytest.mark.slow, pytest.mark.timeout(300)])]
)
def test_timers_killed_again_and_again_fire_every_message_once(
    kafka: str, tmp_path: Path, messages: int, kills: int
) -> None:
    """Messages due over some seconds, two worker processes, one of them killed with -9 every one to three seconds.

    A message may run twice, when its worker was killed before the ack; it is fired once: the queue holds it once.  And
    of an actor that is due every second it never holds two messages for one time.
    """
    prefix = unique("kill") + "-"
    (tmp_path / "late.py").write_text(ACTORS)
    environment = {"BROKERS": kafka, "PREFIX": prefix, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    environment["OUT"] = str(tmp_path / "out")
    broker = KafkaBroker(bootstrap_servers=kafka, prefix=prefix, group_id=prefix)

    @dramatiq.actor(broker=broker)
    def work(n: int) -> None: ...

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dramatiq", "late", "--processes", "1", "--threads", "2"]
        with (tmp_path / "log").open("ab") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    workers = [start(), start()]
    try:
        with broker.batching():
            for n in range(messages):
                work.send_with_options(args=(n,), delay=1000 + 8 * n)
        for kill in range(kills):
            time.sleep(random.uniform(1, 3))  # the kills are spread over the time in which messages are due
            _kill(workers[kill % 2])
            workers[kill % 2] = start()

        wait_until(lambda: len(_ran(tmp_path / "out")) == messages, 90, "every message to run")
        wait_until(lambda: broker.delayed().entries == (), 30, "nothing to wait any more")
    finally:
        for process in workers:
            _kill(process)
        broker.close()

    fired = _ids(kafka, prefix + "default")
    ticks = [name for name in fired if name.startswith("tick@")]
    assert len(fired) - len(ticks) == messages
    assert len(set(ticks)) == len(ticks)
    assert len(ticks) >= 3


def _kill(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _ran(out: Path) -> set[str]:
    return {line.split()[0] for line in out.read_text().splitlines()} if out.exists() else set()


def _ids(kafka: str, topic: str) -> list[str]:
    """The message ids of the committed records on a topic."""
    seen: list[Record] = []
    places = [Place(topic, partition, from_start=True) for partition in range(8)]
    reader = TopicReader({"bootstrap.servers": kafka}, places, seen.append, timeout_s=10)
    assert reader.wait_caught_up(20)
    reader.close()
    return [record.headers["message_id"].decode() for record in seen]
