"""Neo4j's own dump of a stopped replica, loaded elsewhere, is a replica: what README says of `neo4j-admin`."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

import cli
from ops import jars
from ops.errors import JarsUnavailable, PackageMissing
from ops.stack import Stack
from tests.conftest import Neo4jServer, give_up
from tests.replicas import Replicas, replicas_of, value, wait_for_value
from tests.support import wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Two servers of its own, started twice, and Neo4j's tool, which takes some seconds for each call.
pytestmark = pytest.mark.slow

NAMES = ("neo4j-1", "neo4j-2")


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Stack]:
    """Two servers that only this test stops."""
    stack = Stack(tmp_path / "stack", short_lived=True)
    started(stack)
    yield stack
    stack.down()


def started(stack: Stack) -> tuple[Neo4jServer, ...]:
    """Both servers, where they answer."""
    try:
        stack.start(*NAMES)
    except (JarsUnavailable, PackageMissing) as error:
        give_up(error)
    uris = {row.name: row.uri for row in stack.status()}
    return tuple(Neo4jServer(name, uris[name], *stack.login) for name in NAMES)


def neo4j_admin(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`neo4j-admin` of the server in *folder*; its script does no more than this."""
    home = {"NEO4J_HOME": str(folder), "NEO4J_CONF": str(folder / "conf")}
    command = [str(jars.java()), f"@{folder / 'class-path.args'}", "org.neo4j.cli.AdminTool", *arguments]
    return subprocess.run(command, env=os.environ | home, capture_output=True, text=True, timeout=120, check=False)


def run(replicas: Replicas, *arguments: str) -> Result:
    """The command line, as a person next to replica 1."""
    nowhere = ("--state-dir", str(replicas.logs))
    return CliRunner().invoke(cli.main, [*arguments, "--json", *nowhere], env=replicas.env(1))


def test_a_dump_of_one_replica_is_the_next_one(kafka: str, own: Stack, tmp_path: Path) -> None:
    """Dumped while the server is stopped, and only then; loaded over a database that was there.

    The worker that is started on it goes on at the position that came along, and `verify` finds both the same.
    """
    with replicas_of(kafka, started(own), tmp_path, started=False) as replicas:
        first, second = replicas.servers
        replicas.start(1, "--queues", "command")
        app = replicas.app()
        app.run_command.send("CREATE CONSTRAINT user_n FOR (u:User) REQUIRE u.n IS UNIQUE").wait(timeout=60)
        for n in range(50):
            app.run_command.send("CREATE (:User {n: $n, at: datetime()})-[:IN]->(:Group)", n=n)
        app.run_command.send("CREATE (:User {n: 7})").position()  # rejected everywhere
        once: dict[str, Any] = {"args": ("MATCH (u:User {n: 1}) SET u.times = coalesce(u.times, 0) + 1",), "id": "once"}
        app.run_command.send_with_options(**once).wait(timeout=60)
        dumps = tmp_path / "dumps"
        dumps.mkdir()
        dump = ("database", "dump", "neo4j", f"--to-path={dumps}")
        assert neo4j_admin(own.folder / "neo4j-1", *dump).returncode != 0  # it runs

        assert replicas.stop(1) == 0
        own.down()
        told = neo4j_admin(own.folder / "neo4j-1", *dump)
        assert told.returncode == 0, told.stdout + told.stderr
        load = ("database", "load", "neo4j", f"--from-path={dumps}", "--overwrite-destination=true")
        told = neo4j_admin(own.folder / "neo4j-2", *load)
        assert told.returncode == 0, told.stdout + told.stderr
        assert started(own) == (first, second)

        app.run_command.send_with_options(**once)
        app.run_command.send("CREATE (:User {n: 100})")
        replicas.start(1, "--queues", "command")
        replicas.start(2, "--queues", "command")
        for server in replicas.servers:
            wait_for_value(server, "MATCH (u:User) RETURN max(u.n)", 100, 60)
            assert value(server, "MATCH (u:User {n: 1}) RETURN u.times") == 1
        wait_until(lambda: states(replicas) == ["applying", "applying"], 60, "both to be registered")
        verified = run(replicas, "verify")
        assert verified.exit_code == 0, verified.output


def states(replicas: Replicas) -> list[str]:
    """As `replica list` tells them."""
    return [row["state"] for row in json.loads(run(replicas, "replica", "list").stdout)["replicas"]]
