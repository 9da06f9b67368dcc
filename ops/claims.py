"""Pruning the claim store: content goes when no record can lead to it any more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from brokers.errors import WrongTopic
from brokers.stores import FileStore
from brokers.topics import DAY_S, TopicSpec
from ops.connection import connected
from ops.errors import InputUnusable


if TYPE_CHECKING:
    from settings import Settings
    from tasks.app import App

#: Days by which a record may outstay its topic's limit, since Kafka deletes whole segments (of 7 days at most).
LATE_DAYS = 8.0

#: Days that a dead letter is kept where its topic is not there to ask.
PARKED_DAYS = 30.0


@dataclass(frozen=True, slots=True)
class Pruned:
    """What became of one topic's contents; *kept_days* is none for those that are kept for ever."""

    topic: str
    kept_days: float | None
    deleted: int
    bytes: int


def prune(settings: Settings) -> list[Pruned]:
    """Delete what is older than any record that could lead to it.

    Raises:
      InputUnusable: the claim store is none that has to be pruned.
      KafkaAway: without it nobody knows what is still wanted.
    """
    with connected(settings) as app:
        store = app.broker.envelope.claims
        if not isinstance(store, FileStore):
            raise InputUnusable("CLAIM_STORE is no folder (file:///...): there is nothing to prune")
        return [_pruned(app, store, topic) for topic in store.topics()]


def _pruned(app: App, store: FileStore, topic: str) -> Pruned:
    queue, parked = _days(app, topic), _days(app, f"{topic}.XQ")
    if queue is None or parked is None:
        return Pruned(topic, None, 0, 0)
    days = queue + parked + LATE_DAYS
    return Pruned(topic, days, *store.prune(topic, older_than_s=days * DAY_S))


def _days(app: App, topic: str) -> float | None:
    """How long the topic keeps a record; none for ever.  What is not there keeps none, but may have kept them."""
    try:
        [row] = app.broker.topics.describe([TopicSpec(topic)])
    except WrongTopic:
        return PARKED_DAYS
    if row["retention_ms"] < 0 or row["cleanup"] != "delete":
        return None
    return float(row["retention_ms"]) / 1000 / DAY_S
