"""Empty a graph that is to be made anew, so that at no moment it can be taken for a replica's, or for a new one.

1. `claim`    the position's node gets a topic id that no topic has, behind its lock: an applier that is in the middle
              of a transaction ends that first, and finds a foreign position afterwards
2. `empty`    nodes, relationships, constraints, indexes; the claim stays
3. `release`  the claim goes: a database without data, schema or position begins with the log.  Where a snapshot is
              restored instead, that takes the claim over, and this step is left out

Killed at any moment it can be done again from the beginning.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final, LiteralString

from neo4j.exceptions import DriverError, Neo4jError

from replica.errors import MissingPosition, Unavailable
from replica.marker import RESTORING, Marker
from replica.outcomes import code_of, message_of
from replica.snapshot_schema import drop_schema
from replica.transactions import Database


if TYPE_CHECKING:
    from collections.abc import Iterator

    import neo4j

    from replica.marker import Key
    from replica.snapshot_schema import Tell

#: What stands in the place of a topic id meanwhile.
CLAIM: Final = f"{RESTORING}after a repair has emptied the database"

#: Seconds for the transaction that the applier is in, a change of the schema included.
_LOCK_S: Final = 3600.0

_OTHERS: Final[LiteralString] = """
MATCH (m:_KafkaPosition) WHERE m.topic <> $__topic OR m.partition <> $__partition
RETURN m.topic + '/' + m.partition AS log ORDER BY log
"""
_COUNT: Final[LiteralString] = "MATCH (n) WHERE NOT n:_KafkaPosition RETURN count(n)"
# empty -- Some nodes; relationships go with them.
_EMPTY: Final[LiteralString] = """
MATCH (n) WHERE NOT n:_KafkaPosition WITH n LIMIT 20000
CALL (n) { DETACH DELETE n } IN TRANSACTIONS OF 1000 ROWS
RETURN count(n) AS deleted
"""
_LOOKUPS: Final[tuple[LiteralString, ...]] = (
    "CREATE LOOKUP INDEX IF NOT EXISTS FOR (n) ON EACH labels(n)",
    "CREATE LOOKUP INDEX IF NOT EXISTS FOR ()-[r]-() ON EACH type(r)",
)
_RELEASE: Final[LiteralString] = """
MATCH (m:_KafkaPosition {topic: $__topic, partition: $__partition}) WHERE m.topic_id STARTS WITH $__claimed
DETACH DELETE m
"""


def claim(driver: neo4j.Driver, database: str, key: Key) -> None:
    """Take the graph away from its applier; again changes nothing.

    Raises:
      MissingPosition: the database follows other logs, which would be emptied with it.
      Unavailable: the server does not do it.
    """
    with _server_errors():
        mine = Marker(CLAIM, offset=-1, published=-1)
        with Database(driver, database, _LOCK_S).session() as session, session.begin_transaction(timeout=_LOCK_S) as tx:
            others = [record["log"] for record in tx.run(_OTHERS, key.parameters)]
            if others:
                raise MissingPosition(
                    f"the database follows {', '.join(others)}, too: a database of several logs is not emptied for one"
                )
            key.begin(tx, mine)
            found = key.lock(tx)
            key.renew(tx, replace(mine, element_id="" if found is None else found.element_id))
            tx.commit()


def empty(driver: neo4j.Driver, database: str, tell: Tell) -> None:
    """Delete everything that a log may have made.  Raises `Unavailable`."""
    with _server_errors(), Database(driver, database, _LOCK_S).session() as session:
        total, done = session.run(_COUNT).single(strict=True)[0], 0
        while deleted := session.run(_EMPTY).single(strict=True)["deleted"]:
            done += deleted
            tell("emptying", done, max(total, done))
        drop_schema(session)
        for statement in _LOOKUPS:
            session.run(statement).consume()


def release(driver: neo4j.Driver, database: str, key: Key) -> None:
    """Leave the empty database to whoever begins with the log.  Raises `Unavailable`."""
    with _server_errors(), Database(driver, database, _LOCK_S).session() as session:
        session.run(_RELEASE, {**key.parameters, "__claimed": RESTORING}).consume()


@contextmanager
def _server_errors() -> Iterator[None]:
    try:
        yield
    except (DriverError, Neo4jError, OSError) as error:
        raise Unavailable(code_of(error), message_of(error)) from error
