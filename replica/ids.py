"""The ids of the commands that were applied, so that one that is sent again is applied once.

They lie in the node that holds the position, beside it: one property for each segment of the log,

    _KafkaPosition_ids_<segment>    12 bytes of hash and 2 of place in the segment, for each applied command with an id

so that they are written by the transaction that applies, no pattern sees more than the one node, and no command can
name them.  Which ids count is decided by offsets alone: of two commands with one id the second is a duplicate if the
first was applied and lies at most `WINDOW` offsets before it.  How a replica cuts its transactions has no part in it.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from replica.cypher import MARKER_LABEL
from replica.digest import INTERVAL
from replica.statement import Outcome


if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from replica.statement import Command

#: Our own code.
DUPLICATE: Final = "Replica.Duplicate"

PREFIX: Final = f"{MARKER_LABEL}_ids_"
#: Offsets of one property: no transaction crosses its end, so each writes one.
SEGMENT: Final = INTERVAL
#: Segments that are kept behind the present one.
KEPT: Final = 98
#: Offsets over which an id is remembered; 98 segments are 1.4 MB at most.  The same for all replicas, for ever.
WINDOW: Final = KEPT * SEGMENT

#: Bytes of an id's hash.  Among 100,000 of 96 bits two are equal once in 10^19 windows.
_HASH: Final = 12
_PLACE: Final = 2
_ENTRY: Final = _HASH + _PLACE


class Ids:
    """The ids of one graph, at one place of the log.  One thread at a time.

    Costs 20 MB where every command of the window has one, and nothing where none has.
    """

    def __init__(self) -> None:
        self._at: int | None = None
        self._segments: dict[int, bytes] = {}
        self._offsets: dict[bytes, int] = {}

    def known_at(self, offset: int) -> bool:
        """Whether they are those of the graph when it was at *offset*."""
        return self._at == offset

    def forget(self) -> None:
        """The graph may be another one."""
        self._at, self._segments, self._offsets = None, {}, {}

    def load(self, at: int, properties: Mapping[str, bytes]) -> None:
        """Take over what a graph at the offset *at* holds; other properties are passed over."""
        self.forget()
        found = {int(name.removeprefix(PREFIX)): value for name, value in properties.items() if name.startswith(PREFIX)}
        for segment, entries in sorted(found.items()):
            self._segments[segment] = bytes(entries)
            self._offsets.update(_read(segment, bytes(entries)))
        self._at = at

    def duplicates(self, commands: Iterable[Command]) -> dict[int, Outcome]:
        """The outcomes of those of *commands* that were applied before; no two of them have one id."""
        found: dict[int, Outcome] = {}
        for command in commands:
            first = None if command.id is None else self._offsets.get(_hash(command.id))
            if first is not None and command.offset - first <= WINDOW:
                said = f"the command at {first} with the same id is applied: {command.id}"
                found[command.offset] = Outcome(
                    command.offset, applied=True, code=DUPLICATE, message=said, duplicate_of=first
                )
        return found

    def change(self, applied: Sequence[Command]) -> dict[str, bytes | None]:
        """The properties to write when *applied*, neighbours with ids, are; None for those that are to go."""
        if not applied:
            return {}
        segment = applied[-1].offset // SEGMENT
        gone: dict[str, bytes | None] = {f"{PREFIX}{old}": None for old in self._segments if old < segment - KEPT}
        return gone | {f"{PREFIX}{segment}": self._segments.get(segment, b"") + _written(applied)}

    def everything(self, change: Mapping[str, bytes | None]) -> dict[str, bytes]:
        """All properties, after *change*."""
        mine = {f"{PREFIX}{segment}": entries for segment, entries in self._segments.items()}
        return {name: entries for name, entries in {**mine, **change}.items() if entries is not None}

    def moved(self, before: int, after: int, applied: Sequence[Command]) -> None:
        """A transaction has brought the graph from *before* to *after*, and has written the `change` for *applied*."""
        if self._at != before:
            return
        self._at = after
        if not applied:
            return
        segment = applied[-1].offset // SEGMENT
        for old in [old for old in self._segments if old < segment - KEPT]:
            entries = self._segments.pop(old)
            for code, offset in _read(old, entries):
                if self._offsets.get(code) == offset:
                    del self._offsets[code]
        self._segments[segment] = self._segments.get(segment, b"") + _written(applied)
        self._offsets.update((_hash(command.id or ""), command.offset) for command in applied)


def _hash(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=_HASH).digest()


def _written(applied: Iterable[Command]) -> bytes:
    places = ((_hash(command.id or ""), command.offset % SEGMENT) for command in applied)
    return b"".join(code + place.to_bytes(_PLACE, "big") for code, place in places)


def _read(segment: int, entries: bytes) -> Iterable[tuple[bytes, int]]:
    for at in range(0, len(entries), _ENTRY):
        place = int.from_bytes(entries[at + _HASH : at + _ENTRY], "big")
        yield entries[at : at + _HASH], segment * SEGMENT + place
