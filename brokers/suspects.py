"""The owner thread's dealings with suspects: see `crashes` for what they are."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from typing import TYPE_CHECKING

from brokers import crashes
from brokers.crashes import FEWEST_CRASHES, Past, Watch
from brokers.errors import WrongSetting
from brokers.offsets import UnknownMap


if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from confluent_kafka import TopicPartition

    from brokers.assignment import Assignment, Buffer
    from brokers.records import Record

logger = logging.getLogger("brokers.consumer")

#: Crashes after which a record is parked, unless the application says otherwise.
MAX_CRASHES = 3

#: Seconds that a suspect waits for what runs in its process; after that it begins beside it, and nothing is counted.
QUIET_S = 30.0

#: Longest time, in seconds, that a suspect is alone: Dramatiq's own limit for a message.  One that hangs must not keep
#: the process for ever; one that kills after so long is still counted.
ALONE_S = 600.0

#: Seconds before a suspect that nobody takes, because its queue is paused, keeps the others waiting again.
AGAIN_S = 300.0


class Alone:
    """The one suspect for which everything else in this process waits.  Any thread; one object for each broker.

    *most*: crashes after which a record is parked; none for never, and then nothing is counted.

    Raises:
      WrongSetting: so few crashes cannot tell whose they were.
    """

    def __init__(self, most: int | None = None) -> None:
        if most is not None and most < FEWEST_CRASHES:
            raise WrongSetting(
                f"max_crashes is {most}: it takes at least {FEWEST_CRASHES} to know whose crash it was;"
                " None switches counting off"
            )
        self.most = most
        self._lock = threading.Lock()
        self._holder: Watch | None = None
        self._since = 0.0
        self._buffers: weakref.WeakSet[Buffer] = weakref.WeakSet()

    def join(self, buffer: Buffer) -> None:
        """*buffer* hands out nothing while a suspect is alone."""
        buffer.alone = self
        self._buffers.add(buffer)

    @property
    def taken(self) -> bool:
        """Whether a suspect is alone, or about to be."""
        return self._holder is not None

    def held_by(self, watch: Watch) -> bool:
        """Whether it is a suspect of *watch*."""
        return self._holder is watch

    def claim(self, watch: Watch) -> bool | None:
        """True when nothing else runs, false when it still does after a while, none for not yet.

        Call it without holding a buffer's condition.
        """
        with self._lock:
            if self._holder is None:
                self._holder, self._since = watch, time.monotonic()
            if self._holder is not watch:
                return None
        if all(buffer.idle() for buffer in list(self._buffers)):
            return True
        return False if time.monotonic() - self._since > QUIET_S else None

    def leave(self, watch: Watch) -> None:
        """Let the others go on."""
        with self._lock:
            if self._holder is not watch:
                return
            self._holder = None
        for buffer in list(self._buffers):
            buffer.wake()


class Suspects:
    """The watches of one consumer.  The owner thread only."""

    def __init__(self, alone: Alone) -> None:
        self._alone = alone
        self._watches: set[Watch] = set()
        self._admitted: dict[Watch, tuple[int, float]] = {}  # the suspect that is alone, and since when
        self._not_before: dict[Watch, float] = {}
        #: Something may be announced or handed out soon.
        self.busy = False

    def watch(self, assignment: Assignment, past: Past) -> Watch | None:
        """The watch of a partition that starts; none where crashes are not counted."""
        most = self._alone.most
        if most is None or assignment.buffer.queue.ordered:
            return None
        if past.crashed:
            blamed = ",".join(f"{offset}:{count}" for offset, count in sorted(past.crashes.items()))
            logger.warning("kafka_partition_left_open partition=%s suspects=%s", assignment, blamed or "unknown")
        return Watch(past, most)

    def step(self, assignments: Collection[Assignment]) -> None:
        """Hand out what may be."""
        watched = [(a, a.watch) for a in assignments if a.watch is not None and a.started and not a.watch.free]
        for watch in self._watches - {watch for _, watch in watched}:
            self._alone.leave(watch)
        self._watches = {watch for _, watch in watched}
        for memory in (self._admitted, self._not_before):
            for watch in memory.keys() - self._watches:
                del memory[watch]
        for assignment, watch in watched:
            self._end_waiting(assignment, watch)
            self._admit(assignment, watch)
        self.busy = any(watch.busy for watch in self._watches)

    def _admit(self, assignment: Assignment, watch: Watch) -> None:
        later = time.monotonic() < self._not_before.get(watch, 0)
        waits = watch.wants_alone and watch.alone is None and not later
        records = watch.plan(assignment.tracker.next, quiet=self._alone.claim(watch) if waits else None)
        together = [record for record in records if record.offset != watch.alone]
        if together:
            assignment.buffer.admit(assignment, together)
        for record in records:
            if record.offset == watch.alone:
                logger.warning("kafka_suspect_runs_alone record=%s crashes=%d", record, watch.crashes(record.offset))
                self._admitted[watch] = (record.offset, time.monotonic())
                assignment.buffer.admit_alone(assignment, record)
        if not watch.wants_alone or (later and not watch.urgent):
            self._alone.leave(watch)

    def _end_waiting(self, assignment: Assignment, watch: Watch) -> None:
        """A suspect that hangs, or whose queue is paused, must not keep the others for ever."""
        now = time.monotonic()
        offset, since = self._admitted.get(watch, (None, now))
        if offset is None or offset != watch.alone or now - since < QUIET_S:
            return
        record = assignment.buffer.take_back(assignment)
        if record is not None:
            watch.take_back(record)
            self._not_before[watch] = now + AGAIN_S
        elif now - since >= ALONE_S:
            watch.let_others_go_on()
            self._alone.leave(watch)


def past_of(committed: TopicPartition, log_end: int) -> Past:
    """What a group's commit says about crashes."""
    try:
        said = crashes.decode(committed.offset, crashes.split(committed.metadata)[1])
    except UnknownMap as exc:
        logger.warning("kafka_crashes_unknown partition=%s/%d reason=%s", committed.topic, committed.partition, exc)
        return Past()
    return crashes.past(said, log_end)


def handing_over(assignments: Iterable[Assignment]) -> None:
    """The next commit of *assignments* is the last one of this process, which lives."""
    for assignment in assignments:
        if assignment.watch is not None:
            assignment.watch.hand_over()


def reason(record: Record, count: int) -> str:
    """Why *record* is parked."""
    return (
        f"{count} processes ended without a word, or lost its partition, while {record} ran, lastly when it ran alone:"
        " they were killed, ran out of memory, or their interpreter crashed"
    )
