"""Take a snapshot: the whole graph with its position, as it was at one offset, streamed into a file.

The position's write lock is held by an open transaction while all is read in that same transaction.  So the applier
waits where it is, the other replicas go on, and whatever ends this process, `kill -9` included, ends the transaction,
the reading and the wait together.  Neo4j isolates by read-committed: it is the waiting applier, nothing else, that
makes the reading consistent.

Memory: some 1,000 elements on their way, one block, and 8 bytes a node.
"""

from __future__ import annotations

import uuid
from array import array
from bisect import bisect_left
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, BinaryIO, Final, LiteralString

import neo4j
from neo4j.exceptions import DriverError, Neo4jError

from replica import scanning, statement, values
from replica.checksum import Checksum, Sums
from replica.columns import Columns
from replica.errors import SnapshotBroken, SnapshotFailed, SnapshotRefused
from replica.marker import LOCK, RESTORING
from replica.outcomes import code_of, message_of
from replica.properties import encode_all
from replica.snapshot_format import NODES, RELATIONSHIPS, VERSION, Block, End, Header, Position, Sink, Source
from replica.snapshot_schema import read_schema
from replica.waiting import METADATA_KEY


if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from replica.marker import Key, Runner
    from replica.snapshot_schema import Tell

_METADATA: Final = {METADATA_KEY: "snapshot"}

# Each by itself: then the server answers from its count store, at once.
_COUNT_NODES: Final[LiteralString] = "MATCH (n) RETURN count(n)"
_COUNT_MARKERS: Final[LiteralString] = "MATCH (m:_KafkaPosition) RETURN count(m)"
_COUNT_RELATIONSHIPS: Final[LiteralString] = "MATCH ()-[r]->() RETURN count(r)"
_SERVER: Final[LiteralString] = """
CALL dbms.components() YIELD name, versions WHERE name = 'Neo4j Kernel' RETURN versions[0] AS version
"""


@dataclass(frozen=True, slots=True)
class Taken:
    """A snapshot that was written, or read to its end."""

    header: Header
    end: End


def create(driver: neo4j.Driver, database: str, key: Key, file: BinaryIO, tell: Tell) -> Taken:
    """Write a snapshot of the graph to *file*.  Commands wait meanwhile; queries do not.

    Waits for the transaction that the applier is in: at most a minute, or as long as a schema change takes.
    Raises `SnapshotRefused`, `SnapshotFailed` where the server fails, and `OSError` of the file.
    """
    try:
        session = driver.session(
            database=database, default_access_mode=neo4j.WRITE_ACCESS, fetch_size=scanning.FETCH_SIZE
        )
        # No time limit: that of the server's configuration would end a long snapshot.
        with session, session.begin_transaction(timeout=0, metadata=_METADATA) as tx:
            tell("waiting for the applier", 0, 0)
            header = _header(tx, key)
            sink = Sink(file, header)
            _write_elements(tx, sink, header, tell)
            return Taken(header, sink.end())
    except (DriverError, Neo4jError) as error:
        raise SnapshotFailed(f"no snapshot was taken: {code_of(error)}: {message_of(error)}") from error


def verify(file: BinaryIO, name: str, tell: Tell) -> Taken:
    """Read a snapshot to its end and compare every checksum and count; every value is decoded.

    Raises `SnapshotBroken` and `OSError`.
    """
    source = Source(file, name)
    for block in source.blocks():
        for _ in elements(block, source.header, name):
            pass
        tell(*told(block.kind, block.first + len(block.elements), source.header))
    return Taken(source.header, _end(source))


def checksum_of(file: BinaryIO, name: str, tell: Tell) -> Checksum:
    """As `verify`; gives what `replica.checksum` gives of the graph that the snapshot is of.

    Takes as much time and memory as that.
    """
    source = Source(file, name)
    header = source.header
    with Columns(header.nodes) as columns:
        sums = Sums(columns, {})
        for block in source.blocks():
            numbers = range(block.first, block.first + len(block.elements))
            columns_of = zip(*elements(block, header, name), strict=True)
            if block.kind == NODES:
                if numbers.stop > header.nodes:
                    raise SnapshotBroken(f"{name} has more nodes than the {header.nodes:,} that it announces")
                sums.add_nodes(numbers, *columns_of)
            else:
                sums.add_relationships(scanning.Relationships(numbers, *columns_of))
            tell(*told(block.kind, block.first + len(block.elements), header))
        sums.add_around()
    sums.add_schema(header.schema.rows)
    _end(source)
    at = header.position
    return sums.result(statement.Position(at.topic, at.topic_id, at.partition, at.offset))


def _end(source: Source) -> End:
    if source.end is None:
        raise AssertionError("unreachable: `blocks` ends with the end, or raises")
    return source.end


