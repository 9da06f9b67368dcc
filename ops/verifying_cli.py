"""``neo4j-kafka verify``: are all graphs the same?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ops.console import (
    SECONDS,
    Command,
    json_option,
    print_table,
    progress,
    state_dir_option,
    stream_option,
    tell,
    timeout_option,
)


if TYPE_CHECKING:
    from pathlib import Path

    from ops.verifying import Told


@click.command(cls=Command)
@timeout_option(600.0, "Seconds to wait for all replicas.")
@click.option(
    "--pause",
    type=SECONDS,
    default=300.0,
    show_default=True,
    help="Seconds that a replica may stand still to read its graph; the larger it is, the longer that takes.",
)
@stream_option
@state_dir_option
@json_option
def verify(*, timeout: float, pause: float, state_dir: Path, as_json: bool) -> None:
    """Compare the whole graphs of all replicas, schema included, at one place of the log.

    Every replica stops applying there, reads its graph and goes on; queries are answered meanwhile.  Where graphs
    differ, they are read once more to say which elements do.

    Exit codes: 0 all are the same, 3 not verified (a replica did not answer, or there is only one), 5 they differ.
    """
    from ops import verifying
    from ops.connection import settings_for

    with progress(quiet=as_json) as show:
        told = verifying.verify(settings_for(state_dir), timeout_s=timeout, pause_s=pause, show=show)
    tell(told.as_json(), lambda: _print(told), as_json=as_json, code=told.exit_code)


def _print(told: Told) -> None:
    print_table(("replica", "nodes", "relationships", "read in", "checksum"), [row.cells() for row in told.rows])
    if details := told.details():
        print_table(("kind", "what differs", "how many"), details)
    click.secho(told.summary(), fg=None if told.verdict == "same" else "red", err=True)
