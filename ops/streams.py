"""Which logical databases there are on one Kafka: each has a log of its own, and replicas of its own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from confluent_kafka import KafkaException

from brokers.clients import AdminClient, Health, base_config, opened
from ops.connection import REACH_S, connected, require_kafka
from ops.errors import KafkaAway
from ops.replicas import ASK_S, log_bounds
from tasks.registry import registrations


if TYPE_CHECKING:
    from collections.abc import Iterable

    from settings import Settings


@dataclass(frozen=True, slots=True)
class StreamRow:
    """One stream; the one without a name has an empty one.

    *commands*: offsets of its log, from the beginning on.  *replicas*: the last command of each, -1 for none.
    """

    stream: str
    topic: str
    commands: int
    replicas: dict[str, int]


def streams(settings: Settings) -> list[StreamRow]:
    """Every stream under the topic prefix of *settings*, whichever they name.  Makes no topic.

    Raises:
      KafkaAway: no Kafka server answers.
    """
    require_kafka(settings)
    admin = opened(AdminClient, base_config(settings.kafka(), Health()))
    try:
        topics = admin.list_topics(timeout=REACH_S).topics
    except KafkaException as exc:
        raise KafkaAway(f"no Kafka server answers at {settings.brokers}: {exc.args[0].str()}") from exc
    return [_row(settings.model_copy(update={"stream": name})) for name in names(topics, settings)]


def names(topics: Iterable[str], settings: Settings) -> list[str]:
    """The streams of which *topics* has both the log and the replicas."""
    there = set(topics)
    prefix, log = re.escape(settings.topic_prefix), re.escape(settings.command_topic)
    pattern = re.compile(rf"{prefix}(?:([a-z0-9][a-z0-9_-]*)\.)?{log}")
    found = {match[1] or "" for topic in there if (match := pattern.fullmatch(topic))}
    return sorted(
        name for name in found if settings.model_copy(update={"stream": name}).topic(settings.replicas_topic) in there
    )


def _row(settings: Settings) -> StreamRow:
    with connected(settings) as app:
        topic = app.command_topic.name
        topic_id = app.broker.topics.identity(topic)
        registered = registrations(app.broker, app.replicas_topic, timeout_s=ASK_S)
        mine = [name for name, one in sorted(registered.items()) if one.topic_id == topic_id]
        positions = app.follower.replicas(ASK_S) if mine else {}
        return StreamRow(settings.stream, topic, log_bounds(app)[1], {name: positions.get(name, -1) for name in mine})
