"""What the command line says about Kafka: its topics, where it is, and that it is away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

import cli
from ops.processes import free_ports
from settings import environment_names
from tests.replicas import replicas_of, value
from tests.support import unique


if TYPE_CHECKING:
    from ops.stack import Stack
    from tests.conftest import Neo4jServer

ROOT = Path(__file__).parents[2]

#: Nothing of the machine's own settings.
CLEAN: dict[str, str | None] = dict.fromkeys(environment_names())


def run(*arguments: str, **environment: str) -> Result:
    """Run the program in this process, with these settings alone."""
    return CliRunner().invoke(cli.main, arguments, env={**CLEAN, **environment})


def make_topic(kafka: str, name: str, partitions: int, **config: str) -> None:
    """Make a topic as somebody else would have."""
    topic = NewTopic(name, partitions, 1, config=config)
    admin = AdminClient({"bootstrap.servers": kafka})  # has a name: its futures end with it
    admin.create_topics([topic])[name].result(10)


def init(kafka: str, prefix: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit code, and each topic by its name without prefix."""
    result = run("init", "--json", BROKERS=kafka, B_TOPIC_PREFIX=prefix)
    return result.exit_code, {row["topic"].removeprefix(prefix): row for row in json.loads(result.stdout)["topics"]}


def test_init_makes_every_topic_once(kafka: str) -> None:
    """A second time everything is there and right."""
    prefix = unique() + "-"
    code, topics = init(kafka, prefix)
    assert code == 0
    assert all(row["made"] and not row["wrong"] for row in topics.values())
    assert {topics[name]["kept"] for name in ("request", "response")} == {"1 day", "1 hour"}
    assert {name: row["partitions"] for name, row in topics.items()} == {
        "command": 1,
        "request": 3,
        "response": 3,
        "response.callers": 24,
        "outcomes": 1,
        "replicas": 1,
        "decisions": 1,
        "checkpoints": 1,
        "verifications": 1,
        "command.XQ": 1,
        "request.XQ": 3,
    }
    assert topics["command"]["kept"] == "for ever"
    code, topics = init(kafka, prefix)
    assert code == 0
    assert not any(row["made"] for row in topics.values())


def test_a_command_topic_with_three_partitions_is_wrong(kafka: str) -> None:
    """There would be no order; the way out is named."""
    prefix = unique() + "-"
    make_topic(kafka, f"{prefix}command", 3)
    code, topics = init(kafka, prefix)
    assert code == 1
    assert topics["command"]["wrong"][0] == "has 3 partitions, needs exactly 1"
    result = run("init", BROKERS=kafka, B_TOPIC_PREFIX=prefix)
    assert result.exit_code == 1
    assert "COMMAND_TOPIC" in result.stderr


def test_a_log_that_is_not_kept_is_wrong(kafka: str) -> None:
    """A new replica would not find the first commands; the way out can be copied."""
    prefix = unique() + "-"
    make_topic(kafka, f"{prefix}command", 1, **{"retention.ms": "3600000"})
    code, topics = init(kafka, prefix)
    assert code == 1
    assert topics["command"]["wrong"] == ["retention.ms is 3600000, needs -1"]
    assert f"--alter --topic {prefix}command --add-config" in topics["command"]["fix"]
    assert "retention.ms=-1" in topics["command"]["fix"]


def test_one_copy_is_worth_a_warning(kafka: str) -> None:
    """The log is all that there is."""
    result = run("init", BROKERS=kafka, B_TOPIC_PREFIX=unique() + "-")
    assert result.exit_code == 0
    assert "One copy of each topic" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [["enqueue-command", "RETURN 1"], ["enqueue-query", "RETURN 1"], ["init"], ["enqueue-command", "--file", "cli.py"]],
)
def test_when_kafka_is_away_the_server_is_named_within_ten_seconds(arguments: list[str]) -> None:
    """The whole program, from its start."""
    address = f"127.0.0.1:{free_ports(1, set())[0]}"
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "cli.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "BROKERS": address},
        capture_output=True,
        text=True,
        check=False,
    )
    assert time.monotonic() - begun < 10
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert address in done.stderr
    assert "Connection refused" in done.stderr


