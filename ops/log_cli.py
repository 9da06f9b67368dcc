"""``neo4j-kafka log``: look after the command log."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from ops.console import Group, json_option, print_json, progress, state_dir_option, stream_option
from ops.snapshot_cli import store_option


if TYPE_CHECKING:
    from pathlib import Path


@click.group(cls=Group)
def log() -> None:
    """Look after the log that all replicas apply."""


@log.command()
@click.option("--dry-run", is_flag=True, help="Say what would be deleted, and do nothing.")
@store_option
@stream_option
@state_dir_option
@json_option
def truncate(*, dry_run: bool, store: str | None, state_dir: Path, as_json: bool) -> None:
    """Delete the commands that neither a replica nor the oldest verified snapshot needs.

    The snapshot is read to its end before anything is deleted.  Exit code 4 when nothing may be deleted: the text says
    what is missing.
    """
    from ops import snapshots as room
    from ops.connection import settings_for
    from ops.truncation import truncate as do

    settings = settings_for(state_dir)
    with progress(quiet=as_json) as show:
        told = do(settings, room.store_of(settings, store), room.teller("snapshot", show), dry_run=dry_run)
    if as_json:
        print_json({**asdict(told), "deleted": told.deleted})
    else:
        click.echo(told.as_text())
