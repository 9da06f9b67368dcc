from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from replica.checksum import checksum
from replica.errors import QueryUnavailable
from tests.support import empty


if TYPE_CHECKING:
    import neo4j
    from neo4j import Driver

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
    original = module._schema

    def apply_meanwhile(tx: neo4j.Transaction) -> tuple[str, ...]:
        driver.execute_query("MATCH (m:_KafkaPosition) SET m.offset = 8", database_="neo4j")
        return original(tx)

    monkeypatch.setattr(module, "_schema", apply_meanwhile)
    with pytest.raises(QueryUnavailable, match="pause"):
        checksum(driver, "neo4j")
