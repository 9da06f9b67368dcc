"""What the replicas say at their checkpoints, on a topic of its own, and what each of them makes of it.

Out of band: the applier publishes and goes on.  A thread of its own hears what the others say, and where this replica
is the wrong one it puts itself in quarantine, which stops the applier and is there for a person to see and to end.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec
from dramatiq.errors import BrokerError

from brokers.records import Outgoing
from brokers.replies import Place, TopicReader, read_through
from replica.digest import INTERVAL, KEPT, Checkpoint
from tasks import outcomes
from tasks.divergence import judge
from tasks.reporting import Outbox


if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from brokers import KafkaBroker
    from brokers.records import Record
    from brokers.topics import TopicSpec
    from tasks.decisions import Decisions
    from tasks.divergence import Disagreement

logger = logging.getLogger("tasks.checkpoints")

#: Checkpoints that are remembered behind this replica's own last one: others may be that far behind.
REMEMBERED: Final = 1000

#: Checkpoints that are published together where many are passed, and seconds that one waits for others.  A graph keeps
#: the last ones, so what a killed process did not say its successor does: these, and as many on their way.
TOGETHER: Final = KEPT // 2
WAITS_S: Final = 0.1

#: Who decides, where a replica decides about itself.
BY: Final = "its own comparison with the others"


class Said(msgspec.Struct, frozen=True):
    """One record on the topic, see `replica.digest.Checkpoint`."""

    replica: str
    topic_id: str
    before: int
    nodes: int | None
    relationships: int | None
    chain: str | None
    counters: dict[str, int] | None
    unexplained: tuple[int, int] | None
    server: str

    @property
    def checkpoint(self) -> Checkpoint:
        """What was said, without who said it."""
        rest = (self.chain, self.counters, self.unexplained, self.server)
        return Checkpoint(self.before, self.nodes, self.relationships, *rest)


class Anew(msgspec.Struct, frozen=True):
    """Another record on the topic: the replica's graph was made anew, and what it said before is of another one."""

    replica: str
    topic_id: str
    anew: bool


