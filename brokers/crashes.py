"""Whose crash was it?  Counting, over processes and machines, the records that end the process that runs them.

Such a record (out of memory, a segmentation fault) leaves no error behind, and without a count it would end one worker
after the other for ever.  Nothing is written per message.  Instead a commit says two things more than its completion
map, in a *section* behind it: whether the partition is *open*, which it is from before its first record begins until
it is handed over, and which *suspects* have begun.  Whoever takes over an open partition knows that a process has ended
without a word; see `Watch` for what it does then.

    map / o|c entries       o: open, c: closed, handed over.  An entry: distance from the committed offset, "!" where it
                            has begun and "?" where it waits, number of crashes so far; entries are apart by ","
"""

from __future__ import annotations

import re
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from brokers.offsets import UnknownMap


if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from brokers.records import Record

#: Stands between map and section; no character of a map.
SEPARATOR = "/"

#: Suspects that may run beside each other, as long as they are suspected of one crash only.  A guess: Dramatiq's usual
#: eight threads stay busy, and no more than eight bystanders have to run alone after the next crash.
TOGETHER = 8

#: Unfinished records of one partition that are suspected after a crash.  What has begun lies within what is handed out
#: in the time between two commits, a few hundred records at 20,000 a second over eight partitions.  A killer that lies
#: behind them is found one crash later.
WINDOW = 500

#: The crash of a group tells nobody; so one crash is never enough.
FEWEST_CRASHES = 2

_section = re.compile(r"([oc])((?:\d+[!?]\d+)(?:,\d+[!?]\d+)*)?")


class Said(NamedTuple):
    """What a commit says about crashes: pairs of offset and crashes so far, of what has begun and of what waits."""

    open: bool
    begun: tuple[tuple[int, int], ...] = ()
    waiting: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Past:
    """What a new owner has to know.  *until*: offsets from there on have never been handed out."""

    crashed: bool = False
    crashes: Mapping[int, int] = field(default_factory=dict)
    until: int = 0


def encode(base: int, said: Said) -> str:
    """The section of a commit at *base*, with its separator."""
    entries = [(offset, "!", count) for offset, count in said.begun]
    entries += [(offset, "?", count) for offset, count in said.waiting]
    text = ",".join(f"{offset - base}{mark}{count}" for offset, mark, count in sorted(entries) if offset >= base)
    return f"{SEPARATOR}{'o' if said.open else 'c'}{text}"


def split(metadata: str | None) -> tuple[str, str]:
    """Completion map and section of a commit's metadata; either may be empty."""
    text = (metadata or "").rstrip("\0")
    before, _, section = text.partition(SEPARATOR)
    return before, section


def decode(base: int, section: str) -> Said:
    """What a section of a commit at *base* says; of none, that nobody has left the partition open.

    Raises:
      UnknownMap: it is not one of this module's.
    """
    if not section:
        return Said(open=False)
    match = _section.fullmatch(section)
    if match is None or not section.isascii():
        raise UnknownMap(f"commit metadata {section[:20]!r} was written by another program")
    begun: list[tuple[int, int]] = []
    waiting: list[tuple[int, int]] = []
    for entry in (match[2] or "").split(","):
        if entry:
            distance, mark, count = re.split(r"([!?])", entry)
            (begun if mark == "!" else waiting).append((base + int(distance), int(count)))
    return Said(match[1] == "o", tuple(begun), tuple(waiting))


def past(said: Said, until: int) -> Past:
    """What *said*, the last word of the former owner, means to the next one; the log ends at *until*."""
    blame = 1 if said.open else 0
    crashes = dict(said.waiting) | {offset: count + blame for offset, count in said.begun}
    return Past(said.open, crashes, until if said.open else 0)


