"""What a consumer group has done: asked of Kafka, without being a member."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from confluent_kafka import ConsumerGroupTopicPartitions as GroupPartitions
from confluent_kafka import KafkaException, TopicPartition
from dramatiq.errors import QueueJoinTimeout

from brokers.bounds import bounds
from brokers.errors import Unreachable, WrongTopic


if TYPE_CHECKING:
    from collections.abc import Callable

    from confluent_kafka.admin import AdminClient

    from brokers.topics import Queue, Topics
    from brokers.waiting import Waiting

#: Seconds between two looks at a queue that is waited for.
JOIN_EVERY_S = 0.05


class Groups:
    """Answers about queues and their groups.  Any thread; every answer costs network calls."""

    def __init__(
        self,
        admin: Callable[[], AdminClient],
        topics: Topics,
        delayed: Callable[[], Waiting],
        timeout_s: float,
    ) -> None:
        self._admin = admin
        self._delayed = delayed
        self._topics = topics
        self._timeout_s = timeout_s

    def left(self, queue: Queue) -> int:
        """Offsets between what the queue's group has committed and the ends of the topic.

        Raises:
          Unreachable, WrongTopic: see `brokers.errors`.
        """
        ends, done = self._ends(queue), self._commits(queue)
        return sum(end - max(done.get(partition, 0), start) for partition, (start, end) in ends.items())

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
        before = self._delayed()
        if any(entry.due.topic == queue.topic.name for entry in before.entries):
            return False
        return not self.left(queue) and self._delayed().records == before.records

    def skip_to_end(self, queue: Queue) -> None:
        """Move the group's offsets to the ends of the topic.

        Raises:
          WrongTopic: a member of the group is reading the queue.
          Unreachable: see `brokers.errors`.
        """
        ends = [TopicPartition(queue.topic.name, p, end) for p, (_, end) in self._ends(queue).items()]
        request = GroupPartitions(queue.group_id, ends)
        future = self._admin().alter_consumer_group_offsets([request], request_timeout=self._timeout_s)[queue.group_id]
        try:
            places = future.result(self._timeout_s).topic_partitions
        except (KafkaException, TimeoutError) as exc:
            raise Unreachable(f"Kafka does not let group {queue.group_id!r} be moved: {exc}") from exc
        for place in places:
            if place.error is not None:
                raise WrongTopic(
                    f"queue {queue.name!r} is being read; stop the workers of group {queue.group_id!r} first"
                )

    def _ends(self, queue: Queue) -> dict[int, tuple[int, int]]:
        """First offset and end of each partition."""
        places = [(place.topic, place.partition) for place in self._partitions(queue)]
        found = bounds(self._admin(), places, self._timeout_s)
        if len(found) < len(places):
            raise Unreachable(f"Kafka does not tell where the log of {queue.topic.name!r} ends")
        return {partition: found[topic, partition] for topic, partition in places}

    def _partitions(self, queue: Queue) -> list[TopicPartition]:
        if queue.share:
            raise WrongTopic(
                f"queue {queue.name!r} is read by a share group, and Kafka's Python client cannot ask what one has done"
                " or move it: it can be neither joined nor flushed"
            )
        return [TopicPartition(queue.topic.name, p) for p in range(self._topics.ensure(queue.topic))]

    def _commits(self, queue: Queue) -> dict[int, int]:
        request = GroupPartitions(queue.group_id, self._partitions(queue))
        future = self._admin().list_consumer_group_offsets([request], request_timeout=self._timeout_s)[queue.group_id]
        try:
            return {place.partition: place.offset for place in future.result(self._timeout_s).topic_partitions}
        except (KafkaException, TimeoutError) as exc:
            raise Unreachable(f"Kafka does not tell what group {queue.group_id!r} has done: {exc}") from exc
