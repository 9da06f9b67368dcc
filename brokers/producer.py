"""Sending, and knowing that it arrived.

Every send is confirmed by all in-sync replicas, in order and without duplicates (an idempotent producer).  Of the
threads that wait for confirmations one at a time polls the client, for all of them: callers that each polled would take
each other's reports (172 sends a second instead of 5,500, measured), and a thread of its own for that would cost every
send two changes of threads.  While nobody waits nothing is polled, so that a batch is posted without being interrupted
for every report.
"""

from __future__ import annotations

import logging
import threading
import time
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, cast

import msgspec
from confluent_kafka import KafkaException

from brokers import clients, codes
from brokers.clients import Health, base_config
from brokers.errors import DeliveryRefused, DeliveryUnknown, Unreachable


if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from confluent_kafka import KafkaError
    from confluent_kafka import Message as KafkaMessage

    from brokers.records import Outgoing

    _Headers = dict[str, str | bytes | None]  # what the stub wants; a dictionary it is

logger = logging.getLogger("brokers.producer")

#: Longest poll, in seconds, of a thread that waits for its report.
POLL_S = 0.1

#: Seconds between two polls while nobody waits: errors are heard, and what nobody asked about is let go.
IDLE_POLL_S = 1.0

#: Seconds beyond the delivery time-out in which the client reports that it has passed.
REPORT_S = 5.0

#: Records that may wait for the wire before `post` makes its caller wait too.
QUEUE_RECORDS = 100_000

#: Bytes that the client lets through; the topic's own limit, a megabyte by default, decides.
MESSAGE_BYTES = 4_000_000


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """Where a record is, as Kafka confirmed it."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int


class Pending:
    """A record on its way; called with what the client reports of it."""

    __slots__ = ("_message", "_waiting", "answered", "attended", "error", "record")

    def __init__(self, record: Outgoing) -> None:
        self.record = record
        self.answered = False
        self.attended: set[Pending] | None = None
        self.error: KafkaError | None = None
        self._message: KafkaMessage | None = None
        self._waiting: SimpleQueue[None] | None = None

    def __call__(self, error: KafkaError | None, message: KafkaMessage | None) -> None:
        """The client's delivery report."""
        self.error, self._message = error, message
        self.answered = True  # before the look at who waits, and after it there: one of the two sees the other
        if self.attended is not None:
            self.attended.discard(self)
        self.wake()

    @property
    def delivery(self) -> Delivery | None:
        """Where it is; none as long as that is not confirmed."""
        message = self._message
        if message is None or self.error is not None:
            return None
        return Delivery(message.topic() or "", message.partition() or 0, message.offset() or 0, message.timestamp()[1])

    def will_wait(self) -> None:
        """From now on `wake` ends a `wait`."""
        self._waiting = SimpleQueue()

    def wait(self, timeout_s: float) -> None:
        """Block until `wake`, or for *timeout_s* seconds."""
        if self._waiting is not None and not self.answered:
            try:
                self._waiting.get(timeout=max(timeout_s, 0))
            except Empty:
                return

    def wake(self) -> None:
        """End its `wait`."""
        if self._waiting is not None:
            self._waiting.put(None)


