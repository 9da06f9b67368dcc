"""Ordered queues: one unit at a time, held in place until it succeeds.

Order cannot come from a number of threads, since Dramatiq keeps one heap for all of them: it comes from handing out
nothing while something runs.  And a failed unit is never sent again to the end of the log: it stays where it is, and
all that is behind it waits.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import deque
from itertools import accumulate, islice
from operator import attrgetter
from typing import TYPE_CHECKING

from brokers.assignment import Assignment, Blocked, Buffer, Unit
from brokers.received import size_of_all


if TYPE_CHECKING:
    from collections.abc import Sequence

    from brokers.records import Record
    from brokers.topics import Queue

#: First and longest pause before a held unit is tried again, in seconds.
BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 30.0

#: Doublings after which the pause is the longest one in any case; far more would overflow a float.
MOST_DOUBLINGS = 16

#: Bytes of values that one batch may hold, so that a batch of large messages does not become one huge transaction.
BATCH_BYTES = 4_000_000

#: Seconds in which a batch that runs may grow, and the bytes of values that it may have then: what it has done is not
#: known to Kafka before it ends, and its records are kept in case that it has to be handed out again.
GROWS_S, GROWN_BYTES = 0.5, 8_000_000

_offset = attrgetter("offset")


def backoff_s(attempts: int) -> float:
    """Seconds to wait after the *attempts*-th failure."""
    return min(BACKOFF_S * 2.0 ** min(attempts - 1, MOST_DOUBLINGS), LONGEST_BACKOFF_S)


class OrderedBuffer(Buffer):
    """Hands out the next unit when the former has ended, that of a former assignment in this process too."""

    #: Fewer: there is one partition, and what has waited for long is in no cache of the processor any more.
    high_water, low_water = 5_000, 2_500

    def __init__(self, queue: Queue) -> None:
        super().__init__(queue)
        self._waiting: deque[Record] = deque()
        self._of: Assignment | None = None  # whose records wait
        self._expected = 0  # one above the last finished offset
        self._not_before = 0.0  # monotonic seconds
        self._held: Blocked | None = None
        self._size = queue.batch or 1  # records that are handed out together
        self._taken_at = 0.0  # monotonic seconds
        self._lingers = False  # whether what runs waits for more
        self._came = threading.Condition(self.lock)

    # The owner thread's side.

    def start_at(self, assignment: Assignment, offset: int) -> None:
        """Reading starts at *offset*."""
        with self.changed:
            if self._of is not assignment or offset != self._expected:
                self._hold_no_more()
            self._waiting.clear()
            self._of, self._expected = assignment, offset
            assignment.waiting = assignment.waiting_bytes = 0
            assignment.started = True
            self.changed.notify_all()

    def go_on_at(self, assignment: Assignment, offset: int) -> bool:
        """Start again at *offset* with what is buffered; false when the partition has to be sought instead.

        What waits follows the last finished record without a gap, so everything below *offset* in it is finished.
        """
        with self.changed:
            if self._of is not assignment or not self._reaches(offset):
                return False
            while self._waiting and self._waiting[0].offset < offset:
                record = self._waiting.popleft()
                assignment.tracker.done(record.offset)
                assignment.wait_no_more((record,))
            if offset != self._expected:
                self._hold_no_more()
            self._expected = offset
            assignment.started = True
            self.changed.notify_all()
            return True

    def _reaches(self, offset: int) -> bool:
        end = self._waiting[-1].offset + 1 if self._waiting else self._expected
        return self._expected <= offset <= end

    def held(self, assignment: Assignment) -> Blocked | None:
        """Why what was handed out of *assignment* does not get done."""
        return self._held if self._of is assignment else None

    def _arrived(self, assignment: Assignment, records: Sequence[Record]) -> None:
        self._waiting.extend(records)

    def _tell(self) -> None:
        if self._lingers:  # nobody else may have it as long as something runs
            self._came.notify()
        else:
            self.changed.notify_all()

    def _drop(self, assignment: Assignment) -> None:
        if self._of is assignment:
            self._waiting.clear()
        assignment.waiting = assignment.waiting_bytes = 0

    def reconsider(self) -> None:
        """A queue with a start of its own asks for it again: it may be another one, though no record came since."""
        with self.changed:
            if self._of is not None and self.queue.start is not None:
                self._of.started = False
            self.changed.notify_all()

    # The readers' side.

    def hold(self, unit: Unit, reason: str, retry_after_s: float | None = None) -> None:
        """*unit* failed: it keeps its place.  A queue with a start of its own asks for it again first."""
        with self.changed:
            assignment = unit.assignment
            if self._end(unit):
                self._note_failure(reason, retry_after_s)
                if assignment.handing_out:
                    self._back(unit)
                    assignment.started = assignment.started and self.queue.start is None
            self.changed.notify_all()

    def _note_failure(self, reason: str, retry_after_s: float | None) -> None:
        before = self._held
        attempts = before.attempts + 1 if before else 1
        self._held = Blocked(before.since if before else time.time(), reason, attempts)
        self._not_before = time.monotonic() + (backoff_s(attempts) if retry_after_s is None else retry_after_s)

    def grow(self, unit: Unit, room: int, wait_s: float) -> tuple[Sequence[Record], int]:
        """What would be handed out behind *unit*, which runs, and is a part of it from now on; and its bytes.

        It is waited for up to *wait_s* seconds.  Nothing where that is more than *room* bytes, or when somebody waits
        for the end of *unit*.
        """
        with self.changed:
            if wait_s and not self._waiting and self._may_grow(unit):
                try:
                    self._lingers = True
                    self._came.wait(wait_s)
                finally:
                    self._lingers = False
            if not (self._waiting and self._may_grow(unit)):
                return (), 0
            records = self._coming()
            size = size_of_all(records)
            if size > room:
                return (), 0
            self._take(unit.assignment, records, size)
            unit.records += records
            return records, size

    def _may_grow(self, unit: Unit) -> bool:
        ours = unit in unit.assignment.running and unit.assignment is self._of
        lasting = time.monotonic() - self._taken_at > GROWS_S
        return ours and not lasting and not self.alone.taken and self._is_open

    def shorten(self, unit: Unit, size: int) -> None:
        """Keep the first *size* records of a unit just taken, or grown; the others wait again."""
        if size == len(unit.records):
            return
        with self.changed:
            kept, rest = unit.records[:size], unit.records[size:]
            unit.records = kept
            if unit in unit.assignment.running and unit.assignment.handing_out:
                self._wait_again(unit.assignment, rest)

    def _next(self) -> Unit | None:
        assignment = self._of
        if assignment is None or not (assignment.started and assignment.handing_out and assignment.alive):
            return None
        if self._out or not self._waiting or time.monotonic() < self._not_before:
            return None
        records = self._coming()
        self._take(assignment, records)
        self._taken_at = time.monotonic()
        return Unit(assignment, records)

    def _take(self, assignment: Assignment, records: Sequence[Record], size: int | None = None) -> None:
        for _ in records:
            self._waiting.popleft()
        assignment.wait_no_more(records, size)

    def _coming(self) -> tuple[Record, ...]:
        """What is handed out next.

        A batch ends below a multiple of its size, so that batches lie alike wherever reading began, and whole ones
        fill whatever is a multiple of it.
        """
        size = self._size
        records = tuple(islice(self._waiting, size))
        end = records[0].offset // size * size + size if records else 0
        if records and records[-1].offset >= end:
            records = records[: bisect_left(records, end, key=_offset)]
        if self._of is not None and self._of.waiting_bytes >= BATCH_BYTES:
            sizes = accumulate(record.size for record in records)
            records = records[: next((count for count, size in enumerate(sizes, 1) if size >= BATCH_BYTES), None)]
        return records

    @property
    def goes_on(self) -> bool:
        """Whether something waits that is handed out as soon as nothing runs."""
        with self.changed:
            return bool(self._waiting) and self._is_open

    @property
    def _is_open(self) -> bool:
        assignment = self._of
        ours = assignment is not None and assignment.alive and assignment.started and assignment.handing_out
        return ours and self.paused is None and self.stopped is None

    def due_in(self, now: float) -> float:
        """Until the held unit is due."""
        return max(self._not_before - now, 0.001) if self._waiting and self._not_before > now else float("inf")

    def _finished(self, unit: Unit) -> None:
        self._expected = unit.records[-1].offset + 1
        self._hold_no_more()

    def _hold_no_more(self) -> None:
        self._held, self._not_before = None, 0.0

    def _back(self, unit: Unit) -> None:
        self._wait_again(unit.assignment, unit.records)

    def _wait_again(self, assignment: Assignment, records: Sequence[Record]) -> None:
        self._waiting.extendleft(reversed(records))
        assignment.wait_for(records)
