"""``replica add`` and ``replica repair`` are killed at each step: begun again they end well, or say what to do."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from replica.checksum import checksum
from replica.driver import connect
from settings import environment_names
from tests.integration.seeding_crasher import POINTS
from tests.replicas import ROOT, Replicas, replicas_of, value, wait_for_value
from tests.support import wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result

    from tests.conftest import Neo4jServer

pytestmark = pytest.mark.slow

IN_EMPTYING = {"the database is claimed", "the nodes are gone and the schema is not", "the database is empty"}
IN_RESTORE = {"the snapshot is half restored"}
ADDING = [point for point in POINTS if point not in IN_EMPTYING]
#: Before the first of these nothing has changed, behind the last all is done.
HARMLESS = {"nothing is decided", "its quarantine has ended"}


@pytest.fixture(params=["the whole log", "a snapshot and the rest of the log"])
def replicas(
    kafka: str, neo4j_servers: tuple[Neo4jServer, ...], tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Replicas]:
    """One replica with a worker, and an empty database."""
    store = {} if request.param == "the whole log" else {"SNAPSHOT_STORE": (tmp_path / "snapshots").as_uri()}
    with replicas_of(kafka, neo4j_servers[:2], tmp_path, started=False, **store) as found:
        found.start(1)
        fill(found, 0)
        if store:
            assert found.neo4j_kafka("snapshot", "create").exit_code == 0
            cut = found.neo4j_kafka("log", "truncate", "--json")
            assert (cut.exit_code, json.loads(cut.stdout)["done"]) == (0, True), cut.output
            fill(found, 100)
        yield found


def fill(replicas: Replicas, first: int) -> None:
    """Some commands, applied by whoever is there."""
    app = replicas.app()
    app.run_command.send("CREATE CONSTRAINT n_id IF NOT EXISTS FOR (n:N) REQUIRE n.id IS UNIQUE")
    text = "MERGE (n:N {id: $id}) MERGE (m:N {id: $id / 2}) MERGE (n)-[:HALF]->(m)"
    receipts = [app.run_command.send(text, id=number) for number in range(first, first + 20)]
    receipts[-1].wait(applied=1, timeout=60)


def killed(replicas: Replicas, point: str, *arguments: str) -> None:
    """The same command in a process that dies there."""
    clean = {name: value for name, value in os.environ.items() if name not in environment_names()}
    nowhere = ("--state-dir", str(replicas.logs))
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.seeding_crasher", point, *arguments, *nowhere],
        cwd=ROOT,
        env=clean | replicas.env(1),
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr


def again(replicas: Replicas, *arguments: str) -> Result:
    """The command once more; where it says which one to give instead, that one, word for word."""
    result = replicas.neo4j_kafka(*arguments)
    if result.exit_code == 0:
        return result
    assert result.exit_code == 4, result.output
    said = re.search(r"`(replica repair [^`]+)`", result.stderr.replace("\n", " "))
    assert said is not None, result.stderr
    return replicas.neo4j_kafka(*shlex.split(said[1]), "--yes")


def state(replicas: Replicas) -> str:
    """Of the second replica, as ``replica list`` tells it."""
    rows = json.loads(replicas.neo4j_kafka("replica", "list", "--json").stdout)["replicas"]
    return next((row["state"] for row in rows if row["name"] == replicas.name(2)), "unknown")


def require_a_good_replica(replicas: Replicas) -> None:
    """It is like the first one, and applies and answers as that does."""
    app = replicas.app()
    assert app.decisions.look() == ()
    app.run_command.send("MERGE (n:N {id: 1000})").wait(applied="all", timeout=60)
    for server in replicas.servers:
        wait_for_value(server, "MATCH (n:N {id: 1000}) RETURN count(n)", 1)
    assert len({graph(server) for server in replicas.servers}) == 1


def graph(server: Neo4jServer) -> str:
    """Its checksum."""
    with connect(server.uri, server.user, server.password) as driver:
        return checksum(driver, "neo4j").digest


@pytest.mark.timeout(240)
@pytest.mark.parametrize("point", ADDING)
def test_an_add_that_is_killed_can_be_begun_again(replicas: Replicas, point: str) -> None:
    """Until its end the database answers nobody; a worker that is started too early waits."""
    if point in IN_RESTORE and "SNAPSHOT_STORE" not in replicas.environment:
        pytest.skip("there is nothing to restore")
    arguments = ("replica", "add", "--neo4j-uri", replicas.servers[1].uri, "--name", replicas.name(2))
    killed(replicas, point, *arguments)
    assert state(replicas) in {"unknown", "quarantined" if point not in HARMLESS else "away"}
    fill(replicas, 200)

    if point == "its quarantine has ended":
        assert "is a replica already" in replicas.neo4j_kafka(*arguments).stderr
    else:
        assert again(replicas, *arguments).exit_code == 0
    replicas.start(2)
    require_a_good_replica(replicas)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("point", POINTS)
def test_a_repair_that_is_killed_can_be_begun_again(replicas: Replicas, point: str) -> None:
    """Beside a worker that runs all the time; what was wrong before is right afterwards."""
    if point in IN_RESTORE and "SNAPSHOT_STORE" not in replicas.environment:
        pytest.skip("there is nothing to restore")
    added = replicas.neo4j_kafka("replica", "add", "--neo4j-uri", replicas.servers[1].uri, "--name", replicas.name(2))
    assert added.exit_code == 0, added.output
    replicas.start(2)
    replicas.app().run_command.send("MERGE (n:N {id: 999})").wait(applied="all", timeout=60)
    with connect(replicas.servers[1].uri, replicas.servers[1].user, replicas.servers[1].password) as driver:
        driver.execute_query("MATCH (n:N {id: 5}) DETACH DELETE n CREATE (:Foreign)")
        driver.execute_query("CREATE INDEX foreign FOR (n:Foreign) ON (n.x)")

    killed(replicas, point, "replica", "repair", replicas.name(2), "--yes")
    expected = "applying" if point in HARMLESS else "quarantined"
    wait_until(lambda: state(replicas) == expected, 30, f"the replica to be {expected}")
    fill(replicas, 200)
    if point != "its quarantine has ended":
        result = again(replicas, "replica", "repair", replicas.name(2), "--yes")
        assert result.exit_code == 0, result.output

    require_a_good_replica(replicas)
    assert value(replicas.servers[1], "MATCH (n:Foreign) RETURN count(n)") == 0


def test_a_log_without_its_start_and_a_store_without_a_snapshot_is_told(
    kafka: str, neo4j_servers: tuple[Neo4jServer, ...], tmp_path: Path
) -> None:
    """Nothing is guessed: the way out is named, and it is one."""
    store = (tmp_path / "snapshots").as_uri()
    with replicas_of(kafka, neo4j_servers[:2], tmp_path, started=False, SNAPSHOT_STORE=store) as replicas:
        replicas.start(1)
        fill(replicas, 0)
        taken = json.loads(replicas.neo4j_kafka("snapshot", "create", "--json").stdout)
        assert replicas.neo4j_kafka("log", "truncate").exit_code == 0
        [mark] = (tmp_path / "snapshots").glob("*.verified")
        mark.unlink()
        arguments = ("replica", "add", "--neo4j-uri", replicas.servers[1].uri, "--name", replicas.name(2))

        refused = replicas.neo4j_kafka(*arguments)
        assert refused.exit_code == 4
        assert f"the log begins at command {taken['offset'] + 1}" in refused.stderr
        assert "`snapshot create`" in refused.stderr

        assert replicas.neo4j_kafka("snapshot", "create").exit_code == 0
        assert again(replicas, *arguments).exit_code == 0
        replicas.start(2)
        require_a_good_replica(replicas)
