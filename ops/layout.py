"""A table that is drawn while its rows still come: as wide as the first of them need, and no wider than the terminal.

Pure; widths are cells of a terminal, of which a Chinese letter takes two.  What is too wide for its column goes on in
the next line, and nothing is cut off.  Where there are too many columns to stand side by side, each row is a block
with a line for each column.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from ops import rendering


if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

#: Between two columns.
GAP = "  "

#: A column that has to be narrower than its cells is at least so wide, or there are too many.
NARROWEST = 10

#: Any column; a letter may take two cells.
_LEAST = 2

#: The lines of one cell, and how they look.
_Cell: TypeAlias = "tuple[list[str], Callable[[str], str]]"

_bold = partial(click.style, bold=True)
_dim = partial(click.style, dim=True)


@dataclass(frozen=True, slots=True)
class _Column:
    """*width* as it is drawn, *room* for a cell before that goes on in the next line; *right*: numbers."""

    name: str
    width: int
    room: int
    right: bool

    def padded(self, text: str, look: Callable[[str], str]) -> str:
        space = " " * (self.width - _cells(text))
        shown = look(text) if text else ""
        return space + shown if self.right else shown + space


class Layout:
    """How rows with these *names* are drawn; *sample* are the first of them, *terminal* is its width."""

    def __init__(self, names: Sequence[str], sample: Sequence[Mapping[str, Any]], terminal: int) -> None:
        self._names = names
        self._titles = [rendering.one_line(name) for name in names]
        self._terminal = max(terminal, 2 * NARROWEST)
        self._columns = self._fitted(sample)
        self._drawn = 0

    def head(self) -> str:
        """The lines above all rows."""
        if not self._columns:
            return ""
        titles = _beside(self._columns, [(_folded(column.name, column.width), _bold) for column in self._columns])
        return _lines([*titles, _dim(GAP.join("─" * column.width for column in self._columns))])

    def row(self, row: Mapping[str, Any]) -> str:
        """The lines of one row."""
        self._drawn += 1
        if self._columns is None:
            return _lines(self._block(row))
        cells = [_cell(row[name], column.room) for name, column in zip(self._names, self._columns, strict=True)]
        return _lines(_beside(self._columns, cells))

    def _fitted(self, sample: Sequence[Mapping[str, Any]]) -> list[_Column] | None:
        """The columns; none where they do not fit beside each other."""
        natural = [
            max([_LEAST, _cells(title), *(_cells(rendering.cell(row[name])) for row in sample)])
            for name, title in zip(self._names, self._titles, strict=True)
        ]
        room = self._terminal - len(GAP) * (len(natural) - 1)
        widths = _shared(natural, room)
        if any(width < min(wanted, NARROWEST) for width, wanted in zip(widths, natural, strict=True)):
            return None
        numbers = [_numbers(row[name] for row in sample) for name in self._names]
        # Nothing stands behind the last column, so that it may be wider in rows to come.
        spare = [0] * (len(widths) - 1) + [0 if numbers and numbers[-1] else room - sum(widths)]
        return [
            _Column(title, width, width + more, right)
            for title, width, more, right in zip(self._titles, widths, spare, numbers, strict=False)
        ]

    def _block(self, row: Mapping[str, Any]) -> Iterator[str]:
        width = min(max(map(_cells, self._titles)), self._terminal // 2)
        room = self._terminal - width - len(GAP)
        columns = (_Column("", width, width, right=False), _Column("", room, room, right=False))
        yield _dim(f"─ row {self._drawn:,} ".ljust(self._terminal, "─"))
        for name, title in zip(self._names, self._titles, strict=True):
            yield from _beside(columns, [(_folded(title, width), _bold), _cell(row[name], room)])


def _cell(value: Any, room: int) -> _Cell:
    return _folded(rendering.cell(value), room), _dim if value is None else str


def _beside(columns: Sequence[_Column], cells: Sequence[_Cell]) -> Iterator[str]:
    looks = [look for _, look in cells]
    for parts in zip_longest(*(lines for lines, _ in cells), fillvalue=""):
        padded = [column.padded(part, look) for column, part, look in zip(columns, parts, looks, strict=True)]
        yield GAP.join(padded).rstrip()


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _shared(natural: Sequence[int], room: int) -> list[int]:
    """Widths whose sum is at most *room*, each at most *natural*: where that is too much, the widest give way."""
    widths = dict[int, int]()
    for place, at in enumerate(sorted(range(len(natural)), key=natural.__getitem__)):
        left = max(room - sum(widths.values()), 0)
        widths[at] = min(natural[at], left // (len(natural) - place))
    return [widths[at] for at in range(len(natural))]


def _numbers(found: Iterable[Any]) -> bool:
    values = [value for value in found if value is not None]
    return bool(values) and all(map(rendering.is_number, values))


def _folded(text: str, width: int) -> list[str]:
    """*text* in lines of at most *width* cells, broken behind a space where there is one."""
    lines: list[str] = []
    begin = 0
    while len(text) - begin > width or _cells(text[begin:]) > width:
        line = _fitting(text[begin : begin + width], width)
        after = begin + len(line)
        space = line.rfind(" ")
        if text[after : after + 1] != " " and space > width // 2:
            line = line[:space]
        lines.append(line)
        begin += len(line)
        begin += text[begin : begin + 1] == " "  # at the end of a line nobody sees it
    return [*lines, text[begin:]]


def _fitting(text: str, width: int) -> str:
    """As much of the beginning of *text* as fits; at least a letter."""
    from rich.cells import chop_cells  # noqa: PLC0415 - a table in a pipe does without

    return next(iter(chop_cells(text, width)), "") or text[:1]


def _cells(text: str) -> int:
    """How wide *text* is on a terminal."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # noqa: PLC0415 - as above

    return cell_len(text)
