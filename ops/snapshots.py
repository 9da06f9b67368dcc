"""Snapshots for people: the graph of one replica, and a store."""

from __future__ import annotations

import time
import uuid
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ops.connection import database
from ops.errors import InputUnusable
from ops.progress import Step
from replica import snapshot, snapshot_restore
from replica.checksum import checksum
from replica.marker import Key
from replica.snapshot_catalogue import mark_of, row_of, verify_and_mark
from replica.snapshot_format import Source
from replica.snapshot_stores import SUFFIX, open_store


if TYPE_CHECKING:
    from ops.progress import Progress
    from replica.checksum import Checksum
    from replica.snapshot_catalogue import SnapshotRow
    from replica.snapshot_schema import Tell
    from replica.snapshot_stores import Store
    from settings import Settings


@dataclass(frozen=True, slots=True)
class Compared:
    """Two graphs, as their checksums; *equal* only where their positions are, too."""

    snapshot: dict[str, Any]
    replica: dict[str, Any]

    @property
    def equal(self) -> bool:
        """Whether it is the same graph at the same position."""
        return self.snapshot == self.replica

    def as_text(self) -> str:
        """What differs, for people."""
        if self.equal:
            return "The replica's graph is the snapshot's."
        places = [(side["position"] or {}).get("offset") for side in (self.snapshot, self.replica)]
        if places[0] != places[1]:
            at = "at no command" if places[1] is None else f"at command {places[1]}"
            return (
                f"They cannot be compared: the snapshot is of command {places[0]}, and the replica is {at}."
                " `replica pause` lets it stand still."
            )
        told = [
            f"{name}: {self.snapshot[name]} and {self.replica[name]}" for name in self.snapshot if name != "position"
        ]
        return "The replica's graph is another one. Snapshot and replica: " + "; ".join(told)


def store_of(settings: Settings, url: str | None) -> Store:
    """The store that an option names, or the setting.

    Raises:
      InputUnusable: neither does.
    """
    chosen = url or settings.snapshot_store
    if chosen is None:
        raise InputUnusable(
            "nobody says where snapshots lie: set SNAPSHOT_STORE, or give --store file:///folder or s3://bucket/prefix"
        )
    if not chosen.startswith(("file:///", "s3://")):
        raise InputUnusable(f"{chosen!r} is no place for snapshots: file:///folder and s3://bucket/prefix are")
    return open_store(chosen)


def create(settings: Settings, store: Store, show: Progress, *, verified: bool) -> SnapshotRow:
    """Take a snapshot of the settings' replica.  Commands wait meanwhile, on this replica only.

    Raises:
      SnapshotError: nothing was written.
    """
    key = Key(settings.topic(settings.command_topic), 0)
    name = f"{key.topic}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}{SUFFIX}"
    with database(settings) as driver, store.write(name) as file:
        taken = snapshot.create(driver, settings.neo4j_database, key, file, teller("snapshot", show))
    mark = verify_and_mark(store, name, teller("verify", show)) if verified else None
    return row_of(store, name, taken.header, mark)


def verify(store: Store, name: str, show: Progress) -> SnapshotRow:
    """Read a snapshot to its end, and mark it as verified.

    Raises:
      SnapshotBroken: it is not as it was written.
      SnapshotUnknown, SnapshotStoreAway: it cannot be read.
    """
    mark = verify_and_mark(store, name, teller("verify", show))
    with store.read(name) as file:
        return row_of(store, name, Source(file, name).header, mark)


def compare(settings: Settings, store: Store, name: str, show: Progress) -> Compared:
    """Compare the snapshot's graph with that of the settings' replica, whose applier has to rest.

    Raises:
      QueryUnavailable: commands were applied meanwhile.
      SnapshotError: it cannot be read.
    """
    with store.read(name) as file:
        of_snapshot = snapshot.checksum_of(file, name, teller("snapshot", show))
    show(Step("replica", "reading"))
    with database(settings) as driver:
        of_replica = checksum(driver, settings.neo4j_database)
    show(Step("replica", "read", finished=True))
    return Compared(_short(of_snapshot), _short(of_replica))


def _short(found: Checksum) -> dict[str, Any]:
    position = None if found.position is None else asdict(found.position)
    sizes = {"nodes": found.nodes, "relationships": found.relationships}
    return {**sizes, "digest": found.digest, "position": position}


def restore(settings: Settings, store: Store, name: str, show: Progress) -> SnapshotRow:
    """Fill the settings' database, which is empty or half restored.

    Raises:
      SnapshotError: the database is no replica, and can be restored again.
      MissingPosition: the database is not empty.
    """
    with database(settings) as driver, store.read(name) as file:
        source = Source(file, name)
        expected = settings.topic(settings.command_topic)
        if source.header.position.topic != expected:
            raise InputUnusable(
                f"{name} is of topic {source.header.position.topic}, and the settings name {expected} (COMMAND_TOPIC, "
                "B_TOPIC_PREFIX): its worker would not find the position"
            )
        header = snapshot_restore.restore(driver, settings.neo4j_database, source, teller("restore", show))
    return row_of(store, name, header, mark_of(store, name))


#: Seconds between two words about progress.
_TELL_S = 0.1


def teller(name: str, show: Progress) -> Tell:
    """What the replica tells, as steps of *name*; not more often than eyes follow."""
    last_at, last_text = 0.0, ""

    def tell(text: str, done: int, total: int) -> None:
        nonlocal last_at, last_text
        now = time.monotonic()
        if text != last_text or done == total or now - last_at >= _TELL_S:
            last_at, last_text = now, text
            show(Step(name, text, done, total, unit=""))

    return tell
