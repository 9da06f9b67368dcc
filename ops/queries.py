"""`enqueue-query`: ask, and print the answer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from ops import parameters, rendering, tables
from ops.connection import connected


if TYPE_CHECKING:
    from collections.abc import Sequence

    from settings import Settings
    from tasks.results import Rows


def ask(
    settings: Settings,
    text: str,
    pairs: Sequence[str],
    params: str | None,
    *,
    timeout_s: float,
    max_rows: int | None,
    level: dict[str, Any],
) -> Rows:
    """Ask any replica, or one that is as fresh as *level* says.

    Raises what `run_query.send` and `Result.get` raise, and `InputUnusable`.
    """
    given = parameters.parse(pairs, params)
    limits: dict[str, Any] = {"timeout": timeout_s} | ({} if max_rows is None else {"max_rows": max_rows})
    with connected(settings) as app:
        result = app.run_query.send_with_options(args=(text,), kwargs=given, **limits, **level)
        rows: Rows = result.get(timeout_s)
        return rows


def as_object(rows: Rows) -> dict[str, Any]:
    """The whole answer as typed JSON."""
    return {
        "columns": list(rows.columns),
        "rows": rendering.plain(rows),
        "truncated": rows.truncated,
        "replica": rows.replica,
        "position": rows.position,
    }


def show(rows: Rows, form: str) -> None:
    """Print *rows* as a table, JSON or CSV on stdout; what is not a row stands on stderr."""
    if form == "table":
        tables.print_rows(rows)
        return
    if form == "json":
        click.echo(json.dumps(rendering.plain(rows)))
    else:
        click.echo(rendering.as_csv(rows.columns, rows), nl=False)
    if rows.truncated:
        click.secho(tables.footer(rows), err=True)
