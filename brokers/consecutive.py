"""Batches of an ordered queue: consecutive messages of one actor, and those that come next, read before their turn.

Reading a message takes Python, and an actor that applies a batch somewhere else mostly waits for that.  So the actor
may say when it waits, and the messages of the batch behind it are read then, in its own thread: in another one they
would be read at the same time as it has work to do itself, and only one of the two has the interpreter.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from brokers import claims
from brokers.errors import ReadLater, Undecodable
from brokers.ordered import BATCH_BYTES


if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from brokers.assignment import Unit
    from brokers.ordered import OrderedBuffer
    from brokers.reader import RecordMessage
    from brokers.records import Record

    #: Reads a record: its message, and the bytes of its whole content.
    Read = Callable[[Record], tuple[RecordMessage, int]]

logger = logging.getLogger("brokers.reader")


class Consecutive(list["RecordMessage"]):
    """The messages of one batch, as the actor gets them."""

    def __init__(self, messages: Iterable[RecordMessage], batches: Batches) -> None:
        super().__init__(messages)
        self._batches = batches

    @property
    def more(self) -> bool:
        """Whether another batch waits to be handed out as soon as this one has ended."""
        return self._batches.more

    def read_ahead(self) -> list[RecordMessage]:
        """The messages of the next batch, as far as it is here and can be read.  Never raises: their own turn tells."""
        return self._batches.read_ahead()


class Batches:
    """Reads the batches of one reader.  The reader's thread and that of the batch that runs take turns in it."""

    def __init__(self, buffer: OrderedBuffer, read: Read) -> None:
        self._buffer = buffer
        self._read = read
        self._ahead: dict[int, tuple[RecordMessage, int]] = {}  # by offset

    def of(self, unit: Unit) -> Consecutive:
        """The messages of *unit*, just taken.

        It is cut where another actor, or an unreadable record, comes, and where contents from elsewhere become too
        many; an unreadable first record stands alone.

        Raises:
          Undecodable, ReadLater: what is wrong with that one.
        """
        ahead, self._ahead = self._ahead, {}
        messages: list[RecordMessage] = []
        size = 0
        try:
            for record in unit.records:
                message, content = self._known(ahead, record) or self._read(record)
                size += content
                if messages and (message.actor_name != messages[0].actor_name or size > BATCH_BYTES):
                    break
                messages.append(message)
        except (Undecodable, ReadLater):
            if not messages:
                self._shorten(unit, 1)
                raise
        self._shorten(unit, len(messages))
        return Consecutive(messages, self)

    @staticmethod
    def _known(ahead: dict[int, tuple[RecordMessage, int]], record: Record) -> tuple[RecordMessage, int] | None:
        found = ahead.get(record.offset)
        return found if found is not None and found[0].record is record else None

    def _shorten(self, unit: Unit, size: int) -> None:
        if size < len(unit.records):
            self._buffer.shorten(unit, size)

    @property
    def more(self) -> bool:
        """Whether something is there that is handed out when nothing runs."""
        return self._buffer.goes_on

    def read_ahead(self) -> list[RecordMessage]:
        """See `Consecutive`.  What lies elsewhere is left alone: fetching it may take longer than the actor waits."""
        known, fresh = self._ahead, {}
        for record in self._buffer.coming():
            if claims.HEADER in record.headers:
                break
            try:
                fresh[record.offset] = self._known(known, record) or self._read(record)
            except Exception:
                logger.debug("kafka_not_read_ahead record=%s", record, exc_info=True)
                break
        self._ahead = fresh
        return [message for message, _ in fresh.values()]
