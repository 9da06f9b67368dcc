"""One number for a whole graph, equal wherever the graph is equal: without ids, without order, counting duplicates.

A node's hash covers its labels and typed properties, a relationship's its type, properties and the hashes of both
ends.  One round of refinement then adds to each node what its relationships lead to, which tells apart graphs whose
relationships were moved between twins.  (A directed 6-cycle and two triangles of equal nodes stay indistinguishable:
the known limit of colour refinement.)  Sums are modulo 2^128, so equal elements do not cancel each other.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, LiteralString

import neo4j
from neo4j.exceptions import DriverError, Neo4jError

from replica import values
from replica.errors import QueryUnavailable
from replica.outcomes import code_of, message_of
from replica.statement import Position


if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from replica.marker import Runner

_MODULUS: Final = 1 << 128
_FETCH_SIZE: Final = 5000

# Columns, not entities: half the work for the driver.  Cypher 5 has id(), the shortest key.
_NODES: Final[LiteralString] = """
CYPHER 5 MATCH (n) WHERE NOT n:_KafkaPosition RETURN id(n) AS id, labels(n) AS labels, properties(n) AS properties
"""
_RELATIONSHIPS: Final[LiteralString] = """
CYPHER 5 MATCH (a)-[r]->(b) RETURN type(r) AS type, properties(r) AS properties, id(a) AS a, id(b) AS b
"""
_CONSTRAINTS: Final[LiteralString] = """
SHOW CONSTRAINTS YIELD name, type, entityType, labelsOrTypes, properties
RETURN name, type, entityType, labelsOrTypes, properties
"""
_INDEXES: Final[LiteralString] = """
SHOW INDEXES YIELD name, type, entityType, labelsOrTypes, properties, owningConstraint
RETURN name, type, entityType, labelsOrTypes, properties, owningConstraint
"""
_POSITION: Final[LiteralString] = """
MATCH (m:_KafkaPosition) RETURN m.topic AS topic, m.topic_id AS topic_id, m.partition AS partition, m.offset AS offset
ORDER BY topic, partition LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Checksum:
    """A graph in short; comparable only at equal positions."""

    nodes: int
    relationships: int
    digest: str
    position: Position | None


def checksum(driver: neo4j.Driver, database: str) -> Checksum:
    """Read the whole graph, the position's node excepted, and its schema in one READ transaction.

    Takes some seconds per 100,000 elements and about 200 bytes of memory per node (an id and two hashes).
    Neo4j isolates by read-committed: writers must rest while it runs.  They did if `position` is equal before and
    after, which this function checks.  Raises `QueryUnavailable` otherwise, and where the server fails.
    """
    try:
        return _checksum(driver, database)
    except (DriverError, Neo4jError, OSError) as error:
        raise QueryUnavailable(code_of(error), message_of(error)) from error


def _checksum(driver: neo4j.Driver, database: str) -> Checksum:
    session = driver.session(database=database, default_access_mode=neo4j.READ_ACCESS, fetch_size=_FETCH_SIZE)
    with session, session.begin_transaction() as tx:
        before = _position(tx)
        total = Sums()
        hashes = total.add_nodes(_rows(tx, _NODES))
        total.add_relationships(_rows(tx, _RELATIONSHIPS), hashes)
        total.add_schema(schema_rows(tx))
        if _position(tx) != before:
            message = "commands were applied while the checksum ran: pause the applier and try again"
            raise QueryUnavailable("Replica.PositionMoved", message)
    return Checksum(total.nodes, total.relationships, total.digest(), before)


class Sums:
    """The checksum of a graph while its rows go by: nodes, then relationships, then the schema."""

    def __init__(self) -> None:
        self.nodes = 0
        self.relationships = 0
        self._node_sum = 0
        self._relationship_sum = 0
        self._refined_sum = 0
        self._schema_sum = 0

    def add_nodes(self, rows: Iterable[Sequence[Any]]) -> dict[int, int]:
        """Add rows of id, labels and properties; give the hash of each id."""
        hashes: dict[int, int] = {}
        for node, labels, properties in rows:
            hashes[node] = code = _hash("n", sorted(labels), properties)
            self._node_sum += code
        self.nodes = len(hashes)
        return hashes

    def add_relationships(self, rows: Iterable[Sequence[Any]], hashes: dict[int, int]) -> None:
        """Add rows of type, properties and both ids, and what each node sees over them."""
        around: dict[int, int] = {}
        for kind, properties, start, end in rows:
            content = _hash("r", kind, properties)
            a, b = hashes.get(start, 0), hashes.get(end, 0)  # 0: the position's node, the same everywhere
            self._relationship_sum += _mix(b"r", content, a, b)
            around[start] = (around.get(start, 0) + _mix(b"o", content, b)) % _MODULUS
            around[end] = (around.get(end, 0) + _mix(b"i", content, a)) % _MODULUS
            self.relationships += 1
        self._refined_sum = sum(_mix(b"v", code, around.get(node, 0)) for node, code in hashes.items())

    def add_schema(self, rows: Iterable[Sequence[Any]]) -> None:
        """Add `schema_rows`."""
        for row in rows:
            self._schema_sum += _hash("s", row)

    def digest(self) -> str:
        """All of it in 32 hexadecimal digits."""
        sums = (self._node_sum, self._relationship_sum, self._refined_sum, self._schema_sum)
        return f"{_mix(b'g', self.nodes, self.relationships, *(total % _MODULUS for total in sums)):032x}"


def schema_rows(tx: Runner) -> list[list[Any]]:
    """What there is of constraints and indexes, the position's own excepted."""
    found = [row for statement in (_CONSTRAINTS, _INDEXES) for row in _rows(tx, statement)]
    return [row for row in found if row[3] != ["_KafkaPosition"]]


def _rows(tx: Runner, statement: LiteralString) -> Iterator[list[Any]]:
    for record in tx.run(statement):
        yield list(record)


def _hash(*parts: Any) -> int:
    """Hash typed values; the JSON of `values.encode` is canonical once its keys are sorted."""
    text = json.dumps([values.encode(part) for part in parts], sort_keys=True, separators=(",", ":"))
    return int.from_bytes(blake2b(text.encode(), digest_size=16).digest())


def _mix(kind: bytes, *numbers: int) -> int:
    joined = kind + b"".join(number.to_bytes(16) for number in numbers)
    return int.from_bytes(blake2b(joined, digest_size=16).digest())


def _position(tx: neo4j.Transaction) -> Position | None:
    record = tx.run(_POSITION).single()
    if record is None:
        return None
    return Position(record["topic"], record["topic_id"], record["partition"], record["offset"])
