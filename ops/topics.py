"""Make the topics, and tell what is wrong with those that are there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from brokers.errors import WrongTopic


if TYPE_CHECKING:
    from collections.abc import Iterator

    from brokers.topics import TopicSpec
    from tasks.app import App

DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class TopicRow:
    """One topic as it is."""

    topic: str
    partitions: int
    replication: int
    kept: str
    made: bool  #: by this call
    wrong: tuple[str, ...]
    fix: str  #: what to do about it

    @property
    def state(self) -> str:
        """One word for a table."""
        return "wrong" if self.wrong else "made" if self.made else "right"


def init(app: App) -> list[TopicRow]:
    """Make what is missing and look at everything.  Changes no topic that is there.

    Raises:
      Unreachable: no Kafka server answers.
      WrongTopic: one is missing and cannot be made.
    """
    return [_row(app, spec) for spec in _specs(app)]


def _specs(app: App) -> Iterator[TopicSpec]:
    yield from app.topics
    for queue in app.broker.queues.values():
        yield queue.dead_letters
        yield from (level.topic for level in queue.levels if level.topic != queue.topic)


def _row(app: App, spec: TopicSpec) -> TopicRow:
    there = app.broker.topics.partitions(spec.name) is not None
    try:
        app.broker.topics.ensure(spec)
    except WrongTopic:
        if not there:
            raise
        # The description says it, together with whatever else is wrong.
    [found] = app.broker.topics.describe([spec])
    wrong = tuple(found["wrong"])
    return TopicRow(
        spec.name, found["partitions"], found["replication"], _kept(found), not there, wrong, _fix(spec, found)
    )


def _kept(found: dict[str, Any]) -> str:
    if "compact" in found["cleanup"]:
        return "last record of each key"
    retention_ms = found["retention_ms"]
    if retention_ms < 0:
        return "for ever"
    number, unit = (retention_ms / DAY_MS, "day") if retention_ms >= DAY_MS else (retention_ms / 3_600_000, "hour")
    return f"{number:g} {unit}{'' if number == 1 else 's'}"


def _fix(spec: TopicSpec, found: dict[str, Any]) -> str:
    """The way out, as few words as possible; empty where nothing is wrong."""
    if not found["wrong"]:
        return ""
    if spec.exact and found["partitions"] != spec.partitions:
        return (
            "offset order must be the order of work: use another name (COMMAND_TOPIC, OUTCOMES_TOPIC, REPLICAS_TOPIC, "
            "DECISIONS_TOPIC or B_TOPIC_PREFIX), or delete the topic if what lies in it may be lost, and run `init` "
            "again"
        )
    settings = ",".join(f"{name}={value}" for name, value in spec.config(found["replication"]).items())
    return f"kafka-configs.sh --bootstrap-server ... --alter --topic {spec.name} --add-config {settings}"
