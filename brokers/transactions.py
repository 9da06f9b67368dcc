"""Telling Kafka what is done, and sending what follows from it, in the same transactions.

A transaction holds the records that follow from many ended units, and the group's offsets with their completion maps.
It costs some 8 ms whether it holds one unit or hundreds, so all that have ended meanwhile go into the next one.

*Who may commit.*  Each transaction names the consumer's member and generation as they are just then, and Kafka aborts
it when the group has moved on (KIP-447): a process that was thrown out, and does not know, can neither forward nor ack.
Kafka takes offsets of nobody at all, without a word, as it does those of a group without members; so nothing is sent
while the client has no generation.

*In one order.*  Kafka orders commits by their place in its own log, and those of two connections come there in any
order; so all commits of the group go this way, those without records too, and only the owner thread makes them.

*When the answer is missing.*  The producer is asked again.  Where it is of no use any more, a new one of the same
transactional id completes what it left open, either way; then the group's offsets tell which.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaException, TopicPartition

from brokers import clients, codes
from brokers.assignment import Unit
from brokers.clients import base_config
from brokers.commits import Commits, news_of, note, offsets_of
from brokers.errors import KafkaError, Unreachable, WrongTopic
from brokers.former import FormerOwners
from brokers.generation import NoMember, member_of
from brokers.producer import MESSAGE_BYTES


if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from confluent_kafka import Consumer as Client

    from brokers.assignment import Assignment
    from brokers.bounds import Place
    from brokers.clients import Health
    from brokers.commits import Asked
    from brokers.forwarding import Ending
    from brokers.records import Record
    from brokers.topics import Topics

logger = logging.getLogger("brokers.transactions")

#: Seconds between two transactions of offsets alone.
PAUSE_S = 0.02

#: Units that end in one transaction.
TOGETHER = 1000

#: Transactions in a row, most of them of one unit, before the owner turns to its other duties.
ALONE = 20

#: Units that may wait for their transaction; above it an ack waits, so that workers cannot outrun Kafka.
WAITING = 5000

#: Seconds that a step of a transaction may take, and a record in it.
STEP_S = 5.0

#: Seconds after which Kafka itself aborts what is left open; it looks every ten seconds.
TIMEOUT_S = 10.0

#: Transactions in which all has to be told when partitions move away: one, and two more for a record that is refused.
ROUNDS = 4

#: Seconds before a transaction that failed is tried again, and one of a unit that Kafka refuses.
AGAIN_S = 0.2
REFUSED_AGAIN_S = 5.0


class Transactions(Commits):
    """The commits of one consumer, each a transaction.  The owner thread only, except `end`.

    *topics* makes anew what was deleted meanwhile.
    """

    def __init__(self, group_id: str, settings: Mapping[str, Any], health: Health, topics: Topics) -> None:
        super().__init__(group_id)
        self._pause_s = PAUSE_S
        self._topics = topics
        transactional_id = f"{group_id}.{uuid.uuid4().hex}"
        self._former_owners = FormerOwners(group_id, transactional_id, base_config(settings, health))
        self.committed = self._former_owners.committed
        self._config = base_config(settings, health) | {
            "transactional.id": transactional_id,
            "transaction.timeout.ms": int(TIMEOUT_S * 1000),
            "message.timeout.ms": int(STEP_S * 1000),
            "linger.ms": 0,
            "retry.backoff.ms": 2,  # after each transaction Kafka says "not yet" for a moment: 100 by default
            "retry.backoff.max.ms": 100,
            "message.max.bytes": MESSAGE_BYTES,
        }
        self._producer: clients.Producer | None = None
        self._begun: clients.Producer | None = None  # not ready yet
        self._doubted: tuple[Asked, list[Ending]] | None = None  # of a transaction whose end is unknown
        self._waiting: deque[Ending] = deque()
        self._room = threading.Condition()
        self._former: dict[Place, dict[int, Ending]] = {}  # by offset; of partitions that were lost too early
        self._not_before = 0.0

    # Any thread.

    def end(self, ending: Ending) -> None:
        """*ending* is done with the next transaction, or the one after.  Waits a little while too many do."""
        if not ending.unit.assignment.buffer.ends(ending.unit):
            return
        with self._room:
            self._waiting.append(ending)
            self._room.wait_for(lambda: len(self._waiting) < WAITING, STEP_S)

    # The owner thread.

    def hurry(self, assignments: Iterable[Assignment]) -> bool:
        """What runs may end any moment, and somebody wants to see what follows from it."""
        return bool(self._waiting) or any(assignment.running for assignment in assignments)

    def send(self, client: Client, assignments: Iterable[Assignment]) -> None:
        """A transaction of what has ended, unless it is too early for another one."""
        now = time.monotonic()
        held = list(assignments)
        due = self._asked_at if self._waiting else self._asked_at + self._every_s(held)
        self._keep_lost()
        if held and now >= max(due, self._not_before):
            self._asked_at = now
            self._transact(client, held)

    def send_and_wait(self, client: Client, assignments: Iterable[Assignment]) -> bool:
        """All that has ended, now; false when not all of it was taken: then the next owner repeats some work."""
        leaving = list(assignments)
        for _ in range(ROUNDS):
            if self._transact(client, leaving) and not any(e.unit.assignment in leaving for e in self._waiting):
                return True
        return False

    def not_ended_before(self, assignment: Assignment, records: list[Record]) -> list[Record]:
        """*records* less those that ran here for an assignment that was lost before Kafka was told."""
        return [record for record in records if not self._ended_before(assignment, record)]

    def _ended_before(self, assignment: Assignment, record: Record) -> bool:
        """Whether *record* ran here, for an assignment that was lost before Kafka was told: only telling is left."""
        ending = self._former.get((assignment.topic, assignment.partition), {}).pop(record.offset, None)
        if ending is None or ending.unit.records != (record,):
            return False
        ending.unit = Unit(assignment, (record,))
        with self._room:
            self._waiting.append(ending)
        return True

    # One transaction after the other.

    def _transact(self, client: Client, assignments: list[Assignment]) -> bool:
        """All that can be told now; false when something went wrong, and the rest had better wait a moment."""
        endings: list[Ending] = []
        try:
            producer = self._ready(client)
            for endings in self._chosen(assignments):
                self._send(producer, client, assignments, endings)
        except (KafkaException, KafkaError, Unreachable) as exc:
            logger.log(_level(exc), "kafka_transaction_failed group=%s units=%d: %s", self._group_id, len(endings), exc)
            self._not_before = time.monotonic() + AGAIN_S
            _blame(endings, exc)
            return False
        return True

    def _chosen(self, assignments: list[Assignment]) -> list[list[Ending]]:
        """What goes into one transaction each: all that have no trouble, and each that has."""
        started = {assignment for assignment in assignments if assignment.started}  # of others no offset can be told
        now = time.monotonic()
        with self._room:
            ready = (e for e in self._waiting if e.unit.assignment in started and e.not_before <= now)
            chosen = list(islice(ready, TOGETHER))
        return [[e for e in chosen if not e.alone], *([e] for e in chosen if e.alone)][:ALONE]

    def _keep_lost(self) -> None:
        """Of lost partitions: should one come back before another worker has run the record, it is sent then."""
        with self._room:
            lost = [ending for ending in self._waiting if not ending.unit.assignment.alive]
            for ending in lost:
                self._keep(ending)
        self._settled(lost)

    def _keep(self, ending: Ending) -> None:
        assignment = ending.unit.assignment
        if not assignment.buffer.queue.ordered:
            kept = self._former.setdefault((assignment.topic, assignment.partition), {})
            if len(kept) < WAITING:
                kept[ending.unit.records[0].offset] = ending

    def _send(
        self, producer: clients.Producer, client: Client, assignments: list[Assignment], endings: list[Ending]
    ) -> None:
        fresh = [ending for ending in endings if _mark(ending)]
        self._settled(set(endings).difference(fresh))  # another delivery of the same record was quicker
        asked = news_of(assignments)
        if not asked:
            return
        try:
            self._attempt(producer, client, asked, fresh)
        except Exception:
            for ending in fresh:
                _unmark(ending)
            raise
        self._succeeded(asked, fresh)

    def _attempt(self, producer: clients.Producer, client: Client, asked: Asked, endings: list[Ending]) -> None:
        for ending in endings:
            ending.error = None
            self._ensure_topics(ending)
        member = member_of(client)
        try:
            producer.begin_transaction()
            for ending in endings:
                _produce(producer, ending)
            producer.send_offsets_to_transaction(offsets_of(asked), member, STEP_S)
        except KafkaException:
            self._abort(producer)
            raise
        self._commit(producer, asked, endings)

    def _ensure_topics(self, ending: Ending) -> None:
        for _, topic in ending.forwards:
            if ending.alone:
                self._topics.doubt(topic)
            try:
                self._topics.ensure(topic)
            except Exception:
                ending.alone = True
                raise

    def _commit(self, producer: clients.Producer, asked: Asked, endings: list[Ending]) -> None:
        """Commit, and ask again while the answer is only late."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            try:
                producer.commit_transaction(STEP_S)
            except KafkaException as exc:
                error = exc.args[0]
                if error.txn_requires_abort():
                    self._abort(producer)
                    raise
                if not error.retriable() or time.monotonic() > deadline:
                    self._doubted = (asked, endings)
                    if not error.retriable():
                        self._producer = None
                    raise
            else:
                return

    def _abort(self, producer: clients.Producer) -> None:
        try:
            producer.abort_transaction(STEP_S)
        except KafkaException as exc:
            # The same call could go on where it was, but then the next `send_offsets_to_transaction` never returns when
            # Kafka was away for so long, whatever its time-out (seen).
            logger.info("kafka_abort_failed group=%s text=%s", self._group_id, exc.args[0].str())
            self._producer = None  # the next one of the same id aborts what is open

    def _ready(self, client: Client) -> clients.Producer:
        """A producer, with no transaction of ours open or in doubt."""
        if self._producer is None:
            self._begun = self._begun or clients.opened(clients.Producer, self._config)
            try:
                self._begun.init_transactions(STEP_S)
            except KafkaException as exc:
                if not exc.args[0].retriable():
                    self._begun = None
                raise
            self._resolve(client)
            self._producer, self._begun = self._begun, None
        if self._doubted is not None:
            asked, endings = self._doubted
            self._doubted = None
            self._commit(self._producer, asked, endings)
            self._found(asked, endings)
        return self._producer

    def _resolve(self, client: Client) -> None:
        """Learn from the group's offsets what became of the transaction in doubt; it has ended by now."""
        if self._doubted is None:
            return
        asked, endings = self._doubted
        sent = {(one.topic, one.partition): one for one in offsets_of(asked)}
        held = [place for place, (assignment, *_) in asked.items() if assignment.alive]
        told = self._former_owners.committed(held, client)
        if len(told) < len(held):
            raise Unreachable(f"what group {self._group_id!r} has committed is not known just now")
        self._doubted = None
        if held and all(_same(told[place], sent[place]) for place in held):
            self._found(asked, endings)

    def _found(self, asked: Asked, endings: list[Ending]) -> None:
        """The transaction in doubt was committed after all."""
        logger.info("kafka_transaction_found group=%s units=%d", self._group_id, len(endings))
        for ending in endings:
            _mark(ending)
        self._succeeded(asked, endings)

    def _succeeded(self, asked: Asked, endings: list[Ending]) -> None:
        note(asked, offsets_of(asked))
        self._settled(endings)

    def _settled(self, endings: Collection[Ending]) -> None:
        if not endings:
            return
        gone = frozenset(endings)
        with self._room:
            self._waiting = deque(ending for ending in self._waiting if ending not in gone)
            self._room.notify_all()
        for ending in endings:
            ending.unit.assignment.buffer.settled(ending.unit)


