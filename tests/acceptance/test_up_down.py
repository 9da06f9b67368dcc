"""`up`, `down` and `status` as a user runs them, on real servers, and what is left when they are cut short."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from neo4j import GraphDatabase

from ops import processes
from ops.state import StateFile
from tests.conftest import give_up
from tests.support import wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
SERVERS = {"kafka", "neo4j-1", "redis"}


def _command(folder: Path, name: str, *arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "cli.py"), name, "--state-dir", str(folder), *arguments]


def _run(folder: Path, name: str, *arguments: str) -> dict[str, Any]:
    """Run a command to its end and return its JSON."""
    done = subprocess.run(_command(folder, name, "--json", *arguments), capture_output=True, text=True, check=False)
    answer: dict[str, Any] = json.loads(done.stdout)
    if answer.get("error", {}).get("type") in {"JarsUnavailable", "PackageMissing"}:
        give_up(AssertionError(answer["error"]["message"]))
    assert done.returncode == 0, answer
    return answer


def _interrupt(folder: Path, number: int) -> None:
    """Send a signal to an `up` that has started every server and waits for them to answer."""
    said = folder / "up.log"
    with said.open("w") as log:
        up = subprocess.Popen(_command(folder, "up", "--replicas", "1"), stderr=log, stdout=log)
    try:
        wait_until(
            lambda: _recorded(folder) >= SERVERS or up.poll() is not None, timeout_s=90, what="all servers started"
        )
        assert up.poll() is None, said.read_text()
        up.send_signal(number)
        up.wait(60)
    finally:
        up.kill()
        up.wait()


def _recorded(folder: Path) -> set[str]:
    return {name for name, server in StateFile(folder).read().servers.items() if server.pid}


def _living(folder: Path) -> list[int]:
    marked = (processes.find_marked({"NEO4J_KAFKA_SERVER": str(folder / name)}) for name in SERVERS)
    return [process.pid for found in marked for process in found]


def _pids(answer: dict[str, Any]) -> dict[str, int]:
    return {row["name"]: row["pid"] for row in answer["servers"]}


def _count(environment: dict[str, str], text: str) -> int:
    login = (environment["NEO4J_USER"], environment["NEO4J_PASS"])
    with GraphDatabase.driver(environment["NEO4J_URI"], auth=login) as driver:
        return int(driver.execute_query(text).records[0][0])


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A state directory whose servers do not outlive the test."""
    yield tmp_path
    subprocess.run(_command(tmp_path, "down", "--json"), check=False, capture_output=True)
    assert _living(tmp_path) == []


@pytest.mark.timeout(300)
def test_a_stack_comes_up_stays_and_goes_down(folder: Path) -> None:
    """A second `up` changes nothing, a killed server comes back as it was, `down` leaves no process."""
    first = _run(folder, "up", "--replicas", "1")
    assert set(_pids(first)) == SERVERS
    assert {row["state"] for row in first["servers"]} == {"answers"}
    assert _pids(_run(folder, "up", "--replicas", "1")) == _pids(first)
    assert _count(first["environment"], "CREATE (:Kept) RETURN 1") == 1

    processes.kill(processes.find_marked({"NEO4J_KAFKA_SERVER": str(folder / "neo4j-1")})[0])
    states = {row["name"]: row["state"] for row in _run(folder, "status")["servers"]}
    assert states == {"kafka": "answers", "neo4j-1": "down", "redis": "answers"}
    again = _run(folder, "up", "--replicas", "1")
    assert again["environment"] == first["environment"]
    assert _run(folder, "env")["environment"] == first["environment"]
    assert _count(again["environment"], "MATCH (n:Kept) RETURN count(n)") == 1

    assert set(_run(folder, "down")["stopped"]) == SERVERS
    assert _living(folder) == []
    assert {row["state"] for row in _run(folder, "status")["servers"]} == {"down"}


@pytest.mark.timeout(300)
def test_the_long_term_support_version_runs_too(folder: Path) -> None:
    """On the same Java, with the password of the stack, and it stays the version of that stack."""
    first = _run(folder, "up", "--replicas", "1", "--neo4j-version", "5.26.12")
    assert {row["version"] for row in first["servers"] if row["kind"] == "neo4j"} == {"5.26.12"}
    assert _count(first["environment"], "CREATE (:Kept) RETURN 1") == 1
    assert _pids(_run(folder, "up", "--replicas", "1")) == _pids(first)


@pytest.mark.timeout(300)
def test_what_a_killed_up_had_started_is_adopted_by_the_next(folder: Path) -> None:
    """After kill -9 nothing is started twice, and nothing is left out."""
    _interrupt(folder, signal.SIGKILL)
    started = set(_living(folder))
    assert len(started) == len(SERVERS)
    up = _run(folder, "up", "--replicas", "1")
    assert set(_pids(up).values()) == started
    assert {row["state"] for row in up["servers"]} == {"answers"}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_up_leaves_no_process(folder: Path, number: int) -> None:
    """Ctrl-C, or a supervisor that ends it, takes the half-started servers along."""
    _interrupt(folder, number)
    assert _living(folder) == []


def test_lines_for_the_shell_are_all_that_env_prints(folder: Path) -> None:
    """`eval "$(neo4j-kafka env)"` works, and an error goes to stderr with its exit code."""
    done = subprocess.run(_command(folder, "env"), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "`up` starts it" in done.stderr
