"""A database becomes a replica, and a wrong one right again, by one command each."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from replica.driver import connect
from tests.replicas import Replicas, replicas_of, value
from tests.support import empty, wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Neo4jServer

COUNT = "MATCH (n:N) RETURN count(n)"


@pytest.fixture(scope="module")
def replicas(
    kafka: str, neo4j_servers: tuple[Neo4jServer, ...], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Replicas]:
    """One replica with a worker, and two more databases."""
    with replicas_of(kafka, neo4j_servers, tmp_path_factory.mktemp("seeding"), started=False) as found:
        found.start(1)
        app = found.app()
        app.run_command.send("CREATE CONSTRAINT n_id FOR (n:N) REQUIRE n.id IS UNIQUE").wait(timeout=60)
        for number in range(20):
            app.run_command.send("MERGE (n:N {id: $id}) MERGE (m:N {id: $id / 2}) MERGE (n)-[:HALF]->(m)", id=number)
        app.run_command.send("MATCH (n:N {id: 3}) SET n.id = 2").position()  # rejected everywhere
        yield found


def state(replicas: Replicas, number: int) -> str:
    """As ``replica list`` tells it."""
    rows = json.loads(replicas.neo4j_kafka("replica", "list", "--json").stdout)["replicas"]
    return next((row["state"] for row in rows if row["name"] == replicas.name(number)), "unknown")


def test_an_empty_database_becomes_a_replica(replicas: Replicas) -> None:
    """From the log's start; it equals the first one, is registered, and its own worker goes on from there."""
    second = replicas.name(2)

    result = replicas.neo4j_kafka("replica", "add", "--neo4j-uri", replicas.servers[1].uri, "--name", second, "--json")

    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["replica"], told["position"], told["equals"]) == (second, 21, [replicas.name(1)])
    assert f"GROUP_ID={second}" in told["worker"]
    assert value(replicas.servers[1], COUNT) == value(replicas.servers[0], COUNT) == 20
    assert state(replicas, 2) == "away"
    replicas.start(2)
    replicas.app().run_command.send("CREATE (:N {id: 100})").wait(applied="all", timeout=60)


def test_what_cannot_become_a_replica_is_refused_and_left_alone(replicas: Replicas) -> None:
    """A name that is taken, a database that is, and one that has data of its own."""
    third = replicas.servers[2]
    with connect(third.uri, third.user, third.password) as driver:
        driver.execute_query("CREATE (:Mine)")

    refusals = {
        "is a replica already": ("--neo4j-uri", third.uri, "--name", replicas.name(1)),
        "is that of": ("--neo4j-uri", replicas.servers[0].uri, "--name", "another"),
        "is not empty": ("--neo4j-uri", third.uri, "--name", "another"),
    }
    for says, arguments in refusals.items():
        result = replicas.neo4j_kafka("replica", "add", *arguments)
        assert (result.exit_code, says in result.stderr) == (4, True), result.output

    away = replicas.neo4j_kafka("replica", "add", "--neo4j-uri", "bolt://127.0.0.1:1", "--name", "another")
    assert (away.exit_code, "cannot be used" in away.stderr) == (1, True), away.output
    # Nobody is asked whether a database may be emptied that will not be.
    repair = replicas.neo4j_kafka("replica", "repair", "another", "--neo4j-uri", third.uri)
    assert (repair.exit_code, "nothing to repair" in repair.stderr, "Delete" in repair.stderr) == (4, True, False)
    assert value(third, "MATCH (m:Mine) RETURN count(m)") == 1
    assert replicas.app().decisions.look() == ()


def test_a_wrong_replica_is_quarantined_and_made_anew(replicas: Replicas) -> None:
    """Its worker runs all the time: it stands still, and applies again when its graph is the others'."""
    second, server = replicas.name(2), replicas.servers[1]
    assert replicas.neo4j_kafka("replica", "quarantine", second, "--reason", "somebody wrote into it").exit_code == 0
    with connect(server.uri, server.user, server.password) as driver:
        driver.execute_query("MATCH (n:N {id: 5}) DETACH DELETE n CREATE (:Foreign)")
        driver.execute_query("CREATE INDEX foreign FOR (n:Foreign) ON (n.x)")
    replicas.app().run_command.send("CREATE (:N {id: 101})").wait(applied=1, timeout=30)
    assert state(replicas, 2) == "quarantined"
    assert value(server, "MATCH (n:N {id: 101}) RETURN count(n)") == 0

    result = replicas.neo4j_kafka("replica", "repair", second, "--yes", "--json")

    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["equals"] == [replicas.name(1)]
    assert state(replicas, 2) == "applying"
    assert value(server, "MATCH (n:Foreign) RETURN count(n)") == 0
    replicas.app().run_command.send("CREATE (:N {id: 102})").wait(applied="all", timeout=60)
    wait_until(lambda: value(server, COUNT) == value(replicas.servers[0], COUNT), 30, "the graphs to be equal")
    assert replicas.app().decisions.look() == ()


def test_a_wrong_replica_is_made_anew_though_nobody_writes(replicas: Replicas) -> None:
    """Its worker has no command that would make it look at the graph that was put in place of its own."""
    second, server = replicas.name(2), replicas.servers[1]
    with connect(server.uri, server.user, server.password) as driver:
        driver.execute_query("MATCH (n:N {id: 6}) DETACH DELETE n")

    result = replicas.neo4j_kafka("replica", "repair", second, "--yes", "--json")

    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["equals"] == [replicas.name(1)]
    assert value(server, COUNT) == value(replicas.servers[0], COUNT)
    replicas.app().run_command.send("CREATE (:N {id: 103})").wait(applied="all", timeout=60)


def test_a_graph_that_can_be_compared_with_no_other_says_why(replicas: Replicas) -> None:
    """The other server does not know the user; the new replica stays in quarantine until it can be compared."""
    third, name = replicas.servers[2], replicas.name(3)
    with connect(third.uri, third.user, third.password) as driver:
        empty(driver)
        driver.execute_query(
            "CREATE USER other SET PASSWORD $password CHANGE NOT REQUIRED", password=third.password, database_="system"
        )
        try:
            result = replicas.neo4j_kafka(
                *("replica", "add", "--neo4j-uri", third.uri, "--neo4j-user", "other", "--name", name)
            )
            assert (result.exit_code, f"{replicas.name(1)} could not be read at" in result.stderr) == (4, True), result
            assert state(replicas, 3) == "quarantined"
        finally:
            driver.execute_query("DROP USER other", database_="system")
            empty(driver)
    assert replicas.neo4j_kafka("replica", "remove", name).exit_code == 0
