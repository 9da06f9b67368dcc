"""Schema commands: three steps, safe to repeat after a crash at any of them.

Neo4j runs no schema change in a transaction that writes data, so the position cannot move with it:

1. `intend`   the marker says that this command begins, and whether the name existed before
2. `change`   the schema change itself, then wait until its index is online
3. `settle`   the position moves and the intent goes

While 2 runs, the transaction of 3 already holds the marker's lock: another applier cannot overtake a slow one, which
would otherwise repeat an old change over a newer one.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Final, LiteralString

import neo4j
from neo4j.exceptions import Neo4jError

from replica import cypher
from replica.errors import Unavailable
from replica.outcomes import NOT_ENCODABLE, code_of, is_deterministic, message_of
from replica.statement import Outcome
from replica.transactions import ENCODING_ERRORS, Database


if TYPE_CHECKING:
    from replica.marker import Key, Marker
    from replica.statement import Command
    from replica.transactions import Writer

_logger = logging.getLogger(__name__)

_EXISTS: Final = frozenset(
    [
        "Neo.ClientError.Schema.ConstraintAlreadyExists",
        "Neo.ClientError.Schema.ConstraintWithNameAlreadyExists",
        "Neo.ClientError.Schema.EquivalentSchemaRuleAlreadyExists",
        "Neo.ClientError.Schema.IndexAlreadyExists",
        "Neo.ClientError.Schema.IndexWithNameAlreadyExists",
    ]
)
_MISSING: Final = frozenset(
    [
        "Neo.ClientError.Schema.ConstraintNotFound",
        "Neo.ClientError.Schema.IndexNotFound",
        "Neo.DatabaseError.Schema.ConstraintDropFailed",
        "Neo.DatabaseError.Schema.IndexDropFailed",
    ]
)

# state -- An index by name; a uniqueness constraint's index has the constraint's name.
_STATE: Final[LiteralString] = "SHOW INDEXES YIELD name, state WHERE name = $name RETURN state"

#: Seconds between two looks at an index that is being filled.
_POLL_S: Final = 0.05


class SchemaChange:
    """One schema command.  *database.timeout_s* bounds each step; filling an index of a large graph takes minutes."""

    def __init__(self, database: Database, key: Key, writer: Writer, command: Command) -> None:
        self._database = database
        self._key = key
        self._writer = writer
        self._command = command
        self._offset = command.offset
        self._statement = command.statements[0]
        self._name = cypher.schema_name(self._statement.text, self._statement.parameters) or ""

    def apply(self, marker: Marker, *, published: int) -> Marker:
        """All three steps.  Raises `Moved`, the driver's errors, and `Unavailable` where an index takes too long."""
        self.intend(marker)
        return self.settle(marker, published=published)

    def intend(self, marker: Marker) -> Marker:
        """Step 1; keeps what an earlier attempt wrote."""
        with self._database.session() as session, session.begin_transaction(timeout=self._database.timeout_s) as tx:
            found = self._writer.lock(tx, marker, self._offset)
            if found.intent != self._offset:
                existed = tx.run(_STATE, {"name": self._name}).single() is not None
                found = replace(found, intent=self._offset, existed=existed)
                self._key.move(tx, found)
            tx.commit()
        return found

    def settle(self, marker: Marker, *, published: int) -> Marker:
        """Steps 2 and 3, under the marker's lock."""
        with self._database.session() as session, session.begin_transaction(timeout=self._database.timeout_s) as tx:
            found = self._writer.lock(tx, marker, self._offset)
            outcome, counted = self.change(existed=found.existed)
            rejected = [] if outcome.applied else [outcome]
            new = found.moved(self._offset, rejected, published=published, counted=counted)
            applied = [self._command] if outcome.applied else []
            self._key.move(tx, new, self._writer.change(applied))
            tx.commit()
        self._writer.moved(marker, new, applied)
        self._writer.transactions += 3
        self._writer.counters += counted
        return new

    def change(self, *, existed: bool) -> tuple[Outcome, Counter[str]]:
        """Step 2, in a session of its own.  Raises what is no verdict.

        What changed is taken from before and after, not from the server's counters: an attempt before a crash may have
        done it, and the replicas count alike.
        """
        try:
            with self._database.session() as session:
                query = neo4j.Query(self._statement.text, timeout=self._database.timeout_s)
                session.run(query, dict(self._statement.parameters)).consume()
        except ENCODING_ERRORS as error:
            return Outcome(self._offset, applied=False, code=NOT_ENCODABLE, message=str(error)), Counter()
        except Neo4jError as error:
            if not is_deterministic(code_of(error)):
                raise
            if not self._done_before(code_of(error), existed=existed):
                outcome = Outcome(self._offset, applied=False, code=code_of(error), message=message_of(error))
                return outcome, Counter()
        exists = self._await_online()
        kind = "constraints" if cypher.is_constraint(self._statement.text) else "indexes"
        change = {(False, True): "added", (True, False): "removed"}.get((existed, exists))
        counted = Counter({f"{kind}_{change}": 1} if change else {})
        return Outcome(self._offset, applied=True), counted

    def _done_before(self, code: str, *, existed: bool) -> bool:
        """Tell whether *code* only says that an attempt before a crash succeeded."""
        if code in _EXISTS:
            return not existed and self._state() is not None
        return code in _MISSING and existed and self._state() is None

    def _state(self) -> str | None:
        with self._database.session(read=True) as session:
            record = session.run(_STATE, {"name": self._name}).single()
        return None if record is None else str(record["state"])

    def _await_online(self) -> bool:
        """Wait until later commands may rely on the index; one that failed to fill has failed on every replica.

        Returns whether there is one.
        """
        deadline = time.monotonic() + self._database.timeout_s
        while (state := self._state()) == "POPULATING":
            if time.monotonic() > deadline:
                raise Unavailable("Replica.IndexPopulating", f"index {self._name} is not online yet")
            time.sleep(_POLL_S)
        if state == "FAILED":
            _logger.warning("index failed to populate name=%s offset=%d", self._name, self._offset)
        return state is not None
