"""Workers that come, go and are killed: nothing is lost, little is repeated, and ordered queues keep their order."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import dramatiq
import pytest

from brokers.suspects import MAX_CRASHES
from tests.integration.broker_worker import ROOT, Crew, Line, make_broker
from tests.support import unique, wait_until


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from brokers import KafkaBroker

#: Messages that one kill may repeat: what four threads finish in the time between two commits, and what they run.
REPEATED_PER_KILL = 250


@pytest.fixture
def prefix() -> str:
    """Topics and groups of this test alone."""
    return unique("crash-")


@pytest.fixture
def crew(kafka: str, prefix: str, tmp_path: Path) -> Iterator[Callable[[str], Crew]]:
    """Hires workers for a group protocol."""
    crews: list[Crew] = []

    def hire(protocol: str = "classic") -> Crew:
        crews.append(Crew(kafka, prefix, tmp_path / "log", protocol))
        return crews[-1]

    yield hire
    for one in crews:
        one.close()


@pytest.fixture
def broker(kafka: str, prefix: str) -> Iterator[KafkaBroker]:
    """The sender."""
    broker = make_broker(kafka, prefix)
    yield broker
    broker.close()


def send(broker: KafkaBroker, actor: str, count: int, first: int = 0) -> None:
    """Enqueue numbered messages."""
    with broker.batching():
        for number in range(first, first + count):
            broker.get_actor(actor).send(number)


def test_killed_workers_lose_nothing_and_repeat_little(
    broker: KafkaBroker, crew: Callable[[str], Crew], record_property: Callable[[str, object], None]
) -> None:
    """Two workers, one of them killed again and again in the middle of 2,000 messages."""
    kills = MAX_CRASHES - 1  # what happens to run at one kill more, alone the last time, is parked, and rightly
    workers = crew("classic")
    send(broker, "work", 2000)
    doomed, _ = workers.start(), workers.start()
    for kill in range(1, kills + 1):
        workers.wait_for(400 * kill)
        workers.kill(doomed)
        doomed = workers.start()
    workers.wait_for(2000, timeout_s=90)
    broker.join("work", timeout=30_000)
    ended = workers.ended()
    repeated = ended.total() - 2000
    record_property("repeated", repeated)
    assert set(ended) == set(range(2000))
    assert repeated <= kills * REPEATED_PER_KILL


def test_a_worker_that_is_started_again_takes_its_predecessors_place_at_once(
    broker: KafkaBroker, crew: Callable[[str], Crew]
) -> None:
    """It need not wait until the killed one's session, six seconds, is over."""
    workers = crew("classic")
    send(broker, "work", 400)
    killed = workers.start()
    workers.wait_for(50)
    workers.kill(killed)
    at = time.monotonic()
    successor = workers.start()
    wait_until(lambda: successor.pid in {line.pid for line in workers.lines()}, 30, "the successor to work")
    assert time.monotonic() - at < 5.5
    workers.wait_for(400, timeout_s=60)


FORMER = """
import sys
import dramatiq
from brokers import KafkaBroker
broker = KafkaBroker(sys.argv[1], prefix=sys.argv[2], group_id=sys.argv[2] + "workers")
broker.declare_queue(sys.argv[3])
reader = broker.consume(sys.argv[3])
while True:
    message = next(reader)
    if message is not None:
        print(message.message_id, flush=True)
"""


def test_a_successor_that_reads_other_queues_reads_them(kafka: str, prefix: str) -> None:
    """A worker is killed, and started again with newer code, which has other queues."""
    broker = make_broker(kafka, prefix)
    broker.declare_queue("former")
    broker.enqueue(message_for("former"))
    with subprocess.Popen(
        [sys.executable, "-c", FORMER, kafka, prefix, "former"], stdout=subprocess.PIPE, cwd=ROOT
    ) as former:
        assert former.stdout is not None
        assert former.stdout.readline()
        former.kill()
    sent = broker.enqueue(message_for("work"))
    reader = broker.consume("work")
    try:
        wait_until(lambda: sent.message_id == getattr(next(reader), "message_id", None), 30, "the new queue to be read")
    finally:
        broker.close()


def message_for(queue_name: str) -> dramatiq.Message[Any]:
    """Any message."""
    return dramatiq.Message(queue_name=queue_name, actor_name="work", args=(1,), kwargs={}, options={})


