"""What a caller asks Kafka about the log of commands: where it ends, and which log it is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from brokers import KafkaBroker
    from brokers.topics import TopicSpec


class CommandLog:
    """The one log of commands.  Any thread."""

    def __init__(self, broker: KafkaBroker, topic: TopicSpec) -> None:
        self._broker = broker
        self._topic = topic
        self._id: tuple[int, str] | None = None

    @property
    def name(self) -> str:
        """The topic's name."""
        return self._topic.name

    def end(self) -> int:
        """The offset that the next command gets; one network call.  Raises `Unreachable` and `WrongTopic`."""
        return self._broker.end_of(self._topic)

    def topic_id(self) -> str:
        """The topic's id; asked for once in a process, since clients that outlive their topic have other troubles."""
        known = self._id
        if known is None or known[0] != os.getpid():
            self._broker.topics.ensure(self._topic)
            known = self._id = os.getpid(), self._broker.topics.identity(self._topic.name)
        return known[1]
