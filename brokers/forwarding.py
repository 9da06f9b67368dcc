"""How messages end on a transactional broker: what follows from one, and its ack, are one `Ending`."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from brokers.batches import BatchReader
from brokers.dead_letters import bare, dead_letter
from brokers.reader import Reader, traceback_of


if TYPE_CHECKING:
    from collections.abc import Callable

    from confluent_kafka import KafkaError
    from confluent_kafka import Message as KafkaMessage

    from brokers.assignment import Forward, Unit
    from brokers.reader import KafkaMessageProxy

logger = logging.getLogger("brokers.reader")


@dataclass(eq=False, slots=True)
class Ending:
    """A unit that has ended, and what has to be sent with its ack: all of it, or neither.

    *letters* tells what to send instead, given the reason, when Kafka refuses one of the *forwards* for good.
    """

    unit: Unit
    forwards: list[Forward]
    letters: Callable[[str], list[Forward]] | None = None
    #: What Kafka said about one of the records in the last transaction.
    error: KafkaError | None = None
    #: It failed in company: its next transactions are its own.
    alone: bool = False
    #: Monotonic seconds before which it is not tried again.
    not_before: float = 0.0

    def reported(self, error: KafkaError | None, _message: KafkaMessage) -> None:
        """The client's delivery report.  The first error says why; those after it only that the transaction is over."""
        self.error = self.error or error

    def refused(self, reason: str) -> bool:
        """Find something else to send: dead letters, then dead letters without their values; false for nothing more."""
        before = self.forwards
        if self.letters is not None:
            self.forwards, self.letters = self.letters(reason), None
            return True
        self.forwards = [(bare(record), topic) for record, topic in before]
        return self.forwards != before


class ForwardingReader(Reader):
    """A reader whose messages end in transactions.

    Acks and nacks never fail: what *end* is told is done some milliseconds later, or tried until it is.
    """

    def __init__(self, *args: Any, end: Callable[[Ending], None], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._end = end

    def _decoded(self, unit: Unit) -> KafkaMessageProxy | None:
        unit.forwards = []
        return super()._decoded(unit)

    def _finish(self, message: KafkaMessageProxy) -> None:
        unit = message.unit
        if not unit.forwards:
            super()._finish(message)
            return
        error = message._exception  # noqa: SLF001 - Dramatiq has no getter
        name = "DeliveryRefused" if error is None else type(error).__name__
        before = "it ran, and" if error is None else f"{name}: {error}; then"
        self._end(Ending(unit, unit.forwards, partial(self._letters, unit, name, traceback_of(error), before)))

    def _letters(self, unit: Unit, error: str, trace: str, before: str, refusal: str) -> list[Forward]:
        reason = f"{before} what should follow could not be sent: {refusal}"
        logger.error("kafka_message_parked record=%s error=%s reason=%s", unit.records[0], error, reason)
        return self._parked(unit, error, reason, trace)

    def _dispose(self, unit: Unit, error: str, reason: str, trace: str = "") -> None:
        """Park: the dead letter, too, is sent with the ack."""
        logger.error("kafka_message_parked record=%s error=%s reason=%s", unit.records[0], error, reason)
        follow, letters = unit.forwards or [], self._parked(unit, error, reason, trace)
        if follow:
            self._end(Ending(unit, [*follow, *letters], partial(self._letters, unit, error, trace, f"{reason}; then")))
        else:
            self._end(Ending(unit, letters))

    def _parked(self, unit: Unit, error: str, reason: str, trace: str) -> list[Forward]:
        queue, topic = self._queue, self._queue.dead_letters
        return [
            (dead_letter(record, queue, error=error, reason=reason, traceback=trace), topic) for record in unit.records
        ]


class ForwardingBatchReader(ForwardingReader, BatchReader):
    """The same for batches, each of whose messages ends for itself."""
