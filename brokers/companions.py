"""Handing out messages of one kind together: what Dramatiq sees of `company`."""

from __future__ import annotations

import logging
import time
from collections import deque
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

from dramatiq.middleware import SkipMessage

from brokers.batches import BatchProxy
from brokers.company import MOST, Company
from brokers.errors import ConsumerStopped
from brokers.held_back import asked
from brokers.reader import Reader


if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    import dramatiq

    from brokers.assignment import Buffer, Unit
    from brokers.batches import Emit
    from brokers.parallel import ParallelBuffer
    from brokers.reader import KafkaMessageProxy
    from brokers.topics import KindOf, Queue

    #: Acks a message, or rejects it.
    End = Callable[[KafkaMessageProxy], None]

logger = logging.getLogger("brokers.reader")

#: Bytes of a record that may go with others.
SMALL_BYTES = 16_384


class GoAlone(SkipMessage):
    """Raised by an actor before anything of its call is done: each message is to be run in a call of its own.

    What is of a kind by then goes together again: see to it that these are not.
    """


class Companions(BatchProxy):
    """Messages of one kind, run in one call; see `GoAlone`."""

    def after(self, signal: str, emit: Emit, *, result: Any = None, exception: BaseException | None = None) -> None:
        """As of a batch; what goes alone is skipped here."""
        if signal == "skip_message":
            for member in self.members:
                emit(signal, member)
                member.recalled = True  # middleware sees it again when it runs, and nothing of it until then
        super().after(signal, emit, result=result, exception=exception)

    def end(self, ack: End, nack: End) -> None:
        """As of a batch, in one go where there is nothing more to it."""
        for member in reversed(self.members):
            if member.recalled:
                member.unit.assignment.buffer.release(member.unit)
        plain = [member for member in self.members if member.is_plain]
        if plain:
            plain[0].unit.assignment.buffer.finish_all([member.unit for member in plain])
        for member in plain:
            member.ended = True
        super().end(ack, nack)


class CompanyReader(Reader):
    """A reader that hands out together what the queue's ``company`` says to be of one kind; see `company`."""

    def __init__(self, queue: Queue, buffer: Buffer, **rest: Any) -> None:
        super().__init__(queue, buffer, **rest)
        self._from = buffer
        self._kind_of = cast("KindOf", queue.company)
        self._kind: Hashable | None = None  # of the message that was read last
        self._company: Company[KafkaMessageProxy] = Company()
        self._together: list[Companions] = []
        self._alone: deque[KafkaMessageProxy] = deque()

    def __next__(self) -> KafkaMessageProxy | Companions | None:  # type: ignore[override]  # Dramatiq gives back what it was given
        """The next message, or several, or none within the time-out; raises as a reader of messages does."""
        deadline = time.monotonic() + self._timeout_s
        while not self._alone:
            unit = self._from.take(self._limit(), self._patience_s(deadline), self._may_go)
            message = None if unit is None else self._decoded(unit)
            if message is not None and self._kind is not None:
                self._company.join(self._kind, message, time.monotonic())
            elif unit is not None:
                return message
            elif self._may_go():
                return self._next_together()
            elif self._from.stopped is not None:
                raise ConsumerStopped(self._from.stopped)
            elif time.monotonic() >= deadline:
                return None
        return self._alone.popleft()

    def _limit(self) -> int:
        """What waits, or goes with others, needs no thread of its own, so that it does not count."""
        self._together = [several for several in self._together if several.out]
        more = self._company.waiting + sum(len(several.all) - 1 for several in self._together)
        return self._prefetch + min(more, 2 * MOST)

    def _patience_s(self, deadline: float) -> float:
        now = time.monotonic()
        return max(min(deadline - now, self._company.due_in(now)), 0.0)

    def _may_go(self) -> bool:
        return self._company.may_go(time.monotonic())

    def _held_back(self, unit: Unit, message: dramatiq.Message[Any]) -> bool:
        """As of any message; those that may go together are asked about when they go."""
        small = unit.records[0].size <= SMALL_BYTES and not unit.alone and "eta" not in message.options
        self._kind = self._found(message) if small else None
        return self._kind is None and super()._held_back(unit, message)

    def _found(self, message: dramatiq.Message[Any]) -> Hashable | None:
        try:
            return self._kind_of(message)
        except Exception:  # a defect of it must not stop the queue
            logger.exception("kafka_company_failed message_id=%s", message.message_id)
            return None

    def _next_together(self) -> KafkaMessageProxy | Companions | None:
        """Those whose turn it is; none where they are held back."""
        late = self._company.late(time.monotonic())
        if late:
            self._alone.extend(message for message in late if self._not_held_back([message]))
            return self._alone.popleft() if self._alone else None
        kind, messages = self._company.go() or (None, [])
        members = self._not_held_back(messages)
        if not members:
            return None
        going = members[0] if len(members) == 1 else Companions(members)
        self._company.went(kind, going)
        if isinstance(going, Companions):
            self._together.append(going)
        return going

    def _not_held_back(self, messages: list[KafkaMessageProxy]) -> list[KafkaMessageProxy]:
        """*messages*, of which the first one stands for all; or those for which there is no room where others wait."""
        ready = self._queue.ready
        seconds = asked(ready, messages[0].message) if messages and ready is not None else None
        if seconds is None:
            return messages
        buffer = cast("ParallelBuffer", self._from)
        return [one for one in messages if not buffer.hold_back(one.unit, one.message, seconds)]

    def ack(self, message: dramatiq.MessageProxy) -> None:
        """End a message, or each of several for itself; raises as a reader of messages does."""
        if isinstance(message, Companions):
            message.end(super().ack, super().nack)
        else:
            super().ack(message)

    def nack(self, message: dramatiq.MessageProxy) -> None:
        """As `ack`."""
        if isinstance(message, Companions):
            message.end(super().ack, super().nack)
        else:
            super().nack(message)

    def requeue(self, messages: Iterable[dramatiq.MessageProxy]) -> None:
        """Handed out and never begun: back to the front, in the order they had."""
        each = ([*one.all] if isinstance(one, Companions) else [one] for one in messages)
        super().requeue(chain.from_iterable(each))

    def close(self) -> None:
        """As of any reader; what waits for others is handed out again."""
        super().requeue([*self._alone, *self._company.leave()])
        self._alone.clear()
        super().close()
