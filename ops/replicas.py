"""The replicas that the log knows, and how far each of them is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]  # public, though not marked so

from brokers.clients import AdminClient, opened
from brokers.errors import Unreachable
from ops.connection import connected


if TYPE_CHECKING:
    from settings import Settings
    from tasks.app import App

#: Seconds for Kafka to answer, and for the reports to be read.
ASK_S = 8.0


@dataclass(frozen=True, slots=True)
class ReplicaRow:
    """One replica.  *position* is the last command that it reported, -1 for none; *lag* how many it has before it."""

    name: str
    position: int
    lag: int

    @property
    def last_command(self) -> str:
        """The position for people."""
        return "none yet" if self.position < 0 else str(self.position)


def replicas(settings: Settings) -> list[ReplicaRow]:
    """Every registered replica.  Makes no topic.

    Raises:
      KafkaAway: no Kafka server answers.
    """
    with connected(settings) as app:
        return _rows(app)


def _rows(app: App) -> list[ReplicaRow]:
    needed = (app.command_topic, app.outcomes_topic, app.replicas_topic)
    if any(app.broker.topics.partitions(spec.name) is None for spec in needed):
        return []
    end = _end(app)
    known = app.follower.replicas(ASK_S)
    return [ReplicaRow(name, position, max(end - 1 - position, 0)) for name, position in known.items()]


def _end(app: App) -> int:
    """The offset that the next command will get."""
    place = TopicPartition(app.command_topic.name, 0)
    admin = opened(AdminClient, app.broker.client_settings)
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # not annotated
    try:
        return int(admin.list_offsets({place: latest}, request_timeout=ASK_S)[place].result(ASK_S).offset)
    except KafkaException as exc:
        raise Unreachable(exc.args[0].str()) from exc
