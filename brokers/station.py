"""A worker process as the others see it: it hears what is said to all of them, obeys, and answers.

It has heard everything that was ever said, and still holds, before the first message is handed out.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

from brokers.delays import now_ms
from brokers.errors import KafkaError, Recalled, Revoked
from brokers.inspection import answer, describe
from brokers.orders import Ended, Orders, Pause, Question, Revocation, Unreadable, answers_topic, end, read
from brokers.replies import follow
from brokers.running import Running


if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from brokers.assignment import Buffer
    from brokers.consumer import GroupConsumer
    from brokers.kafka import KafkaBroker
    from brokers.orders import Order
    from brokers.reader import KafkaMessageProxy
    from brokers.records import Record
    from brokers.replies import TopicReader

logger = logging.getLogger("brokers.control")

#: Expired revocations that a worker clears away at a time, and the seconds between two such times.
SWEPT = 1000
SWEEP_EVERY_S = 3600.0


class Station:
    """One process that consumes.  *consumers* are those that it has just now."""

    def __init__(
        self, broker: KafkaBroker, consumers: Callable[[], Sequence[GroupConsumer]], *, timeout_s: float
    ) -> None:
        self.running = Running()
        self.skipped: Counter[str] = Counter()  #: messages that did not begin, by the reason's class
        self.since_ms = now_ms()
        self._broker = broker
        self._consumers = consumers
        self._timeout_s = timeout_s
        self._lock = threading.Lock()  # of orders and buffers
        self._orders = Orders()
        self._buffers: dict[str, Buffer] = {}  # by queue
        self._swept_at = 0.0  # monotonic seconds
        self._listening = threading.Lock()
        self._reader: TopicReader | None = None

    # What the broker calls.

    def listen(self) -> None:
        """Hear, from now on, and all that was said until now; blocks until then.

        Raises:
          Unreachable, WrongTopic: see `brokers.errors`.
        """
        with self._listening:
            if self._reader is not None and self._reader.running:
                return
            topic = self._broker.control_topic
            self._broker.topics.ensure(topic)
            self._orders, self._swept_at = Orders(), time.monotonic()
            self._reader = follow(self._broker.client_settings, topic.name, self._heard, timeout_s=self._timeout_s)
            self._sweep()

    def attend(self, buffer: Buffer) -> None:
        """Its queue is worked on in this process; pauses hold for it from now on."""
        with self._lock:
            self._buffers[buffer.queue.topic.name] = buffer
            self._pause_or_resume(buffer)

    def begin(self, message: KafkaMessageProxy) -> None:
        """*message* runs from now on.

        Raises:
          Recalled: its partition has moved, or its queue was paused.
          Revoked: it must not.
        """
        if not message.begin():
            logger.info("kafka_message_recalled record=%s", message.record)
            raise Recalled("it was taken back before it began, and runs later or elsewhere")
        self.running.begin(message, self._refuse_revoked)

    def close(self) -> None:
        """Hear no more.  Idempotent."""
        with self._listening:
            reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    # Orders, in the reader's thread.

    def _heard(self, record: Record) -> None:
        try:
            order = read(record)
            self._obey(order)
        except Unreadable as exc:
            logger.warning("kafka_control_ignored record=%s reason=%s", record, exc)
        except Exception:  # whatever lies on the topic, and whatever it does: the next order must be heard
            logger.exception("kafka_control_failed record=%s", record)

    def _obey(self, order: Order) -> None:
        if isinstance(order, Question):
            self._answer(order)
            return
        if isinstance(order, Revocation) and order.abort:
            self._abort(order)
        else:
            with self._lock:
                self._orders.take(order)
        if isinstance(order, Revocation) and time.monotonic() - self._swept_at > SWEEP_EVERY_S:
            self._sweep()
        if isinstance(order, (Pause, Ended)):
            with self._lock:
                for buffer in self._buffers.values():
                    self._pause_or_resume(buffer)

    def _pause_or_resume(self, buffer: Buffer) -> None:
        pause = self._orders.pauses.get(buffer.queue.name)
        if pause is not None and (buffer.paused is None or buffer.paused.since != pause.at_ms / 1000):
            buffer.pause(pause.at_ms / 1000, f"paused{': ' if pause.reason else ''}{pause.reason}")
            logger.info("kafka_queue_paused queue=%s reason=%s", buffer.queue.name, pause.reason)
        elif pause is None and buffer.paused is not None:
            buffer.resume()
            logger.info("kafka_queue_resumed queue=%s", buffer.queue.name)

    def _abort(self, order: Revocation) -> None:
        def change() -> None:
            with self._lock:
                self._orders.take(order)

        def covers(message: KafkaMessageProxy) -> bool:
            return not message.ordered and order.covers(message, now_ms())

        for job in self.running.abort(change, covers):
            logger.warning("kafka_message_aborted record=%s message_id=%s", job.message.record, job.message.message_id)

    def _refuse_revoked(self, message: KafkaMessageProxy) -> None:
        if not self._orders.revokes:  # no lock, which all threads of a worker would wait for at every message
            return
        with self._lock:
            revocation = self._orders.against(message, now_ms())
        if revocation is None:
            return
        if message.ordered:  # what others have applied already cannot be skipped here
            logger.warning("kafka_revocation_ignored record=%s reason=its queue is ordered", message.record)
            return
        message.fail()
        logger.info(
            "kafka_message_revoked record=%s message_id=%s by=%s", message.record, message.message_id, revocation
        )
        raise Revoked(f"revoked by {revocation}{': ' if revocation.reason else ''}{revocation.reason}")

    def _sweep(self) -> None:
        """Clear away what has expired.  Several workers may do so at once; keys are never used again."""
        self._swept_at = time.monotonic()
        with self._lock:
            expired = self._orders.expired(now_ms())[:SWEPT]
        try:
            for revocation in expired:
                self._broker.producer.post(end(self._broker.control_topic.name, revocation.key))
        except KafkaError as exc:
            logger.info("kafka_control_not_swept reason=%s", exc)

    # Answers.

    def _answer(self, question: Question) -> None:
        if self._reader is None:  # an old one: this process is still reading what was said before it began
            return
        with self._lock:
            pauses = dict(self._orders.pauses)
        state = describe(self._consumers(), self.running.jobs(), pauses, self.skipped, self.since_ms, now_ms())
        topic = answers_topic(self._broker.prefix)
        self._broker.topics.ensure(topic)
        self._broker.producer.post(answer(state, question.correlation_id, topic.name))  # whoever asks counts answers
