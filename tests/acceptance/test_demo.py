"""The demo as a user runs it: real servers of its own, real kills, and the proof at the end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ops import processes
from ops.errors import PackageMissing
from tests.conftest import give_up
from tests.support import wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
SERVERS = ("kafka", "redis", "neo4j-1", "neo4j-2", "neo4j-3", "worker-1", "worker-2", "worker-3")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A state directory whose servers do not outlive the test."""
    yield tmp_path
    subprocess.run([sys.executable, "cli.py", "down", "--state-dir", tmp_path], cwd=ROOT, check=False)
    assert living(tmp_path) == []


def living(folder: Path) -> list[int]:
    """Process ids of the servers of the demo in *folder*."""
    found = (processes.find_marked({"NEO4J_KAFKA_SERVER": str(folder / name)}) for name in SERVERS)
    return [process.pid for servers in found for process in servers]


def demo(folder: Path, *options: str) -> subprocess.Popen[str]:
    """Start the demo."""
    command = [sys.executable, "cli.py", "demo", "--state-dir", str(folder), *options]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.timeout(400)
def test_the_demo_proves_what_it_says(folder: Path) -> None:
    """8,742 commands, a worker and a database killed in the middle: nothing lost, nothing twice, three equal graphs."""
    out, err = demo(folder, "--json").communicate()
    if PackageMissing.__name__ in out:
        give_up(PackageMissing(err))
    proof = json.loads(out.splitlines()[-1])
    assert (proof["lost"], proof["applied_twice"], proof["proven"]) == (0, 0, True), err
    assert (proof["commands"], proof["replicas"]) == (8742, 3)
    assert proof["counters"] == [8742] * 3
    assert len(proof["digests"]) == 3
    assert len(set(proof["digests"])) == 1
    assert [killed["name"] for killed in proof["killed"]] == ["worker-2", "neo4j-3"]
    assert all(0.3 * 8742 <= killed["at"] < 8742 for killed in proof["killed"])
    assert living(folder) == []


@pytest.mark.timeout(200)
def test_an_interrupted_demo_stops_its_servers(folder: Path) -> None:
    """Ctrl-C while they start, the moment at which most can be left behind."""
    running = demo(folder)
    try:
        wait_until(lambda: len(living(folder)) >= 3, 60, "servers to be starting")
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == 130
    finally:
        running.kill()
        running.communicate()
    assert living(folder) == []
