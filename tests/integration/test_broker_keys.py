"""Order per key on real Kafka: with threads, processes that come, go and are killed, and messages that fail."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from typing import TYPE_CHECKING

import dramatiq
import pytest
from dramatiq import Worker
from dramatiq.errors import Retry

from brokers import KafkaBroker, keyed
from brokers.topics import TopicSpec
from tests.integration.broker_worker import Crew, Line, make_broker
from tests.support import unique, wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Keys, and messages of each.  A message's number is its key's, times a thousand, and its place.
KEYS, EACH = 12, 60


@pytest.fixture
def prefix() -> str:
    """Topics and groups of this test alone."""
    return unique("keys-")


@pytest.fixture
def broker(kafka: str, prefix: str) -> Iterator[KafkaBroker]:
    """The sender, with the workers' actors."""
    broker = make_broker(kafka, prefix)
    yield broker
    broker.close()


@pytest.fixture
def crew(kafka: str, prefix: str, tmp_path: Path) -> Iterator[Crew]:
    """Worker processes."""
    crew = Crew(kafka, prefix, tmp_path / "log")
    yield crew
    crew.close()


def send_parts(broker: KafkaBroker, first: int = 0) -> None:
    """All keys in turn, from place *first* on."""
    work = broker.get_actor("work")
    with broker.batching():
        for place in range(first, first + EACH):
            for key in range(KEYS):
                work.send_with_options(args=(key * 1000 + place,), key=f"key-{key}")