def counted(runner: Runner) -> tuple[int, int, int]:
    """Nodes without those that hold positions, relationships, nodes that hold positions."""
    statements = (_COUNT_NODES, _COUNT_RELATIONSHIPS, _COUNT_MARKERS)
    nodes, relationships, markers = (runner.run(text).single(strict=True)[0] for text in statements)
    return nodes - markers, relationships, markers


def _header(tx: neo4j.Transaction, key: Key) -> Header:
    found = tx.run(LOCK, key.parameters).single()
    if found is None:
        raise SnapshotRefused(
            f"the database has no position for {key.topic}/{key.partition}: start its worker once, and then take the "
            "snapshot"
        )
    marker = key.all(tx)  # with the ids of its commands: whoever is restored from it takes none of them twice
    if marker["topic_id"].startswith(RESTORING):
        raise SnapshotRefused(
            "a restore into this database has not ended: restore it again, and then take the snapshot"
        )
    nodes, relationships, markers = counted(tx)
    if markers != 1:
        raise SnapshotRefused("the database follows several logs: a snapshot is of one log, and would lose the others")
    return Header(
        id=uuid.uuid4().hex,
        format=VERSION,
        neo4j=tx.run(_SERVER).single(strict=True)["version"],
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        position=Position(key.topic, marker["topic_id"], key.partition, marker["offset"]),
        nodes=nodes,
        relationships=relationships,
        schema=read_schema(tx),
        marker=values.encode(marker, "marker"),
    )


def _write_elements(tx: neo4j.Transaction, sink: Sink, header: Header, tell: Tell) -> None:
    numbers = _Numbers()
    done = 0
    for some in scanning.nodes(tx):
        numbers.extend(some.ids)
        sink.add(NODES, list(zip(some.labels, encode_all(some.properties), strict=True)))
        done += len(some.ids)
        tell(*told(NODES, done, header))
    numbers.seal()
    done = 0
    for each in scanning.relationships(tx):
        starts, ends = map(numbers.of, each.starts), map(numbers.of, each.ends)
        sink.add(RELATIONSHIPS, list(zip(each.types, starts, ends, encode_all(each.properties), strict=True)))
        done += len(each.ids)
        tell(*told(RELATIONSHIPS, done, header))


class _Numbers:
    """Ids of nodes as dense numbers, in 8 bytes a node where a dictionary takes 150.

    Neo4j hands out nodes in the order of their ids; should it ever not, they are sorted.
    """

    def __init__(self) -> None:
        self._ids = array("q")
        self._numbers: array[int] | None = None  # in the order of the sorted ids, where that is another one

    def extend(self, nodes: Iterable[int]) -> None:
        self._ids.extend(nodes)

    def seal(self) -> None:
        """No more nodes come."""
        ids = self._ids
        if any(ids[index] >= ids[index + 1] for index in range(len(ids) - 1)):
            self._numbers = array("q", sorted(range(len(ids)), key=ids.__getitem__))
            self._ids = array("q", (ids[number] for number in self._numbers))

    def of(self, node: int) -> int:
        place = bisect_left(self._ids, node)
        if place == len(self._ids) or self._ids[place] != node:
            raise SnapshotRefused(
                f"a relationship leads to the node with id {node}, which is the position's, or is new: somebody else "
                "than the applier writes to this database"
            )
        return place if self._numbers is None else self._numbers[place]


def told(kind: bytes, done: int, header: Header) -> tuple[str, int, int]:
    """Progress in elements of all: "nodes" or "relationships", so many, of so many."""
    if kind == NODES:
        return "nodes", done, header.nodes
    return "relationships", done, header.relationships


def elements(block: Block, header: Header, name: str) -> Iterator[list[Any]]:
    """Labels and properties, or type, both ends' numbers and properties, of each element, decoded and checked.

    Raises `SnapshotBroken` for what cannot be restored.
    """
    try:
        for element in block.elements:
            *_, typed = element
            properties = typed if block.plain else values.decode(typed, "properties")
            _require(block.kind, element, properties, header.nodes)
            yield [*element[:-1], properties]
    except (ValueError, TypeError) as error:
        raise SnapshotBroken(f"{name} has an element that cannot be restored: {error}") from error


def _require(kind: bytes, element: list[Any], properties: Any, nodes: int) -> None:
    if kind == NODES:
        labels, _ = element
        good = isinstance(labels, list) and all(isinstance(label, str) for label in labels)
    else:
        type_, start, end, _ = element
        good = isinstance(type_, str) and 0 <= start < nodes and 0 <= end < nodes
    if not good or not isinstance(properties, dict):
        raise ValueError("neither a node nor a relationship between nodes")
