"""What a replica says of the commands that it has passed, on its way to whoever waits for them.

The graph remembers outcomes until it is told that they are published, so a report may be under way while the next
commands are applied: killed meanwhile, the applier's successor says it once more.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from brokers.records import Outgoing
from tasks.outcomes import Rejection, Report


if TYPE_CHECKING:
    from collections.abc import Callable

    from brokers import KafkaBroker
    from brokers.topics import TopicSpec
    from replica.statement import Applied


@dataclass(slots=True)
class _UnderWay:
    record: Outgoing
    spec: TopicSpec
    confirmed: Callable[[], object] | None = None  # returns when Kafka has it; none: it has to be sent


class Outbox:
    """Records on their way, in order; what Kafka does not confirm is sent again.  One thread at a time."""

    def __init__(self, broker: KafkaBroker) -> None:
        self._broker = broker
        self._under_way: deque[_UnderWay] = deque()

    def put(self, record: Outgoing, spec: TopicSpec) -> None:
        """Put *record* on its way.

        Raises:
          Unreachable, WrongTopic: see `brokers.errors`; it is sent by `confirm` then.
        """
        one = _UnderWay(record, spec)
        self._under_way.append(one)
        one.confirmed = self._broker.post(record, spec)

    def confirm(self) -> None:
        """Wait until Kafka has all of them.

        Raises:
          Unreachable, DeliveryUnknown, DeliveryRefused, WrongTopic: see `brokers.errors`; called again, it sends again.
        """
        while self._under_way:
            one = self._under_way[0]
            confirmed, one.confirmed = one.confirmed, None
            if confirmed is None:
                confirmed = self._broker.post(one.record, one.spec)
            confirmed()
            self._under_way.popleft()

    def forget(self) -> None:
        """Nobody has to confirm them any more."""
        self._under_way.clear()


class Reports:
    """The reports of one replica, in order, one of them unconfirmed at most.  One thread at a time."""

    def __init__(self, broker: KafkaBroker, spec: TopicSpec, replica: str) -> None:
        self._outbox = Outbox(broker)
        self._spec = spec
        self._replica = replica
        self._said = -1
        #: Up to this offset everything is published.
        self.published = -1

    def begin(self, published: int) -> None:
        """The applier has read from its graph what is published; what was under way does not matter any more."""
        self._outbox.forget()
        self._said = self.published = published

    def say(self, applied: Applied, topic_id: str) -> None:
        """Put the report on *applied* on its way, as soon as the one before it is published.

        Raises:
          Unreachable, DeliveryUnknown, DeliveryRefused: one of the two is not; `confirm` sends it again.
        """
        self.confirm()
        report = Report(
            replica=self._replica,
            topic_id=topic_id,
            first=applied.first,
            last=applied.last,
            rejected=tuple(
                Rejection(o.offset, o.code or "", o.message or "", o.duplicate_of) for o in applied.rejected
            ),
            counters=dict(applied.counters),
        )
        self._said = applied.last
        self._outbox.put(Outgoing(self._spec.name, msgspec.json.encode(report), self._replica.encode()), self._spec)

    def confirm(self) -> None:
        """Wait until everything that was said is published.  Raises as `say` does."""
        self._outbox.confirm()
        self.published = self._said
