"""Snapshots between the oldest and the newest version of Neo4j that this project runs on, in both directions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ops import jars
from ops.errors import JarsUnavailable, PackageMissing
from ops.stack import Stack
from replica.checksum import checksum
from replica.driver import connect
from replica.statement import Command, Statement
from tests.conftest import give_up
from tests.integration.test_replica_snapshot import EVERYTHING, applier, marker, restored, taken
from tests.support import empty


if TYPE_CHECKING:
    from collections.abc import Iterator

    from neo4j import Driver

# A second Neo4j, and a download of 130 MB the first time.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

OLDEST = "5.26.12"
assert ("neo4j", OLDEST) in jars.PINNED

SCHEMA = (
    "CREATE CONSTRAINT user_name FOR (u:User) REQUIRE u.name IS UNIQUE",
    "CREATE CONSTRAINT pair FOR (u:User) REQUIRE (u.a, u.b) IS UNIQUE",
    "CREATE CONSTRAINT knows_id FOR ()-[r:KNOWS]-() REQUIRE r.id IS UNIQUE",
    "CREATE INDEX several FOR (u:User) ON (u.i, u.j)",
    "CREATE INDEX since FOR ()-[r:KNOWS]-() ON (r.since)",
    "CREATE TEXT INDEX bio FOR (u:User) ON (u.bio)",
    "CREATE TEXT INDEX note FOR ()-[r:KNOWS]-() ON (r.note)",
    "CREATE POINT INDEX place FOR (u:User) ON (u.place) OPTIONS {indexConfig: {`spatial.cartesian.min`: [-9.0, -9.0]}}",
    (
        "CREATE FULLTEXT INDEX `full ``text` FOR (n:User|Group) ON EACH [n.name, n.bio]"
        " OPTIONS {indexConfig: {`fulltext.analyzer`: 'english', `fulltext.eventually_consistent`: true}}"
    ),
    "CREATE FULLTEXT INDEX notes FOR ()-[r:KNOWS]-() ON EACH [r.note]",
    (
        "CREATE VECTOR INDEX vectors FOR (n:User) ON n.v OPTIONS"
        " {indexConfig: {`vector.dimensions`: 3, `vector.similarity_function`: 'euclidean'}}"
    ),
    "CREATE VECTOR INDEX edges FOR ()-[r:KNOWS]-() ON (r.v) OPTIONS {indexConfig: {`vector.dimensions`: 2}}",
)
DATA = (
    Statement(
        "UNWIND range(1, 300) AS i CREATE (u:User:`a ``label` {name: 'u' + i, i: i, v: [1.0 * i, 2.0, 3.0]})"
        "-[:KNOWS {id: i, v: [0.5, i]}]->(:Group {i: i})"
    ),
    Statement(
        "MATCH (u:User {name: 'u1'}), (v:User {name: 'u2'}) SET u += $all CREATE (u)-[:`odd ``type` $all]->(v)",
        {"all": EVERYTHING},
    ),
    Statement("CREATE (:User {name: 'u1'})"),
)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """The oldest one."""
    stack = Stack(tmp_path_factory.mktemp("old"), short_lived=True)
    try:
        stack.start("neo4j-1", neo4j_version=OLDEST)
        with connect(next(row.uri for row in stack.status()), *stack.login) as driver:
            yield driver
    except (JarsUnavailable, PackageMissing) as error:
        give_up(error)
    finally:
        stack.down()


def fill(driver: Driver) -> None:
    """Everything that both versions have, in a graph with a position."""
    one = applier(driver)
    one.recover(0)
    statements = [*(Statement(text) for text in SCHEMA), *DATA]
    told = one.apply([Command(offset, (statement,)) for offset, statement in enumerate(statements)])
    assert [outcome.offset for outcome in told.rejected] == [len(statements) - 1], told.rejected


def definitions(driver: Driver) -> dict[str, tuple[Any, ...]]:
    """Every index and what it was told to be; the provider is the version's own."""
    found = driver.execute_query("SHOW INDEXES YIELD *").records
    fields = ("type", "state", "entityType", "labelsOrTypes", "properties", "owningConstraint")
    return {row["name"]: (*(row[field] for field in fields), row["options"]["indexConfig"]) for row in found}


def test_the_newer_version_takes_what_the_older_one_had_and_gives_it_back(driver: Driver, old: Driver) -> None:
    """Every value, every kind of constraint and index with its options, and the position; in both directions."""
    empty(old)
    fill(old)
    before, schema, position = checksum(old, "neo4j"), definitions(old), marker(old)
    assert {row[:2] for row in schema.values()} == {
        (kind, "ONLINE") for kind in ("RANGE", "TEXT", "POINT", "FULLTEXT", "VECTOR", "LOOKUP")
    }

    restored(driver, taken(old))

    assert (checksum(driver, "neo4j"), definitions(driver), marker(driver)) == (before, schema, position)
    data = taken(driver)
    empty(old)
    restored(old, data)
    assert (checksum(old, "neo4j"), definitions(old), marker(old)) == (before, schema, position)


def test_the_older_version_takes_what_the_newer_one_had(driver: Driver, old: Driver) -> None:
    """As long as it has it itself; what was made on the newer one need not have begun on the older one."""
    empty(old)
    fill(driver)

    restored(old, taken(driver))

    assert checksum(old, "neo4j") == checksum(driver, "neo4j")
    assert definitions(old) == definitions(driver)
    assert marker(old) == marker(driver)
