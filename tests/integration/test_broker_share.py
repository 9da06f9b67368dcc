"""Share queues on real Kafka: short messages that any worker takes, from however few partitions."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

import dramatiq
import pytest
from dramatiq import Worker
from dramatiq.middleware import CurrentMessage

from brokers import KafkaBroker, share
from brokers.topics import TopicSpec
from tests.integration.broker_worker import Crew
from tests.integration.logs import records_of
from tests.integration.share_worker import make_broker
from tests.support import unique, wait_until


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class ShareCrew(Crew):
    """Workers of a share queue."""

    module = "tests.integration.share_worker"


@pytest.fixture
def broker(kafka: str) -> Iterator[KafkaBroker]:
    """A broker with topics of its own."""
    prefix = unique("share-")
    broker = KafkaBroker(kafka, prefix=prefix, group_id=prefix)
    broker.add_middleware(CurrentMessage())
    yield broker
    broker.close()


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


@pytest.mark.slow
def test_a_share_queue_runs_retries_and_parks(
    broker: KafkaBroker, work: Callable[[], Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was sent before the group existed is run; a failed message is tried again, and then parked.

    What has to wait too long for a thread goes to the end of the queue, and is not lost.
    """
    ran: Counter[int] = Counter()
    failed: Counter[int] = Counter()
    monkeypatch.setattr(share, "BEGIN_S", 0.3)

    @dramatiq.actor(broker=broker, share=True, max_retries=1, min_backoff=1)
    def note(number: int) -> None:
        if number < 0:
            failed[number] += 1
            raise ValueError("on purpose")
        time.sleep(0.02)
        ran[number] += 1

    with broker.batching():
        for number in range(-1, 100):
            note.send(number)
    work()
    wait_until(lambda: len(ran) == 100, 40, "all to run")
    letters = broker.get_queue("default").dead_letters
    wait_until(lambda: len(records_of(broker, letters)) == 1, 20, "the dead letter")
    assert failed == Counter({-1: 2})
    assert ran == Counter(range(100))
    topic = broker.get_queue("default").topic
    assert len(records_of(broker, topic)) > 102, "some waited too long, and went to the end"


@pytest.mark.slow
def test_two_workers_share_one_partition_and_a_message_that_kills_is_parked(kafka: str, tmp_path: Path) -> None:
    """Each killed worker's records wait for their lock; the killer is parked before Kafka drops it without a word."""
    prefix = unique("share-")
    broker = make_broker(kafka, prefix)
    queue = broker.get_queue("notes")
    broker.topics.ensure(TopicSpec(queue.topic.name, 1))
    crew = ShareCrew(kafka, prefix, tmp_path / "log", "15")
    try:
        crew.start()
        crew.start()
        actor = broker.get_actor("note")
        sent = 0

        def both_work() -> bool:
            nonlocal sent
            actor.send(sent)
            sent += 1
            return len({line.pid for line in crew.lines()}) == 2

        wait_until(both_work, 30, "both to take from the one partition")
        actor.send(-1)

        def parked() -> bool:
            for member in list(crew.members):
                if member.poll() is not None:
                    crew.members.remove(member)
                    crew.start()
            return len(records_of(broker, queue.dead_letters)) == 1

        wait_until(parked, 180, "the killer to be parked")
        [letter] = records_of(broker, queue.dead_letters)
        assert letter.headers["xq.error"] == b"Unacknowledged"
        assert [line.number for line in crew.lines() if line.what == "begin"].count(-1) == 3
        crew.wait_for(sent, 60)
    finally:
        crew.close()
        broker.close()