def test_status_works_without_kafka(tmp_path: Path) -> None:
    """It is asked just then."""
    address = f"127.0.0.1:{free_ports(1, set())[0]}"
    result = run("status", "--state-dir", str(tmp_path), "--json", BROKERS=address)
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert (told["servers"], told["replicas"]) == ([], [])
    assert address in told["problem"]


def test_commands_speak_to_the_local_stack(stack: Stack) -> None:
    """Where the environment names no Kafka, and only there."""
    stack.start("kafka", "neo4j-1", "redis")
    state_dir, prefix = str(stack.folder), unique() + "-"
    result = run("enqueue-command", "RETURN 1", "--json", "--state-dir", state_dir, B_TOPIC_PREFIX=prefix)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["offset"] == 0
    away = f"127.0.0.1:{free_ports(1, set())[0]}"
    result = run("enqueue-command", "RETURN 1", "--state-dir", state_dir, BROKERS=away)
    assert away in result.stderr


def test_worker_becomes_dramatiq(kafka: str, neo4j_servers: tuple[Neo4jServer, ...], tmp_path: Path) -> None:
    """It takes Dramatiq's options, applies commands, and ends when it is told to."""
    with replicas_of(kafka, neo4j_servers[:1], tmp_path, started=False) as replicas:
        command = [sys.executable, "cli.py", "worker", "--queues", "command", "request", "--processes", "1", "-v"]
        with replicas.log(1).open("wb") as log:
            worker = subprocess.Popen(
                command, cwd=ROOT, env={**os.environ, **replicas.env(1)}, stdout=log, stderr=log, start_new_session=True
            )
        replicas.workers[1] = worker
        replicas.app().run_command.send("MERGE (:Ready)").wait(applied=1, timeout=60)
        assert _program_of(worker.pid) == "dramatiq"
        assert replicas.app().run_query.send("MATCH (r:Ready) RETURN count(r) AS n").get(timeout=30)[0]["n"] == 1
        assert replicas.stop(1) == 0


def test_a_named_replica_wins_over_the_shell(
    stack: Stack, kafka: str, neo4j_servers: tuple[Neo4jServer, ...], tmp_path: Path
) -> None:
    """After `eval "$(neo4j-kafka env)"`, which names the first one: a worker and an explanation take the other."""
    if stack.environment(1)["NEO4J_URI"] != neo4j_servers[0].uri:
        pytest.skip("the servers are not those of a local stack")
    with replicas_of(kafka, neo4j_servers[:2], tmp_path, started=False) as replicas:
        shell = {**replicas.env(1), "BROKERS": stack.environment(1)["BROKERS"]}
        of_second = ["--replica", "2", "--state-dir", str(stack.folder)]
        command = [sys.executable, "cli.py", "worker", "--queues", "command", *of_second]
        with replicas.log(1).open("wb") as log:
            worker = subprocess.Popen(
                command, cwd=ROOT, env={**os.environ, **shell}, stdout=log, stderr=log, start_new_session=True
            )
        replicas.workers[1] = worker
        outcomes = replicas.app().run_command.send("MERGE (:Ready)").wait(applied=1, timeout=60)
        assert list(outcomes) == ["replica-2"]
        ready = "MATCH (r:Ready) RETURN count(r)"
        assert (value(neo4j_servers[0], ready), value(neo4j_servers[1], ready)) == (0, 1)
        assert replicas.stop(1) == 0

        # Only the stack knows the password.
        shell["NEO4J_PASS"] = "wrong"
        checked = run("explain-command", "MERGE (:Ready)", "--check", *of_second, **shell)
        assert (checked.exit_code, "plan ProduceResults" in checked.stdout) == (0, True), checked.output
        assert run("explain-command", "MERGE (:Ready)", "--check", **shell).exit_code == 1


def _program_of(pid: int) -> str:
    arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return arguments[arguments.index(b"-m") + 1].decode()
