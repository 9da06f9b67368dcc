"""The command line: parse, call, print.

What a command does lives in the rooms below; what all commands share (errors, exit codes, JSON, progress) in
`ops.console`.
"""

from __future__ import annotations

import signal
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from ops.cancelling_cli import cancel_query
from ops.claims_cli import claims
from ops.console import (
    Group,
    finish,
    interrupt_on,
    json_option,
    parameter_options,
    print_json,
    print_table,
    progress,
    replica_option,
    state_dir_option,
    stream_option,
    tell,
    timeout_option,
)
from ops.control_cli import control
from ops.dead_cli import dead
from ops.delayed_cli import delayed
from ops.explaining_cli import explain_command
from ops.keys_cli import keys
from ops.log_cli import log
from ops.query_cli import enqueue_query
from ops.replica_cli import print_replicas, replica
from ops.result_cli import result
from ops.shell_cli import shell
from ops.skip_cli import skip
from ops.snapshot_cli import snapshot
from ops.streams_cli import streams
from ops.verifying_cli import verify


if TYPE_CHECKING:
    from collections.abc import Sequence

    from ops.stack import Stack
    from ops.topics import TopicRow


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of every error.")
@click.version_option(package_name="neo4j-kafka-interface")
def main(*, debug: bool) -> None:
    """Replicas for Neo4j Community through one Kafka log."""
    import logging

    if debug:
        logging.basicConfig(level=logging.DEBUG)
    else:  # errors are told once, by the command; without any handler Python would print warnings in between
        logging.getLogger().addHandler(logging.NullHandler())


replica.add_command(skip)
for one in (cancel_query, enqueue_query, explain_command, result, shell, streams, verify):
    main.add_command(one)
for group in (claims, control, dead, delayed, keys, log, replica, snapshot):
    main.add_command(group)


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

    interrupt_on(signal.SIGTERM)
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
@stream_option
@state_dir_option
@json_option
def status(*, state_dir: Path, as_json: bool) -> None:
    """Say which servers of the stack answer, and how far each replica is."""
    from ops import divergence
    from ops.connection import local_kafka_runs, settings_for
    from ops.errors import KafkaAway
    from ops.replicas import replicas
    from ops.stack import Stack

    stack = Stack(state_dir)
    settings = settings_for(state_dir)
    found, disagreements, problem = [], [], ""
    if "brokers" in settings.model_fields_set or local_kafka_runs(state_dir):
        try:
            found, disagreements = replicas(settings), divergence.told(settings)
        except KafkaAway as error:
            problem = str(error)
    if as_json:
        print_json(
            {
                **_status(stack),
                "replicas": [asdict(row) for row in found],
                "disagreements": disagreements,
                "problem": problem or None,
            }
        )
        return
    _print_status(stack)
    if found:
        print_replicas(found)
        for line in disagreements:
            click.secho(line, fg="red", err=True)
    elif problem:
        click.secho(problem, fg="red", err=True)


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


@main.command()
@stream_option
@state_dir_option
@json_option
def init(*, state_dir: Path, as_json: bool) -> None:
    """Make the topics, and check those that are there.

    Exit code 1 when one is not as it must be; the text says what to do.
    """
    from ops.connection import connected, settings_for
    from ops.topics import init as make

    with connected(settings_for(state_dir)) as app:
        rows = make(app)
    code = 1 if any(row.wrong for row in rows) else 0
    tell({"topics": [asdict(row) for row in rows]}, lambda: _print_topics(rows), as_json=as_json, code=code)


