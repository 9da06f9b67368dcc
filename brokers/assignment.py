"""What the owner thread and the readers of one queue share: the partitions held just now, and the records that wait.

The owner thread (see `consumer`) delivers records and takes commits away; Dramatiq's threads take records and say how
they ended.  They meet under one condition variable a queue, and never anywhere else: no Dramatiq thread ever calls the
Kafka client, because such a call waits for the owner's running poll, and can never end while the owner itself waits for
that thread.
"""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from brokers.offsets import AckTracker
from brokers.received import size_of_all
from brokers.suspects import Alone


if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any  # noqa: TC004 - a struct that nobody decodes needs no types at run time

    import dramatiq  # noqa: TC004 - as above

    from brokers.crashes import Watch
    from brokers.keyed import Lane  # noqa: TC004 - as above
    from brokers.records import Outgoing, Record  # noqa: TC004 - as above
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
    #: While it is full: the highest offset that may be handed out.
    map_end: int = -1
    #: Delivered, not handed out: records and bytes.
    waiting: int = 0
    waiting_bytes: int = 0
    #: The same of those that cannot be handed out before another message of their key ends.
    behind: int = 0
    behind_bytes: int = 0
    #: Handed out, not ended, not recalled.
    running: set[Unit] = field(default_factory=set)
    #: Why it has no start yet.
    blocked: Blocked | None = None
    #: Whose crash it was, if one ended a process that had this partition; none where crashes are not counted.
    watch: Watch | None = None

    def wait_for(self, records: Sequence[Record]) -> None:
        """Count *records* among those that wait."""
        self.waiting += len(records)
        self.waiting_bytes += size_of_all(records)

    def wait_no_more(self, records: Sequence[Record], size: int | None = None) -> None:
        """Undo `wait_for`; *size* is that of all of them, where it is known."""
        self.waiting -= len(records)
        self.waiting_bytes -= size_of_all(records) if size is None else size

    def stand_behind(self, record: Record) -> None:
        """Count *record* among those behind another one of their key."""
        self.behind += 1
        self.behind_bytes += record.size

    def step_out(self, record: Record) -> None:
        """Undo `stand_behind`."""
        self.behind -= 1
        self.behind_bytes -= record.size

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}"


class Unit(msgspec.Struct, eq=False):
    """What is handed out once and ends as one: a record, or consecutive records of an ordered queue.

    A record that is handed out again is another unit, so that a late ack of the first changes nothing.
    """

    assignment: Assignment
    records: tuple[Record, ...]
    #: Work on it has begun; before that it can be recalled.
    begun: bool = False
    #: A suspect that has this process for itself.
    alone: bool = False
    #: The messages of its key, if it has one: no other of them is handed out before it ends.
    lane: Lane | None = None
    #: The message as a failed attempt has left it, with its count of retries; without one the record is decoded.
    message: dramatiq.Message[Any] | None = None
    #: Dramatiq keeps it for later, and then sends it again: a pause does not take it back.
    asleep: bool = False
    #: What middleware sends for it, held back for the transaction that ends it; none where that is sent at once.
    forwards: list[Forward] | None = None

    @property
    def crashes(self) -> int:
        """How many processes are known to have ended while it ran."""
        watch = self.assignment.watch
        return 0 if watch is None else watch.crashes(self.records[0].offset)

    @property
    def condemned(self) -> bool:
        """Whether it has to be parked without being run, since it has ended too many processes."""
        watch = self.assignment.watch
        return watch is not None and watch.condemned(self.records[0].offset)


