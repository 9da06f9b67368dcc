"""Ordered queues whose place is kept by somebody else: where they start, what they do when nobody can say."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import dramatiq
import pytest
from dramatiq import Worker

from brokers import KafkaBroker
from brokers.errors import StartRefused, StartUnknown
from brokers.topics import FOR_EVER, TopicSpec
from tests.support import unique, wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator

    from brokers.reader import RecordMessage


class Ledger:
    """The position of what was applied, kept outside Kafka: what a database is to a replica."""

    def __init__(self) -> None:
        self.applied: list[int] = []
        self.position = -1
        self.error: Exception | None = None
        self.asked: list[tuple[str, int, int]] = []

    def start(self, topic: str, partition: int, log_start: int) -> int:
        self.asked.append((topic, partition, log_start))
        if self.error is not None:
            raise self.error
        return self.position + 1

    def apply(self, messages: list[RecordMessage]) -> None:
        for message in messages:
            self.applied.append(message.args[0])
            self.position = message.record.offset


class Replica:
    """A broker, a ledger and a worker between them."""

    def __init__(self, kafka: str, prefix: str, protocol: str = "classic") -> None:
        self.ledger = Ledger()
        self.broker = KafkaBroker(kafka, prefix=prefix, group_id=f"{prefix}replica", group_protocol=protocol)
        topic = TopicSpec(f"{prefix}log", 1, FOR_EVER, exact=True)
        self.broker.declare_queue("log", topic=topic, ordered=True, batch=10, start=self.ledger.start)
        self.fail: Exception | None = None
        self.applied_before_failing: int | None = None  # up to there, when the connection breaks
        self.worker: Worker | None = None

        @dramatiq.actor(broker=self.broker, queue_name="log")
        def apply(messages: list[RecordMessage]) -> None:
            if self.fail is not None:
                self.ledger.position = self.applied_before_failing or self.ledger.position
                raise self.fail
            self.ledger.apply(messages)

        self.actor = apply

    def send(self, numbers: range) -> None:
        send: Any = self.actor.send  # the sender sends one, the actor gets a batch
        with self.broker.batching():
            for number in numbers:
                send(number)

    def work(self) -> None:
        self.worker = Worker(self.broker, worker_threads=2, worker_timeout=100)
        self.worker.start()

    def blocked(self) -> str:
        return " ".join(blocked.reason for blocked in self.broker.blocked().values())

    def close(self) -> None:
        if self.worker is not None:
            self.worker.stop()
        self.broker.close()


@pytest.fixture
def prefix() -> str:
    """A log of this test alone."""
    return unique("start-")


@pytest.fixture
def replica(kafka: str, prefix: str) -> Iterator[Replica]:
    """A replica that does not work yet."""
    replica = Replica(kafka, prefix)
    yield replica
    replica.close()


def test_reading_starts_where_the_ledger_says(replica: Replica, prefix: str) -> None:
    """Not where Kafka's commit is; and what follows comes in order, in batches."""
    replica.send(range(50))
    replica.ledger.position = 29
    replica.work()
    wait_until(lambda: replica.ledger.position == 49, 20, "the log to be applied")
    assert replica.ledger.applied == list(range(30, 50))
    assert replica.ledger.asked == [(f"{prefix}log", 0, 0)]


@pytest.mark.parametrize("protocol", ["classic", pytest.param("consumer", marks=pytest.mark.slow)])
def test_another_replica_starts_at_its_own_place(kafka: str, prefix: str, protocol: str) -> None:
    """A graph that was restored from a backup is older than Kafka's commit; the commit says nothing to it."""
    first = Replica(kafka, prefix, protocol)
    first.send(range(20))
    first.work()
    first.broker.join("log", timeout=30_000)
    first.close()
    second = Replica(kafka, prefix, protocol)
    second.ledger.position = 4
    second.work()
    wait_until(lambda: second.ledger.position == 19, 20, "the rest of the log")
    second.broker.join("log", timeout=30_000)
    second.close()
    assert first.ledger.applied == list(range(20))
    assert second.ledger.applied == list(range(5, 20))


