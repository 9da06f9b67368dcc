"""The command line: parse, call, print.

What a command does lives in the rooms below; what all commands share (errors, exit codes, JSON, progress) in
`ops.console`.
"""

from __future__ import annotations

import signal
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from ops.console import Group, json_option, print_json, print_table, progress


if TYPE_CHECKING:
    from ops.stack import Stack

state_dir_option = click.option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".stack"),
    show_default=True,
    help="Where the servers keep data, logs and ports.",
)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of every error.")
@click.version_option(package_name="neo4j-kafka-interface")
def main(*, debug: bool) -> None:
    """Replicas for Neo4j Community through one Kafka log."""


@main.command()
@click.option("--replicas", type=click.IntRange(1, 9), default=3, show_default=True, help="How many Neo4j servers.")
@click.option("--neo4j-version", help="Which Neo4j Community, 5.x or newer.  [default: the stack's, or 2026.04.0]")
@click.option("--fresh", is_flag=True, help="Stop what runs and delete all data first.")
@click.option("--workers/--no-workers", default=False, show_default=True, help="One `dramatiq tasks` per replica, too.")
@click.option("--env", "as_env", is_flag=True, help="Print only lines to `eval` in a shell.")
@state_dir_option
@json_option
def up(
    *,
    replicas: int,
    neo4j_version: str | None,
    fresh: bool,
    workers: bool,
    as_env: bool,
    state_dir: Path,
    as_json: bool,
) -> None:
    """Start Kafka, Neo4j Community and Valkey on this machine, without Docker.

    What runs already goes on running.  Prints the environment that points commands and workers at the first replica.
    """
    from ops.stack import Stack

    signal.signal(signal.SIGTERM, _end)
    stack = Stack(state_dir)
    with progress(quiet=as_json) as show:
        stack.up(replicas=replicas, neo4j_version=neo4j_version, fresh=fresh, progress=show)
        if workers:
            stack.start_workers(range(1, replicas + 1), progress=show)
    if as_json:
        print_json({**_status(stack), "environment": stack.environment()})
        return
    if not as_env:
        _print_status(stack)
    _print_environment(stack, 1)


@main.command()
@state_dir_option
@json_option
def down(*, state_dir: Path, as_json: bool) -> None:
    """Stop everything that `up` started.  Data stay for the next `up`."""
    from ops.stack import Stack

    with progress(quiet=as_json) as show:
        stopped = Stack(state_dir).down(show)
    if as_json:
        print_json({"stopped": stopped})
    else:
        click.echo(f"Stopped: {', '.join(stopped) or 'nothing ran'}.")


@main.command()
@state_dir_option
@json_option
def status(*, state_dir: Path, as_json: bool) -> None:
    """Ask every server of the stack whether it answers."""
    from ops.stack import Stack

    stack = Stack(state_dir)
    if as_json:
        print_json(_status(stack))
    else:
        _print_status(stack)


@main.command()
@click.option("--replica", type=click.IntRange(min=1), default=1, show_default=True, help="As which replica.")
@state_dir_option
@json_option
def env(*, replica: int, state_dir: Path, as_json: bool) -> None:
    """Print the environment that points at the stack, to `eval` in a shell."""
    from ops.stack import Stack

    stack = Stack(state_dir)
    if as_json:
        print_json({"environment": stack.environment(replica)})
    else:
        _print_environment(stack, replica)


def _status(stack: Stack) -> dict[str, object]:
    return {"servers": [asdict(row) for row in stack.status()]}


def _print_status(stack: Stack) -> None:
    titles = ("name", "version", "state", "where", "pid", "MB", "up for")
    rows = [(r.name, r.version, r.state, r.uri, r.pid or "", r.rss_mb, f"{r.uptime_s} s") for r in stack.status()]
    if rows:
        print_table(titles, rows)
    else:
        click.echo(f"Nothing in {stack.folder} yet: `neo4j-kafka up` starts it.")


def _print_environment(stack: Stack, replica: int) -> None:
    import shlex

    for name, value in stack.environment(replica).items():
        click.echo(f"export {name}={shlex.quote(value)}")


def _end(_signal: int, _frame: object) -> NoReturn:
    """Leave through the same door as Ctrl-C, so that half-started servers are stopped."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
