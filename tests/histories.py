"""Was what callers read as fresh as they were promised?  Histories of reads and writes, and a checker for them.  Pure.

Two workloads: *registers*, each write of which has a value of its own, so that a read says which write it saw; and a
*bank*, whose accounts always have one total.  The log of commands orders all writes, so that nothing has to be
searched: what a read saw is a version, an offset of the log, and every promise is a comparison of offsets.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

#: The version of a register that nobody has written.
NEVER = -1


@dataclass(frozen=True)
class Write:
    """A register's *value* was sent to the log; without *ended* and *offset* nobody knows whether it got there."""

    process: int
    key: int
    value: int
    began: float  #: seconds of one clock, for all processes
    ended: float | None = None
    offset: int | None = None
    session: str | None = None


@dataclass(frozen=True)
class Read:
    """A register was read, with what was promised: *at_least* an offset, *linearizable*, one position (*snapshot*)."""

    process: int
    key: int
    value: int | None
    began: float
    ended: float
    at_least: int | None = None
    linearizable: bool = False
    snapshot: bool = False
    position: int | None = None
    session: str | None = None


@dataclass(frozen=True)
class Audit:
    """All balances of the bank, read at once."""

    process: int
    balances: tuple[int, ...]
    began: float
    ended: float
    level: str
    position: int | None = None


Operation = Write | Read | Audit
_kinds = {kind.__name__: kind for kind in (Write, Read, Audit)}


class Versions:
    """The writes to registers as the log has them: (offset, key, value)."""

    def __init__(self, log: Iterable[tuple[int, int, int]]) -> None:
        self._by_value: dict[tuple[int, int], int] = {}
        self._of: defaultdict[int, list[int]] = defaultdict(list)
        for offset, key, value in sorted(log):
            self._by_value[key, value] = offset
            self._of[key].append(offset)

    def seen_by(self, read: Read) -> int | None:
        """The version that *read* saw; none for a value that nobody has written."""
        return NEVER if read.value is None else self._by_value.get((read.key, read.value))

    def at(self, key: int, offset: int) -> int:
        """The version of *key* after the command at *offset*."""
        return max((version for version in self._of[key] if version <= offset), default=NEVER)

    def of(self, write: Write) -> int | None:
        """Where *write* is in the log; none where it is not."""
        return self._by_value.get((write.key, write.value))


def violations(history: Sequence[Operation], log: Iterable[tuple[int, int, int]], total: int) -> list[str]:
    """What was promised and not kept; *log* has the writes of registers, *total* is what all accounts have together."""
    versions = Versions(log)
    reads = [one for one in history if isinstance(one, Read)]
    writes = [one for one in history if isinstance(one, Write)]
    found = [*_invented(reads, writes, versions), *_promised(reads, versions)]
    known = [read for read in reads if versions.seen_by(read) is not None]
    found += _linearizable(known, writes, versions)
    found += _sessions([one for one in history if isinstance(one, Write) or one in known], versions)
    audits = (one for one in history if isinstance(one, Audit))
    return found + [
        f"the total is {sum(one.balances)}, not {total}: {one}" for one in audits if sum(one.balances) != total
    ]


def _invented(reads: list[Read], writes: list[Write], versions: Versions) -> Iterator[str]:
    """Values from nowhere, from the future, and confirmed writes that are not where they were said to be."""
    begun = {(write.key, write.value): write.began for write in writes}
    for read in reads:
        if read.value is None:
            continue
        if versions.seen_by(read) is None:
            yield f"nobody has written that: {read}"
        elif begun.get((read.key, read.value), read.began) > read.ended:
            yield f"read before it was written: {read}"
    for write in writes:
        if write.offset is not None and versions.of(write) != write.offset:
            yield f"confirmed, and at {versions.of(write)} in the log: {write}"


def _promised(reads: list[Read], versions: Versions) -> Iterator[str]:
    for read in reads:
        seen = versions.seen_by(read)
        if seen is None:
            continue
        if read.at_least is not None and seen < versions.at(read.key, read.at_least):
            yield f"older than at_least: saw {seen}, and {versions.at(read.key, read.at_least)} was due: {read}"
        if read.at_least is not None and (read.position is None or read.position < read.at_least):
            yield f"the replica was not there: {read}"
        if read.position is not None and seen < versions.at(read.key, read.position):
            yield f"older than the position that it was told with: saw {seen}: {read}"
        if read.snapshot and read.position is not None and seen != versions.at(read.key, read.position):
            yield f"not of one position: saw {seen}: {read}"


def _linearizable(reads: list[Read], writes: list[Write], versions: Versions) -> Iterator[str]:
    """Nothing that had ended before a read began may be missing in it, be it a write or a linearizable read."""
    events: list[tuple[float, int, Read | None, int, int]] = []
    for write in writes:
        version = versions.of(write)
        if write.ended is not None and version is not None:
            events.append((write.ended, 0, None, write.key, version))
    for read in reads:
        if read.linearizable:
            seen = versions.seen_by(read)
            if seen is None:
                continue
            events += [(read.ended, 0, None, read.key, seen), (read.began, 1, read, read.key, seen)]
    due: defaultdict[int, int] = defaultdict(lambda: NEVER)
    for _, _, began, key, version in sorted(events, key=lambda event: event[:2]):
        if began is None:
            due[key] = max(due[key], version)
        elif version < due[key]:
            yield f"not linearizable: saw {version}, and {due[key]} was there before: {began}"


def _sessions(history: Iterable[Operation], versions: Versions) -> Iterator[str]:
    """In the order in which a session did things, nothing goes back, and it sees what it wrote."""
    newest: defaultdict[tuple[str, int], int] = defaultdict(lambda: NEVER)
    for one in history:
        if isinstance(one, Audit) or one.session is None:
            continue
        place = one.session, one.key
        version = versions.of(one) if isinstance(one, Write) else versions.seen_by(one)
        if isinstance(one, Read) and version is not None and version < newest[place]:
            yield f"back from {newest[place]} to {version} in a session: {one}"
        if version is not None and (isinstance(one, Read) or one.offset is not None):
            newest[place] = max(newest[place], version)


def save(history: Sequence[Operation], file: Path) -> None:
    """Write *history* down, an operation a line."""
    file.write_text("".join(json.dumps({"kind": type(one).__name__, **asdict(one)}) + "\n" for one in history))


def load(file: Path) -> list[Operation]:
    """What `save` has written."""
    history: list[Operation] = []
    for line in file.read_text().splitlines():
        fields = json.loads(line)
        if "balances" in fields:
            fields["balances"] = tuple(fields["balances"])
        history.append(_kinds[fields.pop("kind")](**fields))
    return history
