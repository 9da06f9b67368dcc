"""What Dramatiq sees of a queue: a consumer to iterate over, and messages that know the record they came from."""

from __future__ import annotations

import logging
import traceback
from typing import TYPE_CHECKING, Any, cast

import dramatiq
from dramatiq.errors import ActorNotFound, Retry
from dramatiq.middleware import SkipMessage

from brokers import records
from brokers.dead_letters import dead_letter
from brokers.errors import ConsumerStopped, DeliveryRefused, KafkaError, ParkingFailed, Undecodable


if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from brokers.assignment import Buffer, Unit
    from brokers.ordered import OrderedBuffer
    from brokers.records import Outgoing, Record
    from brokers.topics import Queue, TopicSpec

    #: Puts a record on a topic and returns when Kafka has it.
    Park = Callable[[Outgoing, TopicSpec], object]

    #: Puts a message that follows from one in flight on its queue, perhaps after some milliseconds, and returns when
    #: Kafka has it, or when it is held back for the transaction that ends the other.
    Send = Callable[["KafkaMessageProxy", dramatiq.Message[Any], int | None], object]

logger = logging.getLogger("brokers.reader")


class KafkaMessageProxy(dramatiq.MessageProxy):
    """A message in flight, and the unit that its ack ends."""

    def __init__(self, message: dramatiq.Message[Any], unit: Unit) -> None:
        super().__init__(message)
        self.unit = unit
        #: Taken back before it began, because its partition has moved: it runs elsewhere, and here nothing may happen.
        self.recalled = False
        #: Acked, or rejected: no ack follows any more that could wait for what middleware sends for it from now on.
        self.ended = False
        #: Messages, with their delays in ms, that middleware has sent for this one (a retry, a callback) and Kafka did
        #: not confirm.
        self.owed: list[tuple[dramatiq.Message[Any], int | None]] = []
        #: Stores its result, which could not be stored before; the ack waits for that.
        self.unstored: Callable[[], None] | None = None
        #: What middleware was told when it tried to send something that cannot be sent.
        self.send_error: BaseException | None = None

    @property
    def record(self) -> Record:
        """The Kafka record; the first one of a batch."""
        return self.unit.records[0]

    @property
    def ordered(self) -> bool:
        """Whether it keeps its place until it succeeds."""
        return self.unit.assignment.buffer.queue.ordered

    def begin(self) -> bool:
        """Work on it begins; false when it was recalled."""
        self.recalled = not self.unit.assignment.buffer.begin(self.unit)
        return not self.recalled

    def stuff_exception(self, exception: BaseException) -> None:
        """Keep *exception*.

        On an ordered queue it also means failure, whatever middleware says: no success, no progress.
        """
        super().stuff_exception(exception)
        if self.ordered:
            self.fail()


class RecordMessage(dramatiq.MessageProxy):
    """One message of a batch, with its record."""

    def __init__(self, message: dramatiq.Message[Any], record: Record) -> None:
        super().__init__(message)
        self.record = record


