"""The README's examples, run as they stand there, in their order."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.replicas import ROOT, Replicas, replicas_of, value


if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Neo4jServer

README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
CONSOLE = re.findall(r"^\$ (neo4j-kafka (?:enqueue|explain)-.*)$", README, re.MULTILINE)
MODULE = re.compile(r"# (\w+\.py)\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the modules that the README tells to write."""
    folder = tmp_path_factory.mktemp("readme")
    for block in PYTHON:
        if named := MODULE.match(block):
            (folder / named[1]).write_text(block)
    return folder


@pytest.fixture(scope="module")
def replicas(kafka: str, neo4j_servers: tuple[Neo4jServer, ...], redis_url: str, folder: Path) -> Iterator[Replicas]:
    """Three replicas whose workers know the module of the README, and Redis."""
    with replicas_of(kafka, neo4j_servers, folder, started=False, REDIS_URL=redis_url) as found:
        found.search_path = folder
        for number in (1, 2, 3):
            found.start(number, modules=("tasks", "friends"))
        found.app().run_command.send("MERGE (u:User {name: 'user_2'})").wait(applied=3, timeout=60)
        yield found


def run(replicas: Replicas, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a program as a user of the first replica would, in *folder*."""
    environment = {**os.environ, **replicas.env(1), "PYTHONPATH": f"{ROOT}:{folder}"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    "block", [b for b in PYTHON if not MODULE.match(b)], ids=lambda b: b.strip().splitlines()[-1][:40]
)
def test_a_python_example_runs(replicas: Replicas, folder: Path, block: str) -> None:
    """As a script of its own, against running replicas."""
    done = run(replicas, folder, sys.executable, "-c", block)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", CONSOLE)
def test_a_console_example_runs(replicas: Replicas, folder: Path, line: str) -> None:
    """As it stands, from a shell whose environment points at the first replica."""
    _, *arguments = shlex.split(line)

    done = run(replicas, folder, sys.executable, str(ROOT / "cli.py"), *arguments)

    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_examples_leave_what_they_say(replicas: Replicas) -> None:
    """On every replica alike."""
    for server in replicas.servers:
        assert value(server, "MATCH (:User {name: 'user_1'})-[:FOLLOWS]->(u) RETURN u.name") == "user_2"
        assert value(server, "MATCH (a:Account) WITH a ORDER BY a.balance DESC RETURN collect(a.balance)") == [70, 0]
        assert value(server, "MATCH (u:User {name: 'user_1'}) RETURN u.age") == 30


def test_there_are_examples() -> None:
    """A changed fence would make these tests pass for want of examples."""
    assert len(PYTHON) >= 6
    assert len(CONSOLE) >= 3
