"""Whether a held command may still be skipped in a graph: nothing of it must be there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, LiteralString

from replica import cypher, plan


if TYPE_CHECKING:
    import neo4j

    from replica.marker import Key
    from replica.statement import Command
    from replica.transactions import Database

# exists -- Whether an index or a constraint has the name.
EXISTS: Final[LiteralString] = "SHOW INDEXES YIELD name WHERE name = $name RETURN count(*) > 0 AS there"


def objection(database: Database, key: Key, command: Command) -> str | None:
    """Why *command* may not be skipped any more; None where nothing of it is in the graph.

    The position's lock is taken for the look, so that an attempt that is still under way ends first.  Raises what the
    driver raises.
    """
    with database.session() as session, session.begin_transaction(timeout=database.timeout_s) as tx:
        reason = _objection(tx, key, command)
        tx.rollback()
    return reason


def _objection(tx: neo4j.Transaction, key: Key, command: Command) -> str | None:
    marker = key.lock(tx)
    if marker is None:
        return "the position is gone"
    if marker.offset >= command.offset:
        return f"the command is applied: the graph is at {marker.offset}"
    if marker.intent != command.offset:
        return None
    if not plan.is_schema(command):
        return "it has begun to commit in transactions of its own: mend what it fails for, and it is run again"
    if _exists(tx, command) is marker.existed:
        return None
    return "its schema change is made already, and only what follows failed: mend that, or undo the change by hand"


def _exists(tx: neo4j.Transaction, command: Command) -> bool:
    [statement] = command.statements
    name = cypher.schema_name(statement.text, statement.parameters)
    return bool(tx.run(EXISTS, {"name": name}).single(strict=True)["there"])
