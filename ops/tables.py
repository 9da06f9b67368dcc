"""The answer of a query as a table: framed and fitted on a terminal, tab separated in a pipe."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from ops import rendering
from ops.console import print_table


if TYPE_CHECKING:
    from rich.table import Table

    from tasks.results import Rows


def print_rows(rows: Rows) -> None:
    """Print *rows*, and on stderr where they come from."""
    if sys.stdout.isatty():
        from rich.console import Console  # noqa: PLC0415  # 0.1 s, and a pipe does without

        Console().print(table_of(rows))
    else:
        print_table(rows.columns, ([rendering.cell(row[column]) for column in rows.columns] for row in rows))
    click.secho(footer(rows), dim=True, err=True)


def table_of(rows: Rows, title: str | None = None) -> Table:
    """*rows* for `rich`: numbers at the right, NULL dim."""
    from rich import box  # noqa: PLC0415  # as above
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in rows.columns:
        found = [row[column] for row in rows if row[column] is not None]
        numbers = bool(found) and all(map(rendering.is_number, found))
        table.add_column(Text(column), justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(Text, row[column]) for column in rows.columns))
    return table


def _cell(kind: Any, value: Any) -> Any:
    # Never a plain string: `rich` would take the [:KNOWS] in it for markup.
    return kind(rendering.cell(value), style="dim" if value is None else "")


def footer(rows: Rows) -> str:
    """How many rows, from whom, and how new."""
    count = f"{len(rows):,} row{'' if len(rows) == 1 else 's'}"
    cut = ", cut off: there are more (--max-rows, QUERY_MAX_ROWS)" if rows.truncated else ""
    position = "with no command applied yet" if rows.position in {None, -1} else f"at command {rows.position}"
    return f"{count}{cut} from {rows.replica}, {position}"
