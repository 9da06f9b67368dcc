"""Workers inside one process: shutdown, restart, backlog, recall, fork."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import dramatiq
import pytest
from dramatiq import Worker

from brokers import KafkaBroker
from brokers.consumer import HIGH_WATER_BYTES
from brokers.topics import TopicSpec
from tests.support import unique, wait_until


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def make(kafka: str) -> Iterator[Callable[[], KafkaBroker]]:
    """Makes brokers on the same topics and group, as several processes have them."""
    prefix = unique("work-")
    brokers: list[KafkaBroker] = []

    def one() -> KafkaBroker:
        brokers.append(KafkaBroker(kafka, prefix=prefix, group_id=prefix))
        return brokers[-1]

    yield one
    for broker in brokers:
        broker.close()


def working(broker: KafkaBroker, threads: int = 2) -> Worker:
    """A worker that runs."""
    worker = Worker(broker, worker_timeout=100, worker_threads=threads)
    worker.start()
    return worker


def test_what_had_not_begun_at_a_shutdown_runs_later_and_once(make: Callable[[], KafkaBroker]) -> None:
    """Prefetched messages go back; the one that ran is finished; another process takes the rest."""
    ran: Counter[int] = Counter()
    begun, go_on = threading.Event(), threading.Event()

    def declare(broker: KafkaBroker) -> dramatiq.Actor[..., None]:
        @dramatiq.actor(broker=broker)
        def slow(number: int) -> None:
            begun.set()
            go_on.wait(20)
            ran[number] += 1

        return slow

    first, second = make(), make()
    actor = declare(first)
    declare(second)
    for number in range(10):
        actor.send(number)
    worker = working(first, threads=1)
    assert begun.wait(20)
    threading.Timer(0.3, go_on.set).start()
    worker.stop()
    assert ran.total() == 1
    first.close()
    other = working(second)
    second.join("default", timeout=30_000)
    other.stop()
    assert ran == Counter(range(10))


def test_a_worker_may_follow_another_in_the_same_process(make: Callable[[], KafkaBroker]) -> None:
    """What the first one had taken and given back is there for the second."""
    ran: Counter[int] = Counter()
    broker = make()

    @dramatiq.actor(broker=broker)
    def count(number: int) -> None:
        time.sleep(0.001)
        ran[number] += 1

    with broker.batching():
        for number in range(500):
            count.send(number)
    for _ in range(3):
        worker = working(broker)
        enough = ran.total() + 20
        wait_until(partial(_more, ran, enough), 20, "some messages")
        worker.stop()
    worker = working(broker)
    broker.join("default", timeout=30_000)
    worker.stop()
    assert ran == Counter(range(500))


def test_a_broker_may_be_closed_under_a_running_worker(make: Callable[[], KafkaBroker]) -> None:
    """Its readers notice, open new ones, and go on; what ran is not repeated."""
    ran: Counter[int] = Counter()
    broker = make()

    @dramatiq.actor(broker=broker)
    def count(number: int) -> None:
        time.sleep(0.002)
        ran[number] += 1

    with broker.batching():
        for number in range(1000):
            count.send(number)
    worker = working(broker)
    wait_until(lambda: ran.total() > 100, 20, "some messages")
    broker.close()
    broker.join("default", timeout=30_000)
    worker.stop()
    assert ran == Counter(range(1000))


def test_a_consumer_that_fails_is_replaced(make: Callable[[], KafkaBroker], caplog: pytest.LogCaptureFixture) -> None:
    """Its thread ends with an error: what ran is committed on the way out, and a new one goes on."""
    ran: Counter[int] = Counter()
    broker = make()

    @dramatiq.actor(broker=broker)
    def count(number: int) -> None:
        time.sleep(0.002)
        ran[number] += 1

    with broker.batching():
        for number in range(1000):
            count.send(number)
    worker = working(broker)
    wait_until(lambda: ran.total() > 100, 20, "some messages")
    [failing] = broker._reading._consumers.values()
    failing._balance = lambda: 1 / 0  # type: ignore[assignment,method-assign]  # as a bug would
    broker.join("default", timeout=30_000)
    worker.stop()
    assert not failing.running
    assert "kafka_consumer_failed" in caplog.text
    assert ran == Counter(range(1000))


def test_a_backlog_larger_than_the_buffers_is_read_in_pieces(make: Callable[[], KafkaBroker]) -> None:
    """The partition is paused and resumed many times; nothing is skipped and nothing comes twice."""
    ran: list[int] = []
    broker = make()
    broker.declare_queue("log", ordered=True, batch=50)

    @dramatiq.actor(broker=broker, queue_name="log")
    def take(messages: list[dramatiq.MessageProxy]) -> None:
        ran.extend(message.args[0] for message in messages)

    with broker.batching():
        for number in range(12_000):
            take.send(number)  # type: ignore[arg-type]  # the actor gets a batch of them
    worker = working(broker)
    wait_until(lambda: len(ran) >= 12_000, 60, "the backlog")
    broker.join("log", timeout=20_000)
    worker.stop()
    assert ran == list(range(12_000))


def test_large_records_are_bounded_by_their_bytes(make: Callable[[], KafkaBroker]) -> None:
    """The two thousand records that may wait would be two gigabytes."""
    broker = make()
    broker.declare_queue("big", topic=TopicSpec(f"{broker.prefix}big", 1))

    @dramatiq.actor(broker=broker, queue_name="big")
    def swallow(text: str) -> None: ...

    with broker.batching():
        for _ in range(60):
            swallow.send("x" * 900_000)
    reader = broker.consume("big", prefetch=99, timeout=200)
    messages = [wait_until(lambda: next(reader), 20, "the first message")]
    assignment = broker._reading._consumers[broker.group_id]._assignments[f"{broker.prefix}big", 0]
    wait_until(lambda: assignment.paused, 20, "the partition to be paused")
    assert HIGH_WATER_BYTES < assignment.waiting_bytes < HIGH_WATER_BYTES + 17_000_000  # what the client had at hand
    while len(messages) < 60:
        messages.append(wait_until(lambda: next(reader), 20, "another message"))
    for message in messages:
        assert message is not None
        reader.ack(message)
    broker.join("big", timeout=20_000)


def test_a_rebalance_waits_for_what_runs_and_not_for_what_waits(kafka: str, make: Callable[[], KafkaBroker]) -> None:
    """A slow actor has sixteen messages in its worker's hands; one of them keeps the rebalance, the others move."""
    ran: Counter[int] = Counter()
    begun, go_on = threading.Event(), threading.Event()

    def declare(broker: KafkaBroker) -> dramatiq.Actor[..., None]:
        @dramatiq.actor(broker=broker)
        def slow(number: int) -> None:
            begun.set()
            go_on.wait(20)
            ran[number] += 1

        return slow

    first, second = make(), make()
    actor = declare(first)
    declare(second)
    for number in range(40):
        actor.send(number)
    worker = working(first, threads=1)
    assert begun.wait(20)
    other = working(second, threads=1)
    wait_until(lambda: _draining(first) or _has_partitions(second), 20, "the rebalance")
    go_on.set()
    first.join("default", timeout=30_000)
    worker.stop()
    other.stop()
    assert ran == Counter(range(40))


