"""Batches of an ordered queue: the messages of consecutive records, read before their turn.

Reading a message takes Python, and an actor that applies a batch somewhere else mostly waits for that.  So the actor
may say when it waits, and the messages of the batch behind it are read then, in its own thread: in another one they
would be read at the same time as it has work to do itself, and only one of the two has the interpreter.
"""

from __future__ import annotations

import logging
import operator
from typing import TYPE_CHECKING, Any

from brokers import claims
from brokers.errors import ReadLater, Undecodable
from brokers.ordered import BATCH_BYTES
from brokers.received import size_of_all


if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from brokers.assignment import Unit
    from brokers.ordered import OrderedBuffer
    from brokers.reader import RecordMessage
    from brokers.records import Record

    #: Reads a record: its message, and the bytes of its whole content.
    Read = Callable[[Record], tuple[RecordMessage, int]]

    #: What may stand for each record among the messages of an actor; none where only its message does.
    Short = Callable[[Sequence[Record], str], Sequence[Any]]

logger = logging.getLogger("brokers.reader")


class Consecutive(list[Any]):
    """The messages of one batch, as the actor gets them: `RecordMessage`, or what the queue's `Compact` makes."""

    def __init__(self, messages: Iterable[Any], batches: Batches) -> None:
        super().__init__(messages)
        self._batches = batches

    @property
    def more(self) -> bool:
        """Whether another batch waits to be handed out as soon as this one has ended."""
        return self._batches.more

    def read_ahead(self, most: int) -> list[Any]:
        """The first messages of the next batch, up to *most* more than before, as far as they are here and can be read.

        Never raises: their own turn tells.
        """
        return self._batches.read_ahead(most)


class _Ahead:
    """The first records of a batch, and what was read of them."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.items: list[Any] = []
        self.size = 0

    def add(self, records: Iterable[Record], items: Iterable[Any], size: int) -> None:
        self.records.extend(records)
        self.items.extend(items)
        self.size += size

    def begins(self, records: Sequence[Record]) -> bool:
        """Whether *records* begin with these.  It is the record that counts: its offset may be another topic's."""
        return len(self.records) <= len(records) and all(map(operator.is_, self.records, records))


class Batches:
    """Reads the batches of one reader.  The reader's thread and that of the batch that runs take turns in it."""

    def __init__(self, buffer: OrderedBuffer, read: Read, short: Short) -> None:
        self._buffer = buffer
        self._read = read
        self._short = short
        self._ahead = _Ahead()

    def of(self, unit: Unit) -> tuple[RecordMessage, Consecutive]:
        """The first message of *unit*, just taken, and what the actor gets.

        It is cut where another actor, or an unreadable record, comes, and where contents from elsewhere become too
        many; an unreadable first record stands alone.

        Raises:
          Undecodable, ReadLater: what is wrong with that one.
        """
        batch = self._begun(unit.records)
        try:
            self._read_on(batch, unit.records)
        except (Undecodable, ReadLater):
            if not batch.items:
                self._shorten(unit, 1)
                raise
        self._shorten(unit, len(batch.items))
        return batch.items[0], Consecutive(batch.items, self)

    def _begun(self, records: Sequence[Record]) -> _Ahead:
        """What was read of *records* ahead of their turn."""
        ahead, self._ahead = self._ahead, _Ahead()
        return ahead if ahead.begins(records) else _Ahead()

    def _read_on(self, batch: _Ahead, records: Sequence[Record], *, ahead: bool = False) -> None:
        """The first one's message always: it says whose they are.  *ahead*: up to one whose content lies elsewhere."""
        if not batch.items:
            if ahead and not _is_here(records[0]):
                return
            item, size = self._read(records[0])
            batch.add([records[0]], [item], size)
        actor, rest = batch.items[0].actor_name, records[len(batch.items) :]
        short = self._short(rest, actor)
        size = size_of_all(rest)
        if batch.size + size <= BATCH_BYTES and all(item is not None for item in short):
            batch.add(rest, short, size)
            return
        for record, item in zip(rest, short, strict=True):
            size = record.size
            if item is None:
                if ahead and not _is_here(record):
                    break
                item, size = self._read(record)  # noqa: PLW2901 - what stands for it
                if item.actor_name != actor:
                    break
            if batch.size + size > BATCH_BYTES:
                break
            batch.add([record], [item], size)

    def _shorten(self, unit: Unit, size: int) -> None:
        if size < len(unit.records):
            self._buffer.shorten(unit, size)

    @property
    def more(self) -> bool:
        """Whether something is there that is handed out when nothing runs."""
        return self._buffer.goes_on

    def read_ahead(self, most: int) -> list[Any]:
        """See `Consecutive`.  What lies elsewhere is left alone: fetching it may take longer than the actor waits."""
        coming = self._buffer.coming()
        batch = self._begun(coming)
        known = len(batch.items)
        try:
            if len(coming) > known:
                self._read_on(batch, coming[: known + most], ahead=True)
        except Exception:
            logger.debug("kafka_not_read_ahead record=%s", coming[len(batch.items)], exc_info=True)
        self._ahead = batch
        return batch.items.copy()


def _is_here(record: Record) -> bool:
    return claims.HEADER not in record.headers
