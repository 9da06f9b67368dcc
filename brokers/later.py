"""What a broker does about later: its part in firing, its periodic actors, and what waits."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from brokers.declarations import Declarations
from brokers.delays import cancelled, parked_topic
from brokers.timers import Timers
from brokers.topics import MOST_LEVELS, TopicSpec
from brokers.waiting import DelayedTopic, Waiting, Wanted


if TYPE_CHECKING:
    from collections.abc import Iterable

    from brokers.bounds import Bounds
    from brokers.clients import Health
    from brokers.kafka import KafkaBroker
    from brokers.periodic import Schedule
    from brokers.topics import Queue
    from brokers.waiting import Progress

#: Messages that are cancelled in one round trip.
CANCELLED_TOGETHER = 10_000


class Later:
    """One process's side of delays and schedules.  Any thread; *schedules* outlive a fork, this object does not."""

    def __init__(
        self,
        broker: KafkaBroker,
        *,
        health: Health,
        protocol: str,
        bounds: Bounds,
        timeout_s: float,
        schedules: dict[str, tuple[Queue, Schedule]],
    ) -> None:
        self._broker = broker
        self._health = health
        self._protocol = protocol
        self._bounds = bounds
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._timers: Timers | None = None
        self.declarations = Declarations(broker.producer.post, broker.delayed_topic.name, schedules)

    def work_on(self, queue: Queue) -> None:
        """This process works on *queue*.

        So it takes its part in firing, whatever is due, unless nothing on the queue can ever be.
        """
        if not self.declarations.work_on(queue.name) and queue.ordered:
            return
        broker = self._broker
        broker.topics.ensure(broker.delayed_topic)
        broker.topics.ensure(parked_topic(broker.delayed_topic))
        with self._lock:
            if self._timers is None:
                self._timers = Timers(
                    broker.client_settings,
                    broker.delayed_topic,
                    health=self._health,
                    protocol=self._protocol,
                    exists=lambda name: broker.topics.partitions(name) is not None,
                    bounds=self._bounds,
                    declare=self.declarations.renew,
                    encode=lambda message, topic: broker.envelope.close(message, TopicSpec(topic)),
                )

    def waiting(
        self, limit: int, progress: Progress, *, ids: Iterable[str] = (), queue: str | None, actor: str | None
    ) -> Waiting:
        """See `KafkaBroker.delayed`."""
        return self._topic(progress).waiting(self._wanted(ids, queue, actor), limit)

    def cancel(self, progress: Progress, *, ids: Iterable[str] = (), queue: str | None, actor: str | None) -> int:
        """See `KafkaBroker.cancel`."""
        if not ids and queue is None and actor is None:
            raise TypeError("cancel what? give ids, a queue or an actor")
        count, broker = 0, self._broker
        for partition, keys in self._topic(progress).keys(self._wanted(ids, queue, actor)):
            for start in range(0, len(keys), CANCELLED_TOGETHER):
                some = keys[start : start + CANCELLED_TOGETHER]
                broker.producer.send_all(cancelled(broker.delayed_topic, key, partition) for key in some)
            count += len(keys)
        return count

    def _topic(self, progress: Progress) -> DelayedTopic:
        spec = self._broker.delayed_topic
        partitions = self._broker.topics.partitions(spec.name) or 0  # looking makes no topic
        return DelayedTopic(self._broker.client_settings, spec, partitions, self._timeout_s, progress)

    def _wanted(self, ids: Iterable[str], queue: str | None, actor: str | None) -> Wanted:
        """A queue that this process has not declared is known by its name, with whatever levels it may have."""
        if queue is None:
            return Wanted(frozenset(ids), None, actor)
        declared = self._broker.queues.get(queue)
        if declared is not None:
            return Wanted(frozenset(ids), frozenset(level.topic.name for level in declared.levels), actor)
        topic = f"{self._broker.prefix}{queue}"
        return Wanted(frozenset(ids), frozenset({topic, *(f"{topic}.p{n}" for n in range(1, MOST_LEVELS + 1))}), actor)

    def close(self) -> None:
        """Fire no more.  Idempotent; it can be used again."""
        with self._lock:
            timers, self._timers = self._timers, None
        if timers is not None:
            timers.close()