class Producer:
    """One confirming producer of one process.  Any thread; the client is made at the first use."""

    def __init__(self, settings: Mapping[str, Any], *, delivery_timeout_s: float, health: Health | None = None) -> None:
        self.health = health or Health()
        self._settings = settings
        self._timeout_s = delivery_timeout_s
        self._lock = threading.Lock()
        self._client: clients.Producer | None = None
        self._leading = threading.Lock()  # held by the thread that polls
        self._led_at = 0.0  # when it last did, in monotonic seconds
        self._followers: dict[Pending, None] = {}  # what the others wait for, the longest first
        self._attended: set[Pending] = set()  # what nobody waits for in a thread
        self._called = threading.Event()
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
            if not pending.answered:
                self._await(pending)
        return [self.confirm(pending) for pending in waiting]

    def post(self, record: Outgoing) -> Pending:
        """Put *record* on its way; blocks only while too many are under way."""
        pending = Pending(record)
        self.put(pending)
        return pending

    def put(self, pending: Pending) -> None:
        """Put the record of *pending* on its way, as `post` does.

        Many that are put in quick succession travel together: the client sends whatever is there.
        """
        while not self.offer(pending):
            self._get().flush(POLL_S)

    def offer(self, pending: Pending) -> bool:
        """Put it on its way if that is possible at once: not before the first `put`, nor behind too many."""
        client, record = self._client, pending.record
        if client is None:
            return False
        try:
            client.produce(
                record.topic,
                record.value,
                record.key,
                -1 if record.partition is None else record.partition,  # -1: the key decides
                on_delivery=pending,
                headers=cast("_Headers", record.headers),
            )
        except BufferError:
            return False
        except KafkaException as exc:
            pending(exc.args[0], None)
        return True

    def attend(self, pending: Pending) -> None:
        """Report about *pending* although nobody will `confirm` it; to be told before it is offered."""
        pending.attended = self._attended
        self._attended.add(pending)
        self._called.set()

    def serve(self) -> None:
        """Take in the reports that are here, unless another thread does so."""
        client, leading = self._client, self._leading
        if client is not None and leading.acquire(blocking=False):
            try:
                _poll(client, 0)
            finally:
                leading.release()
            self._pass_on()

    def confirm(self, pending: Pending) -> Delivery:
        """Wait for Kafka's answer about *pending*; raises as `send` does."""
        if not pending.answered:
            self._await(pending)
        return self.outcome(pending)

    def outcome(self, pending: Pending) -> Delivery:
        """What Kafka has answered by now; raises as `send` does when its time is over."""
        delivery = pending.delivery
        if delivery is not None:
            return delivery
        error = pending.error
        if error is None or error.code() in codes.UNCONFIRMED:
            raise self._unconfirmed(pending.record)
        raise DeliveryRefused(self._refusal(pending.record, error))

    @property
    def patience_s(self) -> float:
        """Seconds after which the client has reported in any case."""
        return self._timeout_s + REPORT_S

    def _await(self, pending: Pending) -> None:
        """Wait for Kafka's answer as long as there can be one."""
        deadline = time.monotonic() + self.patience_s
        if self._lead(pending, deadline) and pending.answered:  # mostly nobody else waits
            return
        pending.will_wait()
        self._followers[pending] = None
        try:
            while not pending.answered and time.monotonic() < deadline:
                if not self._lead(pending, deadline):
                    pending.wait(deadline - time.monotonic())
        finally:
            self._followers.pop(pending, None)

    def _lead(self, pending: Pending, deadline: float) -> bool:
        """Poll for all who wait until *pending* is answered; false when another thread does so."""
        client, leading = self._client, self._leading
        if client is None or not leading.acquire(blocking=False):
            return False
        try:
            while not pending.answered and time.monotonic() < deadline:
                self._led_at = time.monotonic()
                _poll(client, POLL_S)
        finally:
            leading.release()
            self._followers.pop(pending, None)
            self._pass_on()
        return True

    def _pass_on(self) -> None:
        """Somebody who waits has to lead.  Whoever begins to wait just now finds out that nobody does."""
        for follower in list(self._followers):
            if not follower.answered:
                follower.wake()
                return

    def _unconfirmed(self, record: Outgoing) -> DeliveryUnknown:
        message_id = (record.headers.get("message_id") or record.key or b"").decode(errors="replace")
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
        threading.Thread(target=self._attend, args=(client, self._closing), name="kafka-producer", daemon=True).start()
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
            self._called.set()

    def _attend(self, client: clients.Producer, closing: threading.Event) -> None:
        """Poll for those that nobody waits for, and now and then in any case; see to it that somebody leads."""
        while not closing.is_set():
            if not self._attended:
                self._called.wait(IDLE_POLL_S)
                self._called.clear()
            leading = self._leading
            if leading.acquire(timeout=IDLE_POLL_S):
                _poll(client, POLL_S if self._attended else 0)
                leading.release()
            elif time.monotonic() - self._led_at > IDLE_POLL_S:
                # A time limit can raise in a thread at any point, also between taking the lock and minding it.
                self._leading = threading.Lock()
            self._pass_on()


def _poll(client: clients.Producer, timeout_s: float) -> None:
    try:
        client.poll(timeout_s)
    except Exception:  # a report that failed: its sender runs into the time-out, all others must go on
        logger.exception("kafka_delivery_report_failed")
