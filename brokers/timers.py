"""The threads that fire delayed messages: see `delays` for what they promise."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from confluent_kafka import OFFSET_BEGINNING, KafkaException, TopicPartition

from brokers import clients, codes
from brokers.clients import base_config
from brokers.consumer import consumer_config
from brokers.delays import now_ms, undeliverable
from brokers.records import received
from brokers.schedule import Schedule


if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from confluent_kafka import Consumer as Client
    from confluent_kafka import KafkaError
    from confluent_kafka import Message as KafkaMessage
    from confluent_kafka import Producer as Transactional

    from brokers.clients import Health
    from brokers.delays import Entry
    from brokers.topics import TopicSpec

logger = logging.getLogger("brokers.timers")

#: Longest wait for the next record, or the next time, in seconds.
TICK_S = 0.1

#: Records taken from the client at once.
CHUNK = 1000

#: Messages fired in one transaction, which costs 8 ms whether it holds one or a thousand.
FIRED_TOGETHER = 1000

#: Seconds that Kafka may take for a step of a transaction, and for a question.
STEP_S = 10.0
ASK_S = 5.0

#: Seconds before a timer that failed begins anew.
AGAIN_S = 1.0


class Timers:
    """Fires the delayed messages of the partitions that this process holds, in a thread of its own.

    All processes of one prefix share a group, whatever queues they work on: a partition has one timer in the cluster.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        spec: TopicSpec,
        *,
        health: Health,
        protocol: str,
        exists: Callable[[str], bool],
    ) -> None:
        self._config = base_config(settings, health)
        self._spec = spec
        self._ask_exists = exists
        self._existing: set[str] = set()
        self._timers: dict[int, _Timer] = {}
        self._closing = threading.Event()
        group = consumer_config(f"{spec.name}.timers", protocol) | {"auto.offset.reset": "earliest"}
        self._client = clients.opened(clients.Consumer, self._config | group)
        self._thread = threading.Thread(target=self._run, name="kafka-timers", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """False once the thread has ended, for whatever reason."""
        return self._thread.is_alive()

    def close(self) -> None:
        """End the thread and leave the group.  Idempotent."""
        self._closing.set()
        self._thread.join(STEP_S + ASK_S)

    def _run(self) -> None:
        try:
            self._client.subscribe(
                [self._spec.name], on_assign=self._on_assign, on_revoke=self._on_gone, on_lost=self._on_gone
            )
            while not self._closing.is_set():
                self._step()
        except Exception:
            logger.exception("kafka_timers_failed topic=%s", self._spec.name)
        finally:
            self._client.close()

    def _step(self) -> None:
        message = self._client.poll(self._patience())
        if message is not None:
            self._receive(message)
            for further in self._client.consume(CHUNK, 0):
                self._receive(further)
        for timer in list(self._timers.values()):
            timer.step(self._client)

    def _patience(self) -> float:
        now = now_ms()
        nearest = min((timer.wait_ms(now) for timer in self._timers.values()), default=TICK_S * 1000)
        return max(min(nearest / 1000, TICK_S), 0)

    def _receive(self, message: KafkaMessage) -> None:
        timer = self._timers.get(message.partition() or 0)
        error = message.error()
        if error is not None:
            self._complain(error, message, timer)
        elif timer is not None:
            timer.take(message)

    def _complain(self, error: KafkaError, message: KafkaMessage, timer: _Timer | None) -> None:
        if error.fatal() or error.code() in codes.ENDING:
            raise KafkaException(error)
        if error.code() != codes.PARTITION_EOF:
            logger.warning("kafka_timers_error code=%s text=%s", error.name(), error.str())
        elif timer is not None:
            timer.at_end(message.offset() or 0)

    def _exists(self, topic: str) -> bool:
        """Asked once per topic: Kafka is not asked for every message."""
        if topic not in self._existing and self._ask_exists(topic):
            self._existing.add(topic)
        return topic in self._existing

    def _on_assign(self, client: Client, places: list[TopicPartition]) -> None:
        client.incremental_assign([TopicPartition(p.topic, p.partition, OFFSET_BEGINNING) for p in places])
        if places:
            client.pause(places)  # each timer fences its predecessor before it reads
        for place in places:
            self._timers[place.partition] = _Timer(self._config, place.topic, place.partition, self._exists)

    def _on_gone(self, client: Client, places: list[TopicPartition]) -> None:
        for place in places:
            timer = self._timers.pop(place.partition, None)
            if timer is not None:
                timer.close()
        client.incremental_unassign(places)


class _Timer:
    """One partition's timer.  Only the owner thread uses it."""

    def __init__(self, config: Mapping[str, Any], topic: str, partition: int, exists: Callable[[str], bool]) -> None:
        self._config = config
        self._place = TopicPartition(topic, partition)
        self._exists = exists
        self._producer: Transactional | None = None
        self._schedule = Schedule()
        self._end = 0  # where the reading under way is complete
        self._not_before = 0.0

    def wait_ms(self, now: int) -> float:
        """Milliseconds after which `step` has something to do."""
        if self._producer is None:
            return 0 if time.monotonic() >= self._not_before else TICK_S * 1000
        due = self._schedule.next_ms()
        return TICK_S * 1000 if due is None else max(due - now, 0)

    def take(self, message: KafkaMessage) -> None:
        """A record of the partition."""
        self._schedule.take(received(message))

    def at_end(self, offset: int) -> None:
        """The partition has been read up to *offset*, transaction markers included."""
        if self._schedule.reading and offset >= self._end:
            self._schedule.end_reading()

    def step(self, client: Client) -> None:
        """Fire what is due; begin, or begin anew, where that is needed."""
        if time.monotonic() < self._not_before:
            return
        try:
            self._step(client)
        except KafkaException as exc:
            logger.warning("kafka_timer_failed place=%s text=%s", self._place, exc.args[0].str())
            self._begin_anew()

    def _step(self, client: Client) -> None:
        if self._producer is None:
            self._producer = self._fence()
            self._read(client)
        elif self._schedule.reads_again(now_ms()):
            self._read(client)
        while entries := self._schedule.due(now_ms(), FIRED_TOGETHER):
            self._fire(entries)

    def _fence(self) -> Transactional:
        """A producer under the partition's transactional id: an older one cannot commit any more."""
        config = dict(self._config) | {
            "transactional.id": f"{self._place.topic}-{self._place.partition}",
            "transaction.timeout.ms": int(3 * STEP_S * 1000),
            "message.timeout.ms": int(2 * STEP_S * 1000),
            "linger.ms": 0,
            "retry.backoff.ms": 5,
        }
        producer = clients.opened(clients.Producer, config)
        producer.init_transactions(STEP_S)
        return producer

    def _read(self, client: Client) -> None:
        """Read the partition from its start; done when the end of now is passed."""
        _, self._end = client.get_watermark_offsets(self._place, timeout=ASK_S, cached=False)
        self._schedule.begin_reading(now_ms())
        place = TopicPartition(self._place.topic, self._place.partition, OFFSET_BEGINNING)
        client.resume([place])
        client.seek(place)

    def _fire(self, entries: list[Entry]) -> None:
        """One transaction: every message on its queue, a tombstone on every key."""
        if self._producer is None:
            return
        self._producer.begin_transaction()
        for entry in entries:
            self._send(self._producer, entry)
            self._producer.produce(self._place.topic, key=entry.key, value=None, partition=self._place.partition)
        self._commit(self._producer)
        self._schedule.fired(entries)
        logger.debug("kafka_delayed_fired place=%s messages=%d", self._place, len(entries))

    def _send(self, producer: Transactional, entry: Entry) -> None:
        due = entry.due
        if not self._exists(due.topic):
            logger.error("kafka_delayed_parked key=%r reason=there is no topic %r", entry.key, due.topic)
            due = undeliverable(entry, self._place.topic)
        producer.produce(due.topic, key=due.key, value=due.value, headers=list(due.headers.items()))

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
        self._schedule = Schedule()
        self._not_before = time.monotonic() + AGAIN_S

    def close(self) -> None:
        """Let go of the producer; a transaction that is open is aborted by whoever comes next."""
        self._producer = None
