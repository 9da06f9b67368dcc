"""Replicas that were tampered with are found, by comparison at checkpoints and of whole graphs, on real servers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

import cli
from replica.digest import INTERVAL
from replica.driver import connect
from tasks.checkpoints import disagreements
from tasks.errors import QueryFailed
from tasks.serving import NOT_SERVING
from tests.replicas import Replicas, replicas_of
from tests.support import wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Neo4jServer

GRAPH = (
    "CREATE (a:A {k: 1, v: 'x'}), (b:A {k: 2, v: 'y'}), (t:Twin), (u:Twin), (a)-[:R {w: 1}]->(t), (a)-[:R {w: 1}]->(t)"
)
MOVE = "MATCH (a:A)-[r:R]->(t:Twin), (u:Twin) WHERE u <> t WITH a, r, u LIMIT 1 DELETE r CREATE (a)-[:R {w: 1}]->(u)"
MOVE_BACK = (
    "MATCH (a:A)-[r:R]->(:Twin) DELETE r WITH DISTINCT a MATCH (t:Twin) WITH a, collect(t)[0] AS t "
    "CREATE (a)-[:R {w: 1}]->(t), (a)-[:R {w: 1}]->(t)"
)
#: What is done to one replica, how it is undone, and what `verify` says of it.
SABOTAGE = {
    "a node was written directly": ("CREATE (:Stray {x: 1})", "MATCH (s:Stray) DELETE s", "nodes", "Stray"),
    "a property was swapped": (
        "MATCH (a:A {k: 1}), (b:A {k: 2}) SET a.v = 'y', b.v = 'x'",
        "MATCH (a:A {k: 1}), (b:A {k: 2}) SET a.v = 'x', b.v = 'y'",
        "nodes",
        "A",
    ),
    "an index was dropped": ("DROP INDEX a_v", "CREATE INDEX a_v FOR (a:A) ON (a.v)", "schema", "a_v"),
    "a relationship was moved between twins": (
        MOVE,
        MOVE_BACK,
        "around",
        "Twin",
    ),
}


def tamper(server: Neo4jServer, *statements: str) -> None:
    """Write to a replica's database directly, as nobody should."""
    with connect(server.uri, server.user, server.password) as driver:
        for statement in statements:
            driver.execute_query(statement, database_="neo4j")


@pytest.fixture(scope="module")
def replicas(
    kafka: str, neo4j_servers: tuple[Neo4jServer, ...], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Replicas]:
    """Two replicas with a graph that has twins in it."""
    with replicas_of(kafka, neo4j_servers[:2], tmp_path_factory.mktemp("divergence")) as found:
        app = found.app()
        app.run_command.send("CREATE INDEX a_v FOR (a:A) ON (a.v)")
        app.run_command.send(GRAPH).wait(applied=2, timeout=60)
        yield found


