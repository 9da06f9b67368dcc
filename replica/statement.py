"""The frozen values that cross the replica's boundary.

Statements and commands are structs, as all that is made once a command: a frozen dataclass takes five times as long.
Python's collector of cycles passes them by: they are in none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec


if TYPE_CHECKING:
    from replica.digest import Checkpoint


class Statement(msgspec.Struct, frozen=True, gc=False):
    """One Cypher text with its parameters, as Python or Neo4j values (see `replica.values` for the wire form)."""

    text: str
    parameters: Mapping[str, Any] = {}
    #: Its author says that it may be run again after a part of it: lets CALL ... IN TRANSACTIONS through.
    idempotent: bool = False


@dataclass(frozen=True, slots=True)
class Position:
    """The last command a graph has applied; *offset* -1 means that it has applied nothing yet."""

    topic: str
    topic_id: str
    partition: int
    offset: int


class Shape(msgspec.Struct, frozen=True, eq=False):
    """What is known of every command with one text and parameters of the same names and types; see `replica.shapes`.

    *key*: equal for neighbours that one UNWIND may do; None where each goes by itself.
    """

    key: tuple[str, Any] | None


class Command(msgspec.Struct, frozen=True, gc=False):
    """One record of the command log: statements that are applied together or not at all.

    *when* is its condition: a query in the same transaction, before the statements (see `replica.conditions`).
    *id* is what its sender calls it: of several with one id, one is applied (see `replica.ids`).
    *refused* is why the record is no command at all (undecodable, wrong shape); it ends as a rejected outcome,
    the same on every replica, and its statements are ignored.  *skipped* is why people have decided that no replica
    applies it; it ends likewise.
    *shape* and *weight*, about how many bytes it has, are there where whoever read it knew them.
    """

    offset: int
    statements: tuple[Statement, ...]
    refused: str | None = None
    skipped: str | None = None
    when: Statement | None = None
    id: str | None = None
    shape: Shape | None = None
    weight: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the command at *offset*: applied, or rejected with the server's (or our own) code.

    *duplicate_of* is the offset at which a command with the same id was applied; then this one did nothing.
    """

    offset: int
    applied: bool
    code: str | None = None
    message: str | None = None
    duplicate_of: int | None = None


@dataclass(frozen=True, slots=True)
class Applied:
    """What is known about the offsets *first* to *last*: every command that is not in *rejected* was applied.

    Commands that did nothing since they are duplicates are in *rejected*, too.

    Offsets that hold no command (transaction markers of the log) lie within the range too.
    *counters* sums Neo4j's counters (`nodes_created`, ...) of what the call itself executed.  *checkpoints* are those
    within the range, see `replica.digest`.
    """

    first: int
    last: int
    rejected: tuple[Outcome, ...]
    counters: Mapping[str, int] = field(default_factory=dict)
    checkpoints: tuple[Checkpoint, ...] = ()
