"""Kafka is killed and comes back: senders are told in time, workers go on, and nothing is lost or done twice."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import dramatiq
import pytest
from dramatiq import Worker
from dramatiq.errors import QueueJoinTimeout
from dramatiq.middleware import Callbacks

from brokers import KafkaBroker
from brokers.errors import DeliveryUnknown, Unreachable
from ops.errors import JarsUnavailable, PackageMissing
from ops.stack import Stack
from tests.conftest import give_up
from tests.integration.logs import records_of
from tests.replicas import ROOT
from tests.support import unique, wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


#: Seconds that a send may take here.
TIMEOUT_S = 2.0


class Server:
    """A Kafka of this test's own, which may be killed."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.start()
        self.address = next(row.uri for row in stack.status() if row.name == "kafka")

    def start(self) -> None:
        self._stack.start("kafka")

    def kill(self) -> None:
        self._stack.kill("kafka")


@pytest.fixture(scope="module")
def own_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server; running."""
    stack = Stack(tmp_path_factory.mktemp("outage"), short_lived=True)
    try:
        server = Server(stack)
    except (JarsUnavailable, PackageMissing) as error:
        give_up(error)
    yield server
    stack.down()


@pytest.fixture
def server(own_kafka: Server) -> Iterator[Server]:
    """It runs again when the test is over, however that ends."""
    yield own_kafka
    own_kafka.start()


@pytest.fixture
def broker(server: Server) -> Iterator[KafkaBroker]:
    """A broker that does not wait long."""
    prefix = unique("outage-")
    broker = KafkaBroker(server.address, prefix=prefix, group_id=prefix, delivery_timeout_s=TIMEOUT_S)
    yield broker
    server.start()
    broker.close()


@pytest.fixture
def worker(broker: KafkaBroker) -> Iterator[Worker]:
    """A running worker."""
    worker = Worker(broker, worker_timeout=100, worker_threads=4)
    worker.start()
    yield worker
    worker.stop(timeout=30_000)


def done(broker: KafkaBroker) -> bool:
    """Whether nothing is left to do; the server may not be ready to say so."""
    try:
        broker.join("default", timeout=2000)
    except (Unreachable, QueueJoinTimeout):
        return False
    return True


def test_a_send_during_an_outage_says_so_in_time(
    server: Server, broker: KafkaBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """The first cannot know whether its message is in the log, the next know that theirs are not; few lines say it."""

    @dramatiq.actor(broker=broker)
    def note() -> None: ...

    note.send()
    server.kill()
    caplog.set_level(logging.WARNING)
    began = time.monotonic()
    with pytest.raises(DeliveryUnknown, match=server.address) as unknown:
        note.send()
    assert time.monotonic() - began < TIMEOUT_S + 3
    assert unknown.value.message_id
    for _ in range(2):
        with pytest.raises(Unreachable):
            note.send()
    lines = [record for record in caplog.records if record.name.startswith("brokers")]
    assert len(lines) <= 1 + (time.monotonic() - began) / 5, [line.getMessage() for line in lines]


def test_workers_go_on_after_an_outage_and_repeat_nothing(server: Server, broker: KafkaBroker, worker: Worker) -> None:
    """What ended while Kafka was away could not be committed; the worker that gets the partition back knows of it."""
    ran: Counter[int] = Counter()

    @dramatiq.actor(broker=broker)
    def count(number: int) -> None:
        time.sleep(0.005)
        ran[number] += 1

    with broker.batching():
        for number in range(2000):
            count.send(number)
    wait_until(lambda: ran.total() > 300, 30, "some messages")
    server.kill()
    time.sleep(8)  # longer than the session
    server.start()
    wait_until(partial(done, broker), 60, "the queue to be done")
    assert ran == Counter(range(2000))


@pytest.mark.slow
def test_what_a_message_owes_waits_for_kafka(server: Server, broker: KafkaBroker, worker: Worker) -> None:
    """A callback, and a dead letter, of messages that end during an outage are sent after it.

    An outage longer than the session takes the partitions away: what still owes something then may run again.
    """
    ran: list[str] = []
    away = threading.Event()

    @dramatiq.actor(broker=broker)
    def told(message: dict[str, Any], result: Any) -> None:
        ran.append("told")

    @dramatiq.actor(broker=broker, on_success="told")
    def succeeds() -> None:
        ran.append("succeeds")
        assert away.wait(30)

    @dramatiq.actor(broker=broker, max_retries=0)
    def fails() -> None:
        ran.append("fails")
        assert away.wait(30)
        raise ValueError("on purpose")

    succeeds.send()
    fails.send()
    wait_until(lambda: len(ran) == 2, 20, "both to begin")
    server.kill()
    away.set()
    time.sleep(TIMEOUT_S + 2)  # what was sent has failed once by then
    server.start()
    wait_until(partial(done, broker), 60, "the queue to be done")
    assert set(ran) == {"fails", "succeeds", "told"}
    assert max(Counter(ran).values()) <= 2
    spec = broker.get_queue("default").dead_letters
    ends = broker._bounds([(spec.name, number) for number in range(broker.topics.ensure(spec))])
    assert 1 <= sum(end - first for first, end in ends.values()) <= 2


@pytest.mark.slow
def test_what_is_forwarded_in_transactions_survives_an_outage_once(server: Server) -> None:
    """Each message runs once and leads to one other, whatever was open or unanswered when Kafka died."""
    ran: Counter[int] = Counter()
    prefix = unique("outage-")
    broker = KafkaBroker(server.address, prefix=prefix, group_id=prefix, middleware=[Callbacks()], transactional=True)

    @dramatiq.actor(broker=broker, queue_name="told")
    def told(message: dict[str, Any], result: Any) -> None: ...

    @dramatiq.actor(broker=broker, on_success="told")
    def count(number: int) -> None:
        time.sleep(0.005)
        ran[number] += 1

    broker.topics.ensure(broker.get_queue("told").topic)
    with broker.batching():
        for number in range(2000):
            count.send(number)
    worker = Worker(broker, worker_timeout=100, worker_threads=4)
    worker.start()
    try:
        wait_until(lambda: ran.total() > 300, 30, "some messages")
        server.kill()
        time.sleep(8)  # longer than the session
        server.start()
        wait_until(partial(done, broker), 90, "the queue to be done")
        forwarded = records_of(broker, broker.get_queue("told").topic)
    finally:
        server.start()
        worker.stop(timeout=30_000)
        broker.close()
    assert ran == Counter(range(2000))
    assert Counter(json.loads(one.value or b"")["args"][0]["args"][0] for one in forwarded) == Counter(range(2000))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_whoever_asks_for_the_members_of_a_group_lives_on_and_is_told_again(
    server: Server, broker: KafkaBroker, tmp_path: Path
) -> None:
    """Librdkafka's newer question ended the process when the broker died under it, or was never answered again."""

    @dramatiq.actor(broker=broker, queue_name="asked")
    def nothing() -> None: ...

    worker = Worker(broker, worker_threads=1)
    worker.start()
    answers = tmp_path / "answers"
    with answers.open("w") as out:
        command = [sys.executable, "-m", "tests.integration.group_asker", server.address, broker.prefix, "asked"]
        asker = subprocess.Popen(command, cwd=ROOT, stdout=out)
    try:
        for _ in range(3):
            told = len(answers.read_text().splitlines())
            wait_until(lambda told=told: any(answers.read_text().splitlines()[told:]), 30, "an answer with a name")  # type: ignore[misc]  # mypy cannot type a default of a lambda
            server.kill()
            assert asker.poll() is None
            server.start()
        told = len(answers.read_text().splitlines())
        wait_until(lambda: any(answers.read_text().splitlines()[told:]), 30, "the last answer with a name")
        assert asker.poll() is None
    finally:
        asker.kill()
        asker.wait()
        worker.stop()
