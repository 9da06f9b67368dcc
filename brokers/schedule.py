"""What one timer remembers of its partition.  Pure: time comes in as a number."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from brokers.delays import Entry, entry_of


if TYPE_CHECKING:
    from brokers.records import Record

#: Milliseconds ahead that a timer remembers, and how many messages at the most.  A guess: some 50 MB.
HORIZON_MS = 600_000
REMEMBERED = 50_000

#: Before every entry.
START = (-1, b"")


class Schedule:
    """The messages of one partition that are due soon.

    They are known up to a *bound*, in the order of their times: each one below it is remembered, or fired, or
    cancelled.  What lies above is found by reading the partition from its start again, which moves the bound on.  Only
    at the end of a reading does it count, since the tombstone of a message may still have come.
    """

    def __init__(self, limit: int = REMEMBERED, horizon_ms: int = HORIZON_MS) -> None:
        self._limit = limit
        self._ahead_ms = horizon_ms
        self._live: dict[bytes, Entry] = {}
        self._heap: list[Entry] = []
        self._bound = START
        self._found: dict[bytes, Entry] | None = None
        self._next_bound = START
        self._seen = 0  # one above the highest offset taken

    @property
    def reading(self) -> bool:
        """Whether the partition is being read from its start."""
        return self._found is not None

    def begin_reading(self, now_ms: int) -> None:
        """The partition is read from its start from now on."""
        self._found = {}
        self._next_bound = max(self._bound, (now_ms + self._ahead_ms, b""))

    def end_reading(self) -> None:
        """The end has been reached: what was found counts."""
        found, self._found = self._found or {}, None
        self._bound = self._next_bound
        self._live |= found
        self._heap = sorted(self._live.values())

    def take(self, record: Record) -> None:
        """A record of the partition, in its order; records that were read before come again while reading."""
        if record.key is None:
            return
        is_new = record.offset >= self._seen
        self._seen = max(self._seen, record.offset + 1)
        entry = entry_of(record)
        if entry is None:  # fired or cancelled; keys are never used again
            self._live.pop(record.key, None)
            if self._found is not None:
                self._found.pop(record.key, None)
        elif entry.order > self._bound:
            self._note(entry)
        elif is_new:
            self._add(entry)

    def _note(self, entry: Entry) -> None:
        if self._found is None or entry.order > self._next_bound:
            return  # for a later reading
        self._found[entry.key] = entry
        if len(self._found) > self._limit:
            self._next_bound = _halve(self._found)

    def _add(self, entry: Entry) -> None:
        self._live[entry.key] = entry
        heapq.heappush(self._heap, entry)
        if len(self._live) <= 2 * self._limit:
            return
        self._bound = _halve(self._live)
        if self._found is not None:  # the reading has passed what was just forgotten: it gains nothing
            self._found.clear()
            self._next_bound = self._bound

    def due(self, now_ms: int, limit: int) -> list[Entry]:
        """Take out what is due, at most *limit*; `fired` or `put_back` says how it went."""
        entries: list[Entry] = []
        while self._heap and self._heap[0].eta_ms <= now_ms and len(entries) < limit:
            entry = heapq.heappop(self._heap)
            if self._live.get(entry.key) is entry:
                entries.append(entry)
        return entries

    def fired(self, entries: list[Entry]) -> None:
        """They are on their queues, and their tombstones in the log."""
        for entry in entries:
            self._live.pop(entry.key, None)

    def put_back(self, entries: list[Entry]) -> None:
        """They are not on their queues after all."""
        for entry in entries:
            heapq.heappush(self._heap, entry)

    def next_ms(self) -> int | None:
        """When the next message is due; none when none is known."""
        return self._heap[0].eta_ms if self._heap else None

    def reads_again(self, now_ms: int) -> bool:
        """Whether the known time is running out, and with it what is known; at the latest when it is over."""
        if self.reading or now_ms + self._ahead_ms // 4 <= self._bound[0]:
            return False
        return 8 * len(self._live) < self._limit or now_ms > self._bound[0]


def _halve(entries: dict[bytes, Entry]) -> tuple[int, bytes]:
    """Forget the later half; the order of the last one that stays."""
    by_time = sorted(entries.values())
    half = len(by_time) // 2
    for late in by_time[half:]:
        del entries[late.key]
    return by_time[half - 1].order
