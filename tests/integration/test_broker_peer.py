"""Beside dramatiq-kafka on the same Kafka: what it wrote is read, what it loses is not lost here."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import dramatiq
import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient

from brokers import compat, records
from brokers.errors import WrongSetting
from brokers.replies import Place, TopicReader
from brokers.topics import TopicSpec
from tests.support import unique, wait_until


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from brokers.records import Record

ROOT = Path(__file__).resolve().parents[2]
OURS, THEIRS = "brokers.compat", "dramatiq_kafka"

needs_peer = pytest.mark.skipif(
    sys.version_info >= (3, 12), reason="kafka-python 2.0.2, under dramatiq-kafka, stops at Python 3.11"
)


class Application:
    """One application on one topic, and its processes, with either import."""

    def __init__(self, servers: str, folder: Path) -> None:
        self.name = unique("peer")
        self._servers = servers
        self._log = folder / f"{self.name}.log"
        self._log.touch()
        self._workers: list[subprocess.Popen[bytes]] = []
        self.broker = compat.KafkaBroker(
            bootstrap_servers=[servers], topic=self.name, group_id=self.name, dead_letter_topic=f"{self.name}-dead"
        )
        self.broker.topics.ensure(TopicSpec(self.name, 2))
        self.broker.topics.ensure(TopicSpec(f"{self.name}-dead", 1))  # the peer waits a minute for a topic
        self._begin_at_the_start()

    def _begin_at_the_start(self) -> None:
        """Commit 0: without a commit the peer begins at the end of the log."""
        admin = AdminClient({"bootstrap.servers": self._servers})
        starts = [TopicPartition(self.name, number, 0) for number in range(2)]
        request = ConsumerGroupTopicPartitions(self.name, starts)
        admin.alter_consumer_group_offsets([request])[self.name].result(20)

    def _command(self, module: str, *what: str) -> list[str]:
        program = [sys.executable, "-W", "ignore", "-m", "tests.integration.peer_worker"]
        return [*program, module, self._servers, self.name, *what]

    def send(self, module: str, first: int, count: int) -> None:
        """Send so many numbers."""
        command = self._command(module, "send", str(first), str(count))
        subprocess.run(command, cwd=ROOT, check=True, timeout=60, capture_output=True)

    def work(self, module: str) -> subprocess.Popen[bytes]:
        """Start a worker."""
        with self._log.open("ab") as log, self._log.with_suffix(".err").open("ab") as err:
            worker = subprocess.Popen(self._command(module, "work"), cwd=ROOT, stdout=log, stderr=err)
        self._workers.append(worker)
        return worker

    def ran(self) -> Counter[int]:
        """How often each number has run."""
        return Counter(int(line) for line in self._log.read_text().split())

    def left(self) -> int:
        """What Kafka would still give to the group."""
        return self.broker._groups.left(self.broker.get_queue(self.name))

    def dead(self) -> list[list[object]]:
        """The arguments of the messages on the dead-letter topic."""
        found: list[Record] = []
        reader = TopicReader(
            self.broker.client_settings, [Place(f"{self.name}-dead", 0, from_start=True)], found.append, timeout_s=10
        )
        try:
            assert reader.wait_caught_up(10)
        finally:
            reader.close()
        return [json.loads(record.value or b"")["args"] for record in found]

    def close(self) -> None:
        """End whoever is left."""
        for worker in self._workers:
            worker.kill()
            worker.wait()
        self.broker.close()


@pytest.fixture
def application(kafka: str, tmp_path: Path) -> Iterator[Callable[[], Application]]:
    """Makes applications."""
    made: list[Application] = []

    def make() -> Application:
        made.append(Application(kafka, tmp_path))
        return made[-1]

    yield make
    for one in made:
        one.close()


def killed_in_the_middle(one: Application, module: str, count: int) -> tuple[int, int]:
    """Send so many, kill a worker in the middle, start another; how many never ran, and how many ran again."""
    one.send(module, 100, count)
    worker = one.work(module)
    wait_until(lambda: len(one.ran()) > count // 4, 60, "a quarter to run")
    worker.kill()
    worker.wait()
    one.work(module)
    last = (time.monotonic(), 0)

    def quiet() -> bool:
        nonlocal last
        total = one.ran().total()
        if total != last[1]:
            last = (time.monotonic(), total)
        return not one.left() and time.monotonic() - last[0] > 2

    wait_until(quiet, 100, "nothing to be left, and nothing to run")
    ran = one.ran()
    return count - len(ran), ran.total() - len(ran)


@needs_peer
@pytest.mark.slow
def test_an_application_moves_over_by_changing_an_import(application: Callable[[], Application]) -> None:
    """To ours and back: each reads what the other sent, goes on at the other's commit, and parks on the same topic."""
    one = application()
    one.send(THEIRS, 0, 10)
    theirs = one.work(THEIRS)
    wait_until(lambda: one.ran() == Counter(range(10)) and not one.left(), 60, "the peer to run its own")
    theirs.terminate()
    assert theirs.wait(30) == 0
    one.send(THEIRS, 10, 5)
    ours = one.work(OURS)
    ran = Counter(n for n in range(15) if n != 13)
    wait_until(lambda: one.ran() == ran and not one.left(), 60, "ours to run what the peer sent")
    ours.terminate()
    assert ours.wait(30) == 0
    assert one.dead() == [[13]]
    one.send(OURS, 20, 5)
    one.work(THEIRS)
    ran += Counter(range(20, 25))
    wait_until(lambda: one.ran() == ran, 60, "the peer to run what ours sent")


def test_messages_are_the_same_on_both_sides() -> None:
    """The peer writes a message's fields as JSON, without key and headers, and reads Dramatiq's encoding."""
    message: dramatiq.Message[None] = dramatiq.Message("mine", "note", (1, "ü"), {"a": None}, {"retries": 2})
    written = json.dumps(message.asdict()).encode()
    assert records.decode(records.Record("mine", 0, 0, 0, None, written), "mine") == message
    assert dramatiq.Message.decode(records.encode(message, "mine").value or b"") == message


def test_what_the_peer_did_wrong_is_refused_or_right() -> None:
    """Partitions by hand are refused; every declared queue is read, and dead letters are kept without being asked."""
    with pytest.raises(WrongSetting, match="leave it out"):
        compat.KafkaBroker(partitions=[0])
    broker = compat.KafkaBroker(topic="mine")
    broker.declare_queue("other")
    assert broker.get_declared_queues() == {"mine", "other"}
    assert broker.get_queue("mine").dead_letters.name == "mine.XQ"
    assert (broker.group_id, broker.prefix) == ("default", "")


@needs_peer
@pytest.mark.slow
def test_a_kill_loses_messages_there_and_none_here(
    application: Callable[[], Application], record_property: Callable[[str, object], None]
) -> None:
    """1,000 messages of 5 ms, one worker with two threads, one kill -9.

    There every ack commits all that was polled, so what waited in the killed process is gone.
    """
    found = {module: killed_in_the_middle(application(), module, 1000) for module in (OURS, THEIRS)}
    for module, (lost, again) in found.items():
        record_property(f"{module} lost", lost)
        record_property(f"{module} again", again)
    assert found[OURS][0] == 0
    assert found[THEIRS][0] > 0
