"""One number for a whole graph, equal wherever the graph is equal: without ids, without order, counting duplicates.

Four kinds of sums, from the plainest to the subtlest, so that a difference is shown where it is and not wherever it can
be noticed:

    nodes          labels and properties
    relationships  type and properties
    ends           a relationship with the labels and properties of both its ends
    around         a node with all its relationships, and what they lead to

The last one tells apart graphs whose relationships were moved between twins.  (A directed 6-cycle and two triangles of
equal nodes stay indistinguishable: the known limit of colour refinement.)  Sums are modulo 2^64, so equal elements do
not cancel each other.  Each kind is also summed by label set or type, and in `BUCKETS` by the first bits of the hash:
whoever finds that two graphs differ asks for the elements of the buckets that do.

Memory does not grow with the graph: 20 bytes for each node id lie in a temporary file that is mapped.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from dataclasses import dataclass, field
from hashlib import blake2b
from heapq import nsmallest
from typing import TYPE_CHECKING, Any, Final, LiteralString, cast

import msgspec
import neo4j
from neo4j.exceptions import DriverError, Neo4jError

from replica import scanning, values
from replica.columns import Columns
from replica.errors import QueryUnavailable
from replica.outcomes import code_of, message_of
from replica.properties import encode_all
from replica.statement import Position


if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from replica.marker import Runner

#: What is hashed, and how: checksums of different forms say nothing about each other.
FORM: Final = 2
KINDS: Final = ("nodes", "relationships", "ends", "around")
#: Sums of each kind; with a million elements 250 share one.
BUCKETS: Final = 4096
#: Label sets and types that are told apart; a graph with more of them shows the others as one.
NAMED: Final = 1000
OTHERS: Final = "(others)"
#: Elements that are named at most, for each kind: those with the lowest hashes, the same on every replica.
LISTED: Final = 2000

_MASK: Final = (1 << 64) - 1

# What is hashed, each kind by itself.  Copies of these: making one anew costs as much as hashing with it.
_A_NODE: Final = blake2b(digest_size=8, person=b"n")
_A_RELATIONSHIP: Final = blake2b(digest_size=8, person=b"r")
_ENDS: Final = blake2b(digest_size=8, person=b"e")
_OUT: Final = blake2b(digest_size=8, person=b"o")
_IN: Final = blake2b(digest_size=8, person=b"i")
_VIEW: Final = blake2b(digest_size=8, person=b"v")
_TWO: Final = struct.Struct(">QQ")
_THREE: Final = struct.Struct(">QQQ")

_encoder: Final = msgspec.json.Encoder(order="sorted")
_SIZES: Final[LiteralString] = """
CYPHER 5
CALL () { MATCH (n) RETURN count(n) AS nodes }
CALL () { MATCH ()-[r]->() RETURN count(r) AS relationships }
CALL () { MATCH (n) RETURN coalesce(max(id(n)), -1) AS last }
RETURN nodes + relationships AS elements, last
"""
_SOME_NODES: Final[LiteralString] = """
CYPHER 5 MATCH (n) WHERE id(n) IN $ids RETURN id(n) AS id, {labels: labels(n), properties: properties(n)} AS element
"""
_SOME_RELATIONSHIPS: Final[LiteralString] = """
CYPHER 5 MATCH (a)-[r]->(b) WHERE id(r) IN $ids
RETURN id(r) AS id, {type: type(r), properties: properties(r),
  from: {labels: labels(a), properties: properties(a)}, to: {labels: labels(b), properties: properties(b)}} AS element
"""
_CONSTRAINTS: Final[LiteralString] = """
SHOW CONSTRAINTS YIELD name, type, entityType, labelsOrTypes, properties
RETURN 'constraint' AS kind, name, type, entityType, labelsOrTypes, properties
"""
_INDEXES: Final[LiteralString] = """
SHOW INDEXES YIELD name, type, entityType, labelsOrTypes, properties, owningConstraint
RETURN 'index' AS kind, name, type, entityType, labelsOrTypes, properties, owningConstraint
"""
_POSITION: Final[LiteralString] = """
MATCH (m:_KafkaPosition) RETURN m.topic AS topic, m.topic_id AS topic_id, m.partition AS partition, m.offset AS offset
ORDER BY topic, partition LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Element:
    """One node or relationship: its hash, and itself as typed JSON with `labels` or `type`, and `properties`."""

    code: int
    element: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Checksum:
    """A graph in short; comparable only at equal positions.

    *named*: kind → label set or type → how many, and their sum.  *buckets*: kind → `BUCKETS` sums.  *schema*: each
    constraint and index as a line of JSON.  *listed*: kind → elements of the buckets that were asked for.
    """

    nodes: int
    relationships: int
    digest: str
    position: Position | None
    named: Mapping[str, Mapping[str, tuple[int, int]]] = field(default_factory=dict)
    buckets: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    schema: tuple[str, ...] = ()
    listed: Mapping[str, tuple[Element, ...]] = field(default_factory=dict)


