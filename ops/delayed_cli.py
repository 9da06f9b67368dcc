"""``neo4j-kafka delayed``: what waits for its time."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from ops.console import Group, json_option, print_json, print_table, progress, state_dir_option, stream_option, tell


if TYPE_CHECKING:
    from pathlib import Path

queue_option = click.option("--queue", help="Only messages of this queue.")
actor_option = click.option("--actor", help="Only messages of this actor.")


@click.group(cls=Group)
def delayed() -> None:
    """List, show and cancel messages that wait for their time."""


@delayed.command("list")
@queue_option
@actor_option
@click.option(
    "--limit", type=click.IntRange(min=0), default=20, show_default=True, help="Messages at most; soonest first."
)
@stream_option
@state_dir_option
@json_option
def list_(*, queue: str | None, actor: str | None, limit: int, state_dir: Path, as_json: bool) -> None:
    """List the soonest delayed messages, how many there are, and the periodic actors."""
    from ops import delayed as room
    from ops.connection import settings_for

    with progress(quiet=as_json) as show:
        found = room.listed(settings_for(state_dir), queue, actor, limit, show)
    if as_json:
        print_json(asdict(found))
        return
    if found.messages:
        print_table(("due", "in", "queue", "actor", "message", "attempt"), [row.cells() for row in found.messages])
    if found.periodic:
        print_table(("next", "in", "queue", "actor", "schedule"), [row.cells() for row in found.periodic])
    click.echo(found.summary(), err=True)


@delayed.command("show")
@click.argument("message_id", metavar="ID")
@stream_option
@state_dir_option
@json_option
def show_(*, message_id: str, state_dir: Path, as_json: bool) -> None:
    """Show a delayed message, with its arguments and options.

    Exit code 1 when no message of that id waits.
    """
    from ops import delayed as room
    from ops.connection import settings_for

    with progress(quiet=as_json) as show:
        found = room.shown(settings_for(state_dir), message_id, show)
    if as_json:
        print_json({"messages": found})
        return
    for message in found:
        print_table(("delayed message", message_id), [(name, json.dumps(value)) for name, value in message.items()])


@delayed.command("cancel")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@queue_option
@actor_option
@click.option("--dry-run", is_flag=True, help="Only say how many it would be.")
@stream_option
@state_dir_option
@json_option
def cancel(
    *, ids: tuple[str, ...], queue: str | None, actor: str | None, dry_run: bool, state_dir: Path, as_json: bool
) -> None:
    """Take delayed messages back: those of the given ids, or all of a queue or an actor.

    Exit code 1 when there were none.  Periodic actors end when they are taken out of the code.
    """
    from ops import delayed as room
    from ops.connection import settings_for

    if not ids and queue is None and actor is None:
        raise click.UsageError("Give ids, --queue or --actor.")
    with progress(quiet=as_json) as show:
        count = room.cancelled(settings_for(state_dir), ids, queue, actor, show, dry_run=dry_run)
    text = f"{'Would be cancelled' if dry_run else 'Cancelled'}: {count:,}."
    data = {"cancelled": count, "dry_run": dry_run}
    tell(data, lambda: click.echo(text), as_json=as_json, code=0 if count else 1)
