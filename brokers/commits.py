"""Telling Kafka what is done.

In the steady loop commits are asynchronous, one at a time: a synchronous one blocks for as long as the server is away.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, NamedTuple

from confluent_kafka import KafkaException, TopicPartition

from brokers import crashes
from brokers.offsets import MAP_LIMIT, METADATA_LIMIT, Commit


if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from confluent_kafka import Consumer as Client
    from confluent_kafka import KafkaError

    from brokers.assignment import Assignment
    from brokers.crashes import Said
    from brokers.records import Record
    from brokers.starts import Committed

    #: What a commit says, by topic and partition.
    Asked = dict[tuple[str, int], "_Asked"]

logger = logging.getLogger("brokers.consumer")

#: Least and longest pause between two commits, in seconds, and how many times as long as a commit took it is.  A kill
#: repeats what ended since the last commit, so they follow each other closely, and take a fortieth of the time.
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.001, 0.1
PAUSE_PER_COMMIT = 40

#: The same in a process that works all the time, of which each commit takes something away: the share of a processor
#: above which it does, and the pause, some 5 ms.
BUSY_SHARE, BUSY_PAUSE_PER_COMMIT = 0.8, 160

#: The shortest pause, in seconds, of a member that reads nothing but what may be repeated (`Queue.repeatable`): a
#: commit costs Kafka about as much as a message.
SELDOM_S = 0.1

#: Seconds after a commit in which another one is likely.
LIVELY_S = 0.05

#: The same while a suspect waits for its announcement to be confirmed (see `crashes`).
ANNOUNCE_EVERY_S = 0.005

#: Seconds after which a commit that got no answer is given up; what it said is said again.
ANSWER_S = 30.0


class _Asked(NamedTuple):
    """A commit under way."""

    assignment: Assignment
    commit: Commit
    said: Said | None


class Commits:
    """The commits of one consumer.  The owner thread only."""

    def __init__(self, group_id: str) -> None:
        self._group_id = group_id
        self._asked: Asked = {}  # not answered yet
        self._asked_at = 0.0
        self._told_at = 0.0
        self._pause_s = SHORTEST_PAUSE_S
        self._cpu_s = 0.0  # of the whole process when the last commit was sent
        self._failed = False

    @property
    def lively(self) -> bool:
        """Whether work ends just now, so that the next commit should not have to wait."""
        return time.monotonic() - self._told_at < LIVELY_S

    def due_in(self) -> float:
        """Seconds until the next commit may be sent; what arrives meanwhile ends a poll earlier."""
        return self._asked_at + self._pause_s - time.monotonic()

    def send(self, client: Client, assignments: Collection[Assignment]) -> None:
        """Commit what is news, unless it is too early for another commit."""
        now = time.monotonic()
        if now - self._asked_at < (ANSWER_S if self._asked else self._every_s(assignments)):
            return
        self._asked_at, began = now, time.thread_time()
        self._asked = news_of(assignments)
        if not self._asked:
            return
        try:
            client.commit(offsets=offsets_of(self._asked), asynchronous=True)
        except KafkaException as exc:
            self.answered(exc.args[0], [])
        # Its own work: time in which other threads had the interpreter is no reason to commit less often.
        pause_s = self._pauses(now) * (time.thread_time() - began)
        self._pause_s = min(max(pause_s, SHORTEST_PAUSE_S), LONGEST_PAUSE_S)
        if all(assignment.buffer.queue.repeatable for assignment in assignments):
            self._pause_s = max(self._pause_s, SELDOM_S)
        self._told_at = now

    def _pauses(self, now: float) -> int:
        """How many times as long as the commit of *now* took the pause after it is."""
        before, self._cpu_s = self._cpu_s, time.process_time()
        busy = self._cpu_s - before > BUSY_SHARE * (now - self._told_at)
        return BUSY_PAUSE_PER_COMMIT if busy else PAUSE_PER_COMMIT

    def _every_s(self, assignments: Iterable[Assignment]) -> float:
        urgent = any(a.watch is not None and a.watch.urgent for a in assignments)
        return min(self._pause_s, ANNOUNCE_EVERY_S) if urgent and not self._failed else self._pause_s

    def answered(self, error: KafkaError | None, places: list[TopicPartition]) -> None:
        """The client's ``on_commit``.  What was not committed is tried again at the next turn."""
        asked, self._asked = self._asked, {}
        self._failed = error is not None
        if error is None:
            note(asked, places)
        else:
            self._pause_s = LONGEST_PAUSE_S
            logger.warning("kafka_commit_failed group=%s code=%s", self._group_id, error.name())

    def send_and_wait(self, client: Client, assignments: Iterable[Assignment]) -> bool:
        """Commit now; blocks.

        False when not all of it was taken: whoever has the partitions next then repeats some work.
        """
        asked = news_of(assignments)
        if not asked:
            return True
        try:
            places = client.commit(offsets=offsets_of(asked), asynchronous=False)
        except KafkaException as exc:
            logger.warning("kafka_commit_failed group=%s code=%s", self._group_id, exc.args[0].name())
            return False
        return note(asked, places)

    def forget(self, assignment: Assignment) -> None:
        """The answer about *assignment* means nothing any more."""
        self._asked.pop((assignment.topic, assignment.partition), None)

    #: How to ask for what was committed, where that is another way than the client's own.
    committed: Committed | None = None

    def hurry(self, assignments: Iterable[Assignment]) -> bool:
        """Whether somebody waits for the next commit."""
        return False

    def not_ended_before(self, assignment: Assignment, records: list[Record]) -> list[Record]:
        """*records* less those that need no more work here, although Kafka has not been told yet."""
        return records


def news_of(assignments: Iterable[Assignment]) -> Asked:
    """What there is to commit of *assignments*."""
    news = {}
    for assignment in assignments:
        asked = _asked(assignment) if assignment.started else None
        if asked is not None:
            _watch_map(assignment, asked.commit)
            news[assignment.topic, assignment.partition] = asked
    return news


def _asked(assignment: Assignment) -> _Asked | None:
    tracker, watch = assignment.tracker, assignment.watch
    commit = tracker.to_commit()
    if commit is None and (watch is None or not watch.news()):
        return None
    return _Asked(assignment, commit or tracker.snapshot(), None if watch is None else watch.said())


def _watch_map(assignment: Assignment, commit: Commit) -> None:
    full = len(commit.metadata) > MAP_LIMIT
    if full != assignment.map_full:
        if full:
            logger.warning("kafka_completion_map_full partition=%s offset=%d", assignment, commit.offset)
        assignment.buffer.map_is(assignment, full=full)


def offsets_of(asked: Asked) -> list[TopicPartition]:
    """What to hand to the client."""
    return [TopicPartition(*place, one.commit.offset, metadata=_metadata(one)) for place, one in asked.items()]


def _metadata(asked: _Asked) -> str:
    section = "" if asked.said is None else crashes.encode(asked.commit.offset, asked.said)
    # One map that is too long would fail the commit: rather twice what it says than never what all others say.
    fits = len(asked.commit.metadata) + len(section) <= METADATA_LIMIT
    return asked.commit.metadata + section if fits else section


def note(asked: Asked, places: list[TopicPartition]) -> bool:
    """Remember what Kafka has taken; false when that is not all."""
    for place in places:
        one = asked.get((place.topic, place.partition))
        if one is not None and place.error is None and place.offset == one.commit.offset:
            one.assignment.tracker.committed(one.commit)
            if one.assignment.watch is not None and one.said is not None:
                one.assignment.watch.heard(one.said)
            del asked[place.topic, place.partition]
    return not asked
