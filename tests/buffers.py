"""Records and partitions for the tests of buffers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hypothesis import settings

from brokers.assignment import Assignment
from brokers.offsets import AckTracker
from brokers.ordered import OrderedBuffer
from brokers.records import Record
from brokers.topics import Queue, TopicSpec


if TYPE_CHECKING:
    from brokers.parallel import ParallelBuffer


TOPIC: Final = "t"

#: For their state machines.
QUICK: Final = settings(max_examples=60, stateful_step_count=30, deadline=None)


def record(partition: int, offset: int) -> Record:
    """Ten bytes at a place."""
    return Record(TOPIC, partition, offset, 0, None, b"x" * 10)


def parallel_queue() -> Queue:
    """A queue as it is by default."""
    return Queue("q", TopicSpec(TOPIC), "g")


def ordered_queue(batch: int | None = 3) -> Queue:
    """A queue that hands out one unit at a time."""
    return Queue("q", TopicSpec(TOPIC, 1, exact=True), "g", ordered=True, batch=batch)


def started(buffer: ParallelBuffer | OrderedBuffer, count: int, partition: int = 0) -> Assignment:
    """A partition that is read from its start, with *count* records delivered."""
    assignment = Assignment(TOPIC, partition, buffer, AckTracker(0), started=True, paused=False)
    if isinstance(buffer, OrderedBuffer):
        buffer.start_at(assignment, 0)
    records = [record(partition, n) for n in range(count) if assignment.tracker.begin(n)]
    buffer.deliver(assignment, records)
    return assignment
