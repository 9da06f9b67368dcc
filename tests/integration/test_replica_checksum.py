from __future__ import annotations

from typing import TYPE_CHECKING, Any, LiteralString

import pytest

from replica import scanning
from replica.checksum import checksum
from replica.errors import QueryUnavailable
from tests.support import empty


if TYPE_CHECKING:
    from neo4j import Driver

    from replica.marker import Runner

BASE = "CREATE (a:A {k: 1}), (b:B {k: 2}), (c:B {k: 2}), (a)-[:R {w: 1}]->(b), (a)-[:R {w: 1}]->(b)"


def digest(driver: Driver, *statements: str) -> str:
    """The checksum of an empty database after *statements*."""
    empty(driver)
    for statement in statements:
        driver.execute_query(statement, database_="neo4j")
    return checksum(driver, "neo4j").digest


def test_equal_graphs_have_equal_checksums_whatever_their_ids(driver: Driver) -> None:
    """Ids, order of creation and the position's node do not count."""
    expected = digest(driver, BASE)
    assert digest(driver, "UNWIND range(1, 50) AS i CREATE (:Old)", "MATCH (n) DELETE n", BASE) == expected
    reordered = "CREATE (c:B {k: 2}), (b:B {k: 2}), (a:A {k: 1}), (a)-[:R {w: 1}]->(c), (a)-[:R {w: 1}]->(c)"
    assert digest(driver, reordered) == expected
    assert digest(driver, BASE, "CREATE (:_KafkaPosition {offset: 7, topic: 't', partition: 0})") == expected


@pytest.mark.parametrize(
    "change",
    [
        "MATCH (a:A) SET a.k = 1.0",
        "MATCH (a:A) SET a.k = '1'",
        "MATCH (a:A) SET a.k = [1]",
        "MATCH (a:A) SET a:B",
        "MATCH (a:A) SET a.d = duration('P1D')",
        "CREATE (:B {k: 2})",
        "MATCH (:A)-[r:R]->() WITH r LIMIT 1 DELETE r",
        "MATCH (:A)-[r:R]->() WITH r LIMIT 1 SET r.w = 2",
        "MATCH (a:A)-[r:R]->(b:B), (c:B) WHERE c <> b WITH a, r, c LIMIT 1 DELETE r CREATE (a)-[:R {w: 1}]->(c)",
        "MATCH (a:A)-[r:R]->(b:B) WITH a, r, b LIMIT 1 DELETE r CREATE (b)-[:R {w: 1}]->(a)",
        "CREATE INDEX i FOR (a:A) ON (a.k)",
        "CREATE CONSTRAINT c FOR (a:A) REQUIRE a.k IS UNIQUE",
    ],
)
def test_every_difference_shows(driver: Driver, change: str) -> None:
    """A type, a label, a duplicate, a direction, a relationship moved between twins, a name of the schema."""
    assert digest(driver, BASE, change) != digest(driver, BASE)


def test_a_writer_meanwhile_makes_the_checksum_refuse(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number that belongs to no position would raise a false alarm."""
    from replica import checksum as module

    digest(driver, BASE, "CREATE (:_KafkaPosition {offset: 7, topic: 't', topic_id: 'i', partition: 0})")
    original = module.schema_rows

    def apply_meanwhile(tx: Runner) -> list[list[Any]]:
        driver.execute_query("MATCH (m:_KafkaPosition) SET m.offset = 8", database_="neo4j")
        return original(tx)

    monkeypatch.setattr(module, "schema_rows", apply_meanwhile)
    with pytest.raises(QueryUnavailable, match="pause"):
        checksum(driver, "neo4j")


def test_a_node_that_was_not_there_at_first_makes_the_checksum_refuse(driver: Driver) -> None:
    """Somebody writes while the nodes are read, and its id is larger than the largest was."""
    digest(driver, "UNWIND range(1, 300) AS i CREATE (:A {k: i})")
    largest = rows_of(driver, "MATCH (n) RETURN max(id(n))")

    def write_meanwhile(_done: int, _total: int) -> None:
        while rows_of(driver, "MATCH (n) RETURN max(id(n))") <= largest:
            driver.execute_query("UNWIND range(1, 2000) AS i CREATE (:B)-[:R]->(:B)", database_="neo4j")

    with pytest.raises(QueryUnavailable, match="PositionMoved"):
        checksum(driver, "neo4j", progress=write_meanwhile)


@pytest.mark.parametrize("kept", [1, 7, 400])
def test_blocks_hold_what_rows_do(kept: int, driver: Driver) -> None:
    """However many ids between them are free: every node and relationship once, in the order of their ids."""
    empty(driver)
    for statement in (
        "CREATE (:_KafkaPosition {offset: 7, topic: 't', partition: 0})",
        "UNWIND range(1, 3500) AS i CREATE (a:A:B {k: i, d: date()})-[:R {k: i}]->(a)-[:S]->(:C {text: 'c' + i})",
        f"MATCH (n) WHERE n.k % {kept} <> 0 OR n.text = 'c1' DETACH DELETE n",
    ):
        driver.execute_query(statement, database_="neo4j")

    with driver.session(database="neo4j", fetch_size=scanning.FETCH_SIZE) as session:
        nodes = [
            row for some in scanning.nodes(session) for row in zip(some.ids, some.labels, some.properties, strict=True)
        ]
        relationships = [
            row
            for some in scanning.relationships(session)
            for row in zip(some.ids, some.types, some.starts, some.ends, some.properties, strict=True)
        ]

    assert nodes == rows_of(
        driver, "MATCH (n) WHERE NOT n:_KafkaPosition RETURN id(n) AS id, labels(n), properties(n) ORDER BY id"
    )
    assert relationships == rows_of(
        driver, "MATCH (a)-[r]->(b) RETURN id(r) AS id, type(r), id(a), id(b), properties(r) ORDER BY id"
    )
    assert len(relationships) > 2 * (3500 // kept) - 2


def rows_of(driver: Driver, statement: LiteralString) -> list[tuple[Any, ...]]:
    """Everything, one by one."""
    return [tuple(record) for record in driver.execute_query("CYPHER 5 " + statement, database_="neo4j").records]
