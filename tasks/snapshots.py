"""What a replica whose next commands are gone from the log should be told: which snapshots would help it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replica.errors import SnapshotError
from replica.snapshot_catalogue import listed
from replica.snapshot_stores import open_store


if TYPE_CHECKING:
    from settings import Settings


def way_out(settings: Settings, topic: str, topic_id: str, log_start: int) -> str:
    """Words that name the snapshots from which the log can go on.  Reads the store's list; raises nothing."""
    if settings.snapshot_store is None:
        return " (which there are is not known here: SNAPSHOT_STORE is not set)"
    try:
        rows = listed(open_store(settings.snapshot_store))
    except SnapshotError as error:
        return f" (which there are is not known: {error})"
    good = [row for row in rows if (row.topic, row.topic_id) == (topic, topic_id) and row.offset + 1 >= log_start]
    if not good:
        return f"; {settings.snapshot_store} has none: take one of a replica that is further (`snapshot create`)"
    named = ", ".join(f"{row.name} at {row.offset}{'' if row.verified_at else ', not verified'}" for row in good)
    return f"; {settings.snapshot_store} has {named}: `snapshot restore {good[-1].name}`"
