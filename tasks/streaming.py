"""Rows as they come, one part of the answer in memory at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from replica import values


if TYPE_CHECKING:
    from collections.abc import Iterator

    from tasks.answers import Answer
    from tasks.arrivals import Arrivals


class Stream:
    """An iterator over the rows of an answer, each a dictionary from column to value; it goes on where it was left.

    *timeout_s* is how long it waits for the next part; what its reader does in between does not count.  Raises what
    `Arrivals` raises; rows that came before an error came all the same.  Also for ``async for``.
    """

    def __init__(self, arrivals: Arrivals, timeout_s: float) -> None:
        self._arrivals = arrivals
        self._timeout_s = timeout_s
        self._rows: Iterator[dict[str, Any]] = iter(())

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> dict[str, Any]:
        while (row := next(self._rows, None)) is None:
            self._open(self._arrivals.next(self._timeout_s), StopIteration)
        return row

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> dict[str, Any]:
        while (row := next(self._rows, None)) is None:
            self._open(await self._arrivals.next_async(self._timeout_s), StopAsyncIteration)
        return row

    def batches(self) -> Iterator[list[dict[str, Any]]]:
        """The same rows, those that came together in one list; the first may be empty, and then `header` is there."""
        while (part := self._arrivals.next(self._timeout_s)) is not None:
            yield list(rows_of(part))

    @property
    def header(self) -> Answer | None:
        """The first part, once it is there: columns, replica, position, level."""
        return self._arrivals.parts.header

    def _open(self, part: Answer | None, stop: type[Exception]) -> None:
        if part is None:
            raise stop
        self._rows = rows_of(part)


def rows_of(part: Answer) -> Iterator[dict[str, Any]]:
    """The rows of one part, decoded one by one.

    Raises:
      TypeError: it has none, since a query function returns a value.
    """
    if part.columns is None:
        raise TypeError("the answer of a query function is a value, and has no rows: take it with get()")
    columns = part.columns
    return (dict(zip(columns, values.decode(row), strict=True)) for row in part.rows or ())
