"""Answers on the command line: rows on stdout as they come, what is said about them on stderr."""

from __future__ import annotations

import shutil
import sys
import time
from itertools import chain
from typing import TYPE_CHECKING, Any

import click

from ops.console import put
from ops.forms import form_of
from tasks.results import Rows


if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ops.forms import Batch
    from tasks.results import Result, Summary


def print_result(result: Result, form: str, timeout_s: float, began: float) -> None:
    """Print the answer to a query that was asked at *began*, of the monotonic clock; no part may take *timeout_s*.

    Raises what `Result.stream` raises; `OutputClosed`.
    """
    rows = result.stream(timeout_s)
    batches = rows.batches()
    first = next(batches, [])
    columns = (rows.header.columns if rows.header else None) or ()
    _put(form, columns, chain([first], batches))
    summary = result.summary(timeout_s)
    if summary.plan:  # it began with EXPLAIN, and has no rows
        click.echo(summary.plan, err=form != "table")
    note(footer(summary, (time.monotonic() - began) * 1000))
    for found in summary.notifications:
        click.secho(found["description"], fg="yellow", err=True)


def print_rows(rows: Rows, form: str) -> None:
    """Print an answer that is there.  Raises `OutputClosed`."""
    _put(form, rows.columns, [rows])
    note(footer(rows))


def footer(told: Rows | Summary, took_ms: float | None = None) -> str:
    """How many rows, from whom, and how new."""
    number = len(told) if isinstance(told, Rows) else told.rows
    level = None if isinstance(told, Rows) else told.level
    count = f"{number:,} row{'' if number == 1 else 's'}"
    cut = ", cut off: there are more (--max-rows, QUERY_MAX_ROWS, QUERY_MAX_BYTES)" if told.truncated else ""
    position = "with no command applied yet" if told.position in {None, -1} else f"at command {told.position}"
    parts = [f"{count}{cut} from {told.replica}", position]
    parts += [level] if level and level != "any" else []
    if took_ms is not None:
        there = "" if isinstance(told, Rows) else f" ({told.took_ms:,.0f} ms on the replica)"
        parts.append(f"in {took_ms:,.0f} ms{there}")
    return ", ".join(parts)


def note(text: str) -> None:
    """Say what is no answer, beside it."""
    click.secho(text, dim=True, err=True)


def _put(form: str, columns: Sequence[str], batches: Iterable[Batch]) -> None:
    terminal: Any = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for text in form_of(form, terminal)(columns, batches):
        put(text)
