"""``neo4j-kafka result``: what a query was answered, by its id."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ops.console import Command, format_option, json_option, print_json, state_dir_option


if TYPE_CHECKING:
    from pathlib import Path


@click.command(cls=Command)
@click.argument("message_id")
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Seconds to wait for an answer that has not come yet.",
)
@format_option
@state_dir_option
@json_option
def result(*, message_id: str, wait_s: float, form: str, state_dir: Path, as_json: bool) -> None:
    """Print the answer to a query that was sent with store="redis", by whichever process.

    Only Redis is asked, at REDIS_URL.  A value that is no rows is printed as JSON, in any format.

    Exit codes: 1 the answer is an error, or Redis does not answer, 2 nobody has asked that query to be kept, 3 it was
    asked, and no answer has come so far, 4 the answer was kept, and is gone.
    """
    from ops import queries, showing
    from ops.connection import settings_for
    from ops.results import fetched
    from replica import values
    from tasks.results import Rows

    found = fetched(settings_for(state_dir), message_id, wait_s)
    if isinstance(found, Rows):
        if as_json:
            print_json(queries.as_object(found))
        else:
            showing.print_rows(found, form)
    else:
        encoded = values.encode(found)
        print_json({"value": encoded} if as_json else encoded)
