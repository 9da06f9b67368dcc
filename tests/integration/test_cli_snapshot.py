"""``neo4j-kafka snapshot`` and ``neo4j-kafka log``: from one replica to another, and what the log may then forget."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

import cli
from brokers.errors import StartRefused
from settings import environment_names
from tasks.replaying import Log
from tests.replicas import Replicas, replicas_of, value
from tests.support import wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Neo4jServer

#: Nothing of the machine's own settings.
CLEAN: dict[str, str | None] = dict.fromkeys(environment_names())


@pytest.fixture
def replicas(kafka: str, neo4j_servers: tuple[Neo4jServer, ...], tmp_path: Path) -> Iterator[Replicas]:
    """Two databases, the first with a worker, and a folder for snapshots."""
    store = (tmp_path / "snapshots").as_uri()
    with replicas_of(kafka, neo4j_servers[:2], tmp_path, started=False, SNAPSHOT_STORE=store) as found:
        found.start(1, "--queues", "command")
        yield found


def run(replicas: Replicas, number: int, *arguments: str) -> Result:
    """The command line, as that replica."""
    return CliRunner().invoke(cli.main, list(arguments), env={**CLEAN, **replicas.env(number)})


def told(result: Result) -> dict[str, Any]:
    """What it printed with ``--json``."""
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_a_snapshot_makes_a_replica_and_lets_the_log_forget(
    replicas: Replicas, neo4j_servers: tuple[Neo4jServer, ...]
) -> None:
    """Taken, verified, restored and rolled forward to one command; then the log is cut, and says who is lost."""
    app = replicas.app()
    app.run_command.send("CREATE CONSTRAINT user_n IF NOT EXISTS FOR (u:User) REQUIRE u.n IS UNIQUE")
    for n in range(20):
        last = app.run_command.send("CREATE (:User {n: $n})", n=n)
    last.wait(applied=1, timeout=60)

    row = told(run(replicas, 1, "snapshot", "create", "--json"))
    assert (row["offset"], row["nodes"], row["verified_at"] is not None) == (last.position(), 20, True)
    later = [
        app.run_command.send("CREATE (:User {n: $n})", n=n) for n in (100, 100, 101, 102)
    ]  # the second is rejected
    app.run_command.send("CREATE (:User {n: 200})").wait(applied=1, timeout=30)

    # Another replica, as it was at one command.
    goal = later[2].position()
    found = told(run(replicas, 2, "snapshot", "restore", "--to-offset", str(goal), "--json"))
    assert (found["name"], found["position"]) == (row["name"], goal)
    assert value(neo4j_servers[1], "MATCH (u:User) RETURN max(u.n)") == 101
    again = run(replicas, 2, "snapshot", "restore", row["name"])
    assert (again.exit_code, "already follows topic" in again.stderr) == (4, True)

    # It goes on by itself, and is asked about commands from before its time without disagreement.
    assert run(replicas, 2, "log", "truncate", "--dry-run").stdout.startswith(
        f"Would delete {row['offset'] + 1} commands"
    )
    replicas.start(2, "--queues", "command")
    wait_until(lambda: value(neo4j_servers[1], "MATCH (u:User) RETURN max(u.n)") == 200, 60, "the second replica")
    wait_until(lambda: len(app.follower.replicas(10)) == 2, 30, "it to register")
    with pytest.raises(Exception, match="was rejected"):
        later[1].wait(applied="all", timeout=30)

    # The log forgets what the snapshot holds, and no more.
    cut = told(run(replicas, 1, "log", "truncate", "--json"))
    assert (cut["before"], cut["done"], set(cut["replicas"].values()) == {cut["log_end"] - 1}) == (
        row["offset"] + 1,
        True,
        True,
    )
    with Log(app) as log:
        assert log.bounds()[0] == row["offset"] + 1
    assert run(replicas, 1, "log", "truncate").stdout.startswith("Nothing to delete")

    # Who needs it now is told which snapshot helps.
    with replicas_of(replicas.kafka, neo4j_servers[2:], replicas.logs, started=False) as third:
        third.prefix, third.environment = replicas.prefix, replicas.environment | {"GROUP_ID": "third"}
        with pytest.raises(StartRefused, match=f"`snapshot restore {row['name']}`"):
            third.app()._applying.get().start(app.command_topic.name, 0, row["offset"] + 1)


def test_what_is_missing_before_the_log_may_be_cut_is_said(replicas: Replicas) -> None:
    """No snapshot, one that nobody has verified, one of another log; exit codes tell a script."""
    app = replicas.app()
    app.run_command.send("CREATE (:User {n: 1})").wait(applied=1, timeout=60)

    none = run(replicas, 1, "log", "truncate")
    assert (none.exit_code, "there is: none at all" in none.stderr) == (4, True)
    row = told(run(replicas, 1, "snapshot", "create", "--no-verify", "--json"))
    unverified = run(replicas, 1, "log", "truncate", "--json")
    assert (unverified.exit_code, row["name"] in json.loads(unverified.stdout)["error"]["message"]) == (4, True)
    equal = told(run(replicas, 1, "snapshot", "verify", row["name"], "--against-replica", "--json"))
    assert equal["equal"] is True
    other = run(replicas, 2, "snapshot", "verify", row["name"], "--against-replica")
    assert (other.exit_code, "the replica is at no command" in other.stdout) == (1, True)
    assert run(replicas, 1, "snapshot", "verify", "nothing.snapshot").exit_code == 2
    early = run(replicas, 2, "snapshot", "restore", "--to-time", "1d")
    assert (early.exit_code, "none of it is that old" in early.stderr) == (2, True)
