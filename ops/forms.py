"""How the rows of an answer are written: text for each batch of them, as it comes.  Pure.

Every form takes the names of the columns and the batches, and gives the text for all that has come of them, so that
what is read can be thrown away.
"""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from ops import rendering
from ops.layout import Layout


if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

Batch: TypeAlias = "Sequence[Mapping[str, Any]]"

Form: TypeAlias = "Callable[[Sequence[str], Iterable[Batch]], Iterator[str]]"

#: Rows that decide how wide the columns of a table are, at most.
SAMPLE = 1000


def form_of(name: str, terminal: int | None) -> Form:
    """The one of that *name*; *terminal* is the width of that which the text goes to, if it does."""
    if name != "table":
        return {"json": as_list, "jsonl": as_lines, "csv": as_csv}[name]
    if terminal is None:
        return as_tabbed
    return lambda columns, batches: as_table(columns, batches, terminal)


def as_table(columns: Sequence[str], batches: Iterable[Batch], terminal: int) -> Iterator[str]:
    """For people; the first batch decides how wide the columns are."""
    layout: Layout | None = None
    for batch in batches:
        head = ""
        if layout is None:
            layout = Layout(columns, batch[:SAMPLE], terminal)
            head = layout.head()
        yield head + "".join(map(layout.row, batch))


def as_tabbed(columns: Sequence[str], batches: Iterable[Batch]) -> Iterator[str]:
    """A line for each row, with tabs between its cells, and one for the columns."""
    yield _tabbed(columns) if columns else ""
    for batch in batches:
        yield "".join(_tabbed([row[column] for column in columns]) for row in batch)


def as_lines(_columns: Sequence[str], batches: Iterable[Batch]) -> Iterator[str]:
    """A JSON object for each row, each on a line."""
    for batch in batches:
        yield "".join(f"{_object(row)}\n" for row in batch)


def as_list(_columns: Sequence[str], batches: Iterable[Batch]) -> Iterator[str]:
    """One JSON list, an object for each row."""
    before = "["
    for batch in batches:
        if batch:
            yield before + ",\n ".join(map(_object, batch))
            before = ",\n "
    yield "[]\n" if before == "[" else "]\n"


def as_csv(columns: Sequence[str], batches: Iterable[Batch]) -> Iterator[str]:
    """For spreadsheets, with a line for the columns; NULL is an empty field, a text is as it is."""
    yield _csv([columns])
    for batch in batches:
        yield _csv([rendering.field(row[column]) for column in columns] for row in batch)


def _tabbed(values: Sequence[Any]) -> str:
    return "\t".join(map(rendering.cell, values)) + "\n"


def _object(row: Mapping[str, Any]) -> str:
    return msgspec.json.encode(rendering.plain(row)).decode()


def _csv(lines: Iterable[Sequence[str]]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(lines)
    return file.getvalue()
