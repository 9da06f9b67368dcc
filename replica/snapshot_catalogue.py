"""Which snapshots a store has, of what, and which of them somebody has verified."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from replica import snapshot
from replica.errors import SnapshotBroken, SnapshotUnknown
from replica.snapshot_format import Source


if TYPE_CHECKING:
    from replica.snapshot_format import Header
    from replica.snapshot_schema import Tell
    from replica.snapshot_stores import Store


class Mark(msgspec.Struct, frozen=True):
    """What `verify` leaves beside a snapshot that it has read to its end: which one, its checksum, when."""

    id: str
    checksum: str
    verified_at: str


@dataclass(frozen=True, slots=True)
class SnapshotRow:
    """One snapshot of a store; *problem* is why it cannot be used: all but its name and size is empty then."""

    name: str
    bytes: int
    topic: str = ""
    topic_id: str = ""
    offset: int = -1
    created_at: str = ""
    neo4j: str = ""
    nodes: int = 0
    relationships: int = 0
    verified_at: str | None = None
    problem: str | None = None

    @property
    def megabytes(self) -> str:
        """Its size for people."""
        found = f"{self.bytes / 1e6:,.1f}"
        return "< 0.1" if found == "0.0" else found

    def cells(self) -> tuple[object, ...]:
        """For a table."""
        taken, state = (_short(at) for at in (self.created_at, self.verified_at or "never"))
        sizes = f"{self.nodes:,}", f"{self.relationships:,}", self.megabytes
        return self.name, self.offset, taken, *sizes, self.problem or state


def _short(at: str) -> str:
    """A time of UTC as `--to-time` takes it."""
    return at.removesuffix("+00:00") + "Z" if at.endswith("+00:00") else at


def listed(store: Store) -> list[SnapshotRow]:
    """Every snapshot, the oldest position first; of those that cannot be read, why."""
    rows = [_found(store, name) for name in store.names()]
    return sorted(rows, key=lambda row: (row.topic, row.offset, row.name))


def _found(store: Store, name: str) -> SnapshotRow:
    try:
        with store.read(name) as file:
            header = Source(file, name).header
        return row_of(store, name, header, mark_of(store, name))
    except SnapshotBroken as error:
        return SnapshotRow(name, store.size(name), problem=str(error))


def row_of(store: Store, name: str, header: Header, mark: Mark | None) -> SnapshotRow:
    """A snapshot whose header has been read."""
    at = header.position
    return SnapshotRow(
        name=name,
        bytes=store.size(name),
        topic=at.topic,
        topic_id=at.topic_id,
        offset=at.offset,
        created_at=header.created_at,
        neo4j=header.neo4j,
        nodes=header.nodes,
        relationships=header.relationships,
        verified_at=mark.verified_at if mark is not None and mark.id == header.id else None,
    )


def mark_of(store: Store, name: str) -> Mark | None:
    """What the last `verify_and_mark` of it left, if there was one."""
    content = store.mark(name)
    try:
        return None if content is None else msgspec.json.decode(content, type=Mark)
    except msgspec.DecodeError:
        return None  # whoever wrote that did not verify


def verify_and_mark(store: Store, name: str, tell: Tell) -> Mark:
    """Read a snapshot to its end and mark it as verified.

    Raises `SnapshotBroken` where it is not as it was written, `SnapshotUnknown` and `SnapshotStoreAway`.
    """
    with store.read(name) as file:
        found = snapshot.verify(file, name, tell)
    mark = Mark(found.header.id, found.end.checksum, datetime.now(UTC).isoformat(timespec="seconds"))
    store.put_mark(name, msgspec.json.encode(mark))
    return mark


def newest(store: Store, topic: str, topic_id: str, *, log_start: int, at_most: int | None) -> SnapshotRow:
    """The snapshot with the highest position that the log can go on from, at or before *at_most*.

    Raises `SnapshotUnknown`, whose text names those that there are.
    """
    rows = [row for row in listed(store) if (row.topic, row.topic_id) == (topic, topic_id)]
    good = [row for row in rows if row.offset + 1 >= log_start and (at_most is None or row.offset <= at_most)]
    if not good:
        there = ", ".join(f"{row.name} at {row.offset}" for row in rows) or "none"
        needs = [f"begins at command {log_start}"] if log_start > 0 else []
        needs += [] if at_most is None else [f"is to be applied up to {at_most}"]
        why = f": the log {' and '.join(needs)}" if needs else ""
        raise SnapshotUnknown(f"no snapshot of {topic} in {store.url} fits{why}; there are: {there}")
    return good[-1]