@pytest.mark.parametrize("protocol", ["classic", pytest.param("consumer", marks=pytest.mark.slow)])
def test_workers_that_join_and_leave_repeat_nothing(
    broker: KafkaBroker, crew: Callable[[str], Crew], protocol: str
) -> None:
    """A second worker joins and leaves in the middle of the work: each message runs exactly once."""
    workers = crew(protocol)
    workers.start()
    sent = 0

    def both_work() -> bool:
        """There is always something to do, so that the second worker joins in the middle of it."""
        nonlocal sent
        if sent - len(workers.ended()) < 500:
            send(broker, "work", 500, sent)
            sent += 500
        return len({line.pid for line in workers.lines()}) == 2

    wait_until(lambda: both_work() or workers.ended(), 30, "the first worker to work")
    second = workers.start()
    wait_until(both_work, 60, "the second worker to work")
    send(broker, "work", 1000, sent)
    sent += 1000
    workers.stop(second)
    workers.wait_for(sent, timeout_s=60)
    broker.join("work", timeout=30_000)
    assert workers.ended() == Counter(range(sent))
    assert [line.what for line in workers.lines()].count("begin") == sent


def in_order(lines: list[Line]) -> bool:
    """Whether each message began after its predecessor had ended, whoever ran them; a kill may repeat some."""
    ran = [line.number for line in lines if line.what == "begin"]
    pids = [line.pid for line in lines if line.what == "begin"]
    steps = zip(pairwise(ran), pairwise(pids), strict=True)
    return ran[0] == 0 and all(
        after == before + 1 or (one != other and after <= before + 1) for (before, after), (one, other) in steps
    )


def test_an_ordered_queue_keeps_its_order_when_its_owner_is_killed(
    broker: KafkaBroker, crew: Callable[[str], Crew]
) -> None:
    """Two processes, one partition: the other one goes on where the killed one was, and never runs ahead."""
    workers = crew("classic")
    send(broker, "step", 600)
    workers.start()
    workers.start()
    for kill in (1, 2):
        workers.wait_for(150 * kill)
        owner = workers.lines()[-1].pid
        workers.kill(next(member for member in workers.members if member.pid == owner))
        workers.start()
    workers.wait_for(600, timeout_s=90)
    assert set(workers.ended()) == set(range(600))
    assert in_order(workers.lines())
    broker.join("steps", timeout=30_000)


@pytest.mark.parametrize("protocol", ["classic", pytest.param("consumer", marks=pytest.mark.slow)])
def test_an_ordered_queue_moves_without_a_repetition(
    broker: KafkaBroker, crew: Callable[[str], Crew], protocol: str
) -> None:
    """When its owner leaves, the next one begins with the first message that has not run."""
    workers = crew(protocol)
    send(broker, "step", 400)
    first = workers.start()
    workers.wait_for(100)
    workers.start()
    workers.stop(first)
    workers.wait_for(400, timeout_s=90)
    assert [line.number for line in workers.lines() if line.what == "begin"] == list(range(400))
    assert [line.number for line in workers.lines() if line.what == "end"] == list(range(400))


@pytest.mark.slow
def test_a_worker_that_was_frozen_does_not_disturb_the_others(broker: KafkaBroker, crew: Callable[[str], Crew]) -> None:
    """The group throws it out; when it thaws, what it still runs is repeated at most, and its commits count no more."""
    workers = crew("classic")
    frozen, _ = workers.start(), workers.start()
    send(broker, "work", 3000)
    wait_until(lambda: len({line.pid for line in workers.lines()}) == 2, 30, "both to work")
    frozen.send_signal(signal.SIGSTOP)
    before = len(workers.ended())
    workers.wait_for(before + 500)
    time.sleep(10)  # longer than the session
    frozen.send_signal(signal.SIGCONT)
    workers.wait_for(3000, timeout_s=60)
    broker.join("work", timeout=30_000)
    ended = workers.ended()
    assert set(ended) == set(range(3000))
    assert ended.total() - 3000 <= REPEATED_PER_KILL


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_storm_of_kills_loses_nothing(
    broker: KafkaBroker, crew: Callable[[str], Crew], record_property: Callable[[str, object], None]
) -> None:
    """Three workers, ten kills, both kinds of queue at once."""
    kills = 10
    workers = crew("classic")
    send(broker, "work", 6000)
    for _ in range(3):
        workers.start()
    for kill in range(1, kills + 1):
        workers.wait_for(500 * kill, timeout_s=120)
        workers.kill(workers.members[0])
        workers.start()
    workers.wait_for(6000, timeout_s=180)
    broker.join("work", timeout=60_000)
    ended = workers.ended()
    record_property("repeated", ended.total() - 6000)
    assert set(ended) == set(range(6000))
    assert ended.total() - 6000 <= kills * REPEATED_PER_KILL
