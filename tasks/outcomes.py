"""What each replica says of the commands that it has passed, and what follows from it for a caller.  Pure.

A replica reports ranges: "first to last are done, these of them were rejected".  Reports of one replica never go back,
so that the highest *last* is its position.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from replica.server import ServerFacts
from replica.statement import Outcome


#: Rejected outcomes that a caller remembers per replica; older ones are asked for again.
REMEMBERED = 10_000


class Rejection(msgspec.Struct, frozen=True):
    """A command that changed nothing, on the wire: rejected, or a duplicate of the one at *duplicate_of*."""

    offset: int
    code: str
    message: str
    duplicate_of: int | None = None


class Report(msgspec.Struct, frozen=True):
    """One record on the outcomes topic."""

    replica: str
    topic_id: str
    first: int
    last: int
    rejected: tuple[Rejection, ...] = ()
    counters: dict[str, int] = {}


class Registration(msgspec.Struct, frozen=True):
    """One record on the replicas topic, under the replica's name; without a value the replica is gone.

    *server* is not known as long as the database has not answered.
    """

    replica: str
    topic_id: str
    neo4j_uri: str
    since_ms: int
    server: ServerFacts | None = None


class Holding(msgspec.Struct, frozen=True):
    """One record on the replicas topic, under `held/<replica>`: a command that it cannot apply now; none when it can.

    *offset* is -1 where the replica does not get to a command: its database is away, or its position is not usable.
    *code* and *message* are those of the last of *attempts*, at *at_ms*; *since_ms* is the time of the first one that
    this worker made, by its wall clock.  *agreed_ms*: it stands still for the decision of that time to skip the
    command, and has not applied it.
    """

    replica: str
    topic_id: str
    offset: int
    code: str
    message: str
    since_ms: int
    at_ms: int
    attempts: int
    agreed_ms: int = 0

    def is_since(self, topic_id: str, position: int) -> bool:
        """Whether it still says something about a replica that is known to have passed *position* of that log.

        A worker that was killed cannot take its record back.
        """
        return self.offset < 0 or (self.topic_id == topic_id and self.offset > position)


def decode(value: bytes | None, kind: Any) -> Any | None:
    """A *kind* of record, or none: anybody may write to a topic, and a caller must not fall over it."""
    try:
        return msgspec.json.decode(value or b"", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


@dataclass(slots=True)
class _Seen:
    first: int
    last: int
    rejected: dict[int, Rejection] = field(default_factory=dict)


class Ledger:
    """All reports seen, as answers to "what did that replica do with this command?"."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def add(self, report: Report) -> None:
        """Take in *report*; again changes nothing."""
        seen = self._seen.setdefault(report.replica, _Seen(report.first, report.last))
        seen.first = min(seen.first, report.first)
        seen.last = max(seen.last, report.last)
        for rejection in report.rejected:
            seen.rejected.setdefault(rejection.offset, rejection)
        while len(seen.rejected) > REMEMBERED:
            oldest = min(seen.rejected)
            del seen.rejected[oldest]
            seen.first = max(seen.first, oldest + 1)

    def position(self, replica: str) -> int:
        """The last offset that *replica* has passed, as far as is known; -1 when it said nothing."""
        seen = self._seen.get(replica)
        return -1 if seen is None else seen.last

    def knows(self, replica: str, offset: int) -> bool:
        """Whether the report on *offset* itself was seen, not just a later one."""
        seen = self._seen.get(replica)
        return seen is not None and seen.first <= offset <= seen.last

    def outcome(self, replica: str, offset: int) -> Outcome | None:
        """What *replica* did with the command at *offset*; none while it has not passed it."""
        if self.position(replica) < offset:
            return None
        rejection = self._seen[replica].rejected.get(offset)
        if rejection is None:
            return Outcome(offset, applied=True)
        first = rejection.duplicate_of
        return Outcome(offset, first is not None, rejection.code, rejection.message, first)

    @property
    def replicas(self) -> frozenset[str]:
        """Everybody who has reported."""
        return frozenset(self._seen)
