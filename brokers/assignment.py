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
from typing import TYPE_CHECKING

from brokers.offsets import AckTracker


if TYPE_CHECKING:
    from collections.abc import Sequence

    from brokers.records import Outgoing, Record
    from brokers.topics import Queue, TopicSpec

    #: A record to be sent, and how its topic has to be.
    Forward = tuple[Outgoing, TopicSpec]


@dataclass(frozen=True, slots=True)
class Blocked:
    """Why a partition does not go on, and since when (seconds of the wall clock)."""

    since: float
    reason: str
    attempts: int


@dataclass(eq=False, slots=True)
class Assignment:
    """One partition, for as long as this process holds it.

    A later assignment of the same partition is another object: what still ends here for this one is never committed by
    it.  All but ``tracker`` is guarded by the buffer's condition, or belongs to the owner thread.
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
    #: Delivered, not handed out: records and bytes.
    waiting: int = 0
    waiting_bytes: int = 0
    #: Handed out, not ended, not recalled.
    running: set[Unit] = field(default_factory=set)
    #: Why it has no start yet.
    blocked: Blocked | None = None

    def wait_for(self, records: Sequence[Record]) -> None:
        """Count *records* among those that wait."""
        self.waiting += len(records)
        self.waiting_bytes += sum(record.size for record in records)

    def wait_no_more(self, records: Sequence[Record]) -> None:
        """Undo `wait_for`."""
        self.waiting -= len(records)
        self.waiting_bytes -= sum(record.size for record in records)

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}"


@dataclass(eq=False, slots=True)
class Unit:
    """What is handed out once and ends as one: a record, or consecutive records of an ordered queue.

    A record that is handed out again is another unit, so that a late ack of the first changes nothing.
    """

    assignment: Assignment
    records: tuple[Record, ...]
    #: Work on it has begun; before that it can be recalled.
    begun: bool = False
    #: What middleware sends for it, held back for the transaction that ends it; none where that is sent at once.
    forwards: list[Forward] | None = None


class Buffer:
    """The records of one queue on their way from Kafka to Dramatiq.  Subclasses decide what may be handed out when.

    Any thread.  Methods whose names begin with an underscore are called with the condition held.
    """

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.changed = threading.Condition()
        self.stopped: str | None = None
        self._out: set[Unit] = set()  # handed out and not come back, over all assignments, former and recalled ones too

    @property
    def outstanding(self) -> int:
        """How many units Dramatiq has just now."""
        return len(self._out)

    # The owner thread's side.

    def deliver(self, assignment: Assignment, records: Sequence[Record]) -> None:
        """Take in records that Kafka delivered, in log order."""
        with self.changed:
            assignment.wait_for(records)
            self._arrived(assignment, records)
            self.changed.notify_all()

    def revoke(self, assignments: Sequence[Assignment]) -> None:
        """Hand out no more of *assignments*, and recall what Dramatiq has not begun to work on."""
        with self.changed:
            for assignment in assignments:
                assignment.handing_out = False
                self._withdraw(assignment)
            self.changed.notify_all()

    def drained(self, assignments: Sequence[Assignment], timeout_s: float) -> bool:
        """Wait for what runs of *assignments*; false when it did not end in time."""
        with self.changed:
            return self.changed.wait_for(lambda: not any(a.running for a in assignments), timeout_s)

    def forget(self, assignment: Assignment) -> None:
        """Fence *assignment*: it belongs to somebody else."""
        with self.changed:
            assignment.alive = False
            self._withdraw(assignment)
            self.changed.notify_all()

    def restart(self, assignment: Assignment) -> None:
        """Forget what waits: the partition is read again from elsewhere."""
        with self.changed:
            self._drop(assignment)

    def held(self, assignment: Assignment) -> Blocked | None:
        """Why what was handed out of *assignment* does not get done."""
        return None

    def map_is(self, assignment: Assignment, *, full: bool) -> None:
        """Whether the completion map of *assignment* has room for more gaps."""

    def stop(self, reason: str) -> None:
        """The owner thread ends: wake whoever waits."""
        with self.changed:
            self.stopped = reason
            self.changed.notify_all()

    def _withdraw(self, assignment: Assignment) -> None:
        self._drop(assignment)
        assignment.running = {unit for unit in assignment.running if unit.begun}

    def _arrived(self, assignment: Assignment, records: Sequence[Record]) -> None:
        raise NotImplementedError

    def _drop(self, assignment: Assignment) -> None:
        raise NotImplementedError

    # The readers' side.

    def take(self, limit: int, timeout_s: float) -> Unit | None:
        """The next unit, or none within *timeout_s*, or none because *limit* units are out already."""
        deadline = time.monotonic() + timeout_s
        with self.changed:
            while self.stopped is None:
                unit = self._next(time.monotonic()) if len(self._out) < limit else None
                if unit is not None:
                    unit.assignment.running.add(unit)
                    self._out.add(unit)
                    return unit
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self.changed.wait(min(left, self._due_in(time.monotonic())))
        return None

    def _next(self, now: float) -> Unit | None:
        raise NotImplementedError

    def _due_in(self, now: float) -> float:
        """Seconds after which `_next` may answer otherwise without anything having happened."""
        return float("inf")

    def begin(self, unit: Unit) -> bool:
        """Work on *unit* begins; false when it was recalled, since it now belongs to somebody else."""
        with self.changed:
            unit.begun = unit in unit.assignment.running
            return unit.begun

    def finish(self, unit: Unit) -> None:
        """*unit* is done, for good.  What was done for a former assignment is remembered too: done is done."""
        with self.changed:
            if unit in unit.assignment.running:
                for record in unit.records:
                    unit.assignment.tracker.done(record.offset)
            if self._end(unit):
                self._finished(unit)
            self.changed.notify_all()

    def ends(self, unit: Unit) -> bool:
        """Work on *unit* has ended, and `settled` follows when Kafka knows; false when it ended before.

        A rebalance waits for it no more.  On an ordered queue it still counts as handed out, so that nothing begins
        before Kafka knows.
        """
        with self.changed:
            known = unit in unit.assignment.running
            unit.assignment.running.discard(unit)
            if not (known and self.queue.ordered):
                self._out.discard(unit)
            self.changed.notify_all()
            return known

    def settled(self, unit: Unit) -> None:
        """Kafka knows that *unit*, of which `ends` was told, is done; or nobody waits for that any more."""
        with self.changed:
            self._out.discard(unit)
            if unit.assignment.alive:
                self._finished(unit)
            self.changed.notify_all()

    def release(self, unit: Unit) -> None:
        """*unit* was handed out and not done: hand it out again, first."""
        with self.changed:
            if self._end(unit) and unit.assignment.handing_out:
                self._back(unit)
            self.changed.notify_all()

    def _end(self, unit: Unit) -> bool:
        """*unit* comes back, once; true when that still means something."""
        counts = unit in unit.assignment.running and unit.assignment.alive
        unit.assignment.running.discard(unit)
        self._out.discard(unit)
        return counts

    def _finished(self, unit: Unit) -> None:
        """A unit of a living assignment is done; for subclasses."""

    def _back(self, unit: Unit) -> None:
        raise NotImplementedError
