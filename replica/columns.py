"""Three numbers for each node id of a graph of any size, in a temporary file that is mapped into memory.

The system writes it out where memory is short, so that a graph of a hundred million nodes needs 2 GB of disk and no
memory of its own.
"""

from __future__ import annotations

import mmap
import tempfile
from typing import TYPE_CHECKING, Final, Self, cast


if TYPE_CHECKING:
    from collections.abc import Iterator

#: Bytes for each id: two hashes and the number of a label set.
WIDTH: Final = 8 + 8 + 4


class Columns:
    """For ids from 0 up to *size*.  An id whose *own* is 0 is no node.  A context manager."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # closed at the end of the context
        self._file.truncate(max(size * WIDTH, 1))
        self._map = mmap.mmap(self._file.fileno(), 0)
        whole = memoryview(self._map)
        self._views = [whole[: 8 * size].cast("Q"), whole[8 * size : 16 * size].cast("Q")]
        self._views.append(cast("memoryview[int]", whole[16 * size : WIDTH * size].cast("I")))
        self._whole = whole
        self.own, self.around, self._label_sets = self._views

    def put(self, node: int, own: int, label_set: int) -> None:
        """Note a node."""
        self.own[node] = own
        self._label_sets[node] = label_set

    def __iter__(self) -> Iterator[tuple[int, int, int, int]]:
        """Each node: id, own, around, label set."""
        for node in range(self._size):
            own = self.own[node]
            if own:
                yield node, own, self.around[node], self._label_sets[node]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for view in self._views:
            view.release()
        self._whole.release()
        self._map.close()
        self._file.close()