class Buffer:
    """The records of one queue on their way from Kafka to Dramatiq.  Subclasses decide what may be handed out when.

    Any thread.  Methods whose names begin with an underscore are called with the condition held.
    """

    #: Records of a partition that wait: above the first number it is paused, below the second it goes on.  The gap
    #: keeps the number of pauses low, since each drops what the client has fetched ahead.
    high_water, low_water = 10_000, 3_000

    def __init__(self, queue: Queue, beside: Buffer | None = None) -> None:
        """*beside*: the buffer of another level of *queue*; they are locked together."""
        self.queue = queue
        # The lock of the condition: what happens once a message goes to it directly, for a fifth of the price.
        self.lock: threading.RLock = threading.RLock() if beside is None else beside.lock
        self.changed: threading.Condition = threading.Condition(self.lock) if beside is None else beside.changed
        self.stopped: str | None = None
        self.alone = Alone()
        self._suspect: Unit | None = None  # to be handed out alone
        self.paused: Blocked | None = None
        self._out: set[Unit] = set()  # handed out and not come back, over all assignments, former and recalled ones too
        self._room_at = sys.maxsize  # how many may be out when it is worth waking who waits for room

    @property
    def outstanding(self) -> int:
        """How many units Dramatiq has just now."""
        return len(self._out)

    def is_out(self, unit: Unit) -> bool:
        """Whether Dramatiq has *unit* just now."""
        return unit in self._out

    def wait_for(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait for a *condition* that comes true when a unit ends; false when it did not in time."""
        with self.changed:
            return self.changed.wait_for(condition, timeout_s)

    # The owner thread's side.

    def deliver(self, assignment: Assignment, records: Sequence[Record]) -> None:
        """Take in records that Kafka delivered, in log order."""
        with self.lock:
            assignment.wait_for(records)
            if assignment.watch is None or not assignment.watch.keep(records):
                self._arrived(assignment, records)
                self._tell()

    def admit(self, assignment: Assignment, records: Sequence[Record]) -> None:
        """What the partition's watch has kept may be handed out."""
        with self.changed:
            if assignment.handing_out:
                self._arrived(assignment, records)
                self.changed.notify_all()

    def admit_alone(self, assignment: Assignment, record: Record) -> None:
        """The same for a suspect, while nothing else is handed out."""
        with self.changed:
            if assignment.handing_out:
                self._suspect = Unit(assignment, (record,), alone=True)
                self.changed.notify_all()

    def take_back(self, assignment: Assignment) -> Record | None:
        """Undo `admit_alone`; none when Dramatiq has the suspect."""
        with self.changed:
            unit = self._suspect
            if unit is None or unit.assignment is not assignment:
                return None
            self._suspect = None
            return unit.records[0]

    def reconsider(self) -> None:
        """Ask again about what is held back; for subclasses."""

    def idle(self) -> bool:
        """Whether Dramatiq has nothing of this queue."""
        with self.changed:
            return not self._out

    def wake(self) -> None:
        """Something has changed for those who wait in `take`."""
        with self.changed:
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
            self._empty(assignment)

    def held(self, assignment: Assignment) -> Blocked | None:
        """Why what was handed out of *assignment* does not get done."""
        return None

    def held_keys(self, assignment: Assignment) -> Mapping[str, Blocked]:
        """The keys of *assignment* that do not go on, and why."""
        return {}

    def pause(self, since: float, reason: str) -> None:
        """Hand out nothing more, and take back what was handed out and has not begun; what runs ends."""
        with self.changed:
            self.paused = Blocked(since, reason, 0)
            waiting = [u for u in self._out if u in u.assignment.running and not (u.begun or u.asleep)]
            for unit in sorted(waiting, key=lambda u: (u.assignment.partition, u.records[0].offset), reverse=True):
                unit.assignment.running.discard(unit)
                if unit.assignment.alive and unit.assignment.handing_out:
                    self._put_back(unit)
            self.changed.notify_all()

    def resume(self) -> None:
        """Undo `pause`."""
        with self.changed:
            self.paused = None
            self.changed.notify_all()

    def map_is(self, assignment: Assignment, *, full: bool) -> None:
        """Whether the completion map of *assignment* has room for more gaps."""

    def stop(self, reason: str) -> None:
        """The owner thread ends: wake whoever waits."""
        with self.changed:
            self.stopped = reason
            self.changed.notify_all()

    def _empty(self, assignment: Assignment) -> None:
        if assignment.watch is not None:
            assignment.watch.stop()
        if self._suspect is not None and self._suspect.assignment is assignment:
            self._suspect = None
        self._drop(assignment)

    def _withdraw(self, assignment: Assignment) -> None:
        self._empty(assignment)
        assignment.running = {unit for unit in assignment.running if unit.begun}

    def _arrived(self, assignment: Assignment, records: Sequence[Record]) -> None:
        raise NotImplementedError

    def _tell(self) -> None:
        """Wake those who may want what has arrived."""
        self.changed.notify_all()

    def _drop(self, assignment: Assignment) -> None:
        raise NotImplementedError

    # The readers' side.

    def take(self, limit: int, timeout_s: float, otherwise: Callable[[], bool] | None = None) -> Unit | None:
        """The next unit, or none within *timeout_s*: *limit* units are out already, or the queue is paused.

        None, too, as soon as *otherwise* says that its caller has something else; it is asked whenever a unit ends.
        """
        deadline = None
        with self.lock:
            while self.stopped is None:
                full = len(self._out) >= limit
                unit = None if full or self.paused is not None else self._next_or_suspect()
                if unit is not None:
                    unit.assignment.running.add(unit)
                    self._out.add(unit)
                    return unit
                now = time.monotonic()
                deadline = now + timeout_s if deadline is None else deadline
                left = deadline - now
                if left <= 0 or (otherwise is not None and otherwise()):
                    break
                # A quarter of the limit at once: to be woken for every single one costs more than taking it.
                self._room_at = limit - max(limit // 4, 1) if full and otherwise is None else limit
                self.changed.wait(min(left, self.due_in(now)))
        return None

    def _next_or_suspect(self) -> Unit | None:
        unit, self._suspect = self._suspect, None
        if unit is not None:
            unit.assignment.wait_no_more(unit.records)
            return unit
        return None if self.alone.taken else self._next()

    def _next(self) -> Unit | None:
        raise NotImplementedError

    def due_in(self, now: float) -> float:
        """Seconds after which `_next` may answer otherwise without anything having happened."""
        return float("inf")

    def keep(self, unit: Unit) -> bool:
        """Dramatiq keeps *unit* for later; false when it was taken back meanwhile."""
        with self.changed:
            unit.asleep = unit in unit.assignment.running
            return unit.asleep

    def begin(self, unit: Unit) -> bool:
        """Work on *unit* begins; false when it was recalled, since it now belongs to somebody else."""
        with self.lock:
            unit.begun = unit in unit.assignment.running
            return unit.begun

    def finish(self, unit: Unit) -> None:
        """*unit* is done, for good.  What was done for a former assignment is remembered too: done is done."""
        with self.lock:
            assignment = unit.assignment
            if unit in assignment.running:
                self._done(assignment, unit.records)
            if self._end(unit):
                self._finished(unit)
            if len(self._out) <= self._room_at or not assignment.running:
                self.changed.notify_all()

    def finish_all(self, units: Sequence[Unit]) -> None:
        """As `finish` of each; whoever waits is woken once."""
        with self.lock:
            for unit in units:
                self.finish(unit)

    @staticmethod
    def _done(assignment: Assignment, records: Sequence[Record]) -> None:
        if len(records) == 1:
            assignment.tracker.done(records[0].offset)
        else:
            assignment.tracker.done_all([record.offset for record in records])
        if assignment.watch is not None:
            for record in records:
                assignment.watch.ended(record.offset)

    def hold(self, unit: Unit, reason: str, retry_after_s: float | None = None) -> None:
        """*unit* cannot be done just now: hand it out again after a pause."""
        raise NotImplementedError

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
            alive, watch = unit.assignment.alive, unit.assignment.watch
            if watch is not None:
                for record in unit.records:
                    watch.ended(record.offset)
            if unit.lane is not None:
                self._leave_lane(unit, expected=alive)
            if alive:
                self._finished(unit)
            self.changed.notify_all()

    def release(self, unit: Unit) -> None:
        """*unit* was handed out and not done: hand it out again, first."""
        with self.changed:
            if self._end(unit) and unit.assignment.handing_out:
                self._put_back(unit)
            self.changed.notify_all()

    def _put_back(self, unit: Unit) -> None:
        if unit.alone:
            unit.assignment.wait_for(unit.records)
            self._suspect = Unit(unit.assignment, unit.records, alone=True)
        else:
            self._back(unit)

    def _end(self, unit: Unit) -> bool:
        """*unit* comes back, once; true when that still means something."""
        assignment = unit.assignment
        counts = unit in assignment.running and assignment.alive
        assignment.running.discard(unit)
        self._out.discard(unit)
        if unit.lane is not None:
            self._leave_lane(unit, expected=counts and assignment.handing_out)
        return counts

    def _leave_lane(self, unit: Unit, *, expected: bool) -> None:
        """A unit with a key comes back; *expected* when the caller goes on to say how it ended; for subclasses."""

    def _finished(self, unit: Unit) -> None:
        """A unit of a living assignment is done; for subclasses."""

    def _back(self, unit: Unit) -> None:
        raise NotImplementedError
