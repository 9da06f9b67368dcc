"""What Dramatiq sees of a queue: a consumer to iterate over, and messages that know the record they came from."""

from __future__ import annotations

import logging
import traceback
from typing import TYPE_CHECKING, Any, cast

import dramatiq
from dramatiq.errors import ActorNotFound, Retry
from dramatiq.middleware import MiddlewareError, SkipMessage

from brokers import claims, records, suspects
from brokers.clients import Seldom
from brokers.consecutive import Batches
from brokers.dead_letters import bare, dead_letter
from brokers.envelope import Envelope
from brokers.errors import (
    Abort,
    ConsumerStopped,
    DeliveryRefused,
    Dropped,
    Duplicate,
    KafkaError,
    LimitsUnreachable,
    ParkingFailed,
    ReadLater,
    StoreAway,
    Undecodable,
)
from brokers.held_back import asked


if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from brokers.assignment import Buffer, Unit
    from brokers.keyed import KeyedBuffer
    from brokers.ordered import OrderedBuffer
    from brokers.parallel import ParallelBuffer
    from brokers.priorities import Levels
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

    #: Taken back before it began, because its partition has moved: it runs elsewhere, and here nothing may happen.
    recalled = False

    #: One of several that are run in one call.
    together = False

    #: What middleware was told when it tried to send something that cannot be sent.
    send_error: BaseException | None = None

    #: Acked, or rejected: no ack follows any more that could wait for what middleware sends for it from now on.
    ended = False

    #: The retry that middleware has asked for, and its delay in ms, when the message keeps its place for it.
    retry: tuple[dramatiq.Message[Any], int] | None = None

    #: Stores its result, which could not be stored before; the ack waits for that.
    unstored: Callable[[], None] | None = None

    def __init__(self, message: dramatiq.Message[Any], unit: Unit) -> None:
        super().__init__(message)
        self.__dict__.update(message.__dict__)  # else each look at a field takes a failed one and two calls
        self.unit = unit
        self.message = message  #: without what has become of it here
        #: Messages, with their delays in ms, that middleware has sent for this one (a retry, a callback) and Kafka did
        #: not confirm.
        self.owed: list[tuple[dramatiq.Message[Any], int | None]] = []

    @property
    def record(self) -> Record:
        """The Kafka record; the first one of a batch."""
        return self.unit.records[0]

    @property
    def ordered(self) -> bool:
        """Whether it keeps its place until it succeeds."""
        return self.unit.assignment.buffer.queue.ordered

    @property
    def out(self) -> bool:
        """Whether it has not ended."""
        return self.unit.assignment.buffer.is_out(self.unit)

    @property
    def is_plain(self) -> bool:
        """Whether it is done, and there is nothing more to it."""
        wanting = (self.failed, self.recalled, self.owed, self.unstored, self.retry, self.send_error)
        return not any(wanting)

    def begin(self) -> bool:
        """Work on it begins; false when it was recalled."""
        self.recalled = not self.unit.assignment.buffer.begin(self.unit)
        return not self.recalled

    def keep_place(self, message: dramatiq.Message[Any], delay: int | None) -> bool:
        """Whether *message*, sent by middleware, is this one again and its key has to wait for it."""
        again = (message.message_id, message.queue_name) == (self.message_id, self.queue_name)
        if self.unit.lane is None or not again:
            return False
        self.retry = message.copy(), delay or 0
        return True

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
        self.__dict__.update(message.__dict__)  # as in a `KafkaMessageProxy`
        self.record = record


