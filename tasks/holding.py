"""A command that a replica cannot apply now, made visible: what it says of itself, and when.

The record lies on the replicas topic under `held/<replica>`: the last one is the state, and a worker that is killed
leaves it there for whoever looks.  A reader takes it for over once the replica has passed the offset.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

import msgspec
from dramatiq.errors import BrokerError

from brokers.records import Outgoing
from tasks import outcomes
from tasks.outcomes import Holding


if TYPE_CHECKING:
    from collections.abc import Callable

    from brokers import KafkaBroker
    from brokers.topics import TopicSpec

logger = logging.getLogger("tasks.holding")

#: Under which kind of key the records lie, beside the registrations.
PREFIX: Final = "held/"

#: Seconds between two records about the same trouble, however often it is tried.
AGAIN_S: Final = 5.0

#: The offset in the record of a replica that does not even get to a command.
NO_COMMAND: Final = -1


class Holdings:
    """What one replica holds.  The broker's start thread and one worker thread take turns in it."""

    def __init__(
        self, broker: KafkaBroker, spec: TopicSpec, replica: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._broker = broker
        self._spec = spec
        self._replica = replica
        self._clock = clock
        self._now: Holding | None = None
        self._told: Holding | None = None  # what lies on the topic, as far as this process knows
        self._clean = False  # whether what a killed process left there is gone

    def tell(self, topic_id: str, offset: int, code: str, message: str, *, agreed_ms: int = 0) -> None:
        """Another attempt at *offset* failed.  Never raises: word of a failure must not hide the failure."""
        now_ms = int(self._clock() * 1000)
        before = self._now
        same = before is not None and (before.offset, before.topic_id) == (offset, topic_id)
        since_ms, attempts = (before.since_ms, before.attempts + 1) if before and same else (now_ms, 1)
        self._now = Holding(self._replica, topic_id, offset, code, message, since_ms, now_ms, attempts, agreed_ms)
        if is_due(self._told, self._now):
            self._publish(self._now)

    def tell_start(self, topic_id: str, code: str, message: str) -> None:
        """It does not even get to a command: the one that was held before is held still."""
        offset = NO_COMMAND if self._now is None else self._now.offset
        self.tell(topic_id, offset, code, message)

    def passed(self, offset: int) -> None:
        """Everything up to *offset* is done, so what was held there is held no more."""
        if self._now is not None and self._now.offset <= offset:
            self._now = None
        if self._now is None and (self._told is not None or not self._clean):
            self._publish(None)

    def _publish(self, holding: Holding | None) -> None:
        value = None if holding is None else msgspec.json.encode(holding)
        key = (PREFIX + self._replica).encode()
        try:
            self._broker.publish(Outgoing(self._spec.name, value, key), self._spec)
        except BrokerError as error:  # told again with the next attempt
            logger.warning("holding_not_published replica=%s reason=%s", self._replica, error)
            return
        self._told, self._clean = holding, True


def is_due(told: Holding | None, now: Holding) -> bool:
    """Whether *now* is news after *told*: another command, another reason, another promise, or some time has passed."""
    if told is None:
        return True
    changed = (told.topic_id, told.offset, told.code, told.agreed_ms) != (
        now.topic_id,
        now.offset,
        now.code,
        now.agreed_ms,
    )
    return changed or now.at_ms - told.at_ms >= AGAIN_S * 1000


def read(key: bytes | None, value: bytes | None) -> tuple[str, Holding | None] | None:
    """The replica and what it holds, out of a record of the replicas topic; none where it is about something else."""
    text = (key or b"").decode(errors="replace")
    if not text.startswith(PREFIX):
        return None
    replica = text.removeprefix(PREFIX)
    holding = outcomes.decode(value, Holding)
    return replica, holding if holding is not None and holding.replica == replica else None
