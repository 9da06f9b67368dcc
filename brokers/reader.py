"""What Dramatiq sees of a queue: a consumer to iterate over, and messages that know the record they came from."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast

import dramatiq
from dramatiq.errors import ActorNotFound
from dramatiq.middleware import SkipMessage

from brokers import records
from brokers.dead_letters import dead_letter
from brokers.errors import KafkaError, Undecodable
from brokers.ordered import Batch, OrderedBuffer


if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from brokers.assignment import Buffer, Unit
    from brokers.records import Outgoing, Record
    from brokers.topics import Queue, TopicSpec

    #: Puts a record on a topic and returns when Kafka has it.
    Park = Callable[[Outgoing, TopicSpec], object]

logger = logging.getLogger("brokers.reader")


class KafkaMessageProxy(dramatiq.MessageProxy):
    """A message in flight, and the unit that its ack ends."""

    def __init__(self, message: dramatiq.Message[Any], unit: Unit) -> None:
        super().__init__(message)
        self.unit = unit
        #: An enqueue that failed while this message ran (a retry, a callback): the message must not count as done.
        self.enqueue_error: BaseException | None = None
        self._held = isinstance(unit, Batch)

    @property
    def record(self) -> Record:
        """The Kafka record; the first one of a batch."""
        return self.unit.records[0]

    def stuff_exception(self, exception: BaseException) -> None:
        """Keep *exception*.

        On an ordered queue it also means failure, whatever middleware says: no success, no progress.
        """
        super().stuff_exception(exception)
        if self._held:
            self.fail()


class RecordMessage(dramatiq.MessageProxy):
    """One message of a batch, with its record."""

    def __init__(self, message: dramatiq.Message[Any], record: Record) -> None:
        super().__init__(message)
        self.record = record


class Reader(dramatiq.Consumer):
    """A view of one queue's buffer.

    Dramatiq closes and opens readers as it likes; what is in flight stays in the buffer.
    """

    def __init__(self, queue: Queue, buffer: Buffer, park: Park, *, prefetch: int, timeout_s: float) -> None:
        self._queue = queue
        self._buffer = buffer
        self._park = park
        self._prefetch = prefetch
        self._timeout_s = timeout_s

    def __next__(self) -> KafkaMessageProxy | None:
        """The next message, or none within the time-out.

        Raises:
          ConsumerStopped: the thread behind it has ended.
        """
        unit = self._buffer.take(self._prefetch, self._timeout_s)
        if unit is not None:
            return self._decoded(unit)
        if self._buffer.stopped is not None:
            raise self._buffer.stopped
        return None

    def _decoded(self, unit: Unit) -> KafkaMessageProxy | None:
        if self._queue.batch is not None and isinstance(unit, Batch):
            return self._batch(unit)
        try:
            message = self._decode(unit.records[0])
        except Undecodable as exc:
            self._reject(unit, exc)
            return None
        return KafkaMessageProxy(message, unit)

    def _reject(self, unit: Unit, error: Undecodable) -> None:
        try:
            self._dispose(unit, "Undecodable", str(error))
        except Exception:
            self._buffer.release(unit)  # not parked, so not done
            raise

    def _decode(self, record: Record) -> dramatiq.Message[Any]:
        decode = self._queue.decode or records.decode
        try:
            message = decode(record, self._queue.name)
        except Undecodable:
            raise
        except Exception as exc:  # the application's decoder: its bug must not stop the queue
            logger.exception("kafka_decoder_failed record=%s", record)
            raise Undecodable(f"the decoder of queue {self._queue.name!r} failed: {exc!r}") from exc
        return records.pinned(message) if self._queue.ordered else message

    def _batch(self, batch: Batch) -> KafkaMessageProxy | None:
        """One message that carries the messages of the batch.

        It is cut where another actor, or an unreadable record, comes.
        """
        messages: list[RecordMessage] = []
        for index, record in enumerate(batch.records):
            try:
                read = RecordMessage(self._decode(record), record)
            except Undecodable as exc:
                if index == 0:
                    self._reject(self._shorten(batch, 1), exc)
                    return None
                break
            if messages and read.actor_name != messages[0].actor_name:
                break
            messages.append(read)
        if len(messages) < len(batch.records):
            batch = self._shorten(batch, len(messages))
        first = messages[0]
        message: dramatiq.Message[Any] = dramatiq.Message(
            queue_name=self._queue.name,
            actor_name=first.actor_name,
            args=(messages,),
            kwargs={},
            options={"batch": len(messages)},
            message_id=first.message_id,
            message_timestamp=first.message_timestamp,
        )
        return KafkaMessageProxy(message, batch)

    def _shorten(self, batch: Batch, size: int) -> Batch:
        return cast("OrderedBuffer", self._buffer).shorten(batch, size)  # only an ordered buffer has batches

    def ack(self, message: dramatiq.MessageProxy) -> None:
        """Done, unless an enqueue failed on the way: then the message would be lost with its retry or callback."""
        message = _ours(message)
        error = message.enqueue_error
        if error is None:
            self._buffer.finish(message.unit)
        elif isinstance(error, KafkaError):  # refused, and would be again
            self._dispose(message.unit, type(error).__name__, f"after it ran: {error}", _traceback(message))
        else:
            logger.warning("kafka_ack_withheld record=%s reason=%s", message.record, error)
            self._buffer.release(message.unit)

    def nack(self, message: dramatiq.MessageProxy) -> None:
        """Failed for good: parked; on an ordered queue held in its place."""
        message = _ours(message)
        error = message._exception  # noqa: SLF001 - Dramatiq offers no other way to see it
        unknown_actor = isinstance(error, ActorNotFound)
        passed_over = unknown_actor or isinstance(error, SkipMessage)
        if isinstance(message.unit, Batch) and isinstance(self._buffer, OrderedBuffer) and not passed_over:
            retry_after_s = getattr(error, "retry_after_s", None)
            self._buffer.hold(message.unit, _describe(error), retry_after_s)
            return
        reason = f"no actor {message.actor_name!r} in this worker" if unknown_actor else _describe(error)
        self._dispose(message.unit, type(error).__name__ if error else "Failed", reason, _traceback(message))

    def requeue(self, messages: Iterable[dramatiq.MessageProxy]) -> None:
        """Handed out and never begun: back to the front, in the order they had."""
        for message in reversed(list(messages)):
            self._buffer.release(_ours(message).unit)

    def close(self) -> None:
        """Nothing: the group's member lives as long as the broker."""

    def _dispose(self, unit: Unit, error: str, reason: str, traceback: str = "") -> None:
        """Park, confirmed, and only then count as done.

        When parking fails nothing has changed, and Dramatiq calls again.
        """
        for record in unit.records:
            letter = dead_letter(record, self._queue, error=error, reason=reason, traceback=traceback)
            self._park(letter, self._queue.dead_letters)
        logger.error("kafka_message_parked record=%s error=%s reason=%s", unit.records[0], error, reason)
        self._buffer.finish(unit)


def _ours(message: dramatiq.MessageProxy) -> KafkaMessageProxy:
    """Dramatiq gives back what it was given; its signatures do not say so."""
    return cast("KafkaMessageProxy", message)


def _describe(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}" if error is not None else "the message was rejected"


def _traceback(message: KafkaMessageProxy) -> str:
    return str(message.options.get("traceback") or "")
