"""Sending, and knowing that it arrived.

Every send is confirmed by all in-sync replicas, in order and without duplicates (an idempotent producer).  One thread
polls the client and wakes the callers: callers that each polled would take each other's reports (172 sends a second
instead of 5,500, measured).
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaException

from brokers import clients, codes
from brokers.clients import Health, base_config
from brokers.errors import DeliveryRefused, DeliveryUnknown, Unreachable


if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from confluent_kafka import KafkaError
    from confluent_kafka import Message as KafkaMessage

    from brokers.records import Outgoing

logger = logging.getLogger("brokers.producer")

#: Seconds a poll waits for reports; only closing waits for it.
POLL_S = 0.1

#: Seconds beyond the delivery time-out in which the client reports that it has passed.
REPORT_S = 5.0

#: Records that may wait for the wire before `post` makes its caller wait too.
QUEUE_RECORDS = 100_000

#: Bytes that the client lets through; the topic's own limit, a megabyte by default, decides.
MESSAGE_BYTES = 4_000_000


@dataclass(frozen=True, slots=True)
class Delivery:
    """Where a record is, as Kafka confirmed it."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int


class Pending:
    """A record on its way."""

    __slots__ = ("_arrived", "delivery", "error", "record")

    def __init__(self, record: Outgoing) -> None:
        self.record = record
        self.delivery: Delivery | None = None
        self.error: KafkaError | None = None
        self._arrived = threading.Lock()  # a bare lock wakes its waiter faster than an Event
        self._arrived.acquire()

    def report(self, error: KafkaError | None, message: KafkaMessage) -> None:
        """The client's delivery report."""
        if error is not None:
            self.error = error
        else:
            self.delivery = Delivery(
                message.topic() or "", message.partition() or 0, message.offset() or 0, message.timestamp()[1]
            )
        self._arrived.release()

    def wait(self, timeout_s: float) -> bool:
        """Block until Kafka's answer; false when there is none within *timeout_s*."""
        if not self._arrived.acquire(timeout=timeout_s):
            return False
        self._arrived.release()  # for whoever else waits
        return True


class Producer:
    """One confirming producer of one process.  Any thread; the client is made at the first use."""

    def __init__(self, settings: Mapping[str, Any], *, delivery_timeout_s: float, health: Health | None = None) -> None:
        self.health = health or Health()
        self._settings = settings
        self._timeout_s = delivery_timeout_s
        self._lock = threading.Lock()
        self._client: clients.Producer | None = None
        self._poller: threading.Thread | None = None
        self._closing = threading.Event()

    def send(self, record: Outgoing) -> Delivery:
        """Produce *record* and wait until Kafka has it.

        Raises:
          Unreachable, DeliveryUnknown, DeliveryRefused: see `brokers.errors`.
        """
        return self.confirm(self.post(record))

    def send_all(self, records: Iterable[Outgoing]) -> list[Delivery]:
        """Produce all, then wait for all: one round trip for many.  Raises the first error after all have an answer."""
        waiting = [self.post(record) for record in records]
        for pending in waiting:
            self._answered(pending)
        return [self.confirm(pending) for pending in waiting]

    def post(self, record: Outgoing) -> Pending:
        """Put *record* on its way; blocks only while too many are under way.

        Raises:
          DeliveryRefused: it cannot be sent at all.
        """
        pending = Pending(record)
        self.push(pending)
        return pending

    def push(self, pending: Pending) -> None:
        """Put *pending* on its way; as `post`."""
        while not self.offer(pending):
            self._get().flush(POLL_S)

    def offer(self, pending: Pending) -> bool:
        """Put *pending* on its way if that is possible at once: not before the first `push`, nor behind too many.

        Raises:
          DeliveryRefused: it cannot be sent at all.
        """
        client, record = self._client, pending.record
        if client is None:
            return False
        try:
            client.produce(
                record.topic,
                record.value,
                record.key,
                -1 if record.partition is None else record.partition,  # -1: the key decides
                on_delivery=pending.report,
                headers=list(record.headers.items()),
            )
        except BufferError:
            return False
        except KafkaException as exc:
            raise DeliveryRefused(self._refusal(record, exc.args[0])) from exc
        return True

    def confirm(self, pending: Pending) -> Delivery:
        """Wait for Kafka's answer about *pending*; raises as `send` does."""
        self._answered(pending)
        return self.outcome(pending)

    def outcome(self, pending: Pending) -> Delivery:
        """What Kafka has answered by now; raises as `send` does when its time is over."""
        if pending.delivery is not None:
            return pending.delivery
        error = pending.error
        if error is None or error.code() in codes.UNCONFIRMED:
            raise self._unconfirmed(pending.record)
        raise DeliveryRefused(self._refusal(pending.record, error))

    @property
    def patience_s(self) -> float:
        """Seconds after which the client has reported in any case."""
        return self._timeout_s + REPORT_S

    def _answered(self, pending: Pending) -> bool:
        return pending.wait(self.patience_s)

    def _unconfirmed(self, record: Outgoing) -> DeliveryUnknown:
        message_id = record.headers.get("message_id", b"").decode(errors="replace")
        return DeliveryUnknown(
            f"no confirmation for {record.topic!r} from {self.servers} within {self._timeout_s:g} s"
            f"{self.health.why()}; message {message_id or '(without id)'} may or may not be in the log",
            message_id=message_id,
        )

    def _refusal(self, record: Outgoing, error: KafkaError | None) -> str:
        reason = error.str() if error is not None else "unknown error"
        return f"Kafka refused a record of {len(record.value or b''):,} bytes for {record.topic!r}: {reason}"

    @property
    def servers(self) -> str:
        """The servers as configured."""
        return str(self._settings["bootstrap.servers"])

    def warm(self) -> None:
        """Connect now, so that the first send does not have to (0.5 to 1 s).

        Raises:
          Unreachable: no server answers.
        """
        try:
            self._get().list_topics(timeout=self._timeout_s)
        except KafkaException as exc:
            raise Unreachable(f"cannot reach Kafka at {self.servers}{self.health.why()}") from exc

    def _get(self) -> clients.Producer:
        client = self._client
        if client is not None:
            return client
        with self._lock:
            if self._client is None:
                self._client = self._open()
            return self._client

    def _open(self) -> clients.Producer:
        config = base_config(self._settings, self.health) | {
            "acks": "all",
            "enable.idempotence": True,
            "linger.ms": 0,
            "message.timeout.ms": int(self._timeout_s * 1000),
            "queue.buffering.max.messages": QUEUE_RECORDS,
            "message.max.bytes": MESSAGE_BYTES,
        }
        client = clients.opened(clients.Producer, config)
        self._closing = threading.Event()
        self._poller = threading.Thread(target=_poll, args=(client, self._closing), name="kafka-producer", daemon=True)
        self._poller.start()
        return client

    def close(self) -> None:
        """Wait, bounded by the delivery time-out, for what is under way.  Idempotent; a later send opens anew."""
        with self._lock:
            client, self._client = self._client, None
            if client is None:
                return
            left = client.flush(self._timeout_s + REPORT_S)
            if left:
                logger.error("kafka_producer_closed unconfirmed=%d", left)
                client.purge()  # whoever waits for them is told
                client.flush(POLL_S)
            self._closing.set()
            if self._poller is not None:
                self._poller.join()


def _poll(client: clients.Producer, closing: threading.Event) -> None:
    while not closing.is_set():
        try:
            client.poll(POLL_S)
        except Exception:  # a report that failed: its sender runs into the time-out, all others must go on
            logger.exception("kafka_delivery_report_failed")