def bucket_of(code: int) -> int:
    """In which bucket an element of that hash is summed."""
    return code * BUCKETS >> 64


def checksum(
    driver: neo4j.Driver,
    database: str,
    *,
    wanted: Mapping[str, Iterable[int]] | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Checksum:
    """Read the whole graph, the position's node excepted, and its schema in one READ transaction.

    Takes about a second per 100,000 elements, and 20 bytes of a temporary file per node id.  *wanted* names the buckets
    of each kind whose elements are listed.  *progress* is told how many elements of how many are read; what it raises
    ends the reading.
    Neo4j isolates by read-committed: writers must rest while it runs.  They did if `position` is equal before and
    after, which this function checks.  Raises `QueryUnavailable` otherwise, and where the server fails.
    """
    try:
        return _checksum(driver, database, wanted or {}, progress)
    except (DriverError, Neo4jError, OSError) as error:
        raise QueryUnavailable(code_of(error), message_of(error)) from error


def _checksum(
    driver: neo4j.Driver,
    database: str,
    wanted: Mapping[str, Iterable[int]],
    progress: Callable[[int, int], None],
) -> Checksum:
    session = driver.session(database=database, default_access_mode=neo4j.READ_ACCESS, fetch_size=scanning.FETCH_SIZE)
    with session, session.begin_transaction() as tx:
        before = _position(tx)
        elements, last = tx.run(_SIZES).single(strict=True)
        with Columns(last + 1) as columns:
            sums = Sums(columns, wanted)
            try:
                _add_elements(tx, sums, lambda done: progress(done, elements))
            except IndexError:  # a node that was not there when the largest id was asked for
                raise _moved() from None
            sums.add_around()
        sums.add_schema(schema_rows(tx))
        listed = sums.listed(tx)
        if _position(tx) != before:
            raise _moved()
    return sums.result(before, listed)


def _moved() -> QueryUnavailable:
    message = "commands were applied while the checksum ran: pause the applier and try again"
    return QueryUnavailable("Replica.PositionMoved", message)


def _add_elements(tx: neo4j.Transaction, sums: Sums, progress: Callable[[int], None]) -> None:
    done = 0
    for some in scanning.nodes(tx):
        sums.add_nodes(some.ids, some.labels, some.properties)
        done += len(some.ids)
        progress(done)
    for each in scanning.relationships(tx):
        sums.add_relationships(each)
        done += len(each.ids)
        progress(done)


class Sums:
    """The checksum of a graph while its rows go by: nodes, then relationships, then what is around each, the schema."""

    def __init__(self, columns: Columns, wanted: Mapping[str, Iterable[int]]) -> None:
        self._columns = columns
        self._wanted = {kind: frozenset(wanted.get(kind, ())) for kind in KINDS}
        self._found: dict[str, list[tuple[int, int]]] = {kind: [] for kind in KINDS}
        self._buckets = {kind: [0] * BUCKETS for kind in KINDS}
        self._named: dict[str, dict[str, list[int]]] = {kind: defaultdict(lambda: [0, 0]) for kind in KINDS}
        self._label_sets: dict[str, int] = {}
        self._schema: tuple[str, ...] = ()

    def _add(self, kind: str, name: str, code: int, element: int) -> None:
        place = bucket_of(code)
        buckets = self._buckets[kind]
        buckets[place] = (buckets[place] + code) & _MASK
        named = self._named[kind]
        part = named[name if name in named or len(named) < NAMED else OTHERS]
        part[0] += 1
        part[1] = (part[1] + code) & _MASK
        if place in self._wanted[kind]:
            self._keep(self._found[kind], code, element)

    @staticmethod
    def _keep(found: list[tuple[int, int]], code: int, element: int) -> None:
        found.append((code, element))
        if len(found) >= 2 * LISTED:
            found[:] = nsmallest(LISTED, found)

    def add_nodes(
        self, ids: Iterable[int], labels: Iterable[Sequence[str]], properties: Sequence[dict[str, Any]]
    ) -> None:
        """Add some nodes."""
        put, label_sets = self._columns.put, self._label_sets
        for node, own_labels, encoded in zip(ids, labels, encode_all(properties), strict=True):
            ordered = sorted(own_labels)
            name = ":".join(ordered)
            code = _hash(_A_NODE, ordered, encoded)
            put(node, code, label_sets.setdefault(name, len(label_sets)))
            self._add("nodes", name, code, node)

    def add_relationships(self, some: scanning.Relationships) -> None:
        """Add some relationships, and what each node sees over them; after all nodes."""
        own, around = self._columns.own, self._columns.around
        properties = encode_all(some.properties)
        for element, kind, start, end, encoded in zip(
            some.ids, some.types, some.starts, some.ends, properties, strict=True
        ):
            content = _hash(_A_RELATIONSHIP, kind, encoded)
            a, b = own[start], own[end]  # 0: the position's node, the same everywhere
            self._add("relationships", kind, content, element)
            self._add("ends", kind, _number(_ENDS, _THREE.pack(content, a, b)), element)
            around[start] = (around[start] + _number(_OUT, _TWO.pack(content, b))) & _MASK
            around[end] = (around[end] + _number(_IN, _TWO.pack(content, a))) & _MASK

    def add_around(self) -> None:
        """Add each node with what it sees; after all relationships."""
        names = list(self._label_sets)
        for node, own, around, label_set in self._columns:
            self._add("around", names[label_set], _number(_VIEW, _TWO.pack(own, around)), node)

    def add_schema(self, rows: Iterable[Sequence[Any]]) -> None:
        """Add `schema_rows`."""
        self._schema = tuple(sorted(_json(row).decode() for row in rows))

    def listed(self, tx: neo4j.Transaction) -> dict[str, tuple[Element, ...]]:
        """The elements of the buckets that are wanted."""
        found = {}
        for kind, codes in self._found.items():
            if not codes:
                continue
            lowest = nsmallest(LISTED, codes)
            statement = _SOME_NODES if kind in {"nodes", "around"} else _SOME_RELATIONSHIPS
            ids = [element for _, element in lowest]
            contents = dict(cast("list[Any]", _rows(tx, statement, ids=ids)))
            encoded = {element: values.encode(content) for element, content in contents.items()}
            found[kind] = tuple(Element(code, encoded[element]) for code, element in lowest)
        return found

    def result(self, position: Position | None, listed: Mapping[str, tuple[Element, ...]] | None = None) -> Checksum:
        """All of it, of a graph at *position*."""
        named = {
            kind: {name: (count, total) for name, (count, total) in sorted(parts.items())}
            for kind, parts in self._named.items()
        }
        counts = {kind: sum(count for count, _ in parts.values()) for kind, parts in named.items()}
        whole = [counts, {kind: sum(sums) & _MASK for kind, sums in self._buckets.items()}, self._schema]
        digest = blake2b(_json(whole), digest_size=16).hexdigest()
        buckets = {kind: tuple(sums) for kind, sums in self._buckets.items()}
        return Checksum(
            counts["nodes"], counts["relationships"], digest, position, named, buckets, self._schema, listed or {}
        )


def schema_rows(runner: Runner) -> list[list[Any]]:
    """What there is of constraints and indexes, the position's own excepted."""
    found = [row for statement in (_CONSTRAINTS, _INDEXES) for row in _rows(runner, statement)]
    return [row for row in found if row[4] != ["_KafkaPosition"]]


def _rows(tx: Runner, statement: LiteralString, **parameters: Any) -> Iterator[list[Any]]:
    for record in tx.run(statement, parameters):
        yield list(record)


def _json(value: Any) -> bytes:
    """Canonical: the keys of all maps sorted."""
    return _encoder.encode(value)


def _hash(kind: blake2b, name: Any, encoded: Mapping[str, Any]) -> int:
    """Hash typed values; never 0, which stands for no node."""
    return _number(kind, _json([name, encoded])) or 1


def _number(kind: blake2b, data: bytes) -> int:
    made = kind.copy()
    made.update(data)
    return int.from_bytes(made.digest())


def _position(tx: neo4j.Transaction) -> Position | None:
    record = tx.run(_POSITION).single()
    if record is None:
        return None
    return Position(record["topic"], record["topic_id"], record["partition"], record["offset"])
