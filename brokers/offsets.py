"""Turning acks that arrive in any order into one safe commit for one partition.

Kafka's commit is a single number: "all below is done".  Work that finishes out of order would either be done twice
(commit the lowest unfinished) or be lost (commit the highest finished).  So the commit carries, in its metadata, a
*completion map*: which offsets above the committed one are finished already.  Whoever takes the partition over skips
exactly those.

The map is text, because the broker counts characters, and small, because the broker refuses more than 4,096 of them.
"""

from __future__ import annotations

import base64
import threading
import zlib
from collections import deque
from itertools import islice, pairwise
from typing import TYPE_CHECKING, NamedTuple

from brokers.errors import KafkaError


if TYPE_CHECKING:
    from collections.abc import Sequence

#: Characters of commit metadata that Kafka takes from this client: the broker's 4,096 less the NUL that the client
#: adds.
METADATA_LIMIT = 4095

#: No new records are begun on a partition whose map is longer than this; those already begun go on, and still fit.
MAP_LIMIT = METADATA_LIMIT * 3 // 4

#: Bytes below which deflating is not tried: it costs more than all the rest, and gains next to nothing.
WORTH_DEFLATING = 64

#: First characters of a map: ours, version 1.  The character after them names the encoding.
MAGIC = "nk1"


class UnknownMap(KafkaError):
    """The metadata of a commit was not written by this module."""


class Commit(NamedTuple):
    """What to tell Kafka: the lowest unfinished offset, and the finished ones above it as a completion map."""

    offset: int
    metadata: str


class Run(NamedTuple):
    """Consecutive finished offsets: *start* up to, and without, *end*."""

    start: int
    end: int


def encode(base: int, runs: list[Run]) -> str:
    """The completion map of the finished *runs*: ascending, apart, all of them above *base*; empty for none."""
    if not runs:
        return ""
    lengths = _lengths(base, runs)
    forms = [("r", lengths)]
    if (runs[-1].end - base) // 8 < 2 * len(lengths):  # else a bit set saves little, and takes ten times as long
        forms.append(("b", _bits(base, runs)))
    if min(len(raw) for _, raw in forms) >= WORTH_DEFLATING:
        forms += [(kind.upper(), zlib.compress(raw, 9)) for kind, raw in forms]
    kind, payload = min(forms, key=lambda form: len(form[1]))
    return MAGIC + kind + base64.b85encode(payload).decode("ascii")


def decode(base: int, metadata: str | None) -> list[Run]:
    """The runs above *base* that *metadata* calls finished.

    Raises:
      UnknownMap: the metadata is not a completion map of a version that is known here.
    """
    text = (metadata or "").rstrip("\0")  # other clients' libraries keep the NUL
    if not text:
        return []
    if not text.startswith(MAGIC):
        raise UnknownMap(f"commit metadata {text[:20]!r} was written by another program")
    kind, payload = text[len(MAGIC) : len(MAGIC) + 1], text[len(MAGIC) + 1 :]
    try:
        raw = base64.b85decode(payload)
        raw = zlib.decompress(raw) if kind.isupper() else raw
        return {"r": _from_lengths, "b": _from_bits}[kind.lower()](base, raw)
    except (KeyError, ValueError, zlib.error) as exc:
        raise UnknownMap(f"commit metadata {text[:20]!r} cannot be read") from exc


