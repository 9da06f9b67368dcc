"""Delayed messages on real Kafka: on time, once, and also when timers are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import dramatiq
import pytest
from dramatiq import Worker
from dramatiq.errors import QueueJoinTimeout

from brokers import KafkaBroker
from brokers.errors import DelayRefused
from brokers.replies import Place, TopicReader
from tests.support import unique, wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator

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
    broker.join("default", timeout=10_000)
    assert len(ran) == 4


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
from brokers import KafkaBroker
prefix = os.environ["PREFIX"]
broker = KafkaBroker(bootstrap_servers=os.environ["BROKERS"], prefix=prefix, group_id=prefix)
dramatiq.set_broker(broker)

@dramatiq.actor
def work(n):
    with open(os.environ["OUT"], "a") as out:
        out.write(f"{n} {time.time()}\\n")
"""


def test_timers_killed_again_and_again_fire_every_message_once(kafka: str, tmp_path: Path) -> None:
    """1,500 messages due over 12 seconds, two worker processes, one of them killed with -9 every two seconds.

    A message may run twice, when its worker was killed before the ack; it is fired once: the queue holds 1,500.
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
            for n in range(1500):
                work.send_with_options(args=(n,), delay=1000 + 8 * n)
        for kill in range(6):
            time.sleep(2)  # the kills are spread over the time in which messages are due
            _kill(workers[kill % 2])
            workers[kill % 2] = start()

        wait_until(lambda: len(_ran(tmp_path / "out")) == 1500, 90, "every message to run")
        wait_until(lambda: broker.delayed().entries == (), 30, "nothing to wait any more")
    finally:
        for process in workers:
            _kill(process)
        broker.close()

    assert _count(kafka, prefix + "default") == 1500


def _kill(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _ran(out: Path) -> set[str]:
    return {line.split()[0] for line in out.read_text().splitlines()} if out.exists() else set()


def _count(kafka: str, topic: str) -> int:
    """Committed records on a topic."""
    seen: list[object] = []
    places = [Place(topic, partition, from_start=True) for partition in range(8)]
    reader = TopicReader({"bootstrap.servers": kafka}, places, seen.append, timeout_s=10)
    assert reader.wait_caught_up(20)
    reader.close()
    return len(seen)