def _more(ran: Counter[int], enough: int) -> bool:
    return ran.total() > enough


def _has_partitions(broker: KafkaBroker) -> bool:
    return any(consumer.assigned() for consumer in list(broker._reading._consumers.values()))


def _draining(broker: KafkaBroker) -> bool:
    assignments = list(broker._reading._consumers[broker.group_id]._assignments.values())
    return any(not assignment.handing_out for assignment in assignments)


FORKING = """
import os, sys, time
import dramatiq
from brokers import KafkaBroker

broker = KafkaBroker(sys.argv[1], prefix=sys.argv[2], group_id=sys.argv[2])

@dramatiq.actor(broker=broker)
def note(who):
    print(who, "ran in the", "child" if os.getpid() != parent else "parent", flush=True)

def work(what):
    worker = dramatiq.Worker(broker, worker_timeout=100, worker_threads=2)
    worker.start()
    note.send(what)
    broker.join("default", timeout=20_000)
    worker.stop()

parent = os.getpid()
work("before")
broker._lock.acquire()  # as another thread of the parent may have at the moment of the fork
pid = os.fork()
if pid == 0:
    note.send("child")
    broker.close()
    sys.exit(0)
broker._lock.release()
_, status = os.waitpid(pid, 0)
print("child ended with", os.waitstatus_to_exitcode(status), flush=True)
work("after")
broker.close()
"""


def test_a_forked_child_uses_nothing_of_its_parent(kafka: str) -> None:
    """Clients, threads and locks are made anew; the child ends cleanly, and the parent goes on with its own."""
    command = [sys.executable, "-W", "ignore", "-c", FORKING, kafka, unique("fork-")]
    ran = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    before, child, *after = ran.stdout.splitlines()
    assert (before, child) == ("before ran in the parent", "child ended with 0")
    assert sorted(after) == ["after ran in the parent", "child ran in the parent"]
