"""``neo4j-kafka shell``: statements and answers, one after the other."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ops.console import Command, state_dir_option, stream_option, timeout_option


@click.command(cls=Command)
@timeout_option(30.0, "Seconds for each statement.")
@click.option(
    "--history",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("~/.neo4j-kafka-history"),
    show_default=True,
    help="Where what is typed is remembered.",
)
@stream_option
@state_dir_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each statement, each on a line.")
def shell(*, timeout: float, history: Path, state_dir: Path, as_json: bool) -> None:
    """Type Cypher: what writes goes into the log, what reads is asked of a replica.

    Statements end with a semicolon; :help lists what else there is.  Reads show this shell's own writes.  Without a
    terminal the statements come from standard input, and the first error ends it.

    Exit codes: 1 a statement failed, whatever the reason; 2 the command line or a setting is wrong.
    """
    from ops import shell_script
    from ops.connection import connected, settings_for
    from ops.shell import Shell

    settings = settings_for(state_dir)
    with connected(settings) as app:
        here = Shell(app, settings, timeout_s=timeout, as_json=as_json)
        if sys.stdin.isatty():
            from ops.shell_prompt import converse

            click.secho(f"Replicas of {settings.brokers}; statements end with ;  :help, :quit", dim=True, err=True)
            converse(here, history.expanduser())
        elif not shell_script.run(here, sys.stdin, as_json=as_json):
            raise click.exceptions.Exit(1)