def verify(replicas: Replicas, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of ``neo4j-kafka verify``."""
    command = ["verify", "--json", "--state-dir", str(replicas.logs), *arguments]
    result = CliRunner().invoke(cli.main, command, env=replicas.env(1))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result.exit_code, json.loads(result.stdout)


def names(replicas: Replicas) -> list[str]:
    """Of all replicas, as they are registered."""
    return [replicas.env(number)["GROUP_ID"] for number in range(1, len(replicas.servers) + 1)]


def fill_a_segment(replicas: Replicas) -> int:
    """Send commands until the log is beyond the next checkpoint; the last one's offset."""
    app = replicas.app()
    start = app.run_command.send("RETURN 1").position()
    with app.broker.batching():
        for n in range(start // INTERVAL * INTERVAL + INTERVAL - start):
            receipt = app.run_command.send("MERGE (c:Counter {id: $n}) SET c.n = coalesce(c.n, 0) + 1", n=n % 7)
    return receipt.position()


def test_verify_says_same_only_when_all_have_answered(replicas: Replicas) -> None:
    """Digests, sizes and the place of the log are told; with one replica's worker gone it is not verified."""
    code, told = verify(replicas)
    assert (code, told["verdict"]) == (0, "same"), told
    assert [row["replica"] for row in told["replicas"]] == names(replicas)
    assert {(row["nodes"], row["relationships"]) for row in told["replicas"]} == {(4, 2)}
    assert len({row["digest"] for row in told["replicas"]}) == 1
    assert told["offset"] > 0

    replicas.stop(2)
    code, told = verify(replicas, "--timeout", "5")
    replicas.start(2)
    assert (code, told["verdict"]) == (3, "unverified"), told
    assert [row["replica"] for row in told["replicas"] if row["problem"]] == [names(replicas)[1]]


@pytest.mark.parametrize("name", SABOTAGE)
def test_verify_finds_what_was_done_to_one_replica(replicas: Replicas, name: str) -> None:
    """By the kind, the label and the element; when it is undone, all is the same again."""
    statement, undo, kind, expected = SABOTAGE[name]
    tamper(replicas.servers[1], statement)
    code, told = verify(replicas)
    tamper(replicas.servers[1], undo)

    assert (code, told["verdict"]) == (5, "differ"), told
    found = told["schema"] if kind == "schema" else told["elements"]
    assert {one["kind"] for one in found} == {kind}, told
    assert any(expected in one["text"] for one in found)
    assert all(set(one["counts"]) == set(names(replicas)) for one in found)
    if kind != "schema":
        assert {(part["kind"], part["name"]) for part in told["parts"]} <= {
            ("nodes", expected),
            (kind, expected),
            (kind, "A"),
        }
    assert verify(replicas)[0] == 0


def test_a_replica_that_was_written_to_stops_at_the_checkpoint_and_the_other_goes_on(replicas: Replicas) -> None:
    """There is no majority of two; but its own commands do not account for the node."""
    app, (first, second) = replicas.app(), names(replicas)
    fill_a_segment(replicas)
    last = fill_a_segment(replicas)
    app.follower.wait(last, 0, 2, 60)
    tamper(replicas.servers[1], "CREATE (:Stray)")

    fill_a_segment(replicas)

    decision = wait_until(lambda: app.decisions.of("quarantine").get(second), 30, "the replica to stop")
    assert decision is not None
    assert "nodes:" in decision.reason
    assert f"wrong is {second}" in decision.reason
    assert first not in app.decisions.of("quarantine")
    after = app.run_command.send("CREATE (:After)")
    assert after.wait(applied=1, timeout=30).keys() == {first}
    assert "replica_diverged" in replicas.log(2).read_text()
    assert "replicas_disagree" in replicas.log(1).read_text()
    told = disagreements(
        app.broker, app.checkpoints_topic, app.broker.topics.identity(app.command_topic.name), timeout_s=10
    )
    assert {one.replica: one.wrong for one in told} == {first: False, second: True}

    code, verified = verify(replicas)
    assert (code, verified["verdict"]) == (3, "unverified")
    assert "quarantine" in verified["replicas"][1]["problem"]

    wait_until(lambda: "serving_left reasons=quarantine" in replicas.log(2).read_text(), 30, "it to leave the queries")
    assert {app.run_query.send("RETURN 1 AS x").get(timeout=30).replica for _ in range(6)} == {first}
    replicas.stop(1)
    with pytest.raises(QueryFailed, match=f"quarantine: replica {second} is quarantined") as refused:
        app.run_query.send("RETURN 1 AS x").get(timeout=60)
    assert refused.value.code == NOT_SERVING


@pytest.mark.parametrize("statement", ["MATCH (a:A {k: 2}) SET a.v = 'z'", "DROP INDEX a_v"], ids=["value", "schema"])
def test_the_one_that_is_outvoted_says_what_differs_before_it_stops(
    kafka: str, neo4j_servers: tuple[Neo4jServer, ...], tmp_path: Path, statement: str
) -> None:
    """A replica in quarantine reads nothing, so it goes there when all has been asked, and not before."""
    with replicas_of(kafka, neo4j_servers, tmp_path) as three:
        app = three.app()
        app.run_command.send("CREATE INDEX a_v FOR (a:A) ON (a.v)")
        app.run_command.send(GRAPH).wait(applied=3, timeout=90)
        tamper(three.servers[1], statement)

        code, told = verify(three)

        assert (code, told["verdict"]) == (5, "differ"), told
        found = told["elements"] or told["schema"]
        assert found
        first, second, third = (name.removeprefix(three.prefix) for name in names(three))
        for one in found:
            counts = {name.removeprefix(three.prefix): count for name, count in one["counts"].items()}
            assert counts[first] == counts[third] != counts[second]
        wrong = names(three)[1]
        wait_until(lambda: app.decisions.of("quarantine").keys() == {wrong}, 60, "the wrong one to stop")
