"""Putting messages on topics, alone or many together, also on behalf of a message in flight."""

from __future__ import annotations

import logging
import threading
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import dramatiq
import msgspec

from brokers import delays, replays
from brokers.errors import DelayRefused, Duplicate
from brokers.priorities import level_for
from brokers.producer import Pending
from brokers.topics import TopicSpec


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dramatiq.errors import ActorNotFound

    from brokers.assignment import Forward
    from brokers.kafka import KafkaBroker
    from brokers.producer import Delivery, Producer
    from brokers.reader import KafkaMessageProxy
    from brokers.records import Outgoing

logger = logging.getLogger("brokers.kafka")

#: Messages of a batch that are handed to the client together.  One by one they would travel one by one, since making a
#: message takes longer than sending one: 80 µs each instead of 40.
POSTED_TOGETHER = 500


class Posted(msgspec.Struct, frozen=True, gc=False):
    """A message on its way to Kafka, or about to be."""

    message: dramatiq.Message[Any]
    pending: Pending
    topic: TopicSpec
    delay: int | None


class Batch:
    """What one `batching` sends."""

    def __init__(self, producer: Producer) -> None:
        self.sent = 0
        self.errors: list[Exception] = []
        self._producer = producer
        self._fresh: list[Posted] = []
        self._under_way: deque[Posted] = deque()

    def append(self, posted: Posted) -> bool:
        """One more; true when it is time to `put`."""
        self._fresh.append(posted)
        return len(self._fresh) >= POSTED_TOGETHER

    def put(self) -> None:
        """Put on their way those that are not yet."""
        for posted in self._fresh:
            self._producer.put(posted.pending)
        self.sent += len(self._fresh)
        self._under_way.extend(self._fresh)
        self._fresh.clear()

    def answered(self, *, wait: bool) -> Iterator[Posted]:
        """Take out those that Kafka has answered about, or, with *wait*, all, to be confirmed.

        A batch remembers what is under way, and nothing else, however large it is.
        """
        if not wait:
            self._producer.serve()
        while self._under_way and (wait or self._under_way[0].pending.answered):
            yield self._under_way.popleft()


