"""Constraints and indexes of a snapshot: read as the statements that make them, made again, awaited.

Neo4j itself writes the statements (`createStatement`), with names and options, so that nothing of them is guessed.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Final, LiteralString

from neo4j.exceptions import ClientError

from replica.checksum import schema_rows
from replica.errors import SnapshotFailed
from replica.marker import CONSTRAINT_NAME
from replica.outcomes import code_of, message_of
from replica.snapshot_format import Schema


if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import neo4j

    from replica.marker import Runner
    from replica.snapshot_format import Header

    #: Told what goes on: a word, how much so far, of how much.
    Tell = Callable[[str, int, int], None]

_logger = logging.getLogger(__name__)

_CONSTRAINTS: Final[LiteralString] = """
SHOW CONSTRAINTS YIELD name, createStatement WHERE name <> $ours RETURN name, createStatement AS statement
"""
# indexes -- Those that no constraint brings with it.
_INDEXES: Final[LiteralString] = """
SHOW INDEXES YIELD name, type, owningConstraint, createStatement
WHERE owningConstraint IS NULL AND (type = 'LOOKUP') = $lookup
RETURN name, createStatement AS statement
"""
# unready -- Indexes that are still being filled, and how far they are.
_UNREADY: Final[LiteralString] = """
SHOW INDEXES YIELD name, state, populationPercent WHERE state <> 'ONLINE' RETURN name, state, populationPercent
"""

#: What a server says of a constraint or an index that it does not know, or that the data do not meet.  Other errors
#: of a client's, such as a password that was changed meanwhile, say nothing of the schema.
_ABOUT_SCHEMA: Final = ("Neo.ClientError.Schema.", "Neo.ClientError.Statement.", "Neo.ClientError.General.")

#: Seconds between two looks at indexes that are being filled.
_POLL_S: Final = 0.1


def read_schema(runner: Runner) -> Schema:
    """Everything but the constraint on the position, which every replica makes for itself."""
    return Schema(
        constraints=_statements(runner, _CONSTRAINTS, {"ours": CONSTRAINT_NAME}),
        indexes=_statements(runner, _INDEXES, {"lookup": False}),
        lookups=_statements(runner, _INDEXES, {"lookup": True}),
        rows=schema_rows(runner),
    )


def _statements(runner: Runner, query: LiteralString, parameters: dict[str, Any]) -> dict[str, str]:
    return {record["name"]: record["statement"] for record in runner.run(query, parameters)}


def make_schema(session: neo4j.Session, header: Header, tell: Tell) -> None:
    """Make what the snapshot has, and wait until it can be relied on.

    Raises the driver's errors, and `SnapshotFailed` for what this server does not have or the data do not meet.
    An index that cannot be filled ends as FAILED, as it did on the replica that the snapshot is of, and is told.
    """
    wanted = header.schema
    total = len(wanted.constraints) + len(wanted.indexes)
    for done, statement in enumerate((*wanted.constraints.values(), *wanted.indexes.values())):
        tell("schema", done, total)
        try:
            _run(session, statement)
        except ClientError as error:
            if not code_of(error).startswith(_ABOUT_SCHEMA):
                raise
            why = message_of(error).partition("\n")[0]  # then comes the statement again
            raise SnapshotFailed(
                f"this server does not take a constraint or an index that the snapshot of Neo4j {header.neo4j} has: "
                f"{statement}: {why}. Restore into a server of that version, or drop it on the replica, "
                "by a command, and take another snapshot"
            ) from error
    _replace_lookups(session, wanted.lookups)
    _await_online(session, tell)


def drop_schema(session: neo4j.Session) -> None:
    """Drop everything that `make_schema` makes, but the lookup indexes, which it replaces itself."""
    found = read_schema(session)
    for name in found.constraints:
        _run(session, f"DROP CONSTRAINT {_quoted(name)} IF EXISTS")
    for name in found.indexes:
        _run(session, f"DROP INDEX {_quoted(name)} IF EXISTS")


def differences(wanted: Schema, found: Schema) -> list[str]:
    """Names of what is in one and not in the other; definitions are worded differently by different versions."""
    return sorted(
        {*wanted.constraints, *wanted.indexes, *wanted.lookups} ^ {*found.constraints, *found.indexes, *found.lookups}
    )


def _replace_lookups(session: neo4j.Session, wanted: Mapping[str, str]) -> None:
    """A new database has two lookup indexes of its own; there can be one of each kind, under whatever name."""
    found = _statements(session, _INDEXES, {"lookup": True})
    for name in found.keys() - wanted.keys():
        _run(session, f"DROP INDEX {_quoted(name)}")
    for name in wanted.keys() - found.keys():
        _run(session, wanted[name])


def _await_online(session: neo4j.Session, tell: Tell) -> None:
    while True:
        unready = [record.data() for record in session.run(_UNREADY)]
        failed = [row["name"] for row in unready if row["state"] == "FAILED"]
        if len(failed) == len(unready):
            break
        filled = sum(row["populationPercent"] for row in unready) / len(unready)
        tell(f"filling {len(unready)} indexes, % done", int(filled), 100)
        time.sleep(_POLL_S)
    if failed:
        _logger.warning("indexes failed to populate names=%s", ",".join(failed))


def _run(session: neo4j.Session, statement: str) -> None:
    session.run(statement).consume()  # Neo4j's own words, or a quoted name


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