class Reader(dramatiq.Consumer):
    """A view of one queue's buffer.

    Dramatiq closes and opens readers as it likes; what is in flight stays in the buffer, and may end through any reader
    of the queue, also one that was opened on a later buffer.
    """

    def __init__(
        self, queue: Queue, buffer: Buffer, *, park: Park, send: Send, prefetch: int, timeout_s: float
    ) -> None:
        self._queue = queue
        self._buffer = buffer
        self._park = park
        self._send = send
        self._prefetch = prefetch
        self._timeout_s = timeout_s
        self._asleep: list[Unit] = []  # handed out with an eta: Dramatiq keeps them, and can lose them

    def __next__(self) -> KafkaMessageProxy | None:
        """The next message, or none within the time-out.

        Raises:
          ConsumerStopped: the thread behind it has ended.
        """
        unit = self._buffer.take(self._prefetch, self._timeout_s)
        if unit is not None:
            return self._decoded(unit)
        if self._buffer.stopped is not None:
            raise ConsumerStopped(self._buffer.stopped)
        return None

    def _decoded(self, unit: Unit) -> KafkaMessageProxy | None:
        try:
            message = self._batch(unit) if self._queue.batch is not None else self._decode(unit.records[0])
        except Undecodable as exc:
            self._reject(unit, exc)
            return None
        if "eta" in message.options:
            self._asleep = [one for one in self._asleep if one in one.assignment.running] + [unit]
        return KafkaMessageProxy(message, unit)

    def _reject(self, unit: Unit, error: Undecodable) -> None:
        try:
            self._dispose(unit, "Undecodable", str(error))
        except Exception as exc:
            self._buffer.release(unit)  # not parked, so not done
            # Not as a connection error: on those Dramatiq forgets the messages that it keeps for later.
            raise KafkaError(f"cannot park {unit.records[0]}: {exc}") from exc

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

    def _batch(self, unit: Unit) -> dramatiq.Message[Any]:
        """One message that carries the messages of the batch.

        It is cut where another actor, or an unreadable record, comes; an unreadable first record stands alone.
        """
        messages: list[RecordMessage] = []
        try:
            for record in unit.records:
                read = RecordMessage(self._decode(record), record)
                if messages and read.actor_name != messages[0].actor_name:
                    break
                messages.append(read)
        except Undecodable:
            if not messages:
                self._shorten(unit, 1)
                raise
        self._shorten(unit, len(messages))
        first = messages[0]
        return dramatiq.Message(
            queue_name=self._queue.name,
            actor_name=first.actor_name,
            args=(messages,),
            kwargs={},
            options={"batch": len(messages)},
            message_id=first.message_id,
            message_timestamp=first.message_timestamp,
        )

    def _shorten(self, unit: Unit, size: int) -> None:
        if size < len(unit.records):
            cast("OrderedBuffer", self._buffer).shorten(unit, size)  # only an ordered queue has batches

    def ack(self, message: dramatiq.MessageProxy) -> None:
        """Done, once all that followed from it is sent: else it would be lost with its retry or callback.

        Raises:
          Unreachable, DeliveryUnknown, ResultUnstored, ParkingFailed: nothing has changed, and Dramatiq calls again.
        """
        ours = _ours(message)
        self._send_owed(ours)
        error = ours.send_error
        if error is None or ours.recalled:
            self._finish(ours)
        elif getattr(error, "retryable", False):
            self._again(ours, f"what should follow could not be sent: {error}")
        else:
            self._park_failed(ours)
        ours.ended = True

    def nack(self, message: dramatiq.MessageProxy) -> None:
        """Failed for good: parked; on an ordered queue held in its place.  Raises as `ack` does."""
        ours = _ours(message)
        self._send_owed(ours)
        passed_over = isinstance(ours._exception, (ActorNotFound, SkipMessage))  # noqa: SLF001 - Dramatiq has no getter
        if ours.ordered and not passed_over:
            self._again(ours, _reason(ours))
        else:
            self._park_failed(ours)
        ours.ended = True

    def _send_owed(self, message: KafkaMessageProxy) -> None:
        if message.unstored is not None:
            message.unstored()
            message.unstored = None
        while message.owed:
            try:
                self._send(message, *message.owed[0])
            except KafkaError as exc:
                message.send_error = exc
            del message.owed[0]

    def _again(self, message: KafkaMessageProxy, reason: str) -> None:
        buffer = _buffer(message)
        logger.warning("kafka_message_kept record=%s reason=%s", message.record, reason)
        if message.ordered:
            cast("OrderedBuffer", buffer).hold(message.unit, reason, _retry_after_s(message))
        else:
            buffer.release(message.unit)

    def requeue(self, messages: Iterable[dramatiq.MessageProxy]) -> None:
        """Handed out and never begun: back to the front, in the order they had."""
        for message in reversed(list(messages)):
            _buffer(_ours(message)).release(_ours(message).unit)

    def close(self) -> None:
        """The group's member lives on.  Messages with an eta that Dramatiq has lost are handed out again."""
        for unit in reversed(self._asleep):
            if not unit.begun:
                unit.assignment.buffer.release(unit)
        self._asleep = []

    def _park_failed(self, message: KafkaMessageProxy) -> None:
        error = message._exception or message.send_error  # noqa: SLF001 - as above
        self._dispose(message.unit, type(error).__name__ if error else "Failed", _reason(message), traceback_of(error))

    def _finish(self, message: KafkaMessageProxy) -> None:
        _buffer(message).finish(message.unit)

    def _dispose(self, unit: Unit, error: str, reason: str, trace: str = "") -> None:
        """Park, confirmed, and only then count as done."""
        for record in unit.records:
            self._park_one(record, error=error, reason=reason, trace=trace)
        logger.error("kafka_message_parked record=%s error=%s reason=%s", unit.records[0], error, reason)
        unit.assignment.buffer.finish(unit)

    def _park_one(self, record: Record, *, error: str, reason: str, trace: str) -> None:
        letter = dead_letter(record, self._queue, error=error, reason=reason, traceback=trace)
        spec = self._queue.dead_letters
        try:
            try:
                self._park(letter, spec)
            except DeliveryRefused:  # too large, perhaps: the reason matters more, and the record lies where it lay
                self._park(letter.without_value(), spec)
        except KafkaError as exc:
            raise ParkingFailed(f"cannot park {record} on {spec.name!r}: {exc}") from exc


def _ours(message: dramatiq.MessageProxy) -> KafkaMessageProxy:
    """Dramatiq gives back what it was given; its signatures do not say so."""
    return cast("KafkaMessageProxy", message)


def _buffer(message: KafkaMessageProxy) -> Buffer:
    """The buffer that it came from; the reader's own may be a later one."""
    return message.unit.assignment.buffer


def _reason(message: KafkaMessageProxy) -> str:
    error = message._exception  # noqa: SLF001 - Dramatiq offers no other way to see it
    if isinstance(error, ActorNotFound):
        reason = f"no actor {message.actor_name!r} in this worker"
    else:
        reason = f"{type(error).__name__}: {error}" if error is not None else ""
    if message.send_error is not None:
        follow = f"what should follow could not be sent: {message.send_error}"
        return f"{reason}; then {follow}" if reason else f"it ran, and {follow}"
    return reason or "the message was rejected"


def traceback_of(error: BaseException | None) -> str:
    """The traceback of *error* as text; empty for none."""
    return "" if error is None else "".join(traceback.format_exception(error))


def _retry_after_s(message: KafkaMessageProxy) -> float | None:
    """Seconds that the error asks to wait, if it does: an attribute ``retry_after_s``, or Dramatiq's ``Retry``."""
    error = message._exception  # noqa: SLF001 - as above
    if isinstance(error, Retry) and error.delay is not None:
        return float(error.delay) / 1000
    return getattr(error, "retry_after_s", None)
