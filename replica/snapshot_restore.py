"""Fill an empty database from a snapshot; until the last moment nobody can take it for a replica.

1. `claim`   the position's node is made first, with a topic id that no topic has: an applier that starts now refuses,
             and one that made the node itself a moment ago makes us refuse
2. `lock`    an open transaction holds that node's lock to the end, so that a second restore waits outside
3. `fill`    nodes, relationships, constraints and indexes, each block a transaction
4. `settle`  counts and names are compared; then the transaction that holds the lock writes the real position

`kill -9` at any moment before 4 leaves a database that says what it is.  Restoring again empties it and begins anew:
everything in it came from a restore, since the claim was made in an empty one.

Relationships name their ends by number, the place of a node in the snapshot.  The server gives an id for each node
that it creates; they are kept in the order of the numbers, 8 bytes each, and need neither an index nor a property.
"""

from __future__ import annotations

import time
import uuid
from array import array
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, LiteralString, TypeVar

from neo4j.exceptions import DriverError, Neo4jError

from replica import values
from replica.errors import SnapshotFailed, SnapshotRefused
from replica.marker import LOCK, RESTORING, Key, Marker
from replica.outcomes import code_of, message_of
from replica.recovery import constrain, refuse_unless_empty
from replica.snapshot import counted, elements, told
from replica.snapshot_format import NODES, Block, Header
from replica.snapshot_schema import differences, drop_schema, make_schema, read_schema
from replica.transactions import Database
from replica.waiting import METADATA_KEY, for_whom


if TYPE_CHECKING:
    from collections.abc import Iterator

    import neo4j

    from replica.snapshot_format import Source
    from replica.snapshot_schema import Tell

T = TypeVar("T")

# nodes -- One block; numbers come back with the ids, since nothing promises an order.  One record: a record for each
# node takes longer than to create it.
_NODES: Final[LiteralString] = """
CYPHER 5 UNWIND $rows AS row CREATE (n:$(row[1])) SET n = row[2]
RETURN collect(row[0]) AS numbers, collect(id(n)) AS ids
"""
# relationships -- One block, between nodes that are there.
_RELATIONSHIPS: Final[LiteralString] = """
CYPHER 5 UNWIND $rows AS row
MATCH (a) WHERE id(a) = row[1]
MATCH (b) WHERE id(b) = row[2]
CREATE (a)-[r:$(row[0])]->(b) SET r = row[3]
"""
# empty -- All but the claim.
_EMPTY: Final[LiteralString] = """
MATCH (n) WHERE NOT n:_KafkaPosition CALL (n) { DETACH DELETE n } IN TRANSACTIONS OF 1000 ROWS
"""
_SETTLE: Final[LiteralString] = """
MATCH (m:_KafkaPosition {topic: $__topic, partition: $__partition}) SET m = $__marker
"""
_ALIVE: Final[LiteralString] = "RETURN 1"

_METADATA: Final = {METADATA_KEY: "restore"}

#: Seconds to wait for the claim's lock: whoever holds it is restoring, and will not be done soon.
_LOCK_S: Final = 5.0
#: Seconds between two looks whether we still hold it.  With one for each block they took a tenth of the time.
_ALIVE_S: Final = 1.0
#: Longest single step of ours: one block, or filling the index of a constraint.
_STEP_S: Final = 3600.0


def restore(driver: neo4j.Driver, database: str, source: Source, tell: Tell) -> Header:
    """Fill the database, which has to be empty or half restored; its position is the snapshot's afterwards.

    Raises `SnapshotRefused`, `SnapshotBroken`, `SnapshotFailed` and `OSError`; the database can be restored again then.
    """
    header = source.header
    key = Key(header.position.topic, header.position.partition)
    restoring = _Restore(Database(driver, database, _STEP_S), key, source, tell)
    try:
        return restoring.run()
    except (DriverError, Neo4jError) as error:
        why = f"{code_of(error)}: {message_of(error).rstrip('.')}"
        if not restoring.begun:
            raise SnapshotFailed(f"the restore did not begin: {why}") from error
        raise SnapshotFailed(
            f"the restore did not get to its end: {why}. Restore again: that empties the database first"
        ) from error


