"""Find the position in the graph, or make the first one, or say why neither is right."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final, LiteralString

from neo4j.exceptions import ClientError, TransientError

from replica.errors import HalfRestored, HistoryMissing, MissingPosition, PositionBeyondLog, TopicChanged
from replica.marker import CONSTRAINT, RESTORING, Marker


if TYPE_CHECKING:
    from replica.marker import Key
    from replica.transactions import Database

_logger = logging.getLogger(__name__)

# occupied -- Anything that a log applied, other than markers.
_NODES: Final[LiteralString] = "MATCH (n) WHERE NOT n:_KafkaPosition RETURN 1 AS found LIMIT 1"
_SCHEMA: Final[LiteralString] = """
SHOW INDEXES YIELD name, type, labelsOrTypes
WHERE type <> 'LOOKUP' AND NOT coalesce(labelsOrTypes, []) = ['_KafkaPosition']
RETURN name LIMIT 1
"""
_OTHERS: Final[LiteralString] = "MATCH (m:_KafkaPosition) RETURN m.topic + '/' + m.partition AS log ORDER BY log"

#: Two processes that create the constraint at once collide at most for a moment.
_ATTEMPTS: Final = 10
_PAUSE_S: Final = 0.2


def recover(database: Database, key: Key, topic_id: str, log_start: int, log_end: int | None) -> Marker:
    """Give the marker, creating it on an empty graph.

    *log_start* is the first offset that the log still has, *log_end* the one after its last, if known.
    Raises the `Halted` family, and whatever the driver raises.
    """
    marker = _find(database, key)
    if marker is None:
        refuse_unless_empty(database, key)
        if log_start > 0:
            raise HistoryMissing(
                f"the graph is empty and the log of {key.topic} begins at offset {log_start}: "
                f"restore a snapshot taken at offset {log_start - 1} or later into this database, then start again"
            )
        marker = _begin(database, key, topic_id)
    _check(key, marker, topic_id, log_start, log_end)
    constrain(database)
    return marker


def _check(key: Key, marker: Marker, topic_id: str, log_start: int, log_end: int | None) -> None:
    if marker.topic_id.startswith(RESTORING):
        raise HalfRestored(
            f"a snapshot ({marker.topic_id.removeprefix(RESTORING)}) is being restored into this database, or was and "
            "did not get to its end: wait for it, or restore again, which empties the database first"
        )
    if marker.topic_id != topic_id:
        raise TopicChanged(
            f"this graph follows topic {key.topic} with id {marker.topic_id}, but the topic of that name now has id "
            f"{topic_id}: it was deleted and created again. Point the replica at the topic it follows, or empty the "
            "database and let it replay the new topic from its start"
        )
    if marker.offset + 1 < log_start:
        raise HistoryMissing(
            f"this graph is at offset {marker.offset} and the log of {key.topic} begins at {log_start}: the commands "
            f"between are gone. Restore a snapshot taken at offset {log_start - 1} or later into this database, then "
            "start again"
        )
    if log_end is not None and marker.offset >= log_end:
        raise PositionBeyondLog(
            f"this graph is at offset {marker.offset} but the log of {key.topic} ends before {log_end}: the log lost "
            "its tail. Restore the log, or restore a snapshot older than its end into this database"
        )


def _find(database: Database, key: Key) -> Marker | None:
    with database.session(read=True) as session:
        return key.read(session)


def refuse_unless_empty(database: Database, key: Key) -> None:
    """Raise `MissingPosition` where there is anything that a log, this one or another, may have applied."""
    with database.session(read=True) as session:
        others = [record["log"] for record in session.run(_OTHERS)]
        found = session.run(_NODES).single() or session.run(_SCHEMA).single()
    if others or found is not None:
        followed = f" (it follows {', '.join(others)})" if others else ""
        raise MissingPosition(
            f"the database has data or schema but no position for {key.topic}/{key.partition}{followed}: replaying the "
            "log onto it would apply commands twice. Restore a snapshot, which carries its position, or empty the "
            "database (nodes, constraints and indexes) and let it replay from the start"
        )


def _begin(database: Database, key: Key, topic_id: str) -> Marker:
    constrain(database)
    with database.session() as session, session.begin_transaction(timeout=database.timeout_s) as tx:
        key.begin(tx, Marker(topic_id, offset=-1, published=-1))
        tx.commit()
    marker = _find(database, key)
    if marker is None:
        raise MissingPosition(f"the position of {key.topic}/{key.partition} vanished while it was created: start again")
    _logger.info("position created topic=%s partition=%d", key.topic, key.partition)
    return marker


def constrain(database: Database) -> None:
    """Make sure that one topic and partition has one marker; two processes may do so at once."""
    for attempt in range(_ATTEMPTS):
        try:
            with database.session() as session:
                session.run(CONSTRAINT).consume()
            return
        except (ClientError, TransientError):
            if attempt == _ATTEMPTS - 1:
                raise
            time.sleep(_PAUSE_S)
