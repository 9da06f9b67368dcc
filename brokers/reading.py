"""What one process reads for a broker: as a member of consumer groups and share groups, and through which readers."""

from __future__ import annotations

import threading
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from brokers import priorities
from brokers.batches import BatchReader
from brokers.commits import Commits
from brokers.companions import CompanyReader
from brokers.consumer import GroupConsumer
from brokers.forwarding import ForwardingBatchReader, ForwardingReader
from brokers.membership import take_seat
from brokers.reader import Reader
from brokers.share import ShareGroup
from brokers.suspects import Alone
from brokers.transactions import Transactions


if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import dramatiq

    from brokers.assignment import Blocked, Buffer
    from brokers.bounds import Bounds
    from brokers.clients import AdminClient, Health
    from brokers.kafka import KafkaBroker
    from brokers.topics import Queue


class Reading:
    """The groups that this process is a member of, by their ids.  Any thread."""

    def __init__(
        self,
        broker: KafkaBroker,
        *,
        admin: Callable[[], AdminClient],
        bounds: Bounds,
        health: Health,
        protocol: str,
        max_crashes: int | None,
    ) -> None:
        self._broker = broker
        self._admin = admin
        self._bounds = bounds
        self._health = health
        self._protocol = protocol
        self._alone = Alone(max_crashes)
        self._lock = threading.Lock()
        self._consumers: dict[str, GroupConsumer] = {}
        self._share_groups: dict[str, ShareGroup] = {}
        self._left: set[str] = set()  # topics that this process reads no more, for now
        self._worked_on: Mapping[Queue, list[Queue]] = {}

    def note_worker(self, worker: dramatiq.Worker) -> None:
        """Dramatiq will ask for these queues one after the other."""
        wanted = worker.consumer_whitelist
        queues = [queue for name, queue in self._broker.queues.items() if not wanted or name in wanted]
        self._worked_on = dict.fromkeys(queues, queues)

    def reader(self, queue: Queue, attend: Callable[[Buffer], None], **options: Any) -> Reader:
        """A reader of *queue*; *attend* is told of what it takes from, *options* are a reader's."""
        if queue.share:
            self._broker.topics.ensure(queue.topic)
            group = self._share_group(queue.group_id)
            buffers: Sequence[Buffer] = [group.open(queue)]
            commits = group.commits
        else:
            levels = self._levels(queue)
            for level in levels:
                self._broker.topics.ensure(level.topic)
            consumer = self._consumer(queue.group_id, levels)
            consumer.open(levels)
            buffers = [consumer.buffer(level) for level in queue.levels]
            commits = consumer.commits
        for buffer in buffers:
            attend(buffer)
        return self._kind(queue, commits)(queue, priorities.together(buffers), **options)

    def _levels(self, queue: Queue) -> list[Queue]:
        """All that is read in the group of *queue*, with it: each change of that would be a rebalance."""
        together = [other for other in self._worked_on.get(queue, [queue]) if other.group_id == queue.group_id]
        return list(chain.from_iterable(other.levels for other in together))

    @staticmethod
    def _kind(queue: Queue, commits: Commits | None) -> Callable[..., Reader]:
        batches = queue.batch is not None and not queue.ordered
        if isinstance(commits, Transactions):
            return partial(ForwardingBatchReader if batches else ForwardingReader, end=commits.end)
        if queue.company is not None:
            return CompanyReader
        return BatchReader if batches else Reader

    def _consumer(self, group_id: str, queues: Iterable[Queue]) -> GroupConsumer:
        with self._lock:
            consumer = self._consumers.get(group_id)
            if consumer is None or not consumer.running:
                seated = self._protocol == "classic" and (consumer is None or not consumer.displaced)
                topics = [queue.topic.name for queue in queues]
                client_id = str(self._broker.client_settings.get("client.id", ""))
                consumer = GroupConsumer(
                    group_id,
                    self._broker.client_settings,
                    self._bounds,
                    self._alone,
                    health=self._health,
                    protocol=self._protocol,
                    commits=self._commits(group_id),
                    seat=take_seat(group_id, topics, client_id=client_id) if seated else None,
                )
                consumer.leave(self._left)
                self._consumers[group_id] = consumer
        return consumer

    def reconsider(self, queue: Queue) -> None:
        """See `KafkaBroker.reconsider`."""
        for consumer in self.consumers:
            consumer.reconsider(queue)

    def unsubscribe(self, queue: Queue) -> None:
        """See `KafkaBroker.unsubscribe`."""
        self._leave(self._left | {level.topic.name for level in queue.levels})

    def resubscribe(self, queue: Queue) -> None:
        """See `KafkaBroker.resubscribe`."""
        self._leave(self._left - {level.topic.name for level in queue.levels})

    def _leave(self, topics: set[str]) -> None:
        with self._lock:
            self._left = topics
            for consumer in self._consumers.values():
                consumer.leave(topics)

    def _share_group(self, group_id: str) -> ShareGroup:
        admin, broker = self._admin(), self._broker
        with self._lock:
            group = self._share_groups.get(group_id)
            if group is None or not group.running:
                group = ShareGroup(group_id, broker.client_settings, admin, broker.publish, health=self._health)
                self._share_groups[group_id] = group
        return group

    def _commits(self, group_id: str) -> Commits:
        if not self._broker.transactional:
            return Commits(group_id)
        return Transactions(group_id, self._broker.client_settings, self._health, self._broker.topics)

    @property
    def consumers(self) -> list[GroupConsumer]:
        """The members of consumer groups."""
        return list(self._consumers.values())

    def blocked(self) -> dict[str, Blocked]:
        """See `KafkaBroker.blocked`."""
        return dict(chain.from_iterable(consumer.blocked().items() for consumer in self.consumers))

    def close(self) -> None:
        """Finish what runs, commit, leave the groups.  Idempotent."""
        with self._lock:
            members: list[GroupConsumer | ShareGroup] = [*self._consumers.values(), *self._share_groups.values()]
            self._consumers, self._share_groups = {}, {}
        for member in members:
            member.begin_close()
        for member in members:
            member.close()
