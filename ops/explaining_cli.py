"""``neo4j-kafka explain-command``: what would become of a command, before it is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ops.console import Command, finish, json_option, parameter_options, replica_option, state_dir_option


if TYPE_CHECKING:
    from pathlib import Path


@click.command("explain-command", cls=Command)
@click.argument("text")
@parameter_options
@click.option("--idempotent", is_flag=True, help="Explain it as sent with --idempotent.")
@click.option("--when", metavar="QUERY", help="Explain it with this condition.")
@click.option("--check", is_flag=True, help="Let the replica's server compile it, too; nothing is run.")
@replica_option
@state_dir_option
@json_option
def explain_command(
    *,
    text: str,
    pairs: tuple[str, ...],
    params: str | None,
    idempotent: bool,
    when: str | None,
    check: bool,
    replica: int | None,
    state_dir: Path,
    as_json: bool,
) -> None:
    """Say what enqueue-command would put into the log, why, and how replicas would apply it.  Sends nothing.

    Parameters are given as for enqueue-command.  Without --check no server is asked.

    Exit codes: 1 it failed, 2 a parameter is wrong, 4 the command is refused, or the server has something against it.
    """
    from ops import explaining
    from ops.connection import settings_for

    told = explaining.explained(
        settings_for(state_dir, replica), text, pairs, params, check=check, idempotent=idempotent, when=when
    )
    finish(told, as_json=as_json)
