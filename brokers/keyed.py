"""Order per key: messages of one key run one after the other, in log order, and those of other keys beside them.

A record's key orders it, unless the key is the message's own id, which is what a message without the option ``key``
gets.  So the keys of other programs' records count too, as Kafka's users expect.

Records are looked at in the order in which they came.  One whose key is busy steps behind, and comes back to the front
when it is its turn; what is behind is therefore always older than what is in front, and the order of a key is that of
the log, however often something is given back.
"""

from __future__ import annotations

import itertools
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any

from brokers.assignment import Assignment, Blocked, Unit
from brokers.parallel import HELD_S, ParallelBuffer, without


if TYPE_CHECKING:
    from collections.abc import Iterable

    import dramatiq

    from brokers.assignment import Buffer
    from brokers.topics import Queue

#: Records that wait for another one of their key, over all partitions of a consumer group in this process, and their
#: bytes.  They do not count towards the water marks, or a busy key would stop its neighbours; above these limits the
#: partitions of busy keys are read no further.  Besides its bytes a record takes some 600 more.
BEHIND, BEHIND_BYTES = 100_000, 64_000_000

#: Seconds between two looks at a held message that is due and cannot be handed out yet.
RESTLESS_S = 0.05


def crowded(assignments: Iterable[Assignment]) -> bool:
    """Whether no more records can be kept behind others of their keys."""
    records = size = 0
    for assignment in assignments:
        records += assignment.behind
        size += assignment.behind_bytes
    return records >= BEHIND or size >= BEHIND_BYTES


@dataclass(eq=False, slots=True)
class Lane:
    """A key that is busy, in one partition."""

    partition: int
    key: bytes
    #: Handed out and not ended, also for a former assignment; or held after a failure.
    head: Unit | None = None
    behind: deque[Unit] = field(default_factory=deque)
    held: Blocked | None = None


class KeyedBuffer(ParallelBuffer):
    """Hands out what comes, as `ParallelBuffer` does, but of each key one record at a time."""

    def __init__(self, queue: Queue, beside: Buffer | None = None) -> None:
        super().__init__(queue, beside)
        self._lanes: defaultdict[int, dict[bytes, Lane]] = defaultdict(dict)  # by partition and key; only busy ones
        self._holds: list[tuple[float, int, Unit]] = []  # a heap: monotonic seconds until which a head is held
        self._count = itertools.count()

    def held_keys(self, assignment: Assignment) -> dict[str, Blocked]:
        """Those of *assignment* whose message failed and has not succeeded since, and why."""
        with self.changed:
            lanes = [lane for lane in self._lanes[assignment.partition].values() if lane.held is not None]
            return {lane.key.decode(errors="backslashreplace"): lane.held for lane in lanes if lane.held is not None}

    def hold(
        self,
        unit: Unit,
        reason: str,
        retry_after_s: float | None = None,
        message: dramatiq.Message[Any] | None = None,
    ) -> None:
        """As without keys; and the key of *unit* waits with it, which keeps its place."""
        lane = unit.lane
        if lane is None:
            super().hold(unit, reason, retry_after_s, message)
            return
        with self.changed:
            if self._end(unit) and unit.assignment.handing_out:
                since, attempts = (lane.held.since, lane.held.attempts) if lane.held else (time.time(), 0)
                lane.held = Blocked(since, reason, attempts + 1)
                lane.head = Unit(unit.assignment, unit.records, lane=lane, message=message)
                unit.assignment.stand_behind(unit.records[0])
                due = time.monotonic() + (HELD_S if retry_after_s is None else retry_after_s)
                heappush(self._holds, (due, next(self._count), lane.head))
            self.changed.notify_all()

    # What may be handed out.

    def _next(self) -> Unit | None:
        if self._holds:
            self._end_holds(time.monotonic())
        unit = super()._next()
        if unit is not None and unit.lane is not None:
            unit.lane.head = unit
        return unit

    def _steps_behind(self, unit: Unit) -> bool:
        [record] = unit.records
        key = record.key
        if key is None or key == record.headers.get("message_id"):
            return False
        lanes = self._lanes[record.partition]
        lane = unit.lane = lanes.get(key) or lanes.setdefault(key, Lane(record.partition, key))
        if lane.head is None:
            return False
        lane.behind.append(unit)
        unit.assignment.wait_no_more(unit.records)
        unit.assignment.stand_behind(record)
        return True

    def due_in(self, now: float) -> float:
        """Until a held message is due."""
        others = super().due_in(now)
        if not self._holds:
            return others
        due = self._holds[0][0]
        return min(max(due - now, 0.001) if due > now else RESTLESS_S, others)  # due, and perhaps the prefetch is full

    def _end_holds(self, now: float) -> None:
        while self._holds and self._holds[0][0] <= now:
            _, _, unit = heappop(self._holds)
            lane = unit.lane
            if lane is not None:
                lane.head = None
                self._to_the_front(unit)

    def _to_the_front(self, unit: Unit) -> None:
        unit.assignment.step_out(unit.records[0])
        unit.assignment.wait_for(unit.records)
        self._ready.appendleft(unit)

    # How it ends.

    def _leave_lane(self, unit: Unit, *, expected: bool) -> None:
        lane = unit.lane
        if lane is not None and lane.head is unit:
            lane.head = None
            if not expected:
                self._go_on(lane)

    def _finished(self, unit: Unit) -> None:
        if unit.lane is not None:
            unit.lane.held = None
            self._go_on(unit.lane)

    def _go_on(self, lane: Lane) -> None:
        """The next one of the key, if there is one."""
        if lane.behind:
            self._to_the_front(lane.behind.popleft())
        elif lane.held is None:
            self._lanes[lane.partition].pop(lane.key, None)

    def _withdraw(self, assignment: Assignment) -> None:
        super()._withdraw(assignment)
        self._clear(assignment)

    def _drop(self, assignment: Assignment) -> None:
        super()._drop(assignment)
        self._clear(assignment)
        self._holds = [hold for hold in self._holds if hold[2].assignment is not assignment]
        heapify(self._holds)
        assignment.behind = assignment.behind_bytes = 0

    def _clear(self, assignment: Assignment) -> None:
        """Keep nothing of *assignment* but what runs: its keys stay busy until that has ended."""
        lanes = self._lanes[assignment.partition]
        for lane in list(lanes.values()):
            lane.behind = without(assignment, lane.behind)
            if lane.head is not None and lane.head.assignment is assignment and lane.head not in assignment.running:
                lane.head = None
            lane.held = None
            if lane.head is None and not lane.behind:
                del lanes[lane.key]
