"""``neo4j-kafka replica skip``: pass one held command over, on all replicas."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ops.console import Command, json_option, progress, state_dir_option, stream_option, tell, timeout_option


if TYPE_CHECKING:
    from pathlib import Path


@click.command(cls=Command)
@click.argument("offset", type=click.IntRange(min=0))
@click.option("--reason", help="Why; it becomes the outcome of the command, on every replica.")
@click.option("--withdraw", is_flag=True, help="Take back a proposal that a killed skip has left.")
@timeout_option(60.0, "Seconds for all replicas to agree; a held one looks again after up to 30.")
@stream_option
@state_dir_option
@json_option
def skip(*, offset: int, reason: str | None, withdraw: bool, timeout: float, state_dir: Path, as_json: bool) -> None:
    """Let all replicas pass over the command at OFFSET, which at least one of them holds.

    Every registered replica has to agree that it has not applied it; if one does not, nothing is decided.  The command
    ends as rejected, with the code Replica.Skipped and the reason.  A replica that is alone in holding is to be mended,
    or made anew.

    Exit code 4 when it is not skipped.
    """
    from ops import skipping
    from ops.connection import connected, settings_for

    if withdraw is bool(reason):
        raise click.UsageError("Give --reason, or --withdraw to take a proposal back.")
    with connected(settings_for(state_dir)) as app:
        if reason is None:
            was_proposed = skipping.withdraw(app, offset)
            text = f"Withdrawn: command {offset}." if was_proposed else f"Nothing was proposed about command {offset}."
            tell({"offset": offset, "was_proposed": was_proposed}, lambda: click.echo(text), as_json=as_json)
            return
        with progress(quiet=as_json) as show:
            done = skipping.skip(app, offset, reason, timeout_s=timeout, progress=show)
    tell(done.as_json(), lambda: click.echo(done.as_text()), as_json=as_json)