def test_an_unknown_start_is_asked_for_until_it_is_known(replica: Replica) -> None:
    """The database may be away when the partition comes; nothing is handed out, and it is said why."""
    replica.ledger.error = StartUnknown("the database is away")
    replica.send(range(5))
    replica.work()
    wait_until(lambda: replica.blocked() == "the database is away", 20, "the partition to be blocked")
    assert replica.ledger.applied == []
    replica.ledger.error = None
    wait_until(lambda: replica.ledger.applied == list(range(5)), 20, "the log to be applied")
    assert replica.blocked() == ""


def test_a_refused_start_halts_until_it_is_mended(replica: Replica) -> None:
    """Going on would be guessing; a person mends it, and no restart is needed."""
    replica.ledger.error = StartRefused("the position is missing")
    replica.send(range(5))
    replica.work()
    wait_until(lambda: replica.blocked() == "the position is missing", 20, "the partition to halt")
    replica.ledger.error = None
    wait_until(lambda: replica.ledger.applied == list(range(5)), 20, "the log to be applied")


def test_a_start_outside_the_log_halts(replica: Replica) -> None:
    """Kafka's own answer would be silence, or another place."""
    replica.send(range(5))
    replica.ledger.position = 99
    replica.work()
    wait_until(lambda: "the log holds 0 to 5" in replica.blocked(), 20, "the partition to halt")
    replica.ledger.position = 2
    wait_until(lambda: replica.ledger.applied == [3, 4], 20, "the rest of the log")


def test_a_start_that_takes_its_time_stops_nobody_else(kafka: str, prefix: str) -> None:
    """The owner thread does not wait for it: another queue of the same group goes on."""
    told = threading.Event()
    ran: list[str] = []

    def start(*_: object) -> int:
        told.wait(30)
        return 0

    broker = KafkaBroker(kafka, prefix=prefix, group_id=prefix)
    broker.declare_queue("log", ordered=True, start=start)

    @dramatiq.actor(broker=broker, queue_name="log")
    def late() -> None:
        ran.append("late")

    @dramatiq.actor(broker=broker)
    def soon() -> None:
        ran.append("soon")

    late.send()
    soon.send()
    worker = Worker(broker, worker_timeout=100, worker_threads=2)
    worker.start()
    wait_until(lambda: ran == ["soon"], 20, "the other queue")
    wait_until(lambda: "nobody has said" in " ".join(b.reason for b in broker.blocked().values()), 20, "a report")
    told.set()
    wait_until(lambda: ran == ["soon", "late"], 20, "the slow start")
    worker.stop()
    broker.close()


def test_a_failure_asks_for_the_start_again_and_keeps_the_order(replica: Replica) -> None:
    """After an error nobody knows what was applied: the ledger does."""
    replica.send(range(30))
    replica.fail, replica.applied_before_failing = OSError("the database is away"), 6
    replica.work()
    wait_until(lambda: "the database is away" in replica.blocked(), 20, "the first batch to be held")
    replica.fail = None
    wait_until(lambda: replica.ledger.position == 29, 20, "the log to be applied")
    assert replica.ledger.applied == list(range(7, 30))
    assert replica.blocked() == ""


def test_a_ledger_that_goes_back_takes_the_log_with_it(replica: Replica) -> None:
    """A graph restored while the worker runs: the next error finds out, and the partition is sought."""
    replica.send(range(20))
    replica.work()
    wait_until(lambda: replica.ledger.position == 19, 20, "the log to be applied")
    replica.ledger.position = 9
    replica.fail = ValueError("the position has moved")
    replica.send(range(20, 21))
    wait_until(lambda: "moved" in replica.blocked(), 20, "the next command to be held")
    replica.fail = None
    wait_until(lambda: replica.ledger.position == 20, 20, "the log to be applied again")
    assert replica.ledger.applied == [*range(20), *range(10, 21)]


def test_a_held_message_is_tried_less_and_less_often(replica: Replica) -> None:
    """And is never parked, skipped or sent again."""
    replica.send(range(1))
    replica.fail = OSError("no")
    began = time.time()
    replica.work()
    wait_until(
        lambda: any(blocked.attempts >= 3 for blocked in replica.broker.blocked().values()), 20, "three attempts"
    )
    [blocked] = replica.broker.blocked().values()
    assert blocked.since >= began
    assert time.time() - blocked.since >= 1.5
    replica.fail = None
    wait_until(lambda: replica.ledger.applied == [0], 20, "the last attempt")
