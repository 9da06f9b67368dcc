"""Commands that differ in nothing but offset and parameters, kept by column.  Pure.

A busy log has thousands of them in a row, and one UNWIND does a thousand (see `plan.Group`).  As objects of their own
each takes the interpreter longer than all that is done with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

from replica.statement import Command, Shape, Statement


if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Alike(Sequence[Command]):
    """Consecutive plain commands of one *text* and one *shape*; each is made when it is looked at.

    *columns*: of each parameter, its value in all of them; *weight*: about how many bytes they have together.
    """

    def __init__(
        self, text: str, shape: Shape, offsets: Sequence[int], columns: Mapping[str, Sequence[Any]], weight: int
    ) -> None:
        self.text = text
        self.shape = shape
        self.offsets = offsets
        self.columns = columns
        self.weight = weight

    def __len__(self) -> int:
        return len(self.offsets)

    @overload
    def __getitem__(self, index: int) -> Command: ...

    @overload
    def __getitem__(self, index: slice) -> Alike: ...

    def __getitem__(self, index: int | slice) -> Command | Alike:
        if isinstance(index, slice):
            offsets = self.offsets[index]
            columns = {name: values[index] for name, values in self.columns.items()}
            return Alike(self.text, self.shape, offsets, columns, self.weight * len(offsets) // max(len(self), 1))
        return self._command(self.offsets[index], [values[index] for values in self.columns.values()])

    def __iter__(self) -> Iterator[Command]:
        return map(self._command, self.offsets, zip(*self.columns.values(), strict=True))

    def _command(self, offset: int, values: Sequence[Any]) -> Command:
        statement = Statement(self.text, dict(zip(self.columns, values, strict=True)))
        return Command(offset, (statement,), shape=self.shape, weight=self.weight // len(self))


def identified(commands: Sequence[Command]) -> Sequence[Command]:
    """Those that have an id."""
    return () if isinstance(commands, Alike) else [command for command in commands if command.id is not None]
