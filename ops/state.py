"""What a stack knows about itself: one JSON file, replaced atomically, changed by one command at a time.

The file holds the password of the databases, so only its owner may read it.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from ops.errors import StackBusy, StateUnusable
from ops.processes import POLL_S, Process


if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Raised by one when an older file can no longer be read as it is.
FORMAT = 1


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """One server or worker.

    It has no process while it is down.  While it is being started, `starting` is set first and the process a moment
    later: whoever is killed in between leaves a process that is found by its marker.
    """

    name: str
    kind: str
    version: str
    ports: dict[str, int] = {}
    options: dict[str, str] = {}
    environment: dict[str, str] = {}
    pid: int | None = None
    started: float = 0.0
    starting: bool = False
    log_from: int = 0  #: where in the log file this run begins, bytes

    @property
    def process(self) -> Process | None:
        """The process that was started last, which may be gone."""
        return None if self.pid is None else Process(self.pid, self.started)

    @property
    def running(self) -> bool:
        """Whether that process lives."""
        return self.process is not None and self.process.alive

    def but(self, **changes: object) -> Server:
        """Return a changed copy."""
        return msgspec.structs.replace(self, **changes)


class State(msgspec.Struct, kw_only=True):
    """The whole file."""

    format: int = FORMAT
    password: str = msgspec.field(default_factory=lambda: secrets.token_hex(12))
    neo4j_version: str = ""
    short_lived: bool = False
    servers: dict[str, Server] = {}


class StateFile:
    """Reads and writes the state of one stack, in *folder*."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "state.json"

    def read(self) -> State:
        """Return the state, a new one when there is none.  Needs no lock: the file is always whole."""
        try:
            state = msgspec.json.decode(self.path.read_bytes(), type=State)
        except FileNotFoundError:
            return State()
        except msgspec.MsgspecError as error:
            raise StateUnusable(f"{self.path} is not a stack's state ({error}). Use another --state-dir.") from error
        if state.format != FORMAT:
            raise StateUnusable(f"{self.path} was written by another version of this project. Use another --state-dir.")
        return state

    def write(self, state: State) -> None:
        """Replace the file.  Only the holder of the lock may."""
        scratch = self.path.with_suffix(".new")
        scratch.unlink(missing_ok=True)
        with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(state), indent=2) + b"\n")
        scratch.replace(self.path)

    @contextmanager
    def lock(self, timeout_s: float) -> Iterator[None]:
        """Hold the stack for oneself; the kernel lets go of it if we are killed.

        Raises:
            StackBusy: somebody else held it for *timeout_s* seconds.
        """
        self._make_folder()
        with (self.folder / "lock").open("w") as file:
            _acquire(file.fileno(), time.monotonic() + timeout_s, self.folder)
            yield

    def _make_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        # Wherever it lies: data and passwords stay out of the repository.
        (self.folder / ".gitignore").write_text("*\n")


def _acquire(descriptor: int, deadline: float, folder: Path) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise StackBusy(
                    f"another command is still working on {folder}. Wait for it, or end it, and try again."
                ) from error
        time.sleep(POLL_S)
