"""``neo4j-kafka enqueue-query``: ask any replica."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import click

from ops.console import (
    Command,
    finish,
    format_option,
    interrupt_on,
    json_option,
    parameter_options,
    print_json,
    state_dir_option,
    stream_option,
    timeout_option,
)
from ops.read_levels import level_options, query_options


if TYPE_CHECKING:
    from pathlib import Path


@click.command("enqueue-query", cls=Command)  # Click would cut the -query off
@click.argument("text")
@parameter_options
@timeout_option(30.0, "Seconds that the query may take; never more than QUERY_TIMEOUT_S.")
@click.option("--max-rows", type=click.IntRange(min=1), help="Rows at most; never more than QUERY_MAX_ROWS.")
@level_options
@click.option("--explain", is_flag=True, help="Run nothing: say whether it would be answered, and by which plan.")
@format_option
@stream_option
@state_dir_option
@json_option
def enqueue_query(
    *,
    text: str,
    pairs: tuple[str, ...],
    params: str | None,
    timeout: float,
    max_rows: int | None,
    explain: bool,
    form: str,
    state_dir: Path,
    as_json: bool,
    **level: Any,
) -> None:
    """Ask any replica, or one that is fresh enough, and print the rows as they come.

    Parameters are given as for enqueue-command.  What is no row stands on standard error: how many they are, from
    which replica, how new, and what the server warns of.  --json waits for the whole answer.

    The query is cancelled by Ctrl-C, and when nobody reads the output any more.

    Exit codes: 1 it failed or was answered with an error, 2 nothing was sent, 3 no answer in time, or no replica was as
    fresh as asked, 4 with --explain, replicas refuse it, 130 interrupted, 141 the output was closed.
    """
    from ops import queries, query_explaining
    from ops.connection import settings_for

    options = query_options(**level) | ({} if max_rows is None else {"max_rows": max_rows})
    question = queries.Question(text, pairs, params, timeout, options)
    settings = settings_for(state_dir)
    interrupt_on(signal.SIGTERM, signal.SIGHUP)
    if explain:
        finish(query_explaining.explained(settings, question), as_json=as_json)
    elif as_json:
        print_json(queries.as_object(queries.whole(settings, question)))
    else:
        queries.print_answer(settings, question, form)
