"""Reading a topic without a group: answers to questions, and news for everybody.

A consumer group gives each record to one member.  A caller that waits for *its* answer, or wants to hear what *every*
replica did, reads the partition itself: no group, no commits, from a place of its own choosing.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import time
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from confluent_kafka import OFFSET_INVALID, KafkaException, TopicPartition

from brokers import clients
from brokers.clients import Health, base_config
from brokers.errors import ConsumerStopped, Unreachable
from brokers.received import received
from brokers.waiter import Reread, Waiter, correlation_of


if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from brokers.kafka import KafkaBroker
    from brokers.records import Record
    from brokers.topics import TopicSpec

logger = logging.getLogger("brokers.replies")

#: Longest poll of a reader's thread, in seconds; only closing waits for it.
POLL_S = 0.1

#: Seconds between two questions to a topic that is not ready.
RETRY_S = 0.05


@dataclass(frozen=True, slots=True)
class Place:
    """Where to read: a partition, from its end (none is set), its start, or the first record of a time."""

    topic: str
    partition: int = 0
    from_start: bool = False
    since_ms: int | None = None


class TopicReader:
    """Hands every record of some partitions to *handler*, in a thread of its own, until closed.

    When the constructor returns, the places are fixed: what is produced from then on will be seen.

    Raises:
      Unreachable: no Kafka server answers within *timeout_s*.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        places: Sequence[Place],
        handler: Callable[[Record], None],
        *,
        timeout_s: float,
    ) -> None:
        self.health = Health()
        self.failure: BaseException | None = None
        self._handler = handler
        self._timeout_s = timeout_s
        self._closing = threading.Event()
        self._client = clients.opened(clients.Consumer, base_config(settings, self.health) | reader_config())
        try:
            starts = [self._start_in_time(place) for place in places]
        except KafkaException as exc:
            self._client.close()
            why = self.health.why() or f" ({exc.args[0].str()})"
            raise Unreachable(f"cannot read from Kafka at {settings['bootstrap.servers']}{why}") from exc
        self._behind = {(tp.topic, tp.partition): end for tp, end in starts if tp.offset < end}
        self._caught_up = threading.Event()
        self._client.assign([tp for tp, _ in starts])
        self._thread = threading.Thread(target=self._run, name="kafka-reader", daemon=True)
        self._thread.start()

    def _start_in_time(self, place: Place) -> tuple[TopicPartition, int]:
        """A topic made a moment ago has no leader on every server yet: ask until the time is up."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                return self._start(place)
            except KafkaException:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(RETRY_S)

    def _start(self, place: Place) -> tuple[TopicPartition, int]:
        """Where to begin, and where the log ends now."""
        tp = TopicPartition(place.topic, place.partition)
        first, end = self._client.get_watermark_offsets(tp, timeout=self._timeout_s, cached=False)
        tp.offset = first if place.from_start else end
        if place.since_ms is not None:
            at = TopicPartition(place.topic, place.partition, max(place.since_ms, 0))
            [found] = self._client.offsets_for_times([at], timeout=self._timeout_s)
            tp.offset = end if found.offset in {OFFSET_INVALID, -1} else found.offset
        return tp, end

    def wait_caught_up(self, timeout_s: float) -> bool:
        """Wait until all that was there when the reader was made has been handled."""
        return self._caught_up.wait(timeout_s)

    @property
    def running(self) -> bool:
        """False once the thread has ended, for whatever reason."""
        return self._thread.is_alive()

    def close(self) -> None:
        """End the thread.  Idempotent."""
        self._closing.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                self._step()
        except Exception as exc:
            logger.exception("kafka_reader_failed")
            self.failure = exc
        finally:
            self._client.close()

    def _step(self) -> None:
        message = self._client.poll(POLL_S)
        while message is not None:
            error = message.error()
            if error is not None:
                logger.warning("kafka_reader_error code=%s text=%s", error.name(), error.str())
            else:
                self._handler(received(message))
            # Caught up, it mostly was the only one: whoever waits for it should not have to wait for another look.
            message = None if self._caught_up.is_set() else self._client.poll(0)
        if not self._caught_up.is_set():
            self._note_position()

    def _note_position(self) -> None:
        """Compare positions, not records: the last offsets of a log may be markers that are never delivered."""
        if self._behind:
            places = [TopicPartition(topic, partition) for topic, partition in self._behind]
            for tp in self._client.position(places):
                if tp.offset >= self._behind[tp.topic, tp.partition]:
                    del self._behind[tp.topic, tp.partition]
        if not self._behind:
            self._caught_up.set()


def follow(
    settings: Mapping[str, Any], topic: str, handler: Callable[[Record], None], *, timeout_s: float
) -> TopicReader:
    """A reader of *topic*'s only partition from its start, which has handled all that was there when it was made.

    Raises:
      Unreachable: no Kafka server answers, or it was not read in time.
    """
    reader = TopicReader(settings, [Place(topic, from_start=True)], handler, timeout_s=timeout_s)
    if not reader.wait_caught_up(timeout_s):
        reader.close()
        raise Unreachable(f"topic {topic!r} could not be read within {timeout_s:g} s")
    return reader


def read_through(
    settings: Mapping[str, Any], topic: str, handler: Callable[[Record], None], *, timeout_s: float
) -> None:
    """Have all handled that is on *topic*'s only partition now.  Raises as `follow` does."""
    follow(settings, topic, handler, timeout_s=timeout_s).close()


