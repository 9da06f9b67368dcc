"""The bytes of a snapshot: frames, each with its own checksum, and one checksum over all of them.

    magic      8 bytes
    header     JSON, not compressed: whoever opens the file with `head -c 2000` sees what it is
    nodes      blocks of ``[[labels, properties], ...]``; a node's number is its place, from 0 on
    relations  blocks of ``[[type, number of start, number of end, properties], ...]``
    end        JSON: how many there were, and the checksum over every byte before it

Values are typed JSON (see `replica.values`).  A frame is ``kind, elements, raw length, stored length, checksum of the
stored bytes, checksum of all these fields`` and the stored bytes, zlib's for blocks: a length is believed only once it
is known to be unharmed.

zlib, of the standard library: at level 1 it compresses some ten times as fast as Neo4j hands out elements, so that
nothing would be gained by a faster compressor but a dependency.  The checksums find damage, not forgery.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import msgspec

from replica.errors import SnapshotBroken


if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAGIC: Final = b"\x93n4kSNAP"
#: Of what is written.  A reader takes its own version only: what a newer one means is unknown.
VERSION: Final = 1

HEADER: Final = b"H"
NODES: Final = b"N"
RELATIONSHIPS: Final = b"R"
END: Final = b"E"

_FIELDS: Final = struct.Struct(">cIII16s")
_CHECK_BYTES: Final = 8
_LEVEL: Final = 1

#: A block ends with whichever comes first.  Small enough for 300 MB of memory, large enough to compress.
BLOCK_ELEMENTS: Final = 5000
BLOCK_BYTES: Final = 1_000_000
#: Longest frame that is believed.  One element is never split, and Neo4j itself fails on values of this size.
_LARGEST_FRAME: Final = 1 << 30

_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder()


class Position(msgspec.Struct, frozen=True):
    """Up to where the log is in the snapshot."""

    topic: str
    topic_id: str
    partition: int
    offset: int


class Schema(msgspec.Struct, frozen=True):
    """Statements that make one constraint or index each, by its name; *lookups* are the token lookup indexes.

    *rows* describe the same for the checksum of a graph (see `replica.checksum`).
    """

    constraints: dict[str, str] = {}
    indexes: dict[str, str] = {}
    lookups: dict[str, str] = {}
    rows: list[list[Any]] = []


class Header(msgspec.Struct, frozen=True):
    """What a snapshot says of itself.

    *marker* holds all properties of the position's node, as typed JSON; *created_at* is in UTC, ISO 8601.
    """

    id: str
    format: int
    neo4j: str
    created_at: str
    position: Position
    nodes: int
    relationships: int
    schema: Schema
    marker: dict[str, Any]


class End(msgspec.Struct, frozen=True):
    """The last frame: *checksum* is of all bytes before it, hexadecimal."""

    nodes: int
    relationships: int
    checksum: str


@dataclass(frozen=True, slots=True)
class Block:
    """Some elements, in order; *kind* is `NODES` or `RELATIONSHIPS`, *first* the number of the first element.

    *plain*: no value in it is more than plain JSON, so that there is nothing to decode.
    """

    kind: bytes
    first: int
    elements: list[list[Any]]
    plain: bool = False


class Sink:
    """Writes one snapshot to *file*: header, nodes, relationships, end, in this order."""

    def __init__(self, file: BinaryIO, header: Header) -> None:
        self._file = file
        self._header = header
        self._all = blake2b(digest_size=32)
        self._parts: list[bytes] = []
        self._elements = 0  # in the parts
        self._bytes = 0
        self._kind = NODES
        self.written = {NODES: 0, RELATIONSHIPS: 0}
        self._write(MAGIC)
        self._frame(HEADER, 1, _encoder.encode(header))

    def add(self, kind: bytes, elements: Sequence[Sequence[Any]]) -> None:
        """Append some elements, at most `BLOCK_ELEMENTS`, whose values are typed JSON already."""
        if not elements:
            return
        if kind != self._kind:
            self._flush()
            self._kind = kind
        raw = _encoder.encode(elements)[1:-1]
        if len(elements) > 1 and len(raw) > BLOCK_BYTES:  # large values: a block has as few of them as it can
            for element in elements:
                self.add(kind, (element,))
            return
        if self._elements + len(elements) > BLOCK_ELEMENTS:
            self._flush()
        self._parts.append(raw)
        self._elements += len(elements)
        self._bytes += len(raw)
        if self._bytes >= BLOCK_BYTES:
            self._flush()

    def end(self) -> End:
        """Write what is left, and the end."""
        self._flush()
        found = End(self.written[NODES], self.written[RELATIONSHIPS], self._all.hexdigest())
        _require_counts(self._header, found)
        self._frame(END, 1, _encoder.encode(found))
        return found

    def _flush(self) -> None:
        if self._parts:
            raw = b"[" + b",".join(self._parts) + b"]"
            self._frame(self._kind, self._elements, zlib.compress(raw, _LEVEL), raw_length=len(raw))
            self.written[self._kind] += self._elements
            self._parts.clear()
            self._elements = self._bytes = 0

    def _frame(self, kind: bytes, elements: int, stored: bytes, *, raw_length: int | None = None) -> None:
        raw_length = len(stored) if raw_length is None else raw_length
        fields = _FIELDS.pack(kind, elements, raw_length, len(stored), _digest(stored, 16))
        self._write(fields + _digest(fields, _CHECK_BYTES))
        self._write(stored)

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._all.update(data)


class Source:
    """Reads one snapshot from *file*, which needs no seeking; *name* stands in errors.

    The header is read at once.  Raises `SnapshotBroken` for whatever is not as it was written, and `OSError`.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name
        self._all = blake2b(digest_size=32)
        self._before_frame = ""  # the checksum over everything before the frame that was read last
        if self._read(len(MAGIC), "its beginning") != MAGIC:
            raise SnapshotBroken(f"{name} is no snapshot, or its beginning is damaged")
        kind, _, stored, _ = self._frame()
        if kind != HEADER:
            raise SnapshotBroken(f"{name} has no header: it begins with a frame {kind!r}")
        self.header = self._header(stored)
        self.end: End | None = None

    def _header(self, stored: bytes) -> Header:
        try:
            version = msgspec.json.decode(stored, type=dict[str, Any]).get("format")
            if version != VERSION:
                raise SnapshotBroken(
                    f"{self._name} has format {version}, and this version of the program reads format {VERSION}: "
                    "use the version that wrote it, or a newer one"
                )
            return msgspec.json.decode(stored, type=Header)
        except msgspec.DecodeError as error:
            raise SnapshotBroken(f"{self._name} has a header that cannot be read: {error}") from error

    def blocks(self) -> Iterator[Block]:
        """Every block, in order; after the last one `end` is known, and every checksum has been compared."""
        counts = {NODES: 0, RELATIONSHIPS: 0}
        while True:
            kind, elements, stored, raw_length = self._frame()
            if kind == END:
                self._finish(stored, counts)
                return
            if kind not in counts or (kind == NODES and counts[RELATIONSHIPS]):
                raise SnapshotBroken(f"{self._name} has a frame {kind!r} where none may be")
            block = Block(kind, counts[kind], *self._elements(stored, raw_length, elements))
            counts[kind] += elements
            yield block

    def _finish(self, stored: bytes, counts: dict[bytes, int]) -> None:
        try:
            end = msgspec.json.decode(stored, type=End)
        except msgspec.DecodeError as error:
            raise SnapshotBroken(f"{self._name} has an end that cannot be read: {error}") from error
        if end.checksum != self._before_frame or (end.nodes, end.relationships) != tuple(counts.values()):
            raise SnapshotBroken(f"{self._name} is not as it was written: its checksum or its counts differ")
        _require_counts(self.header, end)
        if self._file.read(1):
            raise SnapshotBroken(f"{self._name} goes on after its end")
        self.end = end

    def _elements(self, stored: bytes, raw_length: int, elements: int) -> tuple[list[list[Any]], bool]:
        """The elements, and whether they are plain."""
        try:
            inflater = zlib.decompressobj()
            raw = inflater.decompress(stored, raw_length + 1)
            found = _decoder.decode(raw)
        except (zlib.error, msgspec.DecodeError) as error:
            raise SnapshotBroken(f"{self._name} has a block that cannot be read: {error}") from error
        if len(raw) != raw_length or not isinstance(found, list) or len(found) != elements:
            raise SnapshotBroken(f"{self._name} has a block of another length than it says")
        return found, b"$type" not in raw and b"\\u" not in raw  # in JSON every character can be an escape

    def _frame(self) -> tuple[bytes, int, bytes, int]:
        """Kind, elements, stored bytes, raw length."""
        self._before_frame = self._all.hexdigest()
        fields = self._read(_FIELDS.size, "a frame")
        if _digest(fields, _CHECK_BYTES) != self._read(_CHECK_BYTES, "a frame"):
            raise SnapshotBroken(f"{self._name} is damaged: the description of a block does not fit its checksum")
        kind, elements, raw_length, stored_length, digest = _FIELDS.unpack(fields)
        if max(raw_length, stored_length) > _LARGEST_FRAME:
            raise SnapshotBroken(f"{self._name} has a block of {max(raw_length, stored_length):,} bytes")
        stored = self._read(stored_length, "a block")
        if _digest(stored, 16) != digest:
            raise SnapshotBroken(f"{self._name} is damaged: a block does not fit its checksum")
        return kind, elements, stored, raw_length

    def _read(self, size: int, what: str) -> bytes:
        data = bytearray()
        while len(data) < size:  # a store may hand out less than it is asked for
            more = self._file.read(size - len(data))
            if not more:
                raise SnapshotBroken(f"{self._name} is cut off: it ends in {what}")
            data += more
        found = bytes(data)
        self._all.update(found)
        return found


def _require_counts(header: Header, end: End) -> None:
    if (header.nodes, header.relationships) != (end.nodes, end.relationships):
        raise SnapshotBroken(
            f"the snapshot announces {header.nodes:,} nodes and {header.relationships:,} relationships, and has "
            f"{end.nodes:,} and {end.relationships:,}: somebody wrote to the database while it was read"
        )


def _digest(data: bytes, size: int) -> bytes:
    return blake2b(data, digest_size=size).digest()
