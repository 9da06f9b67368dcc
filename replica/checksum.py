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

from collections import defaultdict
from dataclasses import dataclass, field
from hashlib import blake2b
from heapq import nsmallest
from typing import TYPE_CHECKING, Any, Final, LiteralString, cast

import msgspec
import neo4j
from neo4j.exceptions import DriverError, Neo4jError

from replica import values
from replica.columns import Columns
from replica.errors import QueryUnavailable
from replica.outcomes import code_of, message_of
from replica.statement import Position


if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

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
_FETCH_SIZE: Final = 5000
#: Rows between two reports of progress.
_STRIDE: Final = 5000

# Columns, not entities: half the work for the driver.  Cypher 5 has id(), the shortest key.
_NODES: Final[LiteralString] = """
CYPHER 5 MATCH (n) WHERE NOT n:_KafkaPosition RETURN id(n) AS id, labels(n) AS labels, properties(n) AS properties
"""
_RELATIONSHIPS: Final[LiteralString] = """
CYPHER 5 MATCH (a)-[r]->(b)
RETURN id(r) AS id, type(r) AS type, properties(r) AS properties, id(a) AS a, id(b) AS b
"""
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

    Takes some seconds per 100,000 elements, and 20 bytes of a temporary file per node id.  *wanted* names the buckets
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
    session = driver.session(database=database, default_access_mode=neo4j.READ_ACCESS, fetch_size=_FETCH_SIZE)
    with session, session.begin_transaction() as tx:
        before = _position(tx)
        elements, last = tx.run(_SIZES).single(strict=True)
        with Columns(last + 1) as columns:
            sums = _Sums(columns, wanted)
            counted = _counting(progress, elements)
            sums.add_nodes(counted(_rows(tx, _NODES)))
            sums.add_relationships(counted(_rows(tx, _RELATIONSHIPS)))
            sums.add_around()
        schema = schema_lines(tx)
        listed = sums.listed(tx)
        if _position(tx) != before:
            message = "commands were applied while the checksum ran: pause the applier and try again"
            raise QueryUnavailable("Replica.PositionMoved", message)
    return sums.result(before, schema, listed)


def checksum_of(
    nodes: Iterable[list[Any]],
    relationships: Iterable[list[Any]],
    size: int,
    schema: tuple[str, ...],
    position: Position,
) -> Checksum:
    """The checksum of a graph that lies elsewhere than in a database, for instance in a snapshot.

    Rows are those that the database gives: id, labels, properties; id, type, properties, id of start and end.  Node ids
    are below *size*; *schema* is from `schema_lines`.  What the rows raise passes through.
    """
    with Columns(size) as columns:
        sums = _Sums(columns, {})
        sums.add_nodes(nodes)
        sums.add_relationships(relationships)
        sums.add_around()
    return sums.result(position, schema, {})


def _counting(progress: Callable[[int, int], None], total: int) -> Callable[[Iterable[list[Any]]], Iterator[list[Any]]]:
    done = 0

    def counted(rows: Iterable[list[Any]]) -> Iterator[list[Any]]:
        nonlocal done
        for row in rows:
            done += 1
            if done % _STRIDE == 0:
                progress(done, total)
            yield row

    return counted


class _Sums:
    def __init__(self, columns: Columns, wanted: Mapping[str, Iterable[int]]) -> None:
        self._columns = columns
        self._wanted = {kind: frozenset(wanted.get(kind, ())) for kind in KINDS}
        self._found: dict[str, list[tuple[int, int]]] = {kind: [] for kind in KINDS}
        self._buckets = {kind: [0] * BUCKETS for kind in KINDS}
        self._named: dict[str, dict[str, list[int]]] = {kind: defaultdict(lambda: [0, 0]) for kind in KINDS}
        self._label_sets: dict[str, int] = {}

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

    def add_nodes(self, rows: Iterable[list[Any]]) -> None:
        for node, labels, properties in rows:
            ordered = sorted(labels)
            name = ":".join(ordered)
            code = _hash(b"n", ordered, properties)
            self._columns.put(node, code, self._label_sets.setdefault(name, len(self._label_sets)))
            self._add("nodes", name, code, node)

    def add_relationships(self, rows: Iterable[list[Any]]) -> None:
        """Sum the relationships, and what each node sees over them."""
        own, around = self._columns.own, self._columns.around
        for relationship, kind, properties, start, end in rows:
            content = _hash(b"r", kind, properties)
            a, b = own[start], own[end]  # 0: the position's node, the same everywhere
            self._add("relationships", kind, content, relationship)
            self._add("ends", kind, _mix(b"e", content, a, b), relationship)
            around[start] = (around[start] + _mix(b"o", content, b)) & _MASK
            around[end] = (around[end] + _mix(b"i", content, a)) & _MASK

    def add_around(self) -> None:
        names = list(self._label_sets)
        for node, own, around, label_set in self._columns:
            self._add("around", names[label_set], _mix(b"v", own, around), node)

    def listed(self, tx: neo4j.Transaction) -> dict[str, tuple[Element, ...]]:
        found = {}
        for kind, codes in self._found.items():
            lowest = nsmallest(LISTED, codes)
            statement = _SOME_NODES if kind in {"nodes", "around"} else _SOME_RELATIONSHIPS
            ids = [element for _, element in lowest]
            contents = dict(cast("list[Any]", _rows(tx, statement, ids=ids))) if ids else {}
            encoded = {element: values.encode(content) for element, content in contents.items()}
            found[kind] = tuple(Element(code, encoded[element]) for code, element in lowest)
        return found

    def result(self, position: Position | None, schema: tuple[str, ...], listed: Any) -> Checksum:
        named = {
            kind: {name: (count, total) for name, (count, total) in sorted(parts.items())}
            for kind, parts in self._named.items()
        }
        counts = {kind: sum(count for count, _ in parts.values()) for kind, parts in named.items()}
        whole = [counts, {kind: sum(sums) & _MASK for kind, sums in self._buckets.items()}, schema]
        digest = blake2b(_json(whole), digest_size=16).hexdigest()
        buckets = {kind: tuple(sums) for kind, sums in self._buckets.items()}
        return Checksum(counts["nodes"], counts["relationships"], digest, position, named, buckets, schema, listed)


def schema_lines(tx: Runner) -> tuple[str, ...]:
    """Each constraint and index, the position's own excepted, as a line of JSON."""
    rows = (row for statement in (_CONSTRAINTS, _INDEXES) for row in _rows(tx, statement))
    return tuple(sorted(_json(row).decode() for row in rows if row[4] != ["_KafkaPosition"]))


def _rows(tx: Runner, statement: LiteralString, **parameters: Any) -> Iterator[list[Any]]:
    for record in tx.run(statement, parameters):
        yield list(record)


def _json(value: Any) -> bytes:
    """Canonical: the keys of all maps sorted."""
    return msgspec.json.encode(value, order="sorted")


def _hash(kind: bytes, name: Any, properties: Mapping[str, Any]) -> int:
    """Hash typed values; never 0, which stands for no node."""
    text = _json([name, values.encode(properties)])
    return int.from_bytes(blake2b(text, digest_size=8, person=kind).digest()) or 1


def _mix(kind: bytes, *numbers: int) -> int:
    joined = b"".join(number.to_bytes(8) for number in numbers)
    return int.from_bytes(blake2b(joined, digest_size=8, person=kind).digest())


def _position(tx: neo4j.Transaction) -> Position | None:
    record = tx.run(_POSITION).single()
    if record is None:
        return None
    return Position(record["topic"], record["topic_id"], record["partition"], record["offset"])
