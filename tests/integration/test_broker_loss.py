"""What kill -9, and worse, costs: the measures that other task queues were held against."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import ConsumerGroupState, ConsumerGroupTopicPartitions, TopicPartition

from brokers import crashes, offsets
from tests.integration.broker_worker import STUCK, Crew, make_broker
from tests.support import unique, wait_until


if TYPE_CHECKING:
    import subprocess
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
def hire(kafka: str, prefix: str, tmp_path: Path) -> Iterator[Callable[..., Crew]]:
    """Hires workers."""
    crews: list[Crew] = []

    def hire(**options: Any) -> Crew:
        crews.append(Crew(kafka, prefix, tmp_path / "log", **options))
        return crews[-1]

    yield hire
    for crew in crews:
        crew.close()


def send(broker: KafkaBroker, numbers: range) -> None:
    """Enqueue numbered messages."""
    with broker.batching():
        for number in numbers:
            broker.get_actor("work").send(number)


def members(broker: KafkaBroker) -> set[int]:
    """How many partitions the members of the workers' group have, in a group that is at rest."""
    asked = broker._admin().describe_consumer_groups([broker.group_id])
    group = asked[broker.group_id].result(10)
    if group.state != ConsumerGroupState.STABLE or len(group.members) != 2:
        return set()
    return {len(member.assignment.topic_partitions) for member in group.members}


@pytest.mark.slow
def test_five_kills_lose_nothing_repeat_what_ran_and_silence_nobody(
    broker: KafkaBroker, hire: Callable[..., Crew], record_property: Callable[[str, object], None]
) -> None:
    """2,000 tasks of 5 ms, two workers of two threads, killed in turn and started again at once."""
    crew = hire(threads=THREADS, body_s=BODY_S)
    for _ in range(2):
        crew.start()
    broker.get_actor("work").send(TASKS)
    wait_until(lambda: members(broker) == {4, 5}, 60, "each to have half of the nine partitions")
    send(broker, range(TASKS))
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
    assert set(crew.ended()) == set(range(TASKS + 1))
    assert repeated <= KILLS * THREADS
    assert silence < SILENCE_S


@pytest.mark.slow
def test_a_stuck_message_with_100_000_done_behind_it_costs_one_run(
    broker: KafkaBroker, hire: Callable[..., Crew]
) -> None:
    """The commit says which ones are done, however many they are."""
    crew = hire(threads=4, body_s=0)
    broker.get_actor("work").send(STUCK)
    first = crew.start()
    wait_until(lambda: any(line.number == STUCK for line in crew.lines()), 30, "the stuck one to begin")
    send(broker, range(100_000))
    crew.wait_for(100_000, timeout_s=100)
    wait_until(lambda: committed(broker) == 100_000, 10, "the last commit")
    crew.kill(first)
    before = len(crew.lines())
    crew.start()
    wait_until(lambda: len(crew.lines()) > before, 30, "the successor to begin")
    broker.get_actor("work").send(100_000)
    crew.wait_for(100_001, timeout_s=30)
    again = [line.number for line in crew.lines()[before:] if line.what == "begin"]
    assert again == [STUCK, 100_000]


def committed(broker: KafkaBroker) -> int:
    """How many messages the group's commits call done."""
    queue = broker.get_queue("work")
    places = [TopicPartition(queue.topic.name, number) for number in range(queue.topic.partitions)]
    request = [ConsumerGroupTopicPartitions(queue.group_id, places)]
    found = broker._admin().list_consumer_group_offsets(request)[queue.group_id].result(10).topic_partitions
    known = [place for place in found if place.offset >= 0]
    runs = [run for place in known for run in offsets.decode(place.offset, crashes.split(place.metadata)[0])]
    return int(sum(place.offset for place in known)) + sum(run.end - run.start for run in runs)


#: The storm: how long, in seconds, and how many messages a second.
STORM_S, RATE = 300, 1000


@pytest.mark.slow
@pytest.mark.timeout(STORM_S + 240)
def test_a_storm_of_rebalances_loses_nothing(
    broker: KafkaBroker, hire: Callable[..., Crew], record_property: Callable[[str, object], None]
) -> None:
    """Members join, leave, are killed, or are frozen and thaw, every few seconds, at 1,000 messages a second."""
    crew, dice = hire(threads=8, body_s=0.001), random.Random(1)
    frozen: list[tuple[float, subprocess.Popen[bytes]]] = []
    happened: Counter[str] = Counter()
    thawed: set[int] = set()
    for _ in range(3):
        crew.start()
    began, sent, next_event = time.monotonic(), 0, 5.0
    while (now := time.monotonic() - began) < STORM_S:
        due = int(now * RATE)
        send(broker, range(sent, due))
        sent = due
        for entry in [entry for entry in frozen if entry[0] <= now]:
            frozen.remove(entry)
            thawed.add(entry[1].pid)
            entry[1].send_signal(signal.SIGCONT)
        if now >= next_event:
            next_event = now + dice.uniform(2, 5)
            happened[disturb(crew, dice, frozen, now)] += 1
        time.sleep(0.05)
    for _, member in frozen:
        thawed.add(member.pid)
        member.send_signal(signal.SIGCONT)
    crew.wait_for(sent, timeout_s=120)
    broker.join("work", timeout=60_000)
    ended = crew.ended()
    record_property("events", dict(happened))
    record_property("sent", sent)
    record_property("repeated", ended.total() - sent)
    record_property("repeated_by_the_frozen", repeated_by(crew, thawed))
    assert set(ended) == set(range(sent))


def repeated_by(crew: Crew, pids: set[int]) -> int:
    """How many ends were not the only one of their message, and one of these processes had a part in it."""
    ends: dict[int, list[int]] = defaultdict(list)
    for line in crew.lines():
        if line.what == "end":
            ends[line.number].append(line.pid)
    return sum(len(workers) - 1 for workers in ends.values() if len(workers) > 1 and pids & set(workers))


def disturb(crew: Crew, dice: random.Random, frozen: list[tuple[float, subprocess.Popen[bytes]]], now: float) -> str:
    """One event; what it was.  There are always two to four members, one of them awake."""
    awake = [member for member in crew.members if member not in [each for _, each in frozen]]
    event = dice.choice(["join", "leave", "kill", "freeze"])
    if event == "join" and len(crew.members) >= 4:
        event = "leave"
    if event != "join" and len(awake) < 3:
        event = "join"
    if event == "join":
        crew.start()
    elif event == "leave":
        crew.stop(dice.choice(awake))
    elif event == "kill":
        crew.kill(dice.choice(awake))
    else:
        member = dice.choice(awake)
        member.send_signal(signal.SIGSTOP)
        frozen.append((now + dice.uniform(2, 12), member))
    return event
