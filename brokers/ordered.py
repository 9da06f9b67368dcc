"""Ordered queues: one unit at a time, held in place until it succeeds.

Order cannot come from a number of threads, since Dramatiq keeps one heap for all of them: it comes from handing out
nothing while something runs.  And a failed unit is never sent again to the end of the log: it stays where it is, and
all that is behind it waits.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from brokers.assignment import Assignment, Blocked, Buffer


if TYPE_CHECKING:
    from brokers.records import Record
    from brokers.topics import Queue

#: First and longest pause before a held unit is tried again, in seconds.
BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 30.0

#: Bytes of values that one batch may hold, so that a batch of large messages does not become one huge transaction.
BATCH_BYTES = 4_000_000


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive records in flight."""

    assignment: Assignment
    records: tuple[Record, ...]


def backoff_s(attempts: int) -> float:
    """Seconds to wait after the *attempts*-th failure."""
    return float(min(BACKOFF_S * 2 ** (attempts - 1), LONGEST_BACKOFF_S))


class OrderedBuffer(Buffer):
    """Hands out the next unit when the former has ended."""

    def __init__(self, queue: Queue) -> None:
        super().__init__(queue)
        self._waiting: deque[Record] = deque()
        self._of: Assignment | None = None  # whose records wait
        self._expected = 0  # one above the last finished offset
        self._not_before = 0.0  # monotonic seconds
        self._held: Blocked | None = None

    # The owner thread's side.

    def begin(self, assignment: Assignment, offset: int) -> None:
        """Reading starts at *offset*."""
        with self.changed:
            self._waiting.clear()
            self._held = self._held if self._of is assignment else None
            self._of, self._expected = assignment, offset
            assignment.waiting, assignment.started = 0, True
            self._not_before = 0.0
            self.changed.notify_all()

    def go_on(self, assignment: Assignment, offset: int) -> bool:
        """Start again at *offset* with what is buffered; false when the partition has to be sought instead.

        What waits is consecutive, so everything below *offset* in it is finished.  A lower offset than the first that
        waits is the same place only if nothing was finished in between.
        """
        with self.changed:
            if self._of is not assignment or not self._reaches(offset):
                return False
            while self._waiting and self._waiting[0].offset < offset:
                assignment.tracker.done(self._waiting.popleft().offset)
                assignment.waiting -= 1
            self._expected = offset
            assignment.started = True
            self.changed.notify_all()
            return True

    def _reaches(self, offset: int) -> bool:
        if offset == self._expected or not self._waiting:
            return offset == self._expected
        return self._waiting[0].offset < offset <= self._waiting[-1].offset + 1

    def deliver(self, assignment: Assignment, record: Record) -> None:
        """Take in a record that Kafka delivered."""
        with self.changed:
            assignment.waiting += 1
            self._waiting.append(record)
            self.changed.notify_all()

    def drop(self, assignment: Assignment) -> None:
        """Forget what waits of *assignment*; the caller holds the condition."""
        if self._of is assignment:
            self._waiting.clear()
        assignment.waiting = 0

    def held(self, assignment: Assignment) -> Blocked | None:
        """Why what was handed out of *assignment* does not get done."""
        return self._held if self._of is assignment else None

    # The readers' side.

    def hold(self, batch: Batch, reason: str, retry_after_s: float | None) -> None:
        """*batch* failed: it keeps its place.  A queue with a start of its own asks for it again first."""
        with self.changed:
            assignment = batch.assignment
            before = self._held
            attempts = before.attempts + 1 if before else 1
            self._held = Blocked(before.since if before else time.time(), reason, attempts)
            self._not_before = time.monotonic() + (retry_after_s or backoff_s(attempts))
            if self._end(batch) and assignment.handing_out:
                self._back(batch)
                assignment.started = assignment.started and self.queue.start is None
            self.changed.notify_all()

    def shorten(self, batch: Batch, size: int) -> Batch:
        """Keep the first *size* records of a batch just taken; the others wait again."""
        with self.changed:
            rest = batch.records[size:]
            if batch.assignment.alive and batch.assignment.handing_out:
                self._waiting.extendleft(reversed(rest))
                batch.assignment.waiting += len(rest)
        return Batch(batch.assignment, batch.records[:size])

    def _next(self, now: float) -> Batch | None:
        assignment = self._of
        if assignment is None or not assignment.started or not assignment.handing_out or not assignment.alive:
            return None
        if assignment.running or now < self._not_before or not self._waiting:
            return None
        records, size = [self._waiting.popleft()], 0
        while self._waiting and len(records) < (self.queue.batch or 1) and size < BATCH_BYTES:
            records.append(self._waiting.popleft())
            size += records[-1].size
        assignment.waiting -= len(records)
        return Batch(assignment, tuple(records))

    def _due_in(self, now: float) -> float:
        return max(self._not_before - now, 0.001) if self._waiting and self._not_before > now else float("inf")

    def _finished(self, unit: Batch) -> None:  # type: ignore[override]  # only units of its own end here
        self._expected = unit.records[-1].offset + 1
        self._held = None

    def _back(self, unit: Batch) -> None:  # type: ignore[override]  # as above
        self._waiting.extendleft(reversed(unit.records))
        unit.assignment.waiting += len(unit.records)
