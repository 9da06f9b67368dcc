"""Many records for one topic, in order, without a round trip for each, and without all of them in memory."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from brokers.kafka import KafkaBroker
    from brokers.producer import Pending
    from brokers.records import Outgoing
    from brokers.topics import TopicSpec

#: Records that may be under way.  With parts of 400 KB that is some 3 MB, and enough to keep a wire busy.
UNDER_WAY = 8


class Pipeline:
    """Sends records to one topic, of which *most* may be unconfirmed.  One thread."""

    def __init__(self, broker: KafkaBroker, spec: TopicSpec, *, most: int = UNDER_WAY) -> None:
        self._broker = broker
        self._spec = spec
        self._most = most
        self._under_way: deque[Pending] = deque()

    def send(self, record: Outgoing) -> None:
        """Put *record* on its way; waits for the oldest while too many are.

        Raises as `KafkaBroker.publish` does, about any of those before, too.
        """
        self._broker.topics.ensure(self._spec)
        self._under_way.append(self._broker.producer.post(record))
        self._settle(self._most)

    def finish(self) -> None:
        """Wait until all are confirmed; raises as `send` does."""
        self._settle(0)

    def _settle(self, most: int) -> None:
        while len(self._under_way) > most:
            try:
                self._broker.producer.confirm(self._under_way.popleft())
            except Exception:
                self._broker.topics.doubt(self._spec)
                raise