class _Restore:
    def __init__(self, database: Database, key: Key, source: Source, tell: Tell) -> None:
        self._database = database
        self._key = key
        self._source = source
        self._header = source.header
        self._tell = tell
        self._claim = f"{RESTORING}{source.header.id}, attempt {uuid.uuid4().hex[:8]}"
        self._ids = array("q")  # by number; -1 until the server has said
        self.begun = False  # whether the database is ours

    def run(self) -> Header:
        self._take_claim()
        self.begun = True
        with self._database.session() as session, session.begin_transaction(timeout=0, metadata=_METADATA) as tx:
            self._require_claim(tx)
            self._fill(tx)
            self._settle(tx)
        return self._header

    def _take_claim(self) -> None:
        """Make the position's node ours, by making it, or by taking it over from a restore that is dead."""
        with self._database.session(read=True) as session:
            found = self._key.read(session)
        if found is None:
            refuse_unless_empty(self._database, self._key)
            constrain(self._database)
        with self._database.session() as session, session.begin_transaction(timeout=_LOCK_S) as tx:
            mine = Marker(self._claim, offset=-1, published=-1)
            there = self._begun(tx, mine)
            if there != self._claim and not there.startswith(RESTORING):
                raise SnapshotRefused(
                    f"the database already follows topic {self._key.topic} (id {there}): a snapshot goes into an empty "
                    "one. Stop the replica's worker, empty the database, and restore again"
                )
            self._key.move(tx, mine)
            tx.commit()

    def _begun(self, tx: neo4j.Transaction, mine: Marker) -> str:
        """Make the position's node unless it is there; lock it, and say whose it is."""
        try:
            self._key.begin(tx, mine)
            return self._lock(tx)
        except Neo4jError as error:
            if whom := for_whom(self._database, code_of(error)):
                raise SnapshotRefused(f"this restore did not begin{whom}") from error
            raise

    def _require_claim(self, tx: neo4j.Transaction) -> None:
        if self._lock(tx) != self._claim:
            raise SnapshotRefused("another restore into this database began at the same moment, and goes on")

    def _lock(self, tx: neo4j.Transaction) -> str:
        """Whose the position's node is; locked."""
        return str(tx.run(LOCK, self._key.parameters).single(strict=True)["marker"]["topic_id"])

    def _fill(self, tx: neo4j.Transaction) -> None:
        with self._database.session() as session:
            self._empty(session)
            asked = time.monotonic()
            for block, rows in _ahead(self._prepared()):
                if time.monotonic() - asked > _ALIVE_S:
                    tx.run(_ALIVE).consume()  # keeps the lock's connection from idling, and stops us where it is lost
                    asked = time.monotonic()
                self._write(session, block, rows)
                self._tell(*told(block.kind, block.first + len(rows), self._header))
            make_schema(session, self._header, self._tell)

    def _empty(self, session: neo4j.Session) -> None:
        nodes, _, _ = counted(session)
        if nodes:
            self._tell("emptying what a restore left", 0, 0)
            session.run(_EMPTY).consume()
        drop_schema(session)

    def _prepared(self) -> Iterator[tuple[Block, list[list[Any]]]]:
        for block in self._source.blocks():
            yield block, list(elements(block, self._header, "the snapshot"))

    def _write(self, session: neo4j.Session, block: Block, rows: list[list[Any]]) -> None:
        if block.kind == NODES:
            numbered = [[block.first + place, *row] for place, row in enumerate(rows)]
            self._ids.extend([-1] * len(rows))
            created = session.run(_NODES, {"rows": numbered}).single(strict=True)
            for number, node in zip(created["numbers"], created["ids"], strict=True):
                self._ids[number] = node
            return
        ids = self._ids
        found = [[kind, ids[start], ids[end], properties] for kind, start, end, properties in rows]
        session.run(_RELATIONSHIPS, {"rows": found}).consume()

    def _settle(self, tx: neo4j.Transaction) -> None:
        """Compare what is there with what should be, and write the position: from here on it is a replica."""
        with self._database.session(read=True) as session:
            nodes, relationships, markers = counted(session)
            missing = differences(self._header.schema, read_schema(session))
        if (nodes, relationships, markers) != (self._header.nodes, self._header.relationships, 1) or missing:
            raise SnapshotFailed(
                f"the database has {nodes:,} nodes and {relationships:,} relationships instead of "
                f"{self._header.nodes:,} and {self._header.relationships:,}"
                + (f", and differs in {', '.join(missing)}" if missing else "")
                + ": somebody else writes to it. Restore again"
            )
        parameters = {**self._key.parameters, "__marker": values.decode(self._header.marker, "marker")}
        tx.run(_SETTLE, parameters).consume()
        try:
            tx.commit()
        except (DriverError, OSError):
            # The answer was lost, not necessarily the commit: the graph knows.
            with self._database.session(read=True) as session:
                marker = self._key.read(session)
            if marker is None or marker.topic_id != self._header.position.topic_id:
                raise


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """Make the next item, in a thread of its own, while the last one is being used."""
    with ThreadPoolExecutor(1, "snapshot-reader") as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item
