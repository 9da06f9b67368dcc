"""Start, recognise and end server processes.

A process is known by its id *and* its start time: ids are used again, and a stranger must never be killed.  Every
server leads its own session and process group, so Ctrl-C in a terminal does not reach it, and its children end with it.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from ops.errors import PortTaken, StackError


if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

HOST = "127.0.0.1"

#: Seconds by which a start time may differ when read again: it counts from the boot time, which clock changes move.
START_TIME_TOLERANCE_S = 2.0

#: Below the range from which the kernel takes ports for outgoing connections, so that the port of a stopped server is
#: still free when it starts again.
PORTS = range(20_000, 32_000)

#: Seconds that the kernel may need to take down a killed process; with a big heap it is tenths.
KILL_TIMEOUT_S = 10.0

POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Process:
    """A process that we started: enough to find it again, from any other process."""

    pid: int
    started: float  #: seconds since the epoch

    def find(self) -> psutil.Process | None:
        """Return the living process, or None when it is gone, a zombie, or when the id belongs to another one now."""
        try:
            process = psutil.Process(self.pid)
            ours = abs(process.create_time() - self.started) < START_TIME_TOLERANCE_S
            return process if ours and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.find() is not None


def spawn(
    command: Sequence[str | Path], *, cwd: Path, log: Path, environment: Mapping[str, str] | None = None
) -> Process:
    """Start *command* in its own session, its output appended to *log*, with *environment* added to ours."""
    with log.open("ab") as output:
        child = subprocess.Popen(
            [str(part) for part in command],
            cwd=cwd,
            env={**os.environ, **(environment or {})},  # handed on, not read: settings are the business of the child
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    # Reaps it whenever it ends; else it would stay a zombie for as long as we live.
    threading.Thread(target=child.wait, name=f"reap-{child.pid}", daemon=True).start()
    return _identify(child.pid)


def find_marked(marker: Mapping[str, str]) -> list[Process]:
    """Return the processes that carry *marker* in the environment they were started with, the session leader first.

    That is how a server is found whose start was begun, but whose id could not be written down any more.
    """
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # not ours, or gone
            if marker.items() <= process.environ().items() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return [_identify(process.pid) for process in sorted(found, key=_follows)]


def terminate(process: Process) -> None:
    """Ask the process to end."""
    found = process.find()
    if found is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            found.terminate()


def finish(process: Process, timeout_s: float) -> None:
    """Wait until the process has ended; after *timeout_s* seconds, kill it."""
    if not wait_for(lambda: not process.alive, timeout_s):
        kill(process)


def kill(process: Process) -> None:
    """SIGKILL the process, and its whole group if it leads one; wait until it is gone."""
    if not process.alive:
        return
    with contextlib.suppress(ProcessLookupError):
        leads = os.getpgid(process.pid) == process.pid
        (os.killpg if leads else os.kill)(process.pid, signal.SIGKILL)
    if not wait_for(lambda: not process.alive, KILL_TIMEOUT_S):
        raise StackError(f"process {process.pid} does not go away after SIGKILL: its disk or file system hangs.")


def memory(process: Process) -> int:
    """Return the resident bytes of the process and its children; 0 when it is gone."""
    found = process.find()
    if found is None:
        return 0
    return sum(_resident(one) for one in (found, *_children(found)))


def free_ports(count: int, taken: set[int]) -> list[int]:
    """Return *count* ports on which nobody listens now, and none of *taken*."""
    ports: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        if len(ports) == count:
            return ports
        if port not in taken and is_free(port):
            ports.append(port)
    raise PortTaken(f"no {count} free ports on {HOST} between {PORTS.start} and {PORTS.stop}.")


def is_free(port: int) -> bool:
    """Whether a server could listen on the port."""
    with socket.socket() as probe:
        # Connections that linger after a restart do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def is_open(port: int, timeout_s: float = 1.0) -> bool:
    """Whether somebody listens on the port."""
    try:
        socket.create_connection((HOST, port), timeout_s).close()
    except OSError:
        return False
    return True


def holder(port: int) -> str:
    """Return who listens on a port, as far as we may know."""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
                return f"process {connection.pid} ({psutil.Process(connection.pid).name()})"
    return "another process"


def tail(log: Path, since: int = 0, lines: int = 15) -> str:
    """Return the last lines of a log, of those written after byte *since*."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(since, size - 16_384))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""


def head(log: Path, since: int, size: int = 65_536) -> str:
    """Return the first *size* bytes of what was written to a log after byte *since*."""
    try:
        with log.open("rb") as file:
            file.seek(since)
            return file.read(size).decode(errors="replace")
    except FileNotFoundError:
        return ""


def wait_for(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Poll until the condition holds; return whether it did in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def _identify(pid: int) -> Process:
    try:
        return Process(pid, psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:  # ended and reaped already: an identity that nobody has
        return Process(pid, 0.0)


def _follows(process: psutil.Process) -> bool:
    try:
        return bool(os.getsid(process.pid) != process.pid)
    except ProcessLookupError:
        return True


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