@main.command("enqueue-command")  # Click would cut the -command off
@click.argument("text", required=False)
@parameter_options
@click.option(
    "--file",
    type=click.File("rb"),
    help="Statements between ';', or a JSON object {command, params} on each line; - is standard input.",
)
@click.option(
    "--wait",
    type=click.Choice(["log", "any", "all"]),
    default="log",
    show_default=True,
    help="Until it is in the log, or applied by any replica, or by all.",
)
@timeout_option(30.0, "Seconds to wait for replicas.")
@click.option("--key", help="The record's key in Kafka.")
@click.option("--idempotent", is_flag=True, help="It may be run again after a part of it: CALL ... IN TRANSACTIONS.")
@click.option("--when", metavar="QUERY", help="A condition: applied only where QUERY returns true at its place.")
@click.option("--id", "command_id", help="Its own id: of several commands with one id, one is applied.")
@stream_option
@state_dir_option
@json_option
def enqueue_command(  # noqa: PLR0913 - one for each option
    *,
    text: str | None,
    pairs: tuple[str, ...],
    params: str | None,
    file: BinaryIO | None,
    wait: str,
    timeout: float,
    key: str | None,
    idempotent: bool,
    when: str | None,
    command_id: str | None,
    state_dir: Path,
    as_json: bool,
) -> None:
    """Append a write, or a file of them, to the log that all replicas apply.

    A parameter's value is JSON where it is valid JSON, else text: -p age=30 -p name=user_1 -p 'tags=["a", "b"]'.

    Exit codes: 1 it failed, 2 nothing was sent because something is wrong with it, 3 not applied in time, 4 rejected.
    """
    from ops import commands
    from ops.connection import settings_for

    if (text is None) == (file is None):
        raise click.UsageError("Give either the text of one command, or --file.")
    options = {"key": key, "when": when, "id": command_id, "idempotent": idempotent or None}
    if file is not None and (pairs or params or any(value is not None for value in options.values())):
        raise click.UsageError(
            "-p, --params, --key, --when, --id and --idempotent belong to one command, not to a file."
        )
    settings, wanted = settings_for(state_dir), commands.Wanted(wait, timeout)
    told: commands.Told | commands.ToldOfMany
    if file is not None:
        with progress(quiet=as_json) as show:
            told = commands.many(settings, file, wanted, show)
    else:
        told = commands.one(settings, text or "", pairs, params, wanted, options)
    finish(told, as_json=as_json)


@main.command(context_settings={"ignore_unknown_options": True})
@replica_option
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
@stream_option
@state_dir_option
@json_option
def worker(*, replica: int | None, options: tuple[str, ...], state_dir: Path, as_json: bool) -> None:
    """Run `dramatiq tasks` for one replica: apply its commands and answer queries.

    OPTIONS are those of `dramatiq`, and modules with actors of your own: --queues command, --processes 2, --watch .,
    -v.  The process becomes dramatiq: TERM ends it, HUP starts it again.
    """
    from ops import worker
    from ops.connection import environment_of, settings_for

    worker.become(options, environment_of(settings_for(state_dir, replica)))


@main.command()
@click.option("--replicas", type=click.IntRange(2, 9), default=3, show_default=True, help="How many Neo4j servers.")
@click.option("--kill/--no-kill", default=True, show_default=True, help="Kill a worker and a database half-way.")
@click.option("--keep", is_flag=True, help="Leave everything running at the end.")
@click.option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".stack-demo"),
    show_default=True,
    help="Where the demo's own servers live; emptied first.",
)
@json_option
def demo(*, replicas: int, kill: bool, keep: bool, state_dir: Path, as_json: bool) -> None:
    """Load real data into replicas, kill some of them on the way, and prove that nothing was lost or done twice.

    Exit code 0 means that all of it was proven.
    """
    from ops.demo import Demo

    interrupt_on(signal.SIGTERM)
    proof = Demo(state_dir, replicas=replicas, kill=kill, keep=keep, quiet=as_json).run()
    if as_json:
        print_json(proof.as_json())
    if not proof.holds:
        raise click.exceptions.Exit(1)


def _status(stack: Stack) -> dict[str, object]:
    return {"servers": [asdict(row) for row in stack.status()]}


def _print_status(stack: Stack) -> None:
    titles = ("name", "version", "state", "where", "pid", "MB", "up for")
    rows = [(r.name, r.version, r.state, r.uri, r.pid or "", r.rss_mb, f"{r.uptime_s} s") for r in stack.status()]
    if rows:
        print_table(titles, rows)
    else:
        click.echo(f"Nothing in {stack.folder} yet: `neo4j-kafka up` starts it.")


def _print_topics(rows: Sequence[TopicRow]) -> None:
    titles = ("topic", "partitions", "copies", "kept", "")
    print_table(titles, [(r.topic, r.partitions, r.replication, r.kept, r.state) for r in rows])
    for row in rows:
        for problem in row.wrong:
            click.secho(f"{row.topic} {problem}. {row.fix}", fg="red", err=True)
    if any(row.replication == 1 for row in rows):
        warning = "One copy of each topic: a lost disk is a lost log. Three Kafka servers keep three."
        click.secho(warning, fg="yellow", err=True)


def _print_environment(stack: Stack, replica: int) -> None:
    import shlex

    for name, value in stack.environment(replica).items():
        click.echo(f"export {name}={shlex.quote(value)}")


if __name__ == "__main__":
    main()
