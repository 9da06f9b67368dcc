"""Why the position's lock is not to be had: a held command should name who holds it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, LiteralString

from neo4j.exceptions import DriverError, Neo4jError


if TYPE_CHECKING:
    from replica.transactions import Database

#: What a transaction of ours says of itself, so that it can be found in SHOW TRANSACTIONS: "snapshot", "restore".
METADATA_KEY: Final = "neo4j-kafka"

# holders -- Those of our own transactions that hold the lock for long.
_HOLDERS: Final[LiteralString] = """
SHOW TRANSACTIONS YIELD transactionId, metaData, elapsedTime
WHERE metaData['neo4j-kafka'] IS NOT NULL
RETURN transactionId AS id, metaData['neo4j-kafka'] AS what, elapsedTime.milliseconds / 1000 AS seconds
"""

#: What a transaction ends with whose time was up while it waited for a lock.
_TIMED_OUT: Final = frozenset(
    [
        "Neo.ClientError.Transaction.LockClientStopped",
        "Neo.ClientError.Transaction.TransactionTimedOut",
        "Neo.ClientError.Transaction.TransactionTimedOutClientConfiguration",
        "Neo.TransientError.Transaction.LockAcquisitionTimeout",
    ]
)


def for_whom(database: Database, code: str) -> str:
    """Words to append to the reason of a held command; empty where it waits for nobody of ours."""
    if code not in _TIMED_OUT:
        return ""
    try:
        with database.session(read=True) as session:
            found = [f"a {r['what']}, {r['seconds']:,} s old ({r['id']})" for r in session.run(_HOLDERS)]
    except (DriverError, Neo4jError, OSError):  # the reason stands without it
        return ""
    return f"; it waits for {', '.join(found)}" if found else ""
