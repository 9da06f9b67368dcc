"""Batches of an unordered queue: an actor with ``batch=n`` gets a list of up to n messages.

A batch is nothing but messages that run in one call.  Each has its own record and ack, and each goes through all
middleware for itself, before and after: its retries are counted, its result is stored and its callbacks are sent as if
it had run alone.  Only the call is shared, and so a failure has to be put down to someone: the actor says which
messages failed (`BatchFailed`), or the batch is run again in halves until what fails stands alone.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any, cast

import dramatiq
from dramatiq.errors import RateLimitExceeded, Retry
from dramatiq.middleware import SkipMessage
from dramatiq.middleware.middleware import MiddlewareError

from brokers.ordered import BATCH_BYTES
from brokers.reader import KafkaMessageProxy, Reader


if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from brokers.assignment import Buffer, Unit
    from brokers.priorities import Levels
    from brokers.topics import Queue

    #: Tells middleware: `Broker.emit_before` or `emit_after`.
    Emit = Callable[..., None]

logger = logging.getLogger("brokers.batches")

#: Errors that say nothing about a single message: all of the batch are to be tried again.
OF_THE_WHOLE = (Retry, RateLimitExceeded)


class BatchFailed(Exception):
    """Raised by an actor of batches: which of the messages failed, and why; the others are done.

    *errors*: by place in the list.
    *results*: what the others gave, by place, for those who store results.

    Raises:
      ValueError: no message failed.
      TypeError: an error is not an exception.
    """

    def __init__(self, errors: Mapping[int, BaseException], results: Mapping[int, Any] | None = None) -> None:
        if not errors:
            raise ValueError("a failed batch needs a message that failed")
        if not all(isinstance(error, BaseException) for error in errors.values()):
            raise TypeError("the errors of a failed batch are exceptions, by the place of their message in the list")
        self.errors = dict(errors)
        self.results = dict(results or {})
        first = min(self.errors)
        super().__init__(f"{len(self.errors)} of the batch failed; number {first} with {self.errors[first]!r}")


class Batch(list[KafkaMessageProxy]):
    """What the actor gets: the messages, each with its ``record``."""

    def __repr__(self) -> str:
        """Short: Dramatiq logs the arguments of what fails."""
        return f"<{len(self)} messages>"


class BatchProxy(dramatiq.MessageProxy):
    """Several messages of one actor, run in one call."""

    def __init__(self, members: Sequence[KafkaMessageProxy]) -> None:
        first = members[0]
        self.members = Batch(members)  # those that the call is for; what is recalled or skipped leaves
        #: All of them, in their order.
        self.all = list(members)
        for member in self.all:
            member.together = True
        self._skipped: dict[int, MiddlewareError] = {}
        super().__init__(
            dramatiq.Message(
                queue_name=first.queue_name,
                actor_name=first.actor_name,
                args=(self.members,),
                kwargs={},
                options={},
                message_id=first.message_id,
                message_timestamp=first.message_timestamp,
            )
        )

    @property
    def out(self) -> bool:
        """Whether any of it has not ended."""
        return any(member.unit.assignment.buffer.is_out(member.unit) for member in self.all)

    def before(self, signal: str, emit: Emit) -> None:
        """Tell middleware of each message that the batch is about to be worked on, acked or rejected.

        Raises:
          SkipMessage: none of them is left to be worked on.
        """
        if signal != "process_message":
            self._emit_each(signal, emit)
            return
        for place, member in enumerate(self.all):
            try:
                emit(signal, member)
            except MiddlewareError as exc:  # told so after the call: what it undoes may be shared by all of the thread
                self._skipped[place] = exc
        self.members[:] = [member for place, member in enumerate(self.all) if place not in self._skipped]
        if not self.members:
            raise SkipMessage("no message of the batch is left")

    def after(self, signal: str, emit: Emit, *, result: Any = None, exception: BaseException | None = None) -> None:
        """Tell middleware of each message how it ended."""
        if signal == "process_message":
            failed = exception if isinstance(exception, BatchFailed) else None
            results = failed.results if failed is not None else dict(enumerate(result or ()))
            for place, member in enumerate(self.members):
                error = failed.errors.get(place) if failed is not None else exception
                if error is None:
                    emit(signal, member, result=results.get(place))
                else:
                    _emit_failure(member, error, emit)
        if signal in {"process_message", "skip_message"}:
            for place, reason in self._skipped.items():
                _emit_skipped(self.all[place], reason, emit)
        else:
            self._emit_each(signal, emit)

    def _emit_each(self, signal: str, emit: Emit) -> None:
        for member in self.all:
            emit("nack" if signal in {"ack", "nack"} and member.failed else signal, member)

    def fail(self) -> None:
        """Reject all of it: there is no such actor."""
        super().fail()
        for member in self.all:
            member.fail()

    def end(self, ack: Callable[[KafkaMessageProxy], None], nack: Callable[[KafkaMessageProxy], None]) -> None:
        """End each message for itself, and none of them twice; raises the first error when all have had their turn."""
        errors = []
        for member in self.all:
            if not member.unit.assignment.buffer.is_out(member.unit):
                continue
            if member.failed and member._exception is None and self._exception is not None:  # noqa: SLF001 - as in `reader`
                member.stuff_exception(self._exception)
            try:
                (nack if member.failed else ack)(member)
            except Exception as exc:  # noqa: BLE001 - the others still have to end
                errors.append(exc)
        if errors:
            raise errors[0]


class BatchReader(Reader):
    """A reader that hands out batches: what is there when a batch is asked for, of one actor; it waits for no more.

    Of a key there is at most one message in a batch, since the next one has to wait for its end.
    """

    def __init__(self, queue: Queue, buffer: Buffer | Levels, *, prefetch: int, **rest: Any) -> None:
        self._size = queue.batch or 1
        self._most = prefetch
        self._open: list[BatchProxy] = []
        super().__init__(queue, buffer, prefetch=prefetch * self._size, **rest)

    def __next__(self) -> BatchProxy | None:  # type: ignore[override]  # Dramatiq gives back what it was given
        """The next batch, or none within the time-out; raises as a reader of messages does."""
        # While all threads are busy messages gather here, and not in Dramatiq's hands in batches of one.
        if not self._buffer.wait_for(self._may_open, self._timeout_s):
            return None
        first = super().__next__()
        if first is None:
            return None
        batch = BatchProxy(self._with_others(first))
        self._open.append(batch)
        return batch

    def _may_open(self) -> bool:
        self._open = [batch for batch in self._open if batch.out]
        return len(self._open) < self._most or self._buffer.stopped is not None

    def _with_others(self, first: KafkaMessageProxy) -> list[KafkaMessageProxy]:
        members, size = [first], first.record.size
        try:
            while len(members) < self._size and size < BATCH_BYTES:
                unit = self._buffer.take(self._prefetch, 0)
                if unit is None:
                    break
                other = self._decoded(unit)
                if other is not None and other.actor_name != first.actor_name:
                    unit.assignment.buffer.release(unit)
                    break
                if other is not None:
                    members.append(other)
                    size += other.record.size
        except Exception:  # one that cannot be read, and not be parked either
            super().requeue(members)
            raise
        return members

    def _message_of(self, unit: Unit) -> dramatiq.Message[Any]:
        message = self._read(unit.records[0])
        message.options.pop("eta", None)  # Dramatiq would keep the whole batch for it
        return message

    def ack(self, message: dramatiq.MessageProxy) -> None:
        """End each message of the batch for itself; raises as a reader of messages does."""
        cast("BatchProxy", message).end(super().ack, super().nack)

    nack = ack

    def requeue(self, messages: Iterable[dramatiq.MessageProxy]) -> None:
        """Handed out and never begun: back to the front, in the order they had."""
        super().requeue([member for batch in messages for member in cast("BatchProxy", batch).all])


def _emit_failure(member: KafkaMessageProxy, error: BaseException, emit: Emit) -> None:
    member.stuff_exception(error)
    try:
        raise error from error.__cause__  # without the batch's own error around it
    except BaseException as exc:  # noqa: BLE001 - middleware asks for the error that is being handled
        emit("process_message", member, exception=exc)


def _emit_skipped(member: KafkaMessageProxy, reason: MiddlewareError, emit: Emit) -> None:
    if not isinstance(reason, SkipMessage):
        _emit_failure(member, reason, emit)
        return
    if member.failed:
        member.stuff_exception(reason)
    emit("skip_message", member)


def shared(fn: Callable[..., Any]) -> Callable[..., Any]:
    """*fn*, which takes a list of messages, so that its failure is put down to those messages that fail.

    A call with anything but a batch from Kafka is left alone.  For a batch it gives the result of each message, or
    nothing.

    Raises:
      BatchFailed: some messages failed, alone or by *fn*'s own word.
    """

    @functools.wraps(fn)
    def run(*args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and isinstance(args[0], Batch) and not kwargs:
            return _Run(fn, args[0]).outcome()
        return fn(*args, **kwargs)

    return run


class _Run:
    """One batch, in halves where it fails as a whole."""

    def __init__(self, fn: Callable[..., Any], batch: Batch) -> None:
        self._fn = fn
        self._batch = batch
        self._to_do = [range(len(batch))]
        self._results: dict[int, Any] = {}
        self._errors: dict[int, BaseException] = {}

    def outcome(self) -> list[Any] | None:
        while self._to_do:
            places = self._to_do.pop()
            try:
                told = self._fn(Batch(self._batch[place] for place in places))
            except BatchFailed as exc:
                self._note(places, exc)
            except OF_THE_WHOLE as exc:
                self._errors |= dict.fromkeys(places, exc)
            except Exception as exc:  # noqa: BLE001 - whatever the application raises
                self._halve(places, exc)
            except BaseException as exc:  # noqa: BLE001 - a time limit, a shutdown: what is left has not run
                for rest in (places, *self._to_do):
                    self._errors |= dict.fromkeys(rest, exc)
                self._to_do = []
            else:
                each = told if isinstance(told, (list, tuple)) and len(told) == len(places) else [told] * len(places)
                self._results |= zip(places, each, strict=True)
        if self._errors:
            raise BatchFailed(self._errors, self._results) from self._errors[min(self._errors)]
        some = any(result is not None for result in self._results.values())
        return [self._results[place] for place in range(len(self._batch))] if some else None

    def _note(self, places: range, failed: BatchFailed) -> None:
        named = failed.errors.keys() | failed.results.keys()
        if not named <= set(range(len(places))):
            wrong = IndexError(f"BatchFailed names the messages {sorted(named)}, and the list has {len(places)}")
            self._errors |= dict.fromkeys(places, wrong)
            return
        self._errors |= {places[number]: error for number, error in failed.errors.items()}
        self._results |= {places[number]: result for number, result in failed.results.items()}

    def _halve(self, places: range, error: Exception) -> None:
        if len(places) == 1:
            self._errors[places[0]] = error
            return
        logger.warning("kafka_batch_halved messages=%d error=%r", len(places), error)
        middle = len(places) // 2
        self._to_do += [places[middle:], places[:middle]]  # the first half is next
