"""What one timer remembers of its partition.  Pure: time comes in as a number."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from brokers.delays import Entry, entry_of, eta_in


if TYPE_CHECKING:
    from brokers.records import Record

#: Milliseconds ahead that a timer remembers; how many messages a reading brings at the most, and how many bytes of
#: them.  So many are known in each partition beside what the reading before brought; at the worst four times as many
#: are in memory for a moment.  A message takes some 800 bytes more than its own.
HORIZON_MS = 600_000
REMEMBERED = 25_000
REMEMBERED_BYTES = 16_000_000

#: Before every entry.
START = (-1, b"")

#: How far a limit is exceeded before the later ones are forgotten: that sorts.
SLACK = 1.25

#: How many times the length of the last reading the next one begins before it is needed.
LEAD = 3


class _Kept:
    """Entries by key, and their bytes."""

    def __init__(self) -> None:
        self.entries: dict[bytes, Entry] = {}
        self.bytes = 0

    def add(self, entry: Entry) -> None:
        """Keep *entry*."""
        self.drop(entry.key)
        self.entries[entry.key] = entry
        self.bytes += entry.size

    def drop(self, key: bytes) -> None:
        """Forget the entry of that key, if there is one."""
        entry = self.entries.pop(key, None)
        if entry is not None:
            self.bytes -= entry.size

    def exceeds(self, number: float, size: float) -> bool:
        """Whether there are more than *number*, or more bytes than *size*; one there may always be."""
        return len(self.entries) > 1 and (len(self.entries) > number or self.bytes > size)

    def cut(self, number: int, size: int) -> tuple[int, bytes]:
        """Keep the soonest that fit; the order of the last one that stays."""
        by_time = sorted(self.entries.values())
        self.entries, self.bytes = {}, 0
        for entry in by_time[: max(number, 1)]:
            if self.entries and self.bytes + entry.size > size:
                break
            self.add(entry)
            last = entry.order
        return last


class Schedule:
    """The messages of one partition that are due soon.

    They are known up to a *bound*, in the order of their times: each one below it is remembered, or fired, or
    cancelled.  What lies above is found by reading the partition from its start again, which moves the bound on.  Only
    at the end of a reading does it count, since the tombstone of a message may still have come.
    """

    def __init__(
        self, limit: int = REMEMBERED, horizon_ms: int = HORIZON_MS, limit_bytes: int = REMEMBERED_BYTES
    ) -> None:
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._ahead_ms = horizon_ms
        self._live = _Kept()
        self._heap: list[Entry] = []
        self._bound = START
        self._found: _Kept | None = None
        self._next_bound = START
        self._seen = 0  # one above the highest offset taken
        self._began_ms = 0
        self._reading_ms = 0  # how long the last reading took
        self._low = 0  # few enough to look for more

    @property
    def reading(self) -> bool:
        """Whether the partition is being read from its start."""
        return self._found is not None

    def begin_reading(self, now_ms: int) -> None:
        """The partition is read from its start from now on."""
        self._found = _Kept()
        self._next_bound = max(self._bound, (now_ms + self._ahead_ms, b""))
        self._began_ms = now_ms

    def end_reading(self, now_ms: int) -> None:
        """The end has been reached: what was found counts."""
        found, self._found = self._found or _Kept(), None
        self._bound = self._next_bound
        for entry in found.entries.values():
            self._live.add(entry)
        self._heap = sorted(self._live.entries.values())
        self._low = len(self._heap) // 8
        self._reading_ms = max(now_ms - self._began_ms, 0)

    def passes_over(self, key: bytes, offset: int, *, is_tombstone: bool) -> bool:
        """Take a record of which this is enough to know; false when `take` has to look into it.

        That saves three quarters of the time: most records of a reading are over, due much later, or known.
        """
        if is_tombstone:
            self._drop(key)
        else:
            eta_ms = eta_in(key)
            if eta_ms is None or not self._means_nothing((eta_ms, key), is_new=offset >= self._seen):
                return False
        self._seen = max(self._seen, offset + 1)
        return True

    def _means_nothing(self, order: tuple[int, bytes], *, is_new: bool) -> bool:
        if order <= self._bound:
            return not is_new
        return self._found is None or order > self._next_bound

    def _drop(self, key: bytes) -> None:
        self._live.drop(key)
        if self._found is not None:
            self._found.drop(key)

    def take(self, record: Record) -> None:
        """A record of the partition, in its order; records that were read before come again while reading."""
        if record.key is None:
            return
        is_new = record.offset >= self._seen
        self._seen = max(self._seen, record.offset + 1)
        entry = entry_of(record)
        if entry is None:  # fired or cancelled; keys are never used again
            self._drop(record.key)
        elif entry.order > self._bound:
            self._note(entry)
        elif is_new:
            self._add(entry)

    def _note(self, entry: Entry) -> None:
        if self._found is None or entry.order > self._next_bound:
            return  # for a later reading
        self._found.add(entry)
        if self._found.exceeds(SLACK * self._limit, SLACK * self._limit_bytes):
            self._next_bound = self._found.cut(self._limit, self._limit_bytes)

    def _add(self, entry: Entry) -> None:
        self._live.add(entry)
        heapq.heappush(self._heap, entry)
        number, size = 2 * self._limit, 2 * self._limit_bytes  # of two readings
        if not self._live.exceeds(SLACK * number, SLACK * size):
            return
        self._bound = self._live.cut(number, size)
        if self._found is not None:  # the reading has passed what was just forgotten: it gains nothing
            self._found = _Kept()
            self._next_bound = self._bound

    def due(self, now_ms: int, limit: int) -> list[Entry]:
        """Take out what is due, at most *limit*; `fired` says that it is fired.  Whoever fails begins anew."""
        entries: list[Entry] = []
        while self._heap and self._heap[0].eta_ms <= now_ms and len(entries) < limit:
            entry = heapq.heappop(self._heap)
            if self._live.entries.get(entry.key) is entry:
                entries.append(entry)
        return entries

    def fired(self, entries: list[Entry]) -> None:
        """They are on their queues, and their tombstones in the log."""
        for entry in entries:
            self._live.drop(entry.key)

    def next_ms(self) -> int | None:
        """When the next message is due; none when none is known."""
        return self._heap[0].eta_ms if self._heap else None

    def reads_again(self, now_ms: int) -> bool:
        """Whether the known time is running out: soon, when much is due; else while there is time for it."""
        if self.reading:
            return False
        ahead_ms = self._bound[0] - now_ms
        if ahead_ms < min(LEAD * self._reading_ms, self._ahead_ms // 2):
            return True
        return ahead_ms < self._ahead_ms // 4 and (len(self._live.entries) <= self._low or ahead_ms < 0)
