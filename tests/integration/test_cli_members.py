"""Replicas that are paused, taken out, and told apart, with real workers on real servers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.replicas import Replicas, replicas_of, value, wait_for_value
from tests.support import wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Neo4jServer

COUNT = "MATCH (n:N) RETURN count(n)"


@pytest.fixture(scope="module")
def replicas(
    kafka: str, neo4j_servers: tuple[Neo4jServer, ...], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Replicas]:
    """Two replicas that have applied a first command; the last test takes one away."""
    with replicas_of(kafka, neo4j_servers[:2], tmp_path_factory.mktemp("members")) as found:
        found.app().run_command.send("CREATE (:N)").wait(applied=2, timeout=60)
        yield found


def rows(replicas: Replicas) -> dict[str, dict[str, Any]]:
    """What ``replica list`` tells, by the end of each replica's name."""
    result = replicas.neo4j_kafka("replica", "list", "--json")
    assert result.exit_code == 0, result.output
    return {row["name"].removeprefix(replicas.prefix): row for row in json.loads(result.stdout)["replicas"]}


def test_replicas_are_there_before_the_first_command(
    kafka: str, neo4j_servers: tuple[Neo4jServer, ...], tmp_path: Path
) -> None:
    """They are registered when their workers have started, and can be paused; nothing has been reported then."""
    with replicas_of(kafka, neo4j_servers[2:], tmp_path) as alone:
        row = wait_until(lambda: rows(alone).get("replica-1"), 60, "the replica to be listed")
        assert row is not None
        assert (row["position"], row["lag"], row["why"]) == (-1, 0, "")
        wait_until(lambda: rows(alone)["replica-1"]["state"] == "applying", 30, "its worker to answer")
        assert alone.neo4j_kafka("replica", "pause", alone.name(1), "--reason", "early").exit_code == 0


def test_a_replica_that_is_none_is_not_said_to_be_resumed(replicas: Replicas) -> None:
    """A wrong name is an error, as it is for `pause`; a right one that was not paused is none."""
    for arguments in (("resume", "nobody"), ("quarantine", "nobody", "--lift", "--force")):
        told = replicas.neo4j_kafka("replica", *arguments)
        assert (told.exit_code, replicas.name(1) in told.stderr) == (2, True), told.output
    assert replicas.neo4j_kafka("replica", "resume", replicas.name(1)).stdout == f"{replicas.name(1)} was not paused.\n"


def test_a_paused_replica_stands_still_over_a_restart_of_its_worker(replicas: Replicas) -> None:
    """It says why, the other one goes on, and at resume it takes up where it stopped."""
    app, second = replicas.app(), replicas.name(2)
    assert {row["state"] for row in rows(replicas).values()} == {"applying"}
    assert all(row["version"] and row["worker"] and not row["differs"] for row in rows(replicas).values())

    assert replicas.neo4j_kafka("replica", "pause", second, "--reason", "a disk is changed").exit_code == 0
    app.run_command.send("CREATE (:N)").wait(applied=1, timeout=30)
    replicas.kill(2)
    replicas.start(2)
    app.run_command.send("CREATE (:N)").wait(applied=1, timeout=30)
    wait_until(lambda: "a disk is changed" in replicas.log(2).read_text(), 30, "the worker to say so")
    wait_until(lambda: rows(replicas)["replica-2"]["worker"], 30, "the new worker")

    row = rows(replicas)["replica-2"]
    assert (row["state"], row["position"], row["lag"]) == ("paused", 0, 2)
    assert "a disk is changed" in row["why"]
    assert row["lag_s"] > 0
    assert row["stands"]
    assert value(replicas.servers[1], COUNT) == 1

    resumed = replicas.neo4j_kafka("replica", "resume", second, "--json")
    assert json.loads(resumed.stdout) == {"replica": second, "was_paused": True}
    wait_for_value(replicas.servers[1], COUNT, 3)


def test_nobody_waits_for_a_replica_that_was_removed(replicas: Replicas) -> None:
    """It cannot be removed while its worker runs; its pause and its consumer group go with it."""
    app, second = replicas.app(), replicas.name(2)
    refused = replicas.neo4j_kafka("replica", "remove", second)
    assert (refused.exit_code, "has a worker" in refused.stderr) == (4, True)
    replicas.neo4j_kafka("replica", "pause", second, "--reason", "it goes")
    replicas.stop(2)

    result = replicas.neo4j_kafka("replica", "remove", second, "--json")

    assert (result.exit_code, json.loads(result.stdout)) == (0, {"removed": second, "left": []})
    app.run_command.send("CREATE (:N)").wait(applied="all", timeout=30)
    assert rows(replicas).keys() == {"replica-1"}
    assert app.decisions.look() == ()
    assert replicas.neo4j_kafka("replica", "pause", second, "--reason", "gone").exit_code == 2
