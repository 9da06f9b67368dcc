"""`enqueue-command`: what is sent, what is waited for, and what is told about it."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Literal

from ops import parameters, sending, statements
from ops.connection import connected
from replica.statement import Statement


if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ops.progress import Progress
    from replica.statement import Outcome
    from settings import Settings

REJECTED = 4


@dataclass(frozen=True, slots=True)
class Wanted:
    """Who has to have a command before it is told about, and for how long that may take."""

    applied: str  #: "log", "any" or "all"
    timeout_s: float

    @property
    def replicas(self) -> Literal["any", "all"] | None:
        """Which replicas, if any."""
        return "any" if self.applied == "any" else "all" if self.applied == "all" else None


@dataclass(frozen=True, slots=True)
class Told:
    """What became of one command."""

    offset: int
    message_id: str
    applied_by: tuple[str, ...]
    duplicate_of: int | None = None
    exit_code: ClassVar[int] = 0

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        told = {"offset": self.offset, "message_id": self.message_id, "applied_by": list(self.applied_by)}
        return told if self.duplicate_of is None else {**told, "duplicate_of": self.duplicate_of}

    def as_text(self) -> str:
        """For people."""
        applied = f", applied by {', '.join(self.applied_by)}" if self.applied_by else ""
        if self.duplicate_of is not None:
            by = ", ".join(self.applied_by)
            return f"Command {self.offset} did nothing: {self.duplicate_of} with the same id was applied by {by}."
        return f"Command {self.offset} is in the log{applied}."


@dataclass(frozen=True, slots=True)
class ToldOfMany:
    """What became of a file."""

    sent: sending.Sent
    waited: bool

    @property
    def exit_code(self) -> int:
        """Not 0 when one was rejected."""
        return REJECTED if self.sent.rejected else 0

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        offsets = self.sent.offsets
        ends = {"first": offsets[0], "last": offsets[-1]} if offsets else {"first": None, "last": None}
        rejected = {"rejected": self.sent.rejected, "examples": [r._asdict() for r in self.sent.examples]}
        return {"commands": len(offsets), **ends, **(rejected if self.waited else {})}

    def as_text(self) -> str:
        """For people."""
        if not self.sent.offsets:
            return "No command in it."
        lines = [f"{len(self.sent.offsets):,} commands are in the log, the last one at {self.sent.offsets[-1]}."]
        if self.waited:
            rejected = self.sent.rejected
            lines.append(f"{rejected:,} of them were rejected." if rejected else "All were applied.")
        lines += [f"Command {r.offset}: {r.code}: {r.message}" for r in self.sent.examples]
        return "\n".join(lines)


def one(
    settings: Settings,
    text: str,
    pairs: Sequence[str],
    params: str | None,
    wanted: Wanted,
    options: Mapping[str, Any],
) -> Told:
    """Send one command, with those of the *options* that are not None.

    Raises what `run_command.send_with_options` and `Receipt.wait` raise, and `InputUnusable`.
    """
    statement = Statement(text, parameters.parse(pairs, params))
    with connected(settings) as app:
        receipt = sending.send(app, statement, options)
        found: dict[str, Outcome] = {}
        if who := wanted.replicas:
            found = receipt.wait(applied=who, timeout=wanted.timeout_s)
        first = next((outcome.duplicate_of for outcome in found.values()), None)
        return Told(receipt.position(), receipt.message_id, tuple(sorted(found)), first)


def many(settings: Settings, file: BinaryIO, wanted: Wanted, progress: Progress) -> ToldOfMany:
    """Send the commands of *file* and, where asked to, wait for the last one.

    Raises:
      InputUnusable: nothing was sent.
      SendingStopped: a part is in the log; the text says which.
    """
    source = _Counted(file)
    with connected(settings) as app:
        sent = sending.send_all(app, statements.read(source), lambda: source.count, _size(file), progress)
        if who := wanted.replicas:
            sending.wait_for_all(app, sent, who, wanted.timeout_s)
    return ToldOfMany(sent, waited=bool(wanted.replicas))


class _Counted:
    """A file, and how many bytes of it were read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.count = 0

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self.count += len(data)
        return data


def _size(file: BinaryIO) -> int:
    """Bytes of a regular file; 0 for a pipe, whose end nobody knows."""
    try:
        status = os.fstat(file.fileno())
    except OSError:  # not a real file
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0
