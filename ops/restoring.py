"""A restored graph, and the log applied to it up to a command or a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ops import snapshots
from ops.connection import connected
from ops.errors import InputUnusable
from ops.progress import Step
from replica.errors import SnapshotUnknown
from replica.snapshot_catalogue import listed, newest


if TYPE_CHECKING:
    from ops.progress import Progress
    from replica.snapshot_catalogue import SnapshotRow
    from replica.snapshot_stores import Store
    from settings import Settings
    from tasks.app import App
    from tasks.replaying import Log


@dataclass(frozen=True, slots=True)
class Goal:
    """Where to stop: at a command, before a time, or, with neither, at the snapshot."""

    offset: int | None = None
    time_ms: int | None = None

    @property
    def needs_log(self) -> bool:
        """Whether commands are to be applied after the snapshot."""
        return self.offset is not None or self.time_ms is not None

    def last(self, log: Log) -> int:
        """The last offset to apply.

        Raises:
          InputUnusable: the log does not have it.
        """
        end = log.bounds()[1]
        if self.time_ms is not None:
            first, found = log.bounds()[0], log.before(self.time_ms)
            if found < first:  # whichever was the last one before it: nobody can say when it came
                raise InputUnusable(f"the log of {log.topic} begins at command {first}, and none of it is that old")
            return found
        if self.offset is None or self.offset >= end:
            raise InputUnusable(f"the log of {log.topic} ends before offset {end}: there is no {self.offset}")
        return self.offset


def restored(settings: Settings, store: Store, name: str | None, goal: Goal, show: Progress) -> tuple[SnapshotRow, int]:
    """Restore, and apply the log up to the goal; give the snapshot, and the position of the graph.

    Kafka is asked only where the log is needed, or where no name is given.

    Raises:
      SnapshotUnknown: none fits.
      SnapshotError, MissingPosition, StartError: see there.
    """
    if name is not None and not goal.needs_log:
        row = snapshots.restore(settings, store, name, show)
        return row, row.offset
    from tasks.replaying import Log, replay  # noqa: PLC0415 - Kafka's client

    with connected(settings) as app, Log(app) as log:
        last = goal.last(log) if goal.needs_log else None
        row = _chosen(app, store, name, log, last)
        snapshots.restore(settings, store, row.name, show)
        if last is None:
            return row, row.offset

        def tell(done: int, total: int) -> None:
            show(Step("log", "applying", done, total, unit="commands", finished=done >= total))

        return row, replay(app, log, last, tell)


def _chosen(app: App, store: Store, name: str | None, log: Log, last: int | None) -> SnapshotRow:
    if name is None:
        topic_id = app.broker.topics.identity(log.topic)
        return newest(store, log.topic, topic_id, log_start=log.bounds()[0], at_most=last)
    found = next((row for row in listed(store) if row.name == name), None)
    if found is None:
        raise SnapshotUnknown(f"there is no snapshot {name} in {store.url}: `snapshot list` gives them")
    if last is not None and found.offset > last:
        raise InputUnusable(
            f"{name} is at command {found.offset}, which is after {last}: give an older one, or no name"
        )
    return found