def assert_in_order(lines: list[Line]) -> None:
    """In each key every message begins when its predecessor has ended; another process may repeat, never run ahead."""
    by_key: dict[int, list[Line]] = defaultdict(list)
    for line in lines:
        by_key[line.number // 1000].append(line)
    for key, told in by_key.items():
        running: Line | None = None
        following = key * 1000
        for line in told:
            if line.what == "end":
                assert running is not None
                assert (line.number, line.pid) == (running.number, running.pid), "two at a time"
                running, following = None, max(following, line.number + 1)
                continue
            assert running is None or running.pid != line.pid, "two at a time"
            assert line.number <= following, "ran ahead"
            running = line


def most_at_a_time(lines: list[Line]) -> int:
    """How many messages one process ran at a time."""
    running: dict[int, set[int]] = defaultdict(set)
    most = 0
    for line in lines:
        (running[line.pid].add if line.what == "begin" else running[line.pid].discard)(line.number)
        most = max(most, len(running[line.pid]))
    return most


def test_keys_keep_their_order_when_a_worker_is_killed_and_others_join(broker: KafkaBroker, crew: Crew) -> None:
    """Two processes of four threads, kill -9 and a rebalance in the middle; keys run beside each other."""
    crew.start()
    doomed = crew.start()
    send_parts(broker)
    crew.wait_for(KEYS * EACH // 4)
    crew.kill(doomed)
    crew.start()
    crew.wait_for(KEYS * EACH)
    broker.join("work", timeout=30_000)
    lines = crew.lines()
    assert set(crew.ended()) == {key * 1000 + place for key in range(KEYS) for place in range(EACH)}
    assert_in_order(lines)
    assert most_at_a_time(lines) > 1


@pytest.mark.slow
def test_a_storm_of_kills_keeps_the_order_of_every_key(broker: KafkaBroker, crew: Crew) -> None:
    """Three workers, eight kills."""
    for _ in range(3):
        crew.start()
    kills = 8
    for kill in range(kills):
        send_parts(broker, kill * EACH)
        crew.wait_for((kill * 2 + 1) * KEYS * EACH // 2)
        crew.kill(crew.members[0])
        crew.start()
    broker.join("work", timeout=60_000)
    assert set(crew.ended()) == {key * 1000 + place for key in range(KEYS) for place in range(kills * EACH)}
    assert_in_order(crew.lines())


def test_a_failing_key_blocks_nobody_else_and_is_seen(kafka: str, prefix: str) -> None:
    """It is tried again in its place as often as its actor allows, then parked, and the key goes on."""
    broker = KafkaBroker(kafka, prefix=prefix, group_id=prefix)
    ran: list[tuple[str, int, int]] = []

    @dramatiq.actor(broker=broker, max_retries=2, min_backoff=300, max_backoff=300)
    def step(key: str, number: int, *, fails: bool = False) -> None:
        ran.append((key, number, _retries()))
        if fails:
            raise ValueError("five")

    broker.add_middleware(dramatiq.middleware.CurrentMessage())
    with broker.batching():
        for key in ("good", "bad", "also good"):
            for number in range(5):
                fails = key == "bad" and number == 1
                step.send_with_options(args=(key, number), kwargs={"fails": fails}, key=key)
    worker = Worker(broker, worker_timeout=100, worker_threads=2)
    worker.start()
    wait_until(lambda: len([one for one in ran if one[0] != "bad"]) == 10, 20, "the neighbours")
    [(name, blocked)] = wait_until(broker.blocked, 5, "the failing key to be seen").items()
    assert name.startswith(f"{prefix}default/")
    assert name.endswith(" bad")
    assert blocked.reason == "ValueError: five"
    broker.join("default", timeout=20_000)
    worker.stop()
    assert [one for one in ran if one[0] == "bad"] == [
        ("bad", 0, 0),
        ("bad", 1, 0),
        ("bad", 1, 1),
        ("bad", 1, 2),
        ("bad", 2, 0),
        ("bad", 3, 0),
        ("bad", 4, 0),
    ]
    assert broker.blocked() == {}
    assert broker.topics.partitions(f"{prefix}default.XQ") is not None
    assert broker.delayed().entries == ()
    broker.close()


def test_what_waits_behind_a_blocked_key_is_bounded_and_neighbours_within_it_go_on(
    kafka: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The partition is read no further than the limit; when the key moves on, so does everything, in order."""
    monkeypatch.setattr(keyed, "BEHIND", 300)
    broker = KafkaBroker(kafka, prefix=prefix, group_id=prefix)
    broker.declare_queue("default", topic=TopicSpec(f"{prefix}default", 1))
    mended = threading.Event()
    ran: list[tuple[str, int]] = []

    @dramatiq.actor(broker=broker, max_retries=1000)
    def step(key: str, number: int) -> None:
        if key == "bad" and not mended.is_set():
            raise Retry("not yet", delay=100)
        ran.append((key, number))

    with broker.batching():
        for key, numbers in (("bad", range(200)), ("near", range(3)), ("bad", range(200, 3500)), ("far", range(3))):
            for number in numbers:
                step.send_with_options(args=(key, number), key=key)
    worker = Worker(broker, worker_timeout=100, worker_threads=2)
    worker.start()
    wait_until(lambda: len(ran) == 3, 20, "the neighbours")
    [assignment] = broker._reading._consumers[prefix]._assignments.values()
    wait_until(lambda: assignment.paused, 20, "the partition to be paused")
    assert 300 <= assignment.behind + assignment.waiting < 3500
    mended.set()
    broker.join("default", timeout=60_000)
    worker.stop()
    broker.close()
    for key, count in (("bad", 3500), ("near", 3), ("far", 3)):
        assert [number for one, number in ran if one == key] == list(range(count))


def test_a_delayed_message_takes_its_place_when_it_fires(kafka: str, prefix: str) -> None:
    """Behind what was sent to its key meanwhile, and with the same order from then on."""
    broker = KafkaBroker(kafka, prefix=prefix, group_id=prefix)
    ran: list[str] = []

    @dramatiq.actor(broker=broker)
    def note(text: str) -> None:
        time.sleep(0.05)
        ran.append(text)

    note.send_with_options(args=("late",), key="k", delay=500)
    note.send_with_options(args=("now",), key="k")
    worker = Worker(broker, worker_timeout=100, worker_threads=4)
    worker.start()
    wait_until(lambda: len(ran) == 2, 20, "both")
    worker.stop()
    broker.close()
    assert ran == ["now", "late"]


def _retries() -> int:
    message = dramatiq.middleware.CurrentMessage.get_current_message()
    assert message is not None
    return int(message.options.get("retries", 0))
