"""Deleting the beginning of the command log, as far as nobody can need it any more."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from confluent_kafka import KafkaException, TopicPartition

from brokers.clients import AdminClient, opened
from brokers.errors import Unreachable
from ops.connection import connected
from ops.errors import TruncationRefused
from replica.snapshot_catalogue import listed, verify_and_mark


if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from replica.snapshot_catalogue import SnapshotRow
    from replica.snapshot_schema import Tell
    from replica.snapshot_stores import Store
    from settings import Settings
    from tasks.app import App

#: Seconds for Kafka to answer, and for the reports of replicas to be read.
ASK_S = 8.0


@dataclass(frozen=True, slots=True)
class Truncation:
    """What may be deleted: every offset below *before*, which is at least *log_start*.

    *snapshot* is the oldest verified one, *replicas* the last command of each registered replica.
    """

    topic: str
    log_start: int
    log_end: int
    before: int
    snapshot: str
    snapshot_offset: int
    replicas: Mapping[str, int] = field(default_factory=dict)
    done: bool = False

    @property
    def deleted(self) -> int:
        """How many offsets go."""
        return self.before - self.log_start

    def as_text(self) -> str:
        """For people."""
        slowest = min(self.replicas, key=lambda name: self.replicas[name])
        why = (
            f"the oldest verified snapshot ({self.snapshot}) is at command {self.snapshot_offset}, and the replica "
            f"that is least far ({slowest}) at {self.replicas[slowest]}"
        )
        if not self.deleted:
            return f"Nothing to delete: the log of {self.topic} begins at {self.log_start}; {why}."
        verb = "Deleted" if self.done else "Would delete"
        return f"{verb} {self.deleted:,} commands of {self.topic}, {self.log_start} to {self.before - 1}: {why}."


def judged(
    topic: str, log: tuple[int, int], snapshots: Sequence[SnapshotRow], replicas: Mapping[str, int]
) -> Truncation:
    """How much of the log nobody needs.  *snapshots* are those of this topic; *log* is where it begins and ends.

    Raises:
      TruncationRefused: nothing may be deleted; the text says what is missing.
    """
    verified = [row for row in snapshots if row.verified_at is not None]
    if not verified:
        there = ", ".join(row.name for row in snapshots) or "none at all"
        raise TruncationRefused(
            f"no verified snapshot of {topic} in the store (there is: {there}): without one, a new replica could never "
            "be made. `snapshot create`, or `snapshot verify NAME`, first"
        )
    if not replicas:
        raise TruncationRefused(f"no replica of {topic} is registered: nobody knows what is still needed")
    unknown = sorted(name for name, position in replicas.items() if position < 0)
    if unknown:
        raise TruncationRefused(
            f"it is not known how far {', '.join(unknown)} is: no report of the last days. Start its worker, or remove "
            "the replica"
        )
    oldest = min(verified, key=lambda row: row.offset)
    before = min(oldest.offset, *replicas.values()) + 1
    return Truncation(topic, *log, max(before, log[0]), oldest.name, oldest.offset, dict(replicas))


def truncate(settings: Settings, store: Store, tell: Tell, *, dry_run: bool) -> Truncation:
    """Delete what `judged` allows, or only say what that is.

    Before anything is deleted the snapshot that is relied upon is read to its end once more.

    Raises:
      TruncationRefused, SnapshotError: nothing was deleted.
      KafkaAway, Unreachable: Kafka does not answer.
    """
    with connected(settings) as app:
        plan = _plan(app, store)
        if dry_run or not plan.deleted:
            return plan
        verify_and_mark(store, plan.snapshot, tell)
        _delete(app, plan)
        return Truncation(**{name: getattr(plan, name) for name in plan.__slots__} | {"done": True})


def _plan(app: App, store: Store) -> Truncation:
    from tasks.replaying import Log  # noqa: PLC0415 - a client of its own

    topic = app.command_topic.name
    topic_id = app.broker.topics.identity(topic)
    with Log(app) as log:
        bounds = log.bounds()
    snapshots = [row for row in listed(store) if (row.topic, row.topic_id) == (topic, topic_id)]
    return judged(topic, bounds, snapshots, app.follower.replicas(ASK_S))


def _delete(app: App, plan: Truncation) -> None:
    admin = opened(AdminClient, app.broker.client_settings)
    place = TopicPartition(plan.topic, 0, plan.before)
    try:
        admin.delete_records([place], request_timeout=ASK_S)[place].result(ASK_S)
    except KafkaException as exc:
        raise Unreachable(f"Kafka did not delete records: {exc.args[0].str()}") from exc
