"""Putting messages on topics, alone or many together, also on behalf of a message in flight."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from brokers import delays, records
from brokers.errors import DelayRefused


if TYPE_CHECKING:
    from collections.abc import Iterator

    import dramatiq
    from dramatiq.errors import ActorNotFound

    from brokers.assignment import Forward
    from brokers.kafka import KafkaBroker
    from brokers.producer import Delivery, Pending
    from brokers.reader import KafkaMessageProxy
    from brokers.records import Outgoing
    from brokers.topics import TopicSpec

logger = logging.getLogger("brokers.kafka")


@dataclass(frozen=True, slots=True)
class Posted:
    """A message on its way to Kafka."""

    message: dramatiq.Message[Any]
    pending: Pending
    topic: TopicSpec
    delay: int | None


class Sending(threading.local):
    """How one broker sends; each thread has its own open batch, and its own message in flight that it sends for."""

    #: The open `batching`.
    _batch: list[Posted] | None = None

    #: The message in flight whose middleware runs just now.  What it cannot send is charged to that message: Dramatiq
    #: logs an error inside middleware and acks all the same, and the retry, or the callback, would be lost.
    served: KafkaMessageProxy | None = None

    def __init__(self, broker: KafkaBroker) -> None:
        self._broker = broker

    def message(self, message: dramatiq.Message[Any], delay: int | None) -> None:
        """See `KafkaBroker.enqueue`."""
        try:
            if self.served is not None and self.served.unit.forwards is not None and not self.served.ended:
                self._hold_back(self.served.unit.forwards, message, delay)
                return
            posted = self._post(message, delay)
            if self._batch is None:
                self._confirm(posted)
            else:
                self._batch.append(posted)
        except Exception as exc:
            if not self._taken_over(message, delay, exc):
                raise

    def late(self, served: KafkaMessageProxy, message: dramatiq.Message[Any], delay: int | None) -> None:
        """Send what *served* owes, or let it join the transaction that ends *served*; raises as `message`."""
        if served.unit.forwards is None:
            self.message(message, delay)
        else:
            self._hold_back(served.unit.forwards, message, delay)

    def _hold_back(self, forwards: list[Forward], message: dramatiq.Message[Any], delay: int | None) -> None:
        forwards.append(self._prepare(message, delay))
        self._broker.emit_after("enqueue", message, delay)

    def _post(self, message: dramatiq.Message[Any], delay: int | None) -> Posted:
        record, topic = self._prepare(message, delay)
        return Posted(message, self._broker.producer.post(record), topic, delay)

    def _prepare(self, message: dramatiq.Message[Any], delay: int | None) -> Forward:
        broker = self._broker
        queue = broker.get_queue(message.queue_name)
        late = delay is not None and delay > 0
        if late and queue.ordered:
            raise DelayRefused(
                f"message {message.message_id} asks for a delay of {delay} ms, and queue {queue.name!r} is ordered:"
                " a message's place in it is its time"
            )
        broker.topics.ensure(queue.topic)
        topic = broker.delayed_topic if late else queue.topic
        broker.topics.ensure(topic)
        broker.emit_before("enqueue", message, delay)
        record = records.encode(message, queue.topic.name)
        if late:
            record = delays.delayed(record, delays.now_ms() + int(delay or 0), topic)
        return record, topic

    def _confirm(self, posted: Posted) -> None:
        delivery = self._confirmed(posted.pending, posted.topic)
        object.__setattr__(posted.message, "delivery", delivery)  # the dataclass is frozen; this is no field of it
        self._broker.emit_after("enqueue", posted.message, posted.delay)

    def _confirmed(self, pending: Pending, topic: TopicSpec) -> Delivery:
        try:
            return self._broker.producer.confirm(pending)
        except Exception:
            self._broker.topics.doubt(topic)
            raise

    def _taken_over(self, message: dramatiq.Message[Any], delay: int | None, error: Exception) -> bool:
        """Whether the ack of the message in flight sees to it that *message* is sent after all.

        The hook that sends then goes on: what it would have sent next must not be lost either.
        """
        served = self.served
        if served is None or served.ended:
            return False
        if getattr(error, "retryable", False):
            logger.warning("kafka_send_owed record=%s message_id=%s: %s", served.record, message.message_id, error)
            served.owed.append((message, delay))
            return True
        served.send_error = error
        return False

    def missed(self, actor_name: str, error: ActorNotFound) -> None:
        """Middleware that runs for a message in flight looks for the actor of another one, in vain."""
        if self.served is not None and self.served.actor_name != actor_name:
            self.served.send_error = error

    @contextmanager
    def batching(self) -> Iterator[None]:
        """See `KafkaBroker.batching`."""
        if self._batch is not None:
            yield  # the outer one confirms
            return
        batch = self._batch = []
        try:
            yield
        except BaseException:
            self._end_batch(batch)
            raise
        errors = self._end_batch(batch)
        if errors:
            raise errors[0]

    def _end_batch(self, batch: list[Posted]) -> list[Exception]:
        self._batch = None
        errors = []
        for posted in batch:
            try:
                self._confirm(posted)
            except Exception as exc:  # noqa: BLE001 - the others still need their answer
                if not self._taken_over(posted.message, posted.delay, exc):
                    errors.append(exc)
        if errors:
            logger.error("kafka_batch_failed sent=%d failed=%d first=%s", len(batch), len(errors), errors[0])
        return errors

    def record(self, record: Outgoing, spec: TopicSpec) -> Delivery:
        """See `KafkaBroker.publish`."""
        try:
            self._broker.topics.ensure(spec)
            return self._confirmed(self._broker.producer.post(record), spec)
        except Exception as exc:
            if self.served is not None:
                self.served.send_error = exc
            raise