def _level(exc: Exception) -> int:
    """Each rebalance makes the membership that a transaction names an old one: no reason to warn."""
    fenced = isinstance(exc, NoMember) or (isinstance(exc, KafkaException) and exc.args[0].code() in codes.FENCED)
    return logging.INFO if fenced else logging.WARNING


def _mark(ending: Ending) -> bool:
    """Count it as done; false when it is not unfinished."""
    tracker = ending.unit.assignment.tracker
    return sum(tracker.done(record.offset) for record in ending.unit.records) == len(ending.unit.records)


def _unmark(ending: Ending) -> None:
    for record in ending.unit.records:
        ending.unit.assignment.tracker.undone(record.offset)


def _produce(producer: clients.Producer, ending: Ending) -> None:
    for record, _ in ending.forwards:
        while True:
            try:
                producer.produce(
                    record.topic,
                    record.value,
                    record.key,
                    on_delivery=ending.reported,
                    headers=list(record.headers.items()),
                )
            except BufferError:
                producer.poll(AGAIN_S)
            except KafkaException as exc:
                ending.error = exc.args[0]
                raise
            else:
                break


def _same(told: TopicPartition, sent: TopicPartition) -> bool:
    return told.offset == sent.offset and (told.metadata or "").rstrip("\0") == (sent.metadata or "")


def _blame(endings: list[Ending], exc: Exception) -> None:
    """Whose records Kafka did not take is tried alone from now on; who fails alone is parked, or waits."""
    if len(endings) == 1 and isinstance(exc, WrongTopic):
        _fail_alone(endings[0], str(exc), final=True)
    accused = [e for e in endings if e.error is not None and e.error.code() not in codes.PURGED]
    late = [e for e in accused if e.error is not None and e.error.code() in codes.UNCONFIRMED]
    if len(endings) > 1 and len(late) == len(endings):
        return  # Kafka itself is slow, or away
    for ending in accused:
        if ending.alone:
            text = ending.error.str() if ending.error is not None else ""
            _fail_alone(ending, text, final=ending not in late)
        ending.alone = True


def _fail_alone(ending: Ending, text: str, *, final: bool) -> None:
    if not (final and ending.refused(f"Kafka refused a record: {text}")):
        ending.not_before = time.monotonic() + REFUSED_AGAIN_S
        logger.error("kafka_message_kept record=%s reason=%s", ending.unit.records[0], text)