class Sending(threading.local):
    """How one broker sends; each thread has its own open batch, and its own message in flight that it sends for."""

    #: The open `batching`.
    _batch: Batch | None = None

    #: The message in flight whose middleware runs just now.  What it cannot send is charged to that message: Dramatiq
    #: logs an error inside middleware and acks all the same, and the retry, or the callback, would be lost.
    served: KafkaMessageProxy | None = None

    def __init__(self, broker: KafkaBroker) -> None:
        self._broker = broker

    def message(self, message: dramatiq.Message[Any], delay: int | None) -> None:
        """See `KafkaBroker.enqueue`."""
        served = self.served
        if served is not None and served.keep_place(message, delay):
            return
        try:
            if served is not None and served.unit.forwards is not None and not served.ended:
                self._hold_back(served.unit.forwards, message, delay)
                return
            record, topic = self._made(message, delay)
            posted = Posted(message, Pending(record), topic, delay)
            batch = self._batch
            if batch is None:
                producer = self._broker.producer
                producer.put(posted.pending)
                self.settle(posted, producer.confirm)
            elif batch.append(posted):
                batch.put()
                self._confirm_batch(batch, wait=False)
        except Exception as exc:
            if not self._taken_over(message, delay, exc):
                self.failed(message, exc)
                raise

    def failed(self, message: dramatiq.Message[Any], error: Exception) -> None:
        """Tell middleware that took something for the message: a hook that Dramatiq does not have."""
        for middleware in self._broker.middleware:
            after_enqueue_failed = getattr(middleware, "after_enqueue_failed", None)
            if after_enqueue_failed is not None:
                after_enqueue_failed(self._broker, message, error)

    def late(self, served: KafkaMessageProxy, message: dramatiq.Message[Any], delay: int | None) -> None:
        """Send what *served* owes, or let it join the transaction that ends *served*; raises as `message`."""
        if served.unit.forwards is None:
            self.message(message, delay)
        else:
            self._hold_back(served.unit.forwards, message, delay)

    def _hold_back(self, forwards: list[Forward], message: dramatiq.Message[Any], delay: int | None) -> None:
        forwards.append(self._made(message, delay))
        self._broker.emit_after("enqueue", message, delay)

    def _made(self, message: dramatiq.Message[Any], delay: int | None) -> Forward:
        topics = self.topics_for(message, delay)
        ensure = self._broker.topics.ensure
        for topic in topics:
            ensure(topic)
        return self.prepared(message, delay, topics), topics[-1]

    def topics_for(self, message: dramatiq.Message[Any], delay: int | None) -> tuple[TopicSpec, ...]:
        """The topics that *message* needs: its queue's, and, last, the one that it is put on."""
        queue = self._broker.get_queue(message.queue_name)
        if queue.max_priority is not None:
            queue = level_for(queue, message)
        if delay is None or delay <= 0:
            return (queue.topic,)
        if queue.ordered:
            raise DelayRefused(
                f"message {message.message_id} asks for a delay of {delay} ms, and queue {queue.name!r} is ordered:"
                " a message's place in it is its time"
            )
        return (queue.topic, self._broker.delayed_topic)

    def prepared(self, message: dramatiq.Message[Any], delay: int | None, topics: tuple[TopicSpec, ...]) -> Outgoing:
        """The record for *message*, seen by middleware."""
        broker, served = self._broker, self.served
        broker.emit_before("enqueue", message, delay)
        eta_ms = None if len(topics) == 1 else delays.now_ms() + int(delay or 0)
        record = broker.envelope.close(message, topics[0], eta_ms)
        if served is not None and served.message_id == message.message_id:
            record = replays.carried(record, served.record)
        return record if eta_ms is None else delays.delayed(record, eta_ms, topics[-1])

    def settle(self, posted: Posted, ask: Callable[[Pending], Delivery]) -> None:
        """*posted* is sent, or was not; *ask* knows it."""
        message = posted.message
        delivery = self._confirmed(posted.pending, posted.topic, ask)
        message.__dict__["delivery"] = delivery  # the dataclass is frozen; this is no field of it
        self._broker.emit_after("enqueue", message, posted.delay)

    def _confirmed(self, pending: Pending, topic: TopicSpec, ask: Callable[[Pending], Delivery]) -> Delivery:
        try:
            return ask(pending)
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
        if isinstance(error, Duplicate):  # what should follow is known already
            return True
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
        batch = self._batch = Batch(self._broker.producer)
        try:
            yield
        except BaseException:
            self._end_batch(batch)
            raise
        self._end_batch(batch)
        if batch.errors:
            raise batch.errors[0]

    def _end_batch(self, batch: Batch) -> None:
        self._batch = None
        batch.put()
        self._confirm_batch(batch, wait=True)
        if batch.errors:
            logger.error(
                "kafka_batch_failed sent=%d failed=%d first=%s", batch.sent, len(batch.errors), batch.errors[0]
            )

    def _confirm_batch(self, batch: Batch, *, wait: bool) -> None:
        confirm = self._broker.producer.confirm
        for posted in batch.answered(wait=wait):
            try:
                self.settle(posted, confirm)
            except Exception as exc:  # noqa: BLE001 - the others still need their answer
                if not self._taken_over(posted.message, posted.delay, exc):
                    self.failed(posted.message, exc)
                    batch.errors.append(exc)

    def record(self, record: Outgoing, spec: TopicSpec) -> Delivery:
        """See `KafkaBroker.publish`."""
        return self.posted(record, spec)()

    def posted(self, record: Outgoing, spec: TopicSpec) -> Callable[[], Delivery]:
        """See `KafkaBroker.post`."""
        with self._charged():
            self._broker.topics.ensure(spec)
            producer = self._broker.producer
            pending = producer.post(record)

        def confirm() -> Delivery:
            with self._charged():
                return self._confirmed(pending, spec, producer.confirm)

        return confirm

    @contextmanager
    def _charged(self) -> Iterator[None]:
        """What fails within is charged to the message in flight."""
        try:
            yield
        except Exception as exc:
            if self.served is not None:
                self.served.send_error = exc
            raise
