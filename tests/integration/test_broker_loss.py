"""The measure that other task queues were held against: what kill -9 costs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import ConsumerGroupState

from tests.integration.broker_worker import Crew, make_broker
from tests.support import unique, wait_until


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from brokers import KafkaBroker

TASKS = 2000
BODY_S = 0.005
KILLS = 5
THREADS = 2

#: Longest time without any task, in seconds: a killed member is noticed after six.
SILENCE_S = 8.0


@pytest.fixture
def prefix() -> str:
    """Topics and groups of this test alone."""
    return unique("loss-")


@pytest.fixture
def broker(kafka: str, prefix: str) -> Iterator[KafkaBroker]:
    """The sender."""
    broker = make_broker(kafka, prefix)
    yield broker
    broker.close()


@pytest.fixture
def crew(kafka: str, prefix: str, tmp_path: Path) -> Iterator[Crew]:
    """Workers of two threads with bodies of 5 ms."""
    crew = Crew(kafka, prefix, tmp_path / "log", threads=THREADS, body_s=BODY_S)
    yield crew
    crew.close()


def members(broker: KafkaBroker) -> set[int]:
    """How many partitions the members of the workers' group have, in a group that is at rest."""
    asked = broker._admin().describe_consumer_groups([broker.group_id])
    group = asked[broker.group_id].result(10)
    if group.state != ConsumerGroupState.STABLE or len(group.members) != 2:
        return set()
    return {len(member.assignment.topic_partitions) for member in group.members}


@pytest.mark.slow
def test_five_kills_lose_nothing_repeat_what_ran_and_silence_nobody(
    broker: KafkaBroker, crew: Crew, record_property: Callable[[str, object], None]
) -> None:
    """2,000 tasks, two workers, each killed in turn and started again at once."""
    for _ in range(2):
        crew.start()
    broker.get_actor("work").send(-1)
    wait_until(lambda: members(broker) == {4, 5}, 60, "each to have half of the nine partitions")
    with broker.batching():
        for number in range(TASKS):
            broker.get_actor("work").send(number)
    silence, seen, since, kills = 0.0, 0, time.monotonic(), 0
    while len(ended := crew.ended()) < TASKS + 1:
        now = time.monotonic()
        if ended.total() > seen or not seen:
            silence, seen, since = max(silence, now - since if seen else 0.0), ended.total(), now
        assert now - since < 60, f"silent for a minute after {len(ended)} tasks"
        if kills < KILLS and len(ended) >= (kills + 1) * TASKS // (KILLS + 1):
            crew.kill(crew.members[0])
            crew.start()
            kills += 1
        time.sleep(0.01)
    broker.join("work", timeout=30_000)
    repeated = crew.ended().total() - TASKS - 1
    record_property("repeated", repeated)
    record_property("silence_s", round(silence, 1))
    assert kills == KILLS
    assert set(crew.ended()) == set(range(-1, TASKS))
    assert repeated <= KILLS * THREADS
    assert silence < SILENCE_S
