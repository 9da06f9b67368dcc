from __future__ import annotations

import os
import socket
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from ops import processes
from ops.processes import HOST, Process
from tests.support import unique, wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: A parent and a child that both ignore SIGTERM.
STUBBORN = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.fork()
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def marker() -> Iterator[dict[str, str]]:
    """What the processes of one test carry, so that none of them outlives it."""
    mark = {"TEST_MARKER": unique()}
    yield mark
    for process in processes.find_marked(mark):
        processes.kill(process)


def _spawn(code: str, folder: Path, marker: dict[str, str]) -> Process:
    return processes.spawn([sys.executable, "-c", code], cwd=folder, log=folder / "log", environment=marker)


def test_a_process_with_a_reused_id_is_not_ours(tmp_path: Path, marker: dict[str, str]) -> None:
    """The same id with another start time is a stranger, and is not killed."""
    process = _spawn("import time; time.sleep(60)", tmp_path, marker)
    former = Process(process.pid, process.started - 100)
    assert former.find() is None
    processes.terminate(former)
    processes.kill(former)
    assert process.alive


def test_a_process_that_ended_is_reaped(tmp_path: Path, marker: dict[str, str]) -> None:
    """It leaves no zombie behind, although nobody asked how it ended."""
    process = _spawn("print('last words')", tmp_path, marker)
    wait_until(lambda: not psutil.pid_exists(process.pid), what="the child to be reaped")
    assert processes.tail(tmp_path / "log") == "last words"


def test_what_does_not_end_when_asked_is_killed_with_its_children(tmp_path: Path, marker: dict[str, str]) -> None:
    """A server that hangs does not keep `down` from finishing."""
    process = _spawn(STUBBORN, tmp_path, marker)
    wait_until(lambda: processes.tail(tmp_path / "log").count("ready") == 2, what="parent and child")
    processes.terminate(process)
    processes.finish(process, 0.1)
    wait_until(lambda: processes.find_marked(marker) == [], what="all of the group to be gone")


def test_a_process_is_found_by_its_marker_leader_first(tmp_path: Path, marker: dict[str, str]) -> None:
    """That is how a server is found whose id could not be written down."""
    process = _spawn(STUBBORN, tmp_path, marker)
    wait_until(lambda: processes.tail(tmp_path / "log").count("ready") == 2, what="parent and child")
    leader, _child = processes.find_marked(marker)
    assert leader.pid == process.pid


def test_a_child_has_a_session_of_its_own(tmp_path: Path, marker: dict[str, str]) -> None:
    """Ctrl-C in the terminal of `up` does not reach a server."""
    process = _spawn("import time; time.sleep(60)", tmp_path, marker)
    assert os.getsid(process.pid) == process.pid != os.getsid(0)


def test_the_last_words_are_those_of_this_run(tmp_path: Path) -> None:
    """A log is appended to; what an earlier run said explains nothing."""
    log = tmp_path / "log"
    log.write_text("of yesterday\n")
    since = log.stat().st_size
    with log.open("a") as file:
        file.writelines(f"line {number}\n" for number in range(30))
    assert processes.tail(log, since, lines=2) == "line 28\nline 29"
    assert "yesterday" not in processes.tail(log, since, lines=100)
    assert processes.tail(tmp_path / "absent") == ""


def test_a_port_in_use_is_neither_free_nor_chosen() -> None:
    """And who uses it can be named."""
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
        assert not processes.is_free(port)
        assert processes.is_open(port)
        assert str(os.getpid()) in processes.holder(port)
    chosen = processes.free_ports(3, taken={20_000})
    assert len(set(chosen)) == 3
    assert all(port in processes.PORTS and port != 20_000 for port in chosen)


def test_waiting_ends_at_its_limit() -> None:
    """A condition that never holds costs no more than was allowed."""
    begun = time.monotonic()
    assert not processes.wait_for(lambda: False, 0.1)
    assert time.monotonic() - begun < 1
