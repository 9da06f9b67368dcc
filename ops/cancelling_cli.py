"""``neo4j-kafka cancel-query``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from ops.console import Command, json_option, print_json, state_dir_option, stream_option, timeout_option


if TYPE_CHECKING:
    from pathlib import Path


@click.command("cancel-query", cls=Command)  # Click would cut the -query off
@click.argument("query")
@timeout_option(10.0, "Seconds to wait for its end.")
@stream_option
@state_dir_option
@json_option
def cancel_query(*, query: str, timeout: float, state_dir: Path, as_json: bool) -> None:
    """End the query of that id, on whichever replica it runs; whoever asked it is told.

    Python's `result.message_id` says the id; `control inspect` lists what runs.

    Exit codes: 3 no worker has ended it in time; it will not begin any more.
    """
    from ops.cancelling import cancel
    from ops.connection import settings_for

    told = cancel(settings_for(state_dir), query, timeout)
    if as_json:
        print_json(asdict(told))
    else:
        how = "was cancelled" if told.cancelled else "had its answer before it could be cancelled"
        click.echo(f"{told.query} {how} on {told.replica}.")
