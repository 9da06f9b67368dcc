"""What the owner thread and the readers of one queue share: the partitions held just now, and the records that wait.

The owner thread (see `consumer`) delivers records and takes commits away; Dramatiq's threads take records and say how
they ended.  They meet under one condition variable a queue, and never anywhere else: no Dramatiq thread ever calls the
Kafka client, because such a call waits for the owner's running poll, and can never end while the owner itself waits for
that thread.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from brokers.offsets import AckTracker


if TYPE_CHECKING:
    from brokers.records import Record
    from brokers.topics import Queue


@dataclass(frozen=True, slots=True)
class Blocked:
    """Why a partition does not go on, and since when (seconds of the wall clock)."""

    since: float
    reason: str
    attempts: int


@dataclass(eq=False, slots=True)
class Assignment:
    """One partition, for as long as this process holds it.

    A later assignment of the same partition is another object: acks that still come for this one then change nothing,
    and Kafka delivers those records again.
    """

    topic: str
    partition: int
    buffer: Buffer
    tracker: AckTracker = field(default_factory=lambda: AckTracker(0))
    #: False once the partition belongs to somebody else.
    alive: bool = True
    #: True between the moment when the starting offset is known and the next time that it has to be asked for.
    started: bool = False
    #: The client fetches nothing: too much waits here, or the start is not known.
    paused: bool = True
    #: False while a rebalance waits for what runs.
    handing_out: bool = True
    #: The completion map has no room for more finished records above an unfinished one.
    map_full: bool = False
    #: Delivered, not handed out.
    waiting: int = 0
    #: Handed out, not ended.
    running: int = 0
    #: Why it has no start yet.
    blocked: Blocked | None = None

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}"


class Unit(Protocol):
    """What is handed out and ends as one: a record, or a batch of them."""

    @property
    def assignment(self) -> Assignment:
        """Where it came from."""

    @property
    def records(self) -> tuple[Record, ...]:
        """Its records, in log order."""


class Buffer:
    """The records of one queue on their way from Kafka to Dramatiq.  Subclasses decide what may be handed out when."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.changed = threading.Condition()
        self.stopped: BaseException | None = None
        self.outstanding = 0  # handed out over all partitions, former assignments too

    # The owner thread's side.

    def deliver(self, assignment: Assignment, record: Record) -> None:
        """Take in a record that Kafka delivered."""
        raise NotImplementedError

    def drop(self, assignment: Assignment) -> None:
        """Forget what waits of *assignment*; the caller holds the condition."""
        raise NotImplementedError

    def drain(self, assignments: list[Assignment], timeout_s: float) -> bool:
        """Hand out no more of *assignments*, and wait for what runs; false when it did not end in time."""
        deadline = time.monotonic() + timeout_s
        with self.changed:
            for assignment in assignments:
                assignment.handing_out = False
                self.drop(assignment)
            while any(assignment.running for assignment in assignments):
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self.changed.wait(left)
        return True

    def forget(self, assignment: Assignment) -> None:
        """Fence *assignment*: nothing that still comes for it counts."""
        with self.changed:
            assignment.alive = False
            self.drop(assignment)
            self.changed.notify_all()

    def held(self, assignment: Assignment) -> Blocked | None:
        """Why what was handed out of *assignment* does not get done."""
        return None

    def stop(self, reason: BaseException) -> None:
        """The owner thread ends: wake whoever waits."""
        with self.changed:
            self.stopped = reason
            self.changed.notify_all()

    # The readers' side.

    def take(self, limit: int, timeout_s: float) -> Unit | None:
        """The next unit, or none within *timeout_s*, or none because *limit* units run already."""
        deadline = time.monotonic() + timeout_s
        with self.changed:
            while self.stopped is None:
                unit = self._next(time.monotonic()) if self.outstanding < limit else None
                if unit is not None:
                    unit.assignment.running += 1
                    self.outstanding += 1
                    return unit
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self.changed.wait(min(left, self._due_in(time.monotonic())))
        return None

    def _next(self, now: float) -> Unit | None:
        """What may be handed out now; the caller holds the condition."""
        raise NotImplementedError

    def _due_in(self, now: float) -> float:
        """Seconds after which `_next` may answer otherwise without anything having happened."""
        return float("inf")

    def finish(self, unit: Unit) -> None:
        """*unit* is done, for good."""
        with self.changed:
            if self._end(unit):
                for record in unit.records:
                    unit.assignment.tracker.done(record.offset)
                self._finished(unit)
            self.changed.notify_all()

    def release(self, unit: Unit) -> None:
        """*unit* was handed out and not done: hand it out again, first."""
        with self.changed:
            if self._end(unit) and unit.assignment.handing_out:
                self._back(unit)
            self.changed.notify_all()

    def _end(self, unit: Unit) -> bool:
        self.outstanding -= 1
        unit.assignment.running -= 1
        return unit.assignment.alive

    def _finished(self, unit: Unit) -> None:
        """Hook for subclasses; the caller holds the condition."""

    def _back(self, unit: Unit) -> None:
        raise NotImplementedError
