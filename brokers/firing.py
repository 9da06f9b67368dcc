"""One partition's timer: reads it, and fires what is due.  See `delays` for what it promises."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from confluent_kafka import OFFSET_BEGINNING, KafkaException, TopicPartition
from dramatiq.errors import BrokerError

from brokers import clients, codes
from brokers.delays import now_ms, undeliverable
from brokers.errors import Unreachable
from brokers.producer import MESSAGE_BYTES
from brokers.received import received
from brokers.roster import Roster
from brokers.schedule import Schedule


if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from confluent_kafka import Consumer as Client
    from confluent_kafka import KafkaError
    from confluent_kafka import Message as KafkaMessage
    from confluent_kafka import Producer as Transactional

    from brokers.bounds import Bounds
    from brokers.delays import Entry
    from brokers.records import Outgoing
    from brokers.roster import Encode, Step

logger = logging.getLogger("brokers.timers")

#: Messages fired in one transaction, which costs 8 ms whether it holds one or a thousand.
FIRED_TOGETHER = 1000

#: Seconds that Kafka may take for a step of a transaction.
STEP_S = 10.0

#: Seconds before a timer that failed begins anew.
AGAIN_S = 1.0

#: Milliseconds until a timer with nothing to do is asked again.
IDLE_MS = 100.0

#: Undeliverable messages that are remembered until they are parked; each of them costs one failed transaction.
REFUSALS = 10_000


class Timer:
    """One partition's timer.  Only the thread of `Timers` uses it."""

    def __init__(
        self,
        config: Mapping[str, Any],
        place: TopicPartition,
        *,
        exists: Callable[[str], bool],
        bounds: Bounds,
        encode: Encode,
    ) -> None:
        self._config = config
        self._encode = encode
        self._place = TopicPartition(place.topic, place.partition)
        self._name = f"{place.topic}/{place.partition}"
        self._exists = exists
        self._bounds = bounds
        self._producer: Transactional | None = None
        self._schedule = Schedule()
        self._roster = Roster()
        self._refused: dict[bytes, str] = {}  # by key: what a queue does not take, and why
        self._end = 0  # where the reading under way is complete
        self._began = self._not_before = 0.0

    def wait_ms(self, now: int) -> float:
        """Milliseconds after which `step` has something to do."""
        if self._producer is None:
            return 0 if time.monotonic() >= self._not_before else IDLE_MS
        due = [at for at in (self._schedule.next_ms(), self._roster.next_ms()) if at is not None]
        return max(min(due) - now, 0) if due else IDLE_MS

    def take(self, message: KafkaMessage) -> None:
        """A record of the partition."""
        key = message.key()
        if key is not None:
            is_tombstone = message.value() is None
            if self._schedule.passes_over(key, message.offset() or 0, is_tombstone=is_tombstone):
                return
        record = received(message)
        if not self._roster.take(record, now_ms()):
            self._schedule.take(record)

    def at_end(self, offset: int) -> None:
        """The partition has been read up to *offset*, transaction markers included."""
        if self._schedule.reading and offset >= self._end:
            self._schedule.end_reading(now_ms())
            self._roster.all_is_read()
            seconds = time.monotonic() - self._began
            logger.debug("kafka_timer_read place=%s end=%d seconds=%.2f", self._name, self._end, seconds)

    def step(self, client: Client) -> bool:
        """Fire what is due; begin, or begin anew, where that is needed.  False when it failed."""
        if time.monotonic() < self._not_before:
            return True
        try:
            self._step(client)
        except (KafkaException, BrokerError) as exc:
            logger.warning("kafka_timer_failed place=%s text=%s", self._name, exc)
            self._abort(exc)
            self._begin_anew()
            return False
        return True

    def _abort(self, error: Exception) -> None:
        """Tell Kafka, where that is still possible: the next producer of the same id need not wait for it then."""
        if self._producer is None or not (isinstance(error, KafkaException) and error.args[0].txn_requires_abort()):
            return
        try:
            self._producer.abort_transaction(STEP_S)
        except KafkaException as exc:
            logger.info("kafka_abort_failed place=%s text=%s", self._name, exc.args[0].str())

    def _step(self, client: Client) -> None:
        if self._producer is None:
            self._producer = self._fence()
            self._read(client)
        elif self._schedule.reads_again(now_ms()):
            self._read(client)
        # One transaction at a time: others are due as well, and the group wants to be polled.
        entries = self._schedule.due(now_ms(), FIRED_TOGETHER)
        steps = self._roster.due(now_ms())
        if entries or steps:
            self._fire(self._producer, entries, steps)

    def _fence(self) -> Transactional:
        """A producer under the partition's transactional id: an older one cannot commit any more."""
        config = dict(self._config) | {
            "transactional.id": f"{self._place.topic}-{self._place.partition}",
            "transaction.timeout.ms": int(3 * STEP_S * 1000),
            "message.timeout.ms": int(2 * STEP_S * 1000),
            "message.max.bytes": MESSAGE_BYTES,  # what a sender may have put on the topic
            "linger.ms": 0,
            "retry.backoff.ms": 5,
        }
        producer = clients.opened(clients.Producer, config)
        producer.init_transactions(STEP_S)
        return producer

    def _read(self, client: Client) -> None:
        """Read the partition from its start; done when the end of now is passed."""
        where = self._place.topic, self._place.partition
        found = self._bounds([where])
        if where not in found:
            raise Unreachable(f"Kafka does not tell where the log of {self._name} ends")
        self._end = found[where][1]
        self._began = time.monotonic()
        self._schedule.begin_reading(now_ms())
        if not self._roster.settled:
            self._roster = Roster()  # with what came before, it would take the reading for a repetition
        place = TopicPartition(self._place.topic, self._place.partition, OFFSET_BEGINNING)
        client.resume([place])
        client.seek(place)

    def _fire(self, producer: Transactional, entries: list[Entry], steps: list[Step]) -> None:
        """One transaction: every message on its queue, a tombstone on every key, what is settled of the periodic."""
        producer.begin_transaction()
        for entry in entries:
            self._send(producer, entry)
            producer.produce(self._place.topic, key=entry.key, value=None, partition=self._place.partition)
        for step in steps:
            self._send_periodic(producer, step)
        self._commit(producer)
        self._schedule.fired(entries)
        self._roster.written(steps)
        for entry in entries:
            self._refused.pop(entry.key, None)
        logger.debug("kafka_delayed_fired place=%s messages=%d periodic=%d", self._name, len(entries), len(steps))

    def _send(self, producer: Transactional, entry: Entry) -> None:
        due = entry.due
        reason = self._refused.get(entry.key)
        if reason is None and not self._exists(due.topic):
            reason = f"there is no topic {due.topic!r}"
        if reason is None:
            self._produce(producer, due, entry.key)
            return
        logger.error("kafka_delayed_parked key=%r topic=%s reason=%s", entry.key, due.topic, reason)
        self._produce(producer, undeliverable(entry, self._place.topic, reason), entry.key)

    def _send_periodic(self, producer: Transactional, step: Step) -> None:
        state = step.state.record(self._place.topic)
        if step.fires:
            key = state.key or b""
            if key in self._refused or not self._exists(step.declared.topic):
                reason = self._refused.pop(key, "there is no such topic")
                logger.error("kafka_periodic_lost actor=%s topic=%s reason=%s", *step.state.name[::-1], reason)
            else:
                self._produce(producer, step.message(now_ms(), self._encode), key)
        self._produce(producer, state, b"")

    def _produce(self, producer: Transactional, record: Outgoing, key: bytes) -> None:
        def report(error: KafkaError | None, _message: KafkaMessage) -> None:
            if error is not None and error.code() in codes.REFUSED and len(self._refused) < REFUSALS:
                self._refused[key] = error.str()

        producer.produce(
            record.topic,
            key=record.key,
            value=record.value,
            headers=list(record.headers.items()),
            partition=-1 if record.partition is None else record.partition,
            on_delivery=report,
        )

    def _commit(self, producer: Transactional) -> None:
        """Commit, and ask again while the answer is only late."""
        while True:
            try:
                producer.commit_transaction(STEP_S)
                return
            except KafkaException as exc:
                if not exc.args[0].retriable():
                    raise

    def _begin_anew(self) -> None:
        """What happened is unknown: the log tells, to a new producer."""
        self.close()
        self._schedule, self._roster = Schedule(), Roster()
        self._not_before = time.monotonic() + AGAIN_S

    def close(self) -> None:
        """Let go of the producer; a transaction that is open is aborted by whoever comes next."""
        self._producer = None
