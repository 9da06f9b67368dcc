"""The position inside the graph: one node, and the only statements that touch it.

    (:_KafkaPosition {topic, partition, topic_id, offset, published, rejections, digest, checkpoints
                      [, counted] [, intent, existed] [, _KafkaPosition_ids_<segment> ...]})

*offset* is the last command applied.  *published* is the offset up to which outcomes are known to be published, and
*rejections* holds the rejected outcomes after it, one JSON string each, so that a crash between a commit and the
publication loses none.  *digest* and *checkpoints* are texts of `replica.digest`.  *counted* is what the graph held at
the last checkpoint, where that does not say it itself: nodes, relationships and positions.  *intent* is the offset of a
schema command that has begun, *existed* whether the name it creates or drops existed before.  The ids of commands are
those of `replica.ids`; only who asks for them reads them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, LiteralString, Protocol

from replica import digest
from replica.digest import Checkpoint, Tally
from replica.statement import Outcome


if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import neo4j

# read -- The marker of this topic and partition, or no row.
READ: Final = """
MATCH (m:_KafkaPosition {topic: $__topic, partition: $__partition})
RETURN m {.topic_id, .offset, .published, .rejections, .digest, .checkpoints, .counted, .intent, .existed} AS marker,
  elementId(m) AS id
"""

# lock -- Take the write lock, then read: a comparison made before the lock is held fences nobody.
LOCK: Final = """
MATCH (m:_KafkaPosition {topic: $__topic, partition: $__partition})
SET m._lock = 1 REMOVE m._lock
RETURN m {.topic_id, .offset, .published, .rejections, .digest, .checkpoints, .counted, .intent, .existed} AS marker,
  elementId(m) AS id