def _bits(base: int, runs: list[Run]) -> bytes:
    bits = []  # lowest first; a text, since adding each run to one large number takes quadratic time
    cursor = base
    for start, end in runs:
        bits.append("0" * (start - cursor) + "1" * (end - start))
        cursor = end
    return int("".join(bits)[::-1], 2).to_bytes((cursor - base) // 8 + 1, "little")


def _from_bits(base: int, raw: bytes) -> list[Run]:
    bits = bin(int.from_bytes(raw, "little"))[:1:-1]  # lowest first
    edges = [0, *(index for index in range(1, len(bits)) if bits[index] != bits[index - 1]), len(bits)]
    return [Run(base + start, base + end) for start, end in pairwise(edges) if bits[start] == "1"]


def _lengths(base: int, runs: list[Run]) -> bytes:
    """Lengths, in turn, of what is unfinished and what is finished, as base-128 numbers."""
    out = bytearray()
    cursor = base
    for start, end in runs:
        out += _varint(start - cursor) + _varint(end - start)
        cursor = end
    return bytes(out)


def _from_lengths(base: int, raw: bytes) -> list[Run]:
    numbers = _varints(raw)
    if len(numbers) % 2:
        raise ValueError("a length without its pair")
    runs: list[Run] = []
    cursor = base
    for gap, length in zip(numbers[::2], numbers[1::2], strict=True):
        runs.append(Run(cursor + gap, cursor + gap + length))
        cursor += gap + length
    return runs


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:  # noqa: PLR2004 - seven bits a byte
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _varints(raw: bytes) -> list[int]:
    numbers, number, shift = [], 0, 0
    for byte in raw:
        number |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            numbers.append(number)
            number, shift = 0, 0
    if shift:
        raise ValueError("a number is cut off")
    return numbers


class AckTracker:
    """The unfinished offsets of one partition, for as long as this process owns it.

    Every method may be called from any thread.  An offset that Kafka never delivers (a transaction marker, a compacted
    record) counts as finished once a later one is.
    """

    def __init__(self, base: int, runs: list[Run] | None = None) -> None:
        self._lock = threading.Lock()
        # The unfinished offsets.  Most of them are above all that is finished, in the order of the log: thousands that
        # wait, which a commit need not look at.  Those between finished ones are few.
        self._between: set[int] = set()
        self._above: deque[int] = deque()
        self._former: deque[Run] = deque(runs or ())  # finished by an earlier owner, not delivered yet
        self._next = base  # one above the last offset that Kafka delivered
        self._highest_done = base - 1
        self._snapshot: Commit | None = None  # of the present state; none when that has changed
        self._confirmed: Commit | None = None

    def begin(self, offset: int) -> bool:
        """Take note of a delivered record; false when it needs no work.

        That is so when an earlier owner finished it, and when it was delivered before.
        """
        with self._lock:
            return self._begin(offset)

    def begin_all(self, offsets: Sequence[int]) -> list[bool]:
        """`begin` of each, ascending."""
        with self._lock:
            if not offsets or self._former or offsets[0] < self._next:
                return [self._begin(offset) for offset in offsets]
            self._next = offsets[-1] + 1
            self._snapshot = None
            self._above.extend(offsets)
            return [True] * len(offsets)

    def _begin(self, offset: int) -> bool:
        if offset < self._next:
            return False  # a fetch that was under way when the partition was sought
        self._next = offset + 1
        self._snapshot = None
        if self._former and self._was_finished(offset):
            self._pass(offset)
            return False
        self._above.append(offset)
        return True

    def _pass(self, offset: int) -> None:
        """*offset* is finished: what is unfinished below lies between finished ones."""
        while self._above and self._above[0] < offset:
            self._between.add(self._above.popleft())
        self._highest_done = max(self._highest_done, offset)

    def _was_finished(self, offset: int) -> bool:
        while self._former and self._former[0].end <= offset:
            self._former.popleft()
        return bool(self._former) and self._former[0].start <= offset

    def done(self, offset: int) -> bool:
        """Mark *offset* finished.  False when it was before, or is unknown: then nothing has changed."""
        with self._lock:
            if offset in self._between:
                self._between.remove(offset)
            elif self._is_above(offset):
                self._pass(offset)
                self._above.popleft()
            else:
                return False
            self._snapshot = None
            return True

    def done_all(self, offsets: Sequence[int]) -> None:
        """`done` of each, ascending."""
        with self._lock:
            if offsets and offsets == list(islice(self._above, len(offsets))):  # the first ones: so it is in order
                for _ in offsets:
                    self._above.popleft()
                self._highest_done = max(self._highest_done, offsets[-1])
                self._snapshot = None
                return
        for offset in offsets:
            self.done(offset)

    def _is_above(self, offset: int) -> bool:
        if self._above and self._above[0] == offset:
            return True
        return offset in self._above  # work ends nearly in order: it is among the first

    def undone(self, offset: int) -> None:
        """Take back `done`, of an offset that no confirmed commit has called finished."""
        with self._lock:
            if offset < self._next:  # else it is read again from elsewhere
                self._between.add(offset)
                self._snapshot = None

    def reached(self, offset: int) -> None:
        """Kafka has nothing more to deliver below *offset*, though the log may go on up to there (with markers)."""
        with self._lock:
            if offset > self._next:
                self._next = offset
                self._snapshot = None

    @property
    def next(self) -> int:
        """The offset to fetch next."""
        with self._lock:
            return self._next

    @property
    def highest_done(self) -> int:
        """The highest offset that is finished."""
        with self._lock:
            return self._highest_done

    @property
    def unfinished(self) -> int:
        """How many delivered records are not finished."""
        with self._lock:
            return len(self._between) + len(self._above)

    def snapshot(self) -> Commit:
        """Offset and map, taken at one moment."""
        with self._lock:
            if self._snapshot is None:
                base = self._base()
                self._snapshot = Commit(base, encode(base, self._runs(base)))
            return self._snapshot

    def _base(self) -> int:
        return min(self._between, default=self._above[0] if self._above else self._next)

    def _runs(self, base: int) -> list[Run]:
        edges = [*sorted(self._between), self._highest_done + 1]
        runs = [Run(left + 1, right) for left, right in pairwise(edges) if left + 1 < right]
        ahead = [Run(max(start, self._next), end) for start, end in self._former if end > max(self._next, base)]
        return union(runs, ahead)

    def finished(self) -> list[Run]:
        """All that this tracker knows to be finished, from offset 0 on."""
        with self._lock:
            base = self._base()
            return union([Run(0, base)] if base else [], self._runs(base))

    def to_commit(self) -> Commit | None:
        """What Kafka does not know yet, or none.  Its offset never goes back."""
        commit = self.snapshot()
        return None if commit == self._confirmed else commit

    @property
    def confirmed(self) -> Commit | None:
        """The last commit that Kafka has confirmed."""
        return self._confirmed

    def committed(self, commit: Commit) -> None:
        """Kafka has confirmed *commit*."""
        self._confirmed = commit


def resumed(offset: int, runs: list[Run]) -> AckTracker:
    """A tracker for what follows *offset*, less the finished *runs*, some of which may begin below or at it."""
    above = [Run(max(run.start, offset), run.end) for run in runs if run.end > offset]
    while above and above[0].start == offset:
        offset = above.pop(0).end
    return AckTracker(offset, above)


def union(some: list[Run], others: list[Run]) -> list[Run]:
    """The runs of both, ascending; those that touch or overlap become one."""
    joined: list[Run] = []
    for run in sorted([*some, *others]):
        if joined and joined[-1].end >= run.start:
            joined[-1] = Run(joined[-1].start, max(joined[-1].end, run.end))
        else:
            joined.append(run)
    return joined
