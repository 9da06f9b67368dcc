"""A transactional broker: what follows from a message, and its ack, exist together or not at all."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import dramatiq
import pytest
from dramatiq import Worker

from tests.integration.broker_worker import Crew
from tests.integration.forward_worker import make_broker
from tests.integration.logs import records_of
from tests.support import unique, wait_until


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from brokers import KafkaBroker

QUEUES = ("first", "second", "last")


class ForwardCrew(Crew):
    """Workers of a transactional broker."""

    module = "tests.integration.forward_worker"


@pytest.fixture
def prefix() -> str:
    """Topics and groups of this test alone."""
    return unique("forward-")


@pytest.fixture
def broker(kafka: str, prefix: str) -> Iterator[KafkaBroker]:
    """The sender."""
    broker = make_broker(kafka, prefix)
    for name in QUEUES:  # so that no worker begins with a rebalance for each
        broker.topics.ensure(broker.get_queue(name).topic)
    yield broker
    broker.close()


@pytest.fixture
def crew(kafka: str, prefix: str, tmp_path: Path) -> Iterator[ForwardCrew]:
    """Workers to be killed."""
    crew = ForwardCrew(kafka, prefix, tmp_path / "log", "yes")
    yield crew
    crew.close()


@pytest.fixture
def work(broker: KafkaBroker) -> Iterator[Callable[[], Worker]]:
    """Starts a worker in this process."""
    workers: list[Worker] = []

    def start() -> Worker:
        workers.append(Worker(broker, worker_threads=4, worker_timeout=100))
        workers[-1].start()
        return workers[-1]

    yield start
    for worker in workers:
        worker.stop()


def send_pipelines(broker: KafkaBroker, count: int) -> None:
    """Numbered pipelines of three steps."""
    first, second, last = (broker.get_actor(name) for name in QUEUES)
    with broker.batching():
        for number in range(count):
            steps = [first.message(number), second.message(), last.message()]
            pipeline: Any = dramatiq.pipeline(steps, broker=broker)
            pipeline.run()


def numbers(broker: KafkaBroker, queue: str) -> Counter[int]:
    """How often each number lies on a queue."""
    records = records_of(broker, broker.get_queue(queue).topic)
    return Counter(json.loads(record.value or b"")["args"][0] for record in records)


def join(broker: KafkaBroker, timeout_s: float = 60) -> None:
    """Until nothing is left of the pipelines."""
    for name in QUEUES:
        broker.join(name, timeout=int(timeout_s * 1000))


def test_pipelines_retries_and_dead_letters_are_forwarded_once(broker: KafkaBroker, work: Callable[[], Worker]) -> None:
    """Also those on the topic of delayed messages; the position of their cause moves with them."""

    @dramatiq.actor(broker=broker, queue_name="failing", max_retries=2, min_backoff=1, max_backoff=2)
    def failing(number: int) -> None:
        raise ValueError(number)

    send_pipelines(broker, 50)
    for number in range(3):
        failing.send(number)
    worker = work()
    join(broker)
    broker.join("failing", timeout=60_000)
    worker.pause()
    queue = broker.get_queue("failing")
    assert numbers(broker, "second") == numbers(broker, "last") == Counter(range(50))
    assert numbers(broker, "failing") == Counter([0, 1, 2] * 3)
    assert len(records_of(broker, queue.dead_letters)) == 3


@pytest.mark.slow
def test_a_worker_that_was_frozen_forwards_nothing_twice(broker: KafkaBroker, crew: ForwardCrew) -> None:
    """Others take its partitions over, and end what it had open; what it still holds when it thaws is refused."""
    count = 2000
    frozen, _ = crew.start(), crew.start()
    send_pipelines(broker, count)
    wait_until(lambda: broker._groups.left(broker.get_queue("first")) < count - 200, 60, "some work")
    frozen.send_signal(signal.SIGSTOP)
    time.sleep(8)  # longer than the session
    wait_until(lambda: broker._groups.left(broker.get_queue("first")) == 0, 90, "the other to do it all")
    frozen.send_signal(signal.SIGCONT)
    join(broker)
    assert numbers(broker, "second") == Counter(range(count))
    assert numbers(broker, "last") == Counter(range(count))


@pytest.mark.slow
def test_killed_workers_forward_each_message_once(
    broker: KafkaBroker, crew: ForwardCrew, record_property: Callable[[str, object], None]
) -> None:
    """500 pipelines of three steps, five kills: each step of each pipeline lies in the log exactly once."""
    count = 500
    send_pipelines(broker, count)
    crew.start()
    crew.start()
    for kill in range(1, 6):
        wait_until(lambda: broker._groups.left(broker.get_queue("first")) <= count - 80 * kill, 90, "some work")  # noqa: B023
        crew.kill(crew.members[0])
        crew.start()
    began = time.monotonic()
    join(broker, 120)
    record_property("seconds_after_the_last_kill", time.monotonic() - began)
    assert numbers(broker, "second") == Counter(range(count))
    assert numbers(broker, "last") == Counter(range(count))
