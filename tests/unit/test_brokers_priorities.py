from __future__ import annotations

import threading
from collections import Counter
from itertools import islice
from types import SimpleNamespace

import dramatiq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokers.assignment import Assignment
from brokers.errors import WrongPriority, WrongTopic
from brokers.parallel import ParallelBuffer
from brokers.priorities import FAIR_EVERY, Levels, level_for, order
from brokers.records import Record
from brokers.topics import Queue, TopicSpec
from ops.topics import _specs


def queue(max_priority: int | None = 2) -> Queue:
    """A queue with levels."""
    return Queue("mine", TopicSpec("pre-mine"), "group", max_priority=max_priority)


def message(**options: object) -> dramatiq.Message[object]:
    """A message with options."""
    return dramatiq.Message("mine", "actor", (), {}, options)


def filled(counts: list[int]) -> Levels:
    """Levels with so many records waiting, the highest first."""
    buffers: list[ParallelBuffer] = []
    for level, count in zip(queue(len(counts) - 1).levels, counts, strict=True):
        buffer = ParallelBuffer(level, next(iter(buffers), None))
        assignment = Assignment(level.topic.name, 0, buffer)
        for offset in range(count):
            assignment.tracker.begin(offset)
        buffer.deliver(assignment, [Record(level.topic.name, 0, offset, 0, None, b"") for offset in range(count)])
        buffers.append(buffer)
    return Levels(buffers)


def drained(levels: Levels, count: int) -> list[str]:
    """The topics of the next units, each finished before the next."""
    topics: list[str] = []
    while len(topics) < count and (unit := levels.take(1, 0)) is not None:
        topics.append(unit.assignment.topic)
        unit.assignment.buffer.finish(unit)
    return topics


def test_levels_are_topics_and_share_their_dead_letters() -> None:
    """The highest first; level 0 is the queue's own topic."""
    assert [level.topic.name for level in queue().levels] == ["pre-mine.p2", "pre-mine.p1", "pre-mine"]
    assert {level.dead_letters.name for level in queue().levels} == {"pre-mine.XQ"}
    assert [level.topic.name for level in queue(None).levels] == ["pre-mine"]


def test_a_message_goes_to_the_level_that_it_names() -> None:
    """Without a name to level 0; a queue without levels takes no notice."""
    assert level_for(queue(), message(broker_priority=1)).topic.name == "pre-mine.p1"
    assert level_for(queue(), message(broker_priority=0)).topic.name == "pre-mine"
    assert level_for(queue(), message()).topic.name == "pre-mine"
    assert level_for(queue(None), message(broker_priority="what")).topic.name == "pre-mine"


@pytest.mark.parametrize("priority", [-1, 3, "1", 1.0, True])
def test_a_level_that_is_not_there_is_refused(priority: object) -> None:
    """With the levels that there are."""
    with pytest.raises(WrongPriority, match="levels 0 to 2"):
        level_for(queue(), message(broker_priority=priority))


@pytest.mark.parametrize("max_priority", [0, -1, 10])
def test_a_number_of_levels_has_bounds(max_priority: int) -> None:
    """And an ordered queue has none: its order is that of one log."""
    with pytest.raises(WrongTopic, match="from 1 to 9"):
        queue(max_priority)
    with pytest.raises(WrongTopic, match="not for ordered"):
        Queue("mine", TopicSpec("mine", 1, exact=True), "group", ordered=True, max_priority=1)


def test_init_makes_all_levels() -> None:
    """A message that is sent first to a high level must not be the first to find its topic missing."""
    app = SimpleNamespace(topics=[], broker=SimpleNamespace(queues={"mine": queue()}))
    assert {spec.name for spec in _specs(app)} == {"pre-mine.XQ", "pre-mine.p1", "pre-mine.p2"}  # type: ignore[arg-type]


@given(levels=st.integers(2, 10), turns=st.integers(0, 1000))
def test_every_level_has_its_turn(levels: int, turns: int) -> None:
    """The highest nearly always; each lower one first at least once in so many messages."""
    asked = [order(turn, levels) for turn in range(turns, turns + FAIR_EVERY * (levels - 1))]
    assert all(sorted(ranks) == list(range(levels)) for ranks in asked)
    first = Counter(ranks[0] for ranks in asked)
    assert first[0] == (FAIR_EVERY - 1) * (levels - 1)
    assert all(first[level] == 1 for level in range(1, levels))


def test_higher_levels_come_first_and_lower_ones_do_not_starve() -> None:
    """One in eight, in turn, as long as all have something."""
    topics = drained(filled([100, 100, 100]), 32)
    assert Counter(topics) == {"pre-mine.p2": 28, "pre-mine.p1": 2, "pre-mine": 2}
    assert drained(filled([2, 0, 3]), 99) == ["pre-mine.p2"] * 2 + ["pre-mine"] * 3


def test_a_limit_counts_all_levels() -> None:
    """What is out of one level leaves less for the others."""
    levels = filled([2, 2])
    units = list(islice(iter(lambda: levels.take(3, 0), None), 10))
    assert len(units) == 3
    units[0].assignment.buffer.release(units[0])
    again = levels.take(3, 0)
    assert again is not None
    assert again.records == units[0].records


def test_whoever_waits_is_woken_by_any_level() -> None:
    """They share a condition."""
    levels = filled([0, 0])
    lower = levels._buffers[1]
    assignment = Assignment(lower.queue.topic.name, 0, lower)
    assignment.tracker.begin(0)
    record = Record(assignment.topic, 0, 0, 0, None, b"")
    threading.Timer(0.05, lower.deliver, (assignment, [record])).start()
    unit = levels.take(1, 20)
    assert unit is not None
    lower.stop("over")
    assert levels.stopped == "over"
    assert levels.take(9, 20) is None
