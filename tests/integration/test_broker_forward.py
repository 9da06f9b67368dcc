"""A transactional broker: what follows from a message, and its ack, exist together or not at all."""

from __future__ import annotations

import json
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
