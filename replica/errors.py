"""Everything the replica raises.

    ReplicaError
    +-- Unavailable            the database cannot be used now               retryable
    |   +-- WrongCredentials   ... nor soon: wait `retry_after_s`            retryable
    |   +-- Held               one command cannot be applied now             retryable
    +-- PositionMoved          the graph is not where we left it             retryable, after `recover()`
    +-- Halted                 a person has to decide; the message says how  not retryable
    |   +-- MissingPosition
    |   +-- TopicChanged
    |   +-- HistoryMissing
    |   +-- PositionBeyondLog
    |   +-- HalfRestored
    +-- QueryRejected          the caller's fault                            not retryable
    +-- QueryUnavailable       the server's; another replica may answer      retryable
    +-- NotDeterministic       replicas would differ; says how to write it not retryable
    +-- SnapshotError
    |   +-- SnapshotBroken     a snapshot is not as it was written          not retryable
    |   +-- SnapshotRefused    it cannot be taken, or not go into that graph not retryable
    |   +-- SnapshotUnknown    there is none of that name                   not retryable
    |   +-- SnapshotFailed     the server failed on the way; begin again    retryable
    |   +-- SnapshotStoreAway  the place of the snapshots is out of reach   retryable
    +-- ValueNotEncodable      (a TypeError)                                 not retryable
    +-- ValueNotDecodable      (a ValueError)                                not retryable

`retryable` says whether doing the same again, later, can help.
"""

from __future__ import annotations

from typing import ClassVar


class ReplicaError(Exception):
    """Base of all of them."""

    retryable: ClassVar[bool] = False


class Unavailable(ReplicaError):
    """The database did not do what was asked, for a reason of its own; nothing is known to have changed."""

    retryable = True

    def __init__(self, code: str, message: str, *, retry_after_s: float = 1.0) -> None:
        """Keep the server's *code* (or the driver's class name) and how long to wait before the next attempt."""
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s


class WrongCredentials(Unavailable):
    """Neo4j refused the user or the password.

    Three wrong attempts make it refuse the right password too, so wait `retry_after_s` before the next one.
    """


class Held(Unavailable):
    """The command at *offset* cannot be applied now and keeps its place; everything before it is committed.

    Call `apply` again with the same commands after `retry_after_s`, for ever: what was done is skipped.
    """

    def __init__(self, offset: int, code: str, message: str, *, retry_after_s: float = 1.0) -> None:
        """Name the *offset* that is held."""
        super().__init__(code, f"offset {offset} is held: {message}", retry_after_s=retry_after_s)
        self.offset = offset
        self.message = message


class PositionMoved(ReplicaError):
    """The graph is behind, or elsewhere than, what this applier last knew: restored, emptied, another topic.

    Call `recover()` and seek to its position + 1.
    """

    retryable = True


class Halted(ReplicaError):
    """Going on would guess.  The message names the way out."""


class MissingPosition(Halted):
    """The graph has data or schema but no position for this topic and partition."""


class TopicChanged(Halted):
    """The position belongs to an earlier topic of the same name."""


class HistoryMissing(Halted):
    """The log no longer holds the next command; only a snapshot can close the gap."""


class PositionBeyondLog(Halted):
    """The graph has applied offsets that the log does not have (the log lost its tail)."""


class HalfRestored(Halted):
    """A snapshot is being restored into the graph, or was and did not get to its end."""


class QueryRejected(ReplicaError):
    """The query itself is at fault: syntax, an attempt to write, a forbidden clause, a limit passed."""

    def __init__(self, code: str, message: str) -> None:
        """Keep the server's (or our own) *code*."""
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class QueryUnavailable(ReplicaError):
    """The server could not answer; the same query may succeed later or on another replica."""

    retryable = True

    def __init__(self, code: str, message: str) -> None:
        """Keep the server's *code* or the driver's class name."""
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class NotDeterministic(ReplicaError):
    """Replicas would differ after this statement, or whether they would cannot be judged.

    `reason` says what differs, `rewrite` how to write it instead, `rule` is a name of `replica.rules.RULES`.
    """

    def __init__(self, reason: str, rewrite: str, rule: str) -> None:
        """Keep all three apart, for whoever shows them."""
        super().__init__(f"{reason}; instead: {rewrite}" if rewrite else reason)
        self.reason = reason
        self.rewrite = rewrite
        self.rule = rule


class ValueNotEncodable(ReplicaError, TypeError):
    """A value has no typed JSON form; the message begins with the path to it."""


class ValueNotDecodable(ReplicaError, ValueError):
    """A typed JSON value is malformed; the message begins with the path to it."""


class SnapshotError(ReplicaError):
    """A snapshot was not taken, read or restored; the message names the way out."""


class SnapshotBroken(SnapshotError):
    """The bytes are not those that were written, or not of a snapshot."""


class SnapshotRefused(SnapshotError):
    """The graph is none that a snapshot can be taken of, or restored into."""


class SnapshotFailed(SnapshotError):
    """The database failed on the way.  Nothing is left that could be taken for a snapshot or a replica: begin again."""

    retryable = True


class SnapshotUnknown(SnapshotError):
    """There is no snapshot of that name, or none that fits."""


class SnapshotStoreAway(SnapshotError):
    """The folder or the bucket cannot be used now."""

    retryable = True