"""

# all -- Everything that the node holds, the ids of commands too.
ALL: Final = """
MATCH (m:_KafkaPosition {topic: $__topic, partition: $__partition})
RETURN properties(m) AS marker
"""

# move -- Write all of the marker, last in its transaction; of the ids of commands, what has changed.
MOVE: Final = """
MERGE (m:_KafkaPosition {topic: $__topic, partition: $__partition})
SET m += $__marker
"""

# renew -- The same after a command that may have seen the marker: what it left on the node goes.  The node stays, since
# another applier that waits for its lock would find a deleted one.
RENEW: Final = """
MATCH (m) WHERE elementId(m) = $__id
SET m = $__marker
REMOVE m:$([label IN labels(m) WHERE label <> '_KafkaPosition'])
SET m:_KafkaPosition
WITH m OPTIONAL MATCH (m)-[r]-()
DELETE r
RETURN DISTINCT true AS renewed
"""

# create -- A new node where the command deleted the old one.
CREATE: Final = "CREATE (:_KafkaPosition $__marker)"

_COUNTS: Final = """CALL () { MATCH (n) RETURN count(n) AS nodes }
CALL () { MATCH ()-[r]->() RETURN count(r) AS relationships }
CALL () { MATCH (m:_KafkaPosition) RETURN count(m) AS markers }
"""

# advance -- One round trip: lock, compare, a rewritten command, move; no row when somebody else moved.
ADVANCE: Final = """
MATCH (__m:_KafkaPosition {topic: $__topic, partition: $__partition})
SET __m._lock = 1 REMOVE __m._lock
WITH __m WHERE __m.offset = $__previous AND __m.topic_id = $__topic_id AND __m.intent IS NULL
%s
SET __m.offset = $__offset, __m.published = $__published, __m.rejections = $__rejections, __m.digest = $__digest%s
RETURN __m.counted AS counted
"""
#: What follows the last %s where the commands have ids, and for checkpoints; one property more each.
ADVANCE_IDS: Final = ", __m[$__ids] = $__entries"
ADVANCE_CHECKPOINTS: Final = ", __m.checkpoints = $__checkpoints"
#: What stands before the command where a checkpoint is due: the graph is looked at before anything runs.
ADVANCE_COUNT: Final = f"CALL (__m) {{\n{_COUNTS}SET __m.counted = [nodes, relationships, markers]\n}}\n"
#: Properties that ADVANCE itself sets or removes; taken off the counters.
ADVANCE_PROPERTIES: Final = 6

CONSTRAINT_NAME: Final = "kafka_position"
CONSTRAINT: Final = """
CREATE CONSTRAINT kafka_position IF NOT EXISTS
FOR (m:_KafkaPosition) REQUIRE (m.topic, m.partition) IS UNIQUE
"""

# begin -- The first marker of an empty graph; two processes at once make one.
BEGIN: Final = """
MERGE (m:_KafkaPosition {topic: $__topic, partition: $__partition})
ON CREATE SET m = $__marker
"""

# count -- How much there is, markers included; all three numbers are in the server's count store.
COUNT: Final = f"{_COUNTS}RETURN nodes, relationships, markers"
#: A topic id that begins so is none: a snapshot is being restored into this graph, or was and did not get to its end.
#: No applier follows it, and no query is answered.
RESTORING: Final = "restoring snapshot "

#: Attempts to read a marker that is not there, or only just.
_READS: Final = 3


class Runner(Protocol):
    """A session or a transaction."""

    def run(self, query: LiteralString, /, parameters: dict[str, Any] | None = None) -> neo4j.Result:
        """Run one statement."""
        ...


@dataclass(frozen=True, slots=True)
class Marker:
    """What the node says."""

    topic_id: str
    offset: int
    published: int
    rejections: tuple[Outcome, ...] = ()
    intent: int | None = None
    existed: bool = False
    element_id: str = ""
    tally: Tally = field(default_factory=Tally.first)
    checkpoints: tuple[Checkpoint, ...] = ()
    #: Whether more is known of the checkpoints than the node says.
    unwritten: bool = False

    def moved(self, offset: int, rejected: Sequence[Outcome], *, published: int, counted: Mapping[str, int]) -> Marker:
        """The marker after everything up to *offset*; outcomes that are known to be published are dropped."""
        return self.ahead(
            offset, published=published, rejected=rejected, tally=self.tally.plus(offset, counted, rejected)
        )

    def ahead(
        self,
        offset: int,
        *,
        published: int,
        rejected: Sequence[Outcome] = (),
        tally: Tally | None = None,
        unwritten: bool = False,
    ) -> Marker:
        """As `moved`; without *tally* what has been done since is not counted yet."""
        published = max(self.published, published)
        kept = tuple(outcome for outcome in (*self.rejections, *rejected) if outcome.offset > published)
        return Marker(
            self.topic_id,
            offset,
            published,
            kept,
            element_id=self.element_id,
            tally=tally or self.tally,
            checkpoints=digest.kept(self.checkpoints, published),
            unwritten=unwritten,
        )

    def closed(self, offset: int, server: str) -> Marker:
        """The marker where the segment ends before the command at *offset*; again changes nothing."""
        checkpoint, tally = self.tally.closed(offset, server)
        others = (one for one in self.checkpoints if one.before != checkpoint.before)
        return replace(self, tally=tally, checkpoints=(*others, checkpoint))

    def counted(self, nodes: int, relationships: int, markers: int) -> Marker:
        """The same once the graph is counted at the last checkpoint; the node has the numbers beside it."""
        known = (nodes, relationships) if markers == 1 else (None, None)  # other logs are at places of their own
        *others, last = self.checkpoints
        checkpoints = (*others, last.counted(*known))
        return replace(self, tally=self.tally.counted(*known), checkpoints=checkpoints, unwritten=True)


@dataclass(frozen=True, slots=True)
class Key:
    """Which marker: a graph may carry several logs."""

    topic: str
    partition: int

    @property
    def parameters(self) -> dict[str, Any]:
        """As parameters of the statements above."""
        return {"__topic": self.topic, "__partition": self.partition}

    def read(self, runner: Runner) -> Marker | None:
        """The marker as it is now, without a lock.

        A command that deletes every node makes its successor a new one; a read that meets this moment is repeated.
        """
        for _ in range(_READS):
            record = runner.run(READ, self.parameters).single()
            if record is not None and record["marker"].get("offset") is not None:
                return _parse(record)
        return None

    def lock(self, runner: Runner) -> Marker | None:
        """The marker, write-locked until the transaction ends."""
        return _parse(runner.run(LOCK, self.parameters).single())

    def close(self, runner: Runner, marker: Marker, offset: int) -> Marker:
        """*marker* after the checkpoint before the command at *offset*, where one is due; not written yet."""
        if not marker.tally.due(offset):
            return marker
        result = runner.run(COUNT)
        counted = result.single(strict=True)
        return marker.closed(offset, result.consume().server.agent).counted(*counted.values())

    def all(self, runner: Runner) -> dict[str, Any]:
        """Everything that the node holds, the ids of commands too; nothing where there is no node."""
        record = runner.run(ALL, self.parameters).single()
        return {} if record is None else dict(record["marker"])

    def move(self, runner: Runner, marker: Marker, change: Mapping[str, bytes | None] | None = None) -> None:
        """Write *marker*, in an existing node or a new one, and the *change* of the ids of commands."""
        parameters = {**self.parameters, "__marker": self.properties(marker) | dict(change or {})}
        runner.run(MOVE, parameters).consume()

    def renew(self, runner: Runner, marker: Marker, ids: Mapping[str, bytes] | None = None) -> None:
        """Write *marker* and all *ids*, pristine, in the node that was locked, or in a new one where it was deleted."""
        parameters = {"__id": marker.element_id, "__marker": _present(self.properties(marker) | dict(ids or {}))}
        if runner.run(RENEW, parameters).single() is None:
            runner.run(CREATE, parameters).consume()

    def begin(self, runner: Runner, marker: Marker) -> None:
        """Write *marker* unless there is one."""
        runner.run(BEGIN, {**self.parameters, "__marker": _present(self.properties(marker))}).consume()

    def properties(self, marker: Marker) -> dict[str, Any]:
        """What the node holds, without the ids of commands; None for what it must not hold."""
        return {
            "topic": self.topic,
            "partition": self.partition,
            "topic_id": marker.topic_id,
            "offset": marker.offset,
            "published": marker.published,
            "rejections": texts(marker.rejections),
            "digest": marker.tally.text(),
            "checkpoints": [checkpoint.text() for checkpoint in marker.checkpoints],
            "counted": None,
            "intent": marker.intent,
            "existed": None if marker.intent is None else marker.existed,
        }


def _present(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in properties.items() if value is not None}


def texts(rejections: Iterable[Outcome]) -> list[str]:
    """Rejected outcomes as the marker keeps them."""
    return [json.dumps([each.offset, each.code, each.message, each.duplicate_of]) for each in rejections]


def _parse(record: neo4j.Record | None) -> Marker | None:
    if record is None:
        return None
    found = _present(record["marker"])
    offset = found.get("offset", -1)
    marker = Marker(
        topic_id=found.get("topic_id", ""),
        offset=offset,
        published=found.get("published", -1),
        rejections=tuple(_outcome(text) for text in found.get("rejections", ())),
        intent=found.get("intent"),
        existed=found.get("existed", False),
        element_id=record["id"],
        tally=Tally.parse(found.get("digest"), offset),
        checkpoints=tuple(Checkpoint.parse(text) for text in found.get("checkpoints", ())),
    )
    counted = found.get("counted")
    return marker if counted is None or not marker.checkpoints else marker.counted(*counted)


def _outcome(text: str) -> Outcome:
    offset, code, message, *rest = json.loads(text)  # what was written before there were ids has no fourth
    duplicate_of = rest[0] if rest else None
    return Outcome(offset, applied=duplicate_of is not None, code=code, message=message, duplicate_of=duplicate_of)
