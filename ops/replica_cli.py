"""``neo4j-kafka replica``: which replicas there are, and what is decided about them."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from ops.console import Group, json_option, print_json, print_table, progress, state_dir_option, stream_option


if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from ops.replicas import ReplicaRow
    from ops.seeding import Seeded
    from tasks.app import App

reason_option = click.option("--reason", required=True, help="Why, for whoever reads it later.")

#: Seconds by which a clock may be wrong before somebody is told: deadlines, delays and schedules go by it.
WRONG_CLOCK_S = 1.0

TITLES = ("replica", "last command", "behind", "seconds", "state", "since", "attempts", "Neo4j", "worker", "why")

#: Of these, what fits a terminal; the others are said below the table.
NARROW = ("replica", "last command", "behind", "seconds", "state", "Neo4j", "worker")


@click.group(cls=Group)
def replica() -> None:
    """Replicas: which there are, and what is to become of them."""


@replica.command("list")
@stream_option
@state_dir_option
@json_option
def list_replicas(*, state_dir: Path, as_json: bool) -> None:
    """Print every replica: how far it is, and what keeps it there."""
    from ops.replicas import rows

    with _app(state_dir) as app:
        found = rows(app)
    if as_json:
        print_json({"replicas": [asdict(row) for row in found]})
    else:
        print_replicas(found)


@replica.command()
@click.argument("name")
@reason_option
@stream_option
@state_dir_option
@json_option
def pause(*, name: str, reason: str, state_dir: Path, as_json: bool) -> None:
    """Let replica NAME apply nothing more, between two commands, until resume.  It goes on answering queries.

    Exit code 3 when its worker still works on a command after half a minute; it stops behind that.
    """
    from ops import members

    with _app(state_dir) as app:
        row = members.pause(app, name, reason)
    _print(row, f"Paused: {name}, behind command {row.last_command}.", as_json=as_json)


@replica.command()
@click.argument("name")
@stream_option
@state_dir_option
@json_option
def resume(*, name: str, state_dir: Path, as_json: bool) -> None:
    """Undo pause."""
    from ops import members

    with _app(state_dir) as app:
        was_paused = members.resume(app, name)
    if as_json:
        print_json({"replica": name, "was_paused": was_paused})
    else:
        click.echo(f"Resumed: {name}." if was_paused else f"{name} was not paused.")


@replica.command()
@click.argument("name")
@click.option("--reason", help="Why, for whoever reads it later.")
@click.option("--lift", is_flag=True, help="End a quarantine without a repair; needs --force.")
@click.option("--force", is_flag=True, help="With --lift: trust the graph as it is.")
@stream_option
@state_dir_option
@json_option
def quarantine(*, name: str, reason: str | None, lift: bool, force: bool, state_dir: Path, as_json: bool) -> None:
    """Let replica NAME neither apply nor answer, until it is repaired."""
    from ops import members

    if lift != (reason is None) or lift != force:
        raise click.UsageError("Give --reason, or --lift with --force: only a repair makes the graph right again.")
    with _app(state_dir) as app:
        if lift:
            was_quarantined = members.release(app, name)
        else:
            row = members.quarantine(app, name, reason or "")
    if not lift:
        _print(row, f"Quarantined: {name}. `replica repair {name}` makes its graph anew.", as_json=as_json)
    elif as_json:
        print_json({"replica": name, "was_quarantined": was_quarantined})
    else:
        click.echo(f"Released: {name}." if was_quarantined else f"{name} was not quarantined.")


@replica.command()
@click.argument("name")
@click.option("--force", is_flag=True, help="Although a worker of it runs.")
@stream_option
@state_dir_option
@json_option
def remove(*, name: str, force: bool, state_dir: Path, as_json: bool) -> None:
    """Take replica NAME out: no caller waits for it any more.  Its database stays as it is.

    Exit code 4 while a worker of it runs: with its next start it would be a replica again.
    """
    from ops import members

    with _app(state_dir) as app:
        left = members.remove(app, name, force=force)
    if as_json:
        print_json({"removed": name, "left": left})
        return
    click.echo(f"Removed: {name}.")
    for one in left:
        click.secho(f"Not cleaned away: {one}", fg="yellow", err=True)


store_option = click.option("--store", metavar="URL", help="Where snapshots lie, if not in SNAPSHOT_STORE.")
user_option = click.option("--neo4j-user", help="Its user, if not NEO4J_USER; the password is NEO4J_PASS.")
force_option = click.option("--force", is_flag=True, help="Although its server differs from those of other replicas.")


@replica.command()
@click.option("--neo4j-uri", required=True, help="The empty database that becomes a replica.")
@click.option("--name", required=True, help="Its name: the GROUP_ID of its worker.")
@user_option
@store_option
@force_option
@stream_option
@state_dir_option
@json_option
def add(
    *,
    neo4j_uri: str,
    name: str,
    neo4j_user: str | None,
    store: str | None,
    force: bool,
    state_dir: Path,
    as_json: bool,
) -> None:
    """Make an empty database a replica: fill it, let it catch up, compare its graph, and let it answer.

    It begins with the newest verified snapshot, or with the log where that is whole.  In the local stack its worker is
    started, too; elsewhere the last line says how.

    Exit code 4 when the database cannot become one, or its graph is not like the others' in the end.
    """
    from ops import seeding, targets

    target = targets.given(state_dir, name, neo4j_uri, neo4j_user)
    with progress(quiet=as_json) as show:
        done = seeding.add(target.settings, seeding.Wish(force=force, store=store), show)
        started = target.start_worker(show)
    _print_seeded("Added", done, as_json=as_json, hint="" if started else target.hint)


@replica.command()
@click.argument("name")
@click.option("--neo4j-uri", help="Its database, where it was never registered.")
@click.option("--yes", is_flag=True, help="Delete all that is in the database without asking.")
@user_option
@store_option
@force_option
@stream_option
@state_dir_option
@json_option
def repair(
    *,
    name: str,
    neo4j_uri: str | None,
    yes: bool,
    neo4j_user: str | None,
    store: str | None,
    force: bool,
    state_dir: Path,
    as_json: bool,
) -> None:
    """Make the graph of replica NAME anew, and end its quarantine.

    Its database is emptied, filled from the newest verified snapshot or by the log, and compared with the others at
    the end.  Until then it answers nothing.  Ended half-way, begin again.

    Exit code 4 when its graph is not like the others' in the end, 3 when it does not catch up.
    """
    from ops import seeding, targets

    target = targets.registered(state_dir, name, neo4j_uri, neo4j_user)
    if not yes:
        if as_json:
            raise click.UsageError("With --json nobody is asked: say --yes.")
        seeding.require_repairable(target.settings)
        click.confirm(f"Delete all that is in the database at {target.settings.neo4j_uri}?", abort=True, err=True)
    with progress(quiet=as_json) as show:
        done = seeding.repair(target.settings, seeding.Wish(force=force, store=store), show)
    _print_seeded("Repaired", done, as_json=as_json, hint="")


def _print_seeded(did: str, done: Seeded, *, as_json: bool, hint: str) -> None:
    if as_json:
        print_json({**asdict(done), "worker": hint or None})
        return
    same = f"its graph is that of {', '.join(done.equals)}" if done.equals else "there is no other replica to compare"
    click.echo(f"{did}: {done.replica}, at command {done.position}; {same}.")
    if hint:
        click.echo(f"Start its worker: {hint}")


def print_replicas(rows: Iterable[ReplicaRow]) -> None:
    """One table, and below it what is otherwise on one machine or server than on another."""
    found = list(rows)
    if not found:
        click.echo("No replica is registered.")
        return
    if sys.stdout.isatty():
        places = [TITLES.index(title) for title in NARROW]
        print_table(NARROW, [[cells[place] for place in places] for cells in map(_cells, found)])
        for row in found:
            if row.why:
                click.echo(f"{row.name} is {row.state}{_since(row)}: {row.why}")
    else:
        print_table(TITLES, [_cells(row) for row in found])
    for row in found:
        for difference in row.differs:
            click.secho(f"{row.name} differs from {difference}", fg="yellow", err=True)
        for other in row.shares:
            click.secho(f"{row.name} shares its database, {row.neo4j_uri}, with {other}", fg="yellow", err=True)
        if abs(row.ahead_s) >= WRONG_CLOCK_S:
            where = f"{abs(row.ahead_s):,.0f} s {'ahead of' if row.ahead_s > 0 else 'behind'}"
            click.secho(f"the clock of {row.name}'s worker is {where} this machine's", fg="yellow", err=True)


def _cells(row: ReplicaRow) -> tuple[object, ...]:
    attempts = row.attempts or ""
    place = (row.name, row.last_command, row.lag, f"{row.lag_s:.0f}")
    return (*place, row.state, _at(row.since_ms), attempts, row.version, row.worker, row.why)


def _since(row: ReplicaRow) -> str:
    since = f" since {_at(row.since_ms)}" if row.since_ms is not None else ""
    return f"{since}, attempts: {row.attempts}" if row.attempts else since


def _at(at_ms: int | None) -> str:
    return "" if at_ms is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_ms / 1000))


def _print(row: ReplicaRow, text: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"replica": asdict(row)})
    else:
        click.echo(text)


@contextmanager
def _app(state_dir: Path) -> Iterator[App]:
    from ops.connection import connected, settings_for

    with connected(settings_for(state_dir)) as app:
        yield app