class Reader(dramatiq.Consumer):
    """A view of one queue's buffer.

    Dramatiq closes and opens readers as it likes; what is in flight stays in the buffer, and may end through any reader
    of the queue, also one that was opened on a later buffer.
    """

    def __init__(
        self,
        queue: Queue,
        buffer: Buffer | Levels,
        *,
        park: Park,
        send: Send,
        prefetch: int,
        timeout_s: float,
        envelope: Envelope | None = None,
    ) -> None:
        self._queue = queue
        self._buffer = buffer
        self._envelope = envelope or Envelope()
        self._park = park
        self._send = send
        self._prefetch = prefetch
        self._timeout_s = timeout_s
        self._seldom = Seldom()
        # Only an ordered queue has any.
        self._batches = Batches(cast("OrderedBuffer", buffer), self._read_for_batch, self._compact)
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
        watch = unit.assignment.watch
        if watch is not None and not watch.free and unit.condemned:
            self._reject(unit, "Crashed", suspects.reason(unit.records[0], unit.crashes))
            return None
        try:
            message = unit.message or self._message_of(unit)
        except Undecodable as exc:
            self._reject(unit, type(exc).__name__, str(exc))
            return None
        except ReadLater as exc:
            if self._seldom.due():
                logger.warning("kafka_message_unreadable_now record=%s reason=%s", unit.records[0], exc)
            cast("ParallelBuffer | OrderedBuffer", unit.assignment.buffer).hold(unit, str(exc))
            return None
        if self._held_back(unit, message):
            return None
        if unit.lane is not None:
            message.options.pop("eta", None)  # its place is its time: asleep, it would keep its key waiting
        if "eta" in message.options:
            if not unit.assignment.buffer.keep(unit):
                unit.assignment.buffer.release(unit)
                return None
            self._asleep = [one for one in self._asleep if one in one.assignment.running] + [unit]
        return KafkaMessageProxy(message, unit)

    def _held_back(self, unit: Unit, message: dramatiq.Message[Any]) -> bool:
        ready = self._queue.ready
        seconds = None if ready is None else asked(ready, message)
        return seconds is not None and cast("ParallelBuffer", unit.assignment.buffer).hold_back(unit, message, seconds)

    def _reject(self, unit: Unit, error: str, reason: str) -> None:
        try:
            self._dispose(unit, error, reason)
        except Exception as exc:
            unit.assignment.buffer.release(unit)  # not parked, so not done
            # Not as a connection error: on those Dramatiq forgets the messages that it keeps for later.
            raise KafkaError(f"cannot park {unit.records[0]}: {exc}") from exc

    def _message_of(self, unit: Unit) -> dramatiq.Message[Any]:
        return self._batch(unit) if self._queue.batch is not None else self._read(unit.records[0])

    def _read(self, record: Record) -> dramatiq.Message[Any]:
        return read_message(record, self._queue, self._envelope)[0]

    def _read_for_batch(self, record: Record) -> tuple[RecordMessage, int]:
        message, content = read_message(record, self._queue, self._envelope)
        return RecordMessage(message, record), content.size

    def _compact(self, found: Sequence[Record], actor: str) -> Sequence[Any]:
        """What stands for each of *found* among the messages of *actor*; none where only its message does."""
        compact = self._queue.compact
        if compact is None or compact.actor != actor:
            return [None] * len(found)
        try:
            if self._envelope.holds_bare(found):
                return compact.read(found)
            return [None if opened is None else compact.read([opened])[0] for opened in map(self._opened, found)]
        except Exception:  # what is wrong is told where the message is read
            logger.debug("kafka_not_compact queue=%s", self._queue.name, exc_info=True)
            return [None] * len(found)

    def _opened(self, record: Record) -> Record | None:
        """None for one whose content lies elsewhere, or that cannot be opened: where its message is read it is told."""
        try:
            return None if claims.HEADER in record.headers else self._envelope.open(record, self._queue)
        except (Undecodable, StoreAway):
            return None

    def _batch(self, unit: Unit) -> dramatiq.Message[Any]:
        """One message that carries the messages of the batch."""
        first, messages = self._batches.of(unit)
        return dramatiq.Message(
            queue_name=self._queue.name,
            actor_name=first.actor_name,
            args=(messages,),
            kwargs={},
            options={"batch": len(messages)},
            message_id=first.message_id,
            message_timestamp=first.message_timestamp,
        )

    def ack(self, message: dramatiq.MessageProxy) -> None:
        """Done, once all that followed from it is sent: else it would be lost with its retry or callback.

        Raises:
          Unreachable, DeliveryUnknown, LimitsUnreachable, ResultUnstored, ParkingFailed: nothing has changed, and
            Dramatiq calls again.
        """
        ours = _ours(message)
        if ours.owed or ours.unstored is not None:
            self._send_owed(ours)
        error = ours.send_error
        if ours.retry is not None and (error is None or getattr(error, "retryable", False)):
            self._retry_in_place(ours, *ours.retry)
        elif error is None or ours.recalled:
            self._finish(ours)
        elif getattr(error, "retryable", False):
            self._again(ours, f"what should follow could not be sent: {error}")
        else:
            self._park_failed(ours)
        ours.ended = True

    def nack(self, message: dramatiq.MessageProxy) -> None:
        """Failed for good: parked; on an ordered queue held in its place.  What was dropped on purpose is done.

        Raises as `ack` does.
        """
        ours = _ours(message)
        self._send_owed(ours)
        dropped = isinstance(ours._exception, (Dropped, Abort))  # noqa: SLF001 - Dramatiq has no getter
        if dropped and not ours.ordered:  # nothing is left out of an ordered log
            _buffer(ours).finish(ours.unit)
            return
        passed_over = isinstance(ours._exception, (ActorNotFound, SkipMessage))  # noqa: SLF001 - as above
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
            except Duplicate as exc:
                logger.info("kafka_send_not_owed record=%s: %s", message.record, exc)
            except LimitsUnreachable:
                raise
            except (KafkaError, MiddlewareError) as exc:
                message.send_error = exc
            del message.owed[0]

    def _again(self, message: KafkaMessageProxy, reason: str) -> None:
        buffer = _buffer(message)
        logger.warning("kafka_message_kept record=%s reason=%s", message.record, reason)
        if message.ordered:
            cast("OrderedBuffer", buffer).hold(message.unit, reason, _retry_after_s(message))
        else:
            buffer.release(message.unit)

    def _retry_in_place(self, ours: KafkaMessageProxy, again: dramatiq.Message[Any], delay: int) -> None:
        reason = _reason(ours)
        logger.warning("kafka_key_held record=%s delay_ms=%d reason=%s", ours.record, delay, reason)
        cast("KeyedBuffer", _buffer(ours)).hold(ours.unit, reason, delay / 1000, again)

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
        condemned = unit.condemned
        # The first crash only raised a suspicion; it was this record's if all the others were.
        crashes = unit.crashes if condemned else max(unit.crashes - 1, 0)
        tried = crashes + (not condemned)
        for record in unit.records:
            letter = dead_letter(
                record, self._queue, error=error, reason=reason, traceback=trace, tried=tried, crashes=crashes
            )
            self._park_one(record, letter)
        logger.error("kafka_message_parked record=%s error=%s reason=%s", unit.records[0], error, reason)
        unit.assignment.buffer.finish(unit)

    def _park_one(self, record: Record, letter: Outgoing) -> None:
        spec = self._queue.dead_letters
        try:
            try:
                self._park(letter, spec)
            except DeliveryRefused:  # too large, perhaps: the reason matters more, and the record lies where it lay
                self._park(bare(letter), spec)
        except KafkaError as exc:
            raise ParkingFailed(f"cannot park {record} on {spec.name!r}: {exc}") from exc


def read_message(record: Record, queue: Queue, envelope: Envelope) -> tuple[dramatiq.Message[Any], Record]:
    """The message in *record*, and the record with its whole content.

    Raises:
      Undecodable: for good.
      ReadLater: for now.
    """
    try:
        opened = envelope.open(record, queue)
    except StoreAway as exc:
        raise ReadLater(str(exc)) from exc
    except Undecodable as exc:
        if queue.refused is None:
            raise
        if not exc.same_everywhere:  # another replica may be able to read it, and they must not differ
            raise ReadLater(f"{type(exc).__name__}: {exc}") from exc
        return queue.refused(record, queue.name, f"{type(exc).__name__}: {exc}"), record
    return _decode(opened, queue, envelope), opened


def _decode(record: Record, queue: Queue, envelope: Envelope) -> dramatiq.Message[Any]:
    decode = queue.decode or envelope.decode
    try:
        message = decode(record, queue.name)
    except Undecodable:
        raise
    except Exception as exc:  # the application's decoder: its bug must not stop the queue
        logger.exception("kafka_decoder_failed record=%s", record)
        raise Undecodable(f"the decoder of queue {queue.name!r} failed: {exc!r}") from exc
    return records.pinned(message) if queue.ordered else message


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
