"""Unordered queues: many records in flight, each acked for itself."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from brokers.assignment import Assignment, Buffer


if TYPE_CHECKING:
    from brokers.records import Record
    from brokers.topics import Queue


@dataclass(frozen=True, slots=True)
class Single:
    """One record in flight."""

    assignment: Assignment
    record: Record

    @property
    def records(self) -> tuple[Record, ...]:
        """The record, as the one of its unit."""
        return (self.record,)


class ParallelBuffer(Buffer):
    """Hands records out in the order in which they came, as many at a time as the reader's prefetch allows."""

    def __init__(self, queue: Queue) -> None:
        super().__init__(queue)
        self._ready: deque[Single] = deque()
        self._set_aside: deque[Single] = deque()  # of partitions whose completion map is full

    def deliver(self, assignment: Assignment, record: Record) -> None:
        """Take in a record that Kafka delivered."""
        with self.changed:
            assignment.waiting += 1
            self._ready.append(Single(assignment, record))
            self.changed.notify_all()

    def drop(self, assignment: Assignment) -> None:
        """Forget what waits of *assignment*; the caller holds the condition."""
        self._ready = deque(single for single in self._ready if single.assignment is not assignment)
        self._set_aside = deque(single for single in self._set_aside if single.assignment is not assignment)
        assignment.waiting = 0

    def map_has_room(self, assignment: Assignment) -> None:
        """Begin again on a partition that was set aside."""
        with self.changed:
            assignment.map_full = False
            self._ready.extendleft(reversed([s for s in self._set_aside if s.assignment is assignment]))
            self._set_aside = deque(s for s in self._set_aside if s.assignment is not assignment)
            self.changed.notify_all()

    def _next(self, now: float) -> Single | None:
        while self._ready:
            single = self._ready.popleft()
            if single.assignment.map_full:
                self._set_aside.append(single)
                continue
            single.assignment.waiting -= 1
            return single
        return None

    def _back(self, unit: Single) -> None:  # type: ignore[override]  # only units of its own come back
        unit.assignment.waiting += 1
        self._ready.appendleft(unit)