class Watch:
    """Which records of one partition may be handed out, and what its commits say about them.

    A fresh partition waits for one commit, which opens it, and is `free`.  After a crash the first unfinished records
    are suspects.  They are announced in a commit, and begin when Kafka has confirmed it.  At first several are beside
    each other; those that had begun when a process ended again run *alone*, with nothing else in their process, so that
    their next crash is certainly theirs.  After *most* crashes a record is `condemned`: it is handed out to be parked.
    Order is kept throughout.

    Any thread; the lock is never held while another one is taken.
    """

    def __init__(self, past: Past, most: int) -> None:
        #: Nothing is suspected; all that comes may be handed out.
        self.free = False
        #: The partition has been taken away, or is read anew.
        self.stopped = False
        #: A suspect wants the process for itself, or has it.
        self.wants_alone = False
        #: The suspect that runs alone, or is about to.
        self.alone: int | None = None
        #: The one that ran alone last, until Kafka has heard that it is over: who crashed before would be taken for it.
        self._was_alone: int | None = None
        self._lock = threading.Lock()
        self._most = most
        self._crashes = dict(past.crashes)  # of suspects that have not ended
        self._until = past.until
        self._window = WINDOW
        self._position = 0
        self._kept: deque[Record] = deque()  # delivered, not announced
        self._next: list[Record] = []  # announced, not confirmed
        self._confirmed: list[Record] = []  # may be handed out
        self._begun: set[int] = set()  # of the announced ones, those that count if the process ends
        self._uncounted: set[int] = set()  # those that do not: condemned, or begun beside others
        self._over = False
        self._heard: Said | None = None

    # What Dramatiq's threads say and ask.

    def ended(self, offset: int) -> None:
        """The record is done; if it was suspected, it is no more."""
        if self.free:
            return
        with self._lock:
            self._begun.discard(offset)
            self._uncounted.discard(offset)
            self._crashes.pop(offset, None)
            if offset == self.alone:
                self._alone_no_more()

    def _alone_no_more(self) -> None:
        self.alone, self._was_alone = None, self.alone

    def crashes(self, offset: int) -> int:
        """How many processes are known to have ended while the record ran."""
        return 0 if self.free else self._crashes.get(offset, 0)

    def condemned(self, offset: int) -> bool:
        """Whether it has to be parked without being run."""
        return not self.free and self._crashes.get(offset, 0) >= self._most

    # The owner thread's side.

    def keep(self, records: Sequence[Record]) -> bool:
        """Keep what Kafka delivered until it may be handed out; false when it may be at once."""
        if self.free:
            return False
        self._kept.extend(records)
        return True

    def stop(self) -> None:
        """Hand out nothing more."""
        self.stopped, self.wants_alone = True, False
        with self._lock:
            self._kept.clear()
            self._confirmed.clear()

    def take_back(self, record: Record) -> None:
        """*record*, which was to run alone, was not wanted by anybody."""
        with self._lock:
            self._alone_no_more()
            self._begun.discard(record.offset)
            self._uncounted.discard(record.offset)
            self._kept.appendleft(record)

    def let_others_go_on(self) -> None:
        """The suspect has been alone for long enough; its crash still counts."""
        with self._lock:
            self.alone, self.wants_alone = None, False

    def hand_over(self) -> None:
        """From now on commits say that the partition is given away by a living process."""
        self._over = True

    @property
    def busy(self) -> bool:
        """Whether something may be announced or handed out soon."""
        return not self.free and bool(self._kept or self.urgent)

    @property
    def urgent(self) -> bool:
        """Whether a commit is waited for."""
        return self._heard is None or bool(self._next) or self._was_alone is not None

    def said(self) -> Said:
        """What the next commit has to say."""
        if self.free:
            return Said(open=not self._over)
        with self._lock:
            announced = self._begun if not self._over else set()
            begun = tuple(sorted((offset, self._crashes[offset]) for offset in announced if offset in self._crashes))
            waiting = tuple(sorted(pair for pair in self._crashes.items() if pair[0] not in announced))
            return Said(not self._over or self._suspects(0), begun, waiting)  # not free: not settled

    def news(self) -> bool:
        """Whether Kafka has not heard that yet."""
        return self._heard is None or self.said() != self._heard

    def heard(self, said: Said) -> None:
        """Kafka has confirmed a commit that said so."""
        begun, waiting = dict(said.begun), dict(said.waiting)
        with self._lock:
            self._heard = said
            if self._was_alone not in begun:
                self._was_alone = None
            # A commit that was on its way before says of a suspect, too, that it waits: that announces nothing.
            if all(o in begun or (o in waiting and o in self._uncounted) for o in (one.offset for one in self._next)):
                self._confirmed += self._next
                self._next = []

    def plan(self, position: int, *, quiet: bool | None) -> list[Record]:
        """The records that may be handed out now.  *position*: the offset that Kafka delivers next.

        *quiet* is for a suspect that has to run alone: none for not yet, true when nothing else runs, false when it has
        waited long enough for what runs.
        """
        with self._lock:
            self._position = position
            admitted, self._confirmed = self._confirmed, []
            if not (self.urgent or self.stopped):
                admitted += self._choose(quiet=quiet)
                self._forget_missing()
                settled = not (self._kept or self._next or self._crashes or self._suspects(position))
                self.free = settled
            return admitted

    def _choose(self, *, quiet: bool | None) -> list[Record]:
        admitted: list[Record] = []
        self.wants_alone = self.alone is not None
        while self._kept:
            record = self._kept[0]
            count = self._count(record.offset)
            if count >= self._most:
                self._uncounted.add(record.offset)
                admitted.append(self._kept.popleft())
            elif self.alone is not None or not self._may_begin(record.offset, count, quiet=quiet):
                break
            elif count == 0:
                admitted.append(self._kept.popleft())
            else:
                self._next.append(self._kept.popleft())
        return admitted

    def _count(self, offset: int) -> int:
        return self._crashes.get(offset, 1 if self._suspects(offset) else 0)

    def _suspects(self, offset: int) -> bool:
        """Whether a record that nothing else is known of may have been running at the crash."""
        return offset < self._until and self._window > 0

    def _may_begin(self, offset: int, count: int, *, quiet: bool | None) -> bool:
        if count == 0:
            return not self._next  # in the order of the log
        if count >= FEWEST_CRASHES or count + 1 >= self._most:
            return self._may_begin_alone(offset, count, quiet=quiet)
        if len(self._begun) >= TOGETHER:
            return False
        self._announce(offset, count)
        return True

    def _may_begin_alone(self, offset: int, count: int, *, quiet: bool | None) -> bool:
        self.wants_alone = not self._begun
        if quiet is None or self._begun:
            return False
        self.alone = offset
        self._announce(offset, count, counts=quiet)
        return True

    def _announce(self, offset: int, count: int, *, counts: bool = True) -> None:
        """A crash beside others that run would prove nothing: it does not count."""
        if offset not in self._crashes:
            self._window -= 1
        self._crashes[offset] = count
        (self._begun if counts else self._uncounted).add(offset)

    def _forget_missing(self) -> None:
        """Of suspects that are in the log no more, or were finished after all."""
        if self._crashes:
            here = {record.offset for record in (*self._kept, *self._next, *self._confirmed)}
            here |= self._begun | self._uncounted
            for offset in [o for o in self._crashes if o < self._position and o not in here]:
                del self._crashes[offset]