class Ledger:
    """What everybody said, by place.  Pure; not locked."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._remembered = remembered
        self._said: dict[int, dict[str, Checkpoint]] = {}

    def add(self, replica: str, checkpoint: Checkpoint) -> None:
        """The later of two that a replica says of one place holds: it was made anew in between."""
        self._said.setdefault(checkpoint.before, {})[replica] = checkpoint

    def judge(self, replica: str, before: int) -> Disagreement | None:
        """As `divergence.judge`, of the segment that ends before that offset."""
        return judge(replica, self._said.get(before, {}), first=before - INTERVAL, last=before - 1)

    def replicas(self, before: int) -> list[str]:
        """Who spoke of that place."""
        return sorted(self._said.get(before, {}))

    def places(self) -> list[int]:
        """All of which somebody spoke, in order."""
        return sorted(self._said)

    def forget(self, replica: str, *, behind: int | None = None) -> None:
        """What *replica* said; or of everybody, what lies further *behind* than anybody is expected to be."""
        if behind is None:
            for said in self._said.values():
                said.pop(replica, None)
        else:
            for before in [one for one in self._said if one < behind - self._remembered * INTERVAL]:
                del self._said[before]


def read(record: Record) -> Said | Anew | None:
    """A record of the topic; none where it is something else."""
    said: Said | None = outcomes.decode(record.value, Said)
    anew: Anew | None = None if said is not None else outcomes.decode(record.value, Anew)
    return said if said is not None else anew


def take(ledger: Ledger, said: Said | Anew) -> None:
    """The next record."""
    if isinstance(said, Anew):
        ledger.forget(said.replica)
    else:
        ledger.add(said.replica, said.checkpoint)


class Watch:
    """One replica's part: it says its checkpoints, hears those of the others, and draws the conclusion.

    The applier's threads take turns in it; of each process its own.
    """

    def __init__(
        self, broker: KafkaBroker, spec: TopicSpec, decisions: Decisions, replica: str, *, timeout_s: float
    ) -> None:
        self._broker = broker
        self._spec = spec
        self._decisions = decisions
        self._replica = replica
        self._timeout_s = timeout_s
        self._lock = threading.RLock()
        self._outbox = Outbox(broker)
        self._unsaid: list[Checkpoint] = []  # to be published together
        self._said_at = -WAITS_S  # monotonic seconds
        self._reset()

    def _reset(self) -> None:
        self._reader: TopicReader | None = None
        self._topic_id = ""
        self._ledger = Ledger()
        self._published: dict[int, Checkpoint] = {}  # what the topic says of this replica
        self._told: dict[int, Disagreement] = {}

    def begin(self, topic_id: str, checkpoints: Iterable[Checkpoint]) -> None:
        """The applier starts on a graph that keeps *checkpoints*; what was said before may be of another graph.

        Returns when everything that the others said so far is known, and judged.

        Raises:
          Unreachable: no Kafka server answers.
        """
        if self._topic_id != topic_id:
            self.close()  # without the lock: the reader's thread may wait for it
            with self._lock:
                self._reset()
        with self._lock:
            self._topic_id = topic_id
            self._ledger.forget(self._replica)
            self._told.clear()
            if self._reader is None or not self._reader.running:
                self._broker.topics.ensure(self._spec)
                place = Place(self._spec.name, from_start=True)
                self._reader = TopicReader(
                    self._broker.client_settings, [place], self._heard, timeout_s=self._timeout_s
                )
            reader = self._reader
        reader.wait_caught_up(self._timeout_s)
        kept = tuple(checkpoints)
        self._outbox.forget()  # the graph has kept it
        self._unsaid.clear()
        self._take_back(kept)
        self.say(kept)
        self.confirm()

    def _take_back(self, kept: tuple[Checkpoint, ...]) -> None:
        """What was said of a graph that is no more; a graph that goes on keeps the last that it said."""
        with self._lock:
            said = self._published
            if not said or said[max(said)] in kept:
                return
            self._published = {}
        self._put(Anew(self._replica, self._topic_id, anew=True))

    def _put(self, said: Said | Anew) -> None:
        record = Outgoing(self._spec.name, msgspec.json.encode(said), self._replica.encode(), partition=0)
        self._outbox.put(record, self._spec)

    def confirm(self) -> None:
        """Wait until all that was said is published, and send again what is not.

        Raises:
          Unreachable, DeliveryUnknown, DeliveryRefused: see `brokers.errors`.
        """
        self._publish()
        self._outbox.confirm()

    def _publish(self) -> None:
        self._outbox.confirm()
        self._said_at = time.monotonic()
        while self._unsaid:
            one = self._unsaid.pop(0)  # the outbox has it, also where it cannot be sent now
            self._put(Said(replica=self._replica, topic_id=self._topic_id, **_fields(one)))

    def say(self, checkpoints: Iterable[Checkpoint]) -> None:
        """Compare them, and put them on their way, with those that follow soon."""
        for one in checkpoints:
            self._unsaid.append(one)
            with self._lock:
                self._ledger.add(self._replica, one)
                self._ledger.forget(self._replica, behind=one.before)
            self._compare(one.before)
        if len(self._unsaid) >= TOGETHER or (self._unsaid and time.monotonic() - self._said_at >= WAITS_S):
            self._publish()

    def _heard(self, record: Record) -> None:
        said = read(record)
        if said is None or said.topic_id != self._topic_id:
            return
        with self._lock:
            if said.replica == self._replica:
                # Perhaps of a graph that is no more; what this one says was noted when it was said.
                self._published = self._published | {said.before: said.checkpoint} if isinstance(said, Said) else {}
                return
            take(self._ledger, said)
        if isinstance(said, Said):
            self._compare(said.before)

    def _compare(self, before: int) -> None:
        with self._lock:
            found = self._ledger.judge(self._replica, before)
            if found is None or self._told.get(before) == found:
                return
            self._told[before] = found
        self.conclude(found)

    def conclude(self, found: Disagreement) -> None:
        """Say it, and go into quarantine where this replica is the wrong one; done again, nothing more happens."""
        if not found.wrong:
            logger.error("replicas_disagree %s", found)
            return
        logger.critical("replica_diverged %s", found)
        try:
            if not self._decisions.is_quarantined(self._replica):
                self._decisions.decide("quarantine", self._replica, reason=str(found), by=BY)
        except BrokerError as exc:  # tried again with the next checkpoint, and at the next start
            logger.critical("quarantine_not_published replica=%s reason=%s", self._replica, exc)
            with self._lock:
                self._told.clear()

    def close(self) -> None:
        """Stop reading.  Idempotent; `begin` reads again."""
        with self._lock:
            reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()


def disagreements(broker: KafkaBroker, spec: TopicSpec, topic_id: str, *, timeout_s: float) -> list[Disagreement]:
    """Where replicas disagree, from the topic itself: of each that disagrees the first place.  Makes no topic.

    Raises:
      Unreachable: it could not be read in time.
    """
    if broker.topics.partitions(spec.name) is None:
        return []
    ledger = Ledger()

    def heard(record: Record) -> None:
        said = read(record)
        if said is not None and said.topic_id == topic_id:
            take(ledger, said)

    read_through(broker.client_settings, spec.name, heard, timeout_s=timeout_s)
    return list(_first_of_each(ledger).values())


def _first_of_each(ledger: Ledger) -> Mapping[str, Disagreement]:
    found: dict[str, Disagreement] = {}
    for before in ledger.places():
        for replica in ledger.replicas(before):
            disagreement = ledger.judge(replica, before)
            if disagreement is not None:
                found.setdefault(replica, disagreement)
    return found


def _fields(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "before": checkpoint.before,
        "nodes": checkpoint.nodes,
        "relationships": checkpoint.relationships,
        "chain": checkpoint.chain,
        "counters": None if checkpoint.counters is None else dict(checkpoint.counters),
        "unexplained": checkpoint.unexplained,
        "server": checkpoint.server,
    }
