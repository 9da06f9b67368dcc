"""Unordered queues: many records in flight, each acked for itself."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from brokers.assignment import Assignment, Buffer, Unit
from brokers.held_back import HeldBack


if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    import dramatiq

    from brokers.records import Record
    from brokers.topics import Queue

#: Seconds before a held record is handed out again.
HELD_S = 1.0


class ParallelBuffer(Buffer):
    """Hands records out in the order in which they came, as many at a time as the reader's prefetch allows."""

    def __init__(self, queue: Queue, beside: Buffer | None = None) -> None:
        super().__init__(queue, beside)
        self._ready: deque[Unit] = deque()
        self._set_aside: deque[Unit] = deque()  # of partitions whose completion map is full
        self._held: deque[tuple[float, Unit]] = deque()  # what could not be read, and when to try again
        self._held_back = HeldBack(queue.ready)

    def hold_back(self, unit: Unit, message: dramatiq.Message[Any], seconds: float) -> bool:
        """*unit* is not to be handed out yet: ask again after *seconds*.  The others pass it; its offset stays unacked.

        False when too many are held back already: it goes out as it is.
        """
        with self.changed:
            if self._held_back.full:
                return False
            if self._end(unit) and unit.assignment.handing_out:
                unit.assignment.wait_for(unit.records)
                kept = Unit(unit.assignment, unit.records, lane=unit.lane, message=message)
                if kept.lane is not None:
                    kept.lane.head = kept  # the others of its key wait with it
                self._held_back.put(kept, time.monotonic() + seconds)
            self.changed.notify_all()
            return True

    def reconsider(self) -> None:
        """All that is held back is due now."""
        with self.changed:
            if self._held_back.all_due():
                self.changed.notify_all()

    def hold(
        self,
        unit: Unit,
        reason: str,
        retry_after_s: float | None = None,
        message: dramatiq.Message[Any] | None = None,
    ) -> None:
        """*unit* cannot be worked on just now; the others go on.

        After *retry_after_s*, or a second, it is handed out again, as *message* if there is one.
        """
        with self.changed:
            if self._end(unit) and unit.assignment.handing_out:
                unit.assignment.wait_for(unit.records)
                due = time.monotonic() + (HELD_S if retry_after_s is None else retry_after_s)
                self._held.append((due, Unit(unit.assignment, unit.records, message=message)))
            self.changed.notify_all()

    def map_is(self, assignment: Assignment, *, full: bool) -> None:
        """With a full map nothing is begun that could make it longer; what was begun goes on."""
        with self.changed:
            assignment.map_full = full
            if full:
                assignment.map_end = self._frontier(assignment)
            else:
                self._ready.extendleft(reversed([u for u in self._set_aside if u.assignment is assignment]))
                self._set_aside = without(assignment, self._set_aside)
                self.changed.notify_all()

    def _frontier(self, assignment: Assignment) -> int:
        """The highest offset that was begun: what comes again below it fills a gap, and a map without it stays full."""
        running = (unit.records[-1].offset for unit in assignment.running)
        return max(assignment.tracker.highest_done, max(running, default=-1))

    def _arrived(self, assignment: Assignment, records: Sequence[Record]) -> None:
        self._ready.extend(Unit(assignment, (record,)) for record in records)

    def _drop(self, assignment: Assignment) -> None:
        self._ready = without(assignment, self._ready)
        self._set_aside = without(assignment, self._set_aside)
        self._held = deque(hold for hold in self._held if hold[1].assignment is not assignment)
        self._held_back.drop(assignment)
        assignment.waiting = assignment.waiting_bytes = 0

    def _next(self) -> Unit | None:
        unit = self._kept() if self._held or self._held_back else None
        if unit is not None:
            unit.assignment.wait_no_more(unit.records)
            return unit
        while self._ready:
            unit = self._ready.popleft()
            if self._steps_behind(unit):
                continue
            assignment = unit.assignment
            if not assignment.map_full or unit.records[0].offset <= assignment.map_end:
                assignment.wait_no_more(unit.records)
                return unit
            self._set_aside.append(unit)
        return None

    def _kept(self) -> Unit | None:
        """What could not be handed out before, and is due."""
        now = time.monotonic()
        if self._held and self._held[0][0] <= now:  # with a full map, too: it is what keeps the map from shrinking
            return self._held.popleft()[1]
        return self._held_back.take(now)

    def _steps_behind(self, unit: Unit) -> bool:
        """Whether *unit* has to wait for another one, and is kept elsewhere; for subclasses."""
        return False

    def due_in(self, now: float) -> float:
        """Until what could not be read is tried again."""
        held = max(self._held[0][0] - now, 0.001) if self._held else float("inf")
        return min(held, self._held_back.due_in(now))

    def _back(self, unit: Unit) -> None:
        unit.assignment.wait_for(unit.records)
        self._ready.appendleft(Unit(unit.assignment, unit.records, message=unit.message))


def without(assignment: Assignment, units: Iterable[Unit]) -> deque[Unit]:
    """*units* less those of *assignment*."""
    return deque(unit for unit in units if unit.assignment is not assignment)
