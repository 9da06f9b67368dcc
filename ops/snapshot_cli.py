"""``neo4j-kafka snapshot``: take, look at, verify and restore the graph of a replica."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from ops.console import (
    Group,
    json_option,
    print_table,
    progress,
    replica_option,
    state_dir_option,
    stream_option,
    tell,
)


if TYPE_CHECKING:
    from pathlib import Path

    from ops.snapshots import Compared
    from replica.snapshot_catalogue import SnapshotRow

store_option = click.option("--store", metavar="URL", help="file:///folder or s3://bucket/prefix.  [SNAPSHOT_STORE]")
TITLES = ("name", "last command", "taken", "nodes", "relationships", "MB", "verified")


@click.group(cls=Group)
def snapshot() -> None:
    """Take, verify and restore snapshots: a graph in a file, with its position in the log."""


@snapshot.command()
@replica_option
@store_option
@click.option("--verify/--no-verify", default=True, show_default=True, help="Read it back to its end, and mark it.")
@stream_option
@state_dir_option
@json_option
def create(*, replica: int | None, store: str | None, verify: bool, state_dir: Path, as_json: bool) -> None:
    """Write the graph of NEO4J_URI, as it is at one command, to the store.

    Commands wait on this replica until it is written; its queries, and the other replicas, go on.
    """
    from ops import snapshots as room
    from ops.connection import settings_for

    settings = settings_for(state_dir, replica)
    with progress(quiet=as_json) as show:
        row = room.create(settings, room.store_of(settings, store), show, verified=verify)
    _print(row, as_json=as_json, done="Written")


@snapshot.command("list")
@store_option
@stream_option
@state_dir_option
@json_option
def list_(*, store: str | None, state_dir: Path, as_json: bool) -> None:
    """List the snapshots of the store, the oldest position first."""
    from ops import snapshots as room
    from ops.connection import settings_for
    from replica.snapshot_catalogue import listed

    rows = listed(room.store_of(settings_for(state_dir), store))
    data = {"snapshots": [asdict(row) for row in rows]}
    tell(data, lambda: print_table(TITLES, [row.cells() for row in rows]), as_json=as_json)


@snapshot.command()
@click.argument("name")
@click.option(
    "--against-replica",
    is_flag=True,
    help="Compare it with the graph of NEO4J_URI, too, which has to be at the same command.",
)
@replica_option
@store_option
@stream_option
@state_dir_option
@json_option
def verify(
    *, name: str, against_replica: bool, replica: int | None, store: str | None, state_dir: Path, as_json: bool
) -> None:
    """Read a snapshot to its end, compare every checksum, and mark it as verified.

    Exit code 1 when it is damaged, or when the replica's graph is another one.
    """
    from ops import snapshots as room
    from ops.connection import settings_for

    settings = settings_for(state_dir, replica)
    place = room.store_of(settings, store)
    with progress(quiet=as_json) as show:
        row = room.verify(place, name, show)
        compared = room.compare(settings, place, name, show) if against_replica else None
    equal = None if compared is None else compared.equal
    data = {**asdict(row), "equal": equal, "compared": compared and asdict(compared)}
    tell(data, lambda: _print_verified(row, compared), as_json=as_json, code=1 if equal is False else 0)


def _print_verified(row: SnapshotRow, compared: Compared | None) -> None:
    click.echo(f"{row.name} is as it was written: {row.nodes:,} nodes, {row.relationships:,} relationships.")
    if compared is not None:
        click.secho(compared.as_text(), fg=None if compared.equal else "red")


@snapshot.command()
@click.argument("name", required=False)
@click.option("--to-offset", type=click.IntRange(min=0), help="Then apply the log up to this command, and stop.")
@click.option(
    "--to-time",
    metavar="TIME",
    help="The same, up to the last command before that time: 2026-01-31T08:00, 2h (ago), 7d.",
)
@replica_option
@store_option
@stream_option
@state_dir_option
@json_option
def restore(
    *,
    name: str | None,
    to_offset: int | None,
    to_time: str | None,
    replica: int | None,
    store: str | None,
    state_dir: Path,
    as_json: bool,
) -> None:
    """Fill the empty database of NEO4J_URI from a snapshot: NAME, or the newest one that fits.

    A worker that is started on it afterwards goes on with the log.  What a killed restore left is no replica: restore
    again.
    """
    from ops import snapshots as room
    from ops.connection import settings_for
    from ops.dead import moment
    from ops.restoring import Goal, restored

    if to_offset is not None and to_time is not None:
        raise click.UsageError("Give either --to-offset or --to-time.")
    goal = Goal(to_offset, None if to_time is None else moment(to_time))
    settings = settings_for(state_dir, replica)
    with progress(quiet=as_json) as show:
        row, position = restored(settings, room.store_of(settings, store), name, goal, show)
    text = f"Restored from {row.name}; the last command is {position}."
    tell({**asdict(row), "position": position}, lambda: click.echo(text), as_json=as_json)


def _print(row: SnapshotRow, *, as_json: bool, done: str) -> None:
    text = (
        f"{done}: {row.name}, up to command {row.offset}: {row.nodes:,} nodes, {row.relationships:,} relationships,"
        f" {row.megabytes} MB{', verified' if row.verified_at else ''}."
    )
    tell(asdict(row), lambda: click.echo(text), as_json=as_json)
