"""Telling Kafka what is done.

In the steady loop commits are asynchronous, one at a time: a synchronous one blocks for as long as the server is away.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from confluent_kafka import KafkaException, TopicPartition

from brokers.offsets import MAP_LIMIT, METADATA_LIMIT, Commit


if TYPE_CHECKING:
    from collections.abc import Iterable

    from confluent_kafka import Consumer as Client
    from confluent_kafka import KafkaError

    from brokers.assignment import Assignment
    from brokers.records import Record
    from brokers.starts import Committed

    #: What a commit says, by topic and partition.
    Asked = dict[tuple[str, int], tuple[Assignment, Commit]]

logger = logging.getLogger("brokers.consumer")

#: Seconds between commits.  A kill repeats at most what was finished in this time.
COMMIT_EVERY_S = 0.1

#: Seconds after which a commit that got no answer is given up; what it said is said again.
ANSWER_S = 30.0


class Commits:
    """The commits of one consumer.  The owner thread only."""

    def __init__(self, group_id: str) -> None:
        self._group_id = group_id
        self._asked: Asked = {}  # not answered yet
        self._asked_at = 0.0

    def send(self, client: Client, assignments: Iterable[Assignment]) -> None:
        """Commit what is news, unless it is too early for another commit."""
        now = time.monotonic()
        if now - self._asked_at < (ANSWER_S if self._asked else COMMIT_EVERY_S):
            return
        self._asked_at = now
        self._asked = news_of(assignments)
        if not self._asked:
            return
        try:
            client.commit(offsets=offsets_of(self._asked), asynchronous=True)
        except KafkaException as exc:
            self.answered(exc.args[0], [])

    def answered(self, error: KafkaError | None, places: list[TopicPartition]) -> None:
        """The client's ``on_commit``.  What was not committed is tried again at the next turn."""
        asked, self._asked = self._asked, {}
        if error is None:
            note(asked, places)
        else:
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

    def ended_before(self, assignment: Assignment, record: Record) -> bool:
        """Whether *record* needs no more work here, although Kafka has not been told yet."""
        return False


def news_of(assignments: Iterable[Assignment]) -> Asked:
    """What there is to commit of *assignments*."""
    news = {}
    for assignment in assignments:
        commit = assignment.tracker.to_commit() if assignment.started else None
        if commit is not None:
            _watch_map(assignment, commit)
            news[assignment.topic, assignment.partition] = (assignment, commit)
    return news


def _watch_map(assignment: Assignment, commit: Commit) -> None:
    full = len(commit.metadata) > MAP_LIMIT
    if full != assignment.map_full:
        if full:
            logger.warning("kafka_completion_map_full partition=%s offset=%d", assignment, commit.offset)
        assignment.buffer.map_is(assignment, full=full)


def offsets_of(asked: Asked) -> list[TopicPartition]:
    """What to hand to the client."""
    return [_place(topic, partition, commit) for (topic, partition), (_, commit) in asked.items()]


def _place(topic: str, partition: int, commit: Commit) -> TopicPartition:
    # One map that is too long would fail the commit: rather twice what it says than never what all others say.
    metadata = commit.metadata if len(commit.metadata) <= METADATA_LIMIT else ""
    return TopicPartition(topic, partition, commit.offset, metadata=metadata)


def note(asked: Asked, places: list[TopicPartition]) -> bool:
    """Remember what Kafka has taken; false when that is not all."""
    for place in places:
        assignment, commit = asked.get((place.topic, place.partition), (None, None))
        if assignment is not None and commit is not None and place.error is None and place.offset == commit.offset:
            assignment.tracker.committed(commit)
            del asked[place.topic, place.partition]
    return not asked