def reader_config() -> dict[str, Any]:
    """The part of a client's configuration that reading without a group needs."""
    return {
        "group.id": f"reader-{os.getpid()}-{random.getrandbits(32):08x}",  # never joined; the client insists on a name
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",  # a place that has expired: go on with what is left
        "isolation.level": "read_committed",
        "fetch.wait.max.ms": 500,  # nothing else is asked on its connection, and every idle caller asks twice a second
        "fetch.queue.backoff.ms": 10,
    }


def partition_of_process(partitions: int) -> int:
    """Where this process is answered: neighbours on one machine on neighbours, so that none reads another's answers."""
    return (zlib.crc32(socket.gethostname().encode()) + os.getpid()) % partitions


class Replies:
    """The answers that arrive for this process on one topic.

    Every caller on a partition reads all the answers on it, so that callers spread over the partitions: each process
    keeps to one (see `partition_of_process`).  Any thread; a forked child makes its own reader.
    """

    def __init__(self, broker: KafkaBroker, spec: TopicSpec, *, timeout_s: float) -> None:
        self._broker = broker
        self._spec = spec
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._pid: int | None = None
        self._reader: TopicReader | None = None
        self._partition = 0
        self._waiters: dict[str, Waiter] = {}

    def expect(self, correlation_id: str) -> Waiter:
        """Begin to wait, *before* the question is sent: an answer cannot be missed then.

        Raises:
          Unreachable: no Kafka server answers.
        """
        with self._lock:
            self._read()
            waiter = Waiter(correlation_id, self._partition, self._drop, self._reread)
            self._waiters[correlation_id] = waiter
        return waiter

    def _read(self) -> None:
        if self._reader is not None and self._pid == os.getpid() and self._reader.running:
            return
        if self._pid != os.getpid():
            self._waiters = {}
        self._pid = os.getpid()
        self._partition = partition_of_process(self._broker.topics.ensure(self._spec))
        places = [Place(self._spec.name, self._partition)]
        self._reader = TopicReader(self._broker.client_settings, places, self._arrived, timeout_s=self._timeout_s)

    def _arrived(self, record: Record) -> None:
        waiter = self._waiters.get(correlation_of(record))
        if waiter is not None:
            waiter.put(record)

    def _reread(self, record: Record) -> Reread:
        return Reread(base_config(self._broker.client_settings, Health()) | reader_config(), record)

    def _drop(self, correlation_id: str) -> None:
        self._waiters.pop(correlation_id, None)

    def close(self) -> None:
        """Stop reading; whoever still waits is told.  Idempotent."""
        with self._lock:
            reader, self._reader = self._reader, None
            waiters, self._waiters = list(self._waiters.values()), {}
        for waiter in waiters:
            waiter.put(ConsumerStopped("the broker was closed while an answer was awaited"))
        if reader is not None and self._pid == os.getpid():
            reader.close()
