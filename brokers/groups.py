"""What a consumer group has done: asked of Kafka, without being a member."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from confluent_kafka import ConsumerGroupTopicPartitions as GroupPartitions
from confluent_kafka import KafkaException, TopicPartition
from dramatiq.errors import QueueJoinTimeout

from brokers.bounds import bounds
from brokers.errors import Unreachable, WrongTopic
from brokers.group_members import members
from brokers.waiting import silent


if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from confluent_kafka.admin import AdminClient

    from brokers.bounds import Place
    from brokers.later import Later
    from brokers.topics import Queue, Topics, TopicSpec

#: Seconds between two looks at a queue that is waited for.
JOIN_EVERY_S = 0.05


class Groups:
    """Answers about queues and their groups.  Any thread; every answer costs network calls."""

    def __init__(
        self,
        admin: Callable[[], AdminClient],
        topics: Topics,
        delayed_topic: TopicSpec,
        later: Later,
        timeout_s: float,
    ) -> None:
        self._admin = admin
        self._delayed_topic = delayed_topic
        self._later = later
        self._topics = topics
        self._timeout_s = timeout_s

    def left(self, queue: Queue) -> int:
        """Offsets between what the queue's group has committed and the ends of the topic.

        Raises:
          Unreachable, WrongTopic: see `brokers.errors`.
        """
        places = self._places_of(queue)
        ends, done = self._ends(places), self._commits(queue.group_id, places)
        return sum(end - max(done.get(place, 0), start) for place, (start, end) in ends.items())

    def holders(self, queue: Queue) -> set[str]:
        """The client ids of the members that hold partitions of *queue* just now.

        Raises:
          Unreachable: Kafka does not say.
        """
        topics = {level.topic.name for level in queue.levels}
        found = members(self._admin(), queue.group_id, self._timeout_s)
        return {one.client_id for one in found if any(topic in topics for topic, _ in one.places)}

    def join(self, queue: Queue, timeout_s: float | None) -> None:
        """Wait until nothing is left, and nothing is delayed that would come back.

        Raises:
          QueueJoinTimeout: something still is, after *timeout_s* seconds.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while self.left(queue) or not self._settled(queue):
            if deadline is not None and time.monotonic() >= deadline:
                raise QueueJoinTimeout(queue.name)  # type: ignore[no-untyped-call]  # not annotated
            time.sleep(JOIN_EVERY_S)

    def _settled(self, queue: Queue) -> bool:
        """Whether nothing is delayed, and nothing was delayed or fired while the queue itself was looked at."""
        delayed, topics = self._places(self._delayed_topic), {level.topic.name for level in queue.levels}
        before = self._ends(delayed)
        nothing_ever = all(first == end for first, end in before.values())
        if not nothing_ever and topics & self._later.waiting(0, silent, queue=None, actor=None).by_topic.keys():
            return False
        # Firing writes there, too, and so does its commit: while the ends stay, nothing has moved between the two.
        return not self.left(queue) and self._ends(delayed) == before

    def skip_to_end(self, queue: Queue) -> None:
        """Move the group's offsets to the ends of all levels.

        Raises:
          WrongTopic: a member of the group is reading the queue.
          Unreachable: see `brokers.errors`.
        """
        places = self._places_of(queue)
        ends = [TopicPartition(*place, end) for place, (_, end) in self._ends(places).items()]
        request = GroupPartitions(queue.group_id, ends)
        future = self._admin().alter_consumer_group_offsets([request], request_timeout=self._timeout_s)[queue.group_id]
        try:
            moved = future.result(self._timeout_s).topic_partitions
        except (KafkaException, TimeoutError) as exc:
            raise Unreachable(f"Kafka does not let group {queue.group_id!r} be moved: {exc}") from exc
        for place in moved:
            if place.error is not None:
                raise WrongTopic(
                    f"queue {queue.name!r} is being read; stop the workers of group {queue.group_id!r} first"
                )

    def _ends(self, places: Collection[Place]) -> dict[Place, tuple[int, int]]:
        """First offset and end of each partition."""
        deadline = time.monotonic() + self._timeout_s
        # A topic that was just made has leaders that do not know it yet.
        while len(found := bounds(self._admin(), places, self._timeout_s)) < len(places):
            if time.monotonic() >= deadline:
                missing = sorted({topic for topic, _ in places} - {topic for topic, _ in found}) or "a partition"
                raise Unreachable(f"Kafka does not tell where the log of {missing} ends")
            time.sleep(JOIN_EVERY_S)
        return found

    def _places_of(self, queue: Queue) -> list[Place]:
        if queue.share:
            raise WrongTopic(
                f"queue {queue.name!r} is read by a share group, and Kafka's Python client cannot ask what one has done"
                " or move it: it can be neither joined nor flushed"
            )
        return self._places(*(level.topic for level in queue.levels))

    def _places(self, *topics: TopicSpec) -> list[Place]:
        return [(topic.name, number) for topic in topics for number in range(self._topics.ensure(topic))]

    def _commits(self, group_id: str, places: Collection[Place]) -> dict[Place, int]:
        request = GroupPartitions(group_id, [TopicPartition(*place) for place in places])
        future = self._admin().list_consumer_group_offsets([request], request_timeout=self._timeout_s)[group_id]
        try:
            found = future.result(self._timeout_s).topic_partitions
        except (KafkaException, TimeoutError) as exc:
            raise Unreachable(f"Kafka does not tell what group {group_id!r} has done: {exc}") from exc
        return {(place.topic, place.partition): place.offset for place in found}
