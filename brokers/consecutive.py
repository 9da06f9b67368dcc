"""Batches of an ordered queue: the messages of consecutive records, and those that follow while they run.

Reading a message takes Python, and an actor that applies a batch somewhere else mostly waits for that.  So it may ask
for more while it waits, and the messages behind its batch are read then, in its own thread: in another one they would
be read at the same time as it has work to do itself, and only one of the two has the interpreter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from brokers import claims
from brokers.errors import ReadLater, Undecodable
from brokers.ordered import BATCH_BYTES, GROWN_BYTES
from brokers.received import size_of_all


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from brokers.assignment import Unit
    from brokers.ordered import OrderedBuffer
    from brokers.reader import RecordMessage
    from brokers.records import Record

    #: A message, and the bytes of its whole content.
    _Message = tuple[RecordMessage, int]

    #: Reads a record.
    Read = Callable[[Record], _Message]

    #: What may stand for each record among the messages of an actor; none where only its message does.
    Short = Callable[[Sequence[Record], str], Sequence[Any]]


class Consecutive(Sequence[Any]):
    """The messages of one batch, as the actor gets them: `RecordMessage`, or what the queue's `Compact` makes."""

    def __init__(self, messages: Sequence[Any], unit: Unit, actor: str, size: int, batches: Batches) -> None:
        """*messages* of *actor*, in *size* bytes."""
        #: Them, as they were read.
        self.messages = messages
        self._unit = unit
        self._actor = actor
        self._size = size
        self._batches = batches

    def __len__(self) -> int:
        return len(self.messages)

    def __getitem__(self, index: Any) -> Any:
        return self.messages[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.messages)

    @property
    def more(self) -> bool:
        """Whether another batch waits to be handed out as soon as this one has ended."""
        return self._batches.more

    def further(self, wait_s: float = 0.0) -> Sequence[Any]:
        """The messages behind all that the actor has, as many as a batch holds; they end with this one from now on.

        Empty where the batch ends: nothing is there, nor has come within *wait_s* seconds, or what is there cannot be
        read at once or is another actor's; the batch would become too large, or has lasted for long; or somebody waits
        for its end.  What is wrong with a message is told in its turn.
        """
        found, size = self._batches.further(self._unit, self._actor, GROWN_BYTES - self._size, wait_s)
        self._size += size
        return found


class Batches:
    """Reads the batches of one reader.  The reader's thread and that of the batch that runs take turns in it."""

    def __init__(self, buffer: OrderedBuffer, read: Read, short: Short) -> None:
        self._buffer = buffer
        self._read = read
        self._short = short

    def of(self, unit: Unit) -> tuple[RecordMessage, Consecutive]:
        """The first message of *unit*, just taken, which says whose they are, and what the actor gets.

        It is cut where another actor, or an unreadable record, comes, and where contents from elsewhere become too
        many; an unreadable first record stands alone.

        Raises:
          Undecodable, ReadLater: what is wrong with that one.
        """
        records = unit.records
        try:
            message, size = first = self._read(records[0])
        except (Undecodable, ReadLater):
            self._buffer.shorten(unit, 1)
            raise
        actor, found = message.actor_name, cast("Sequence[Any]", [message])
        if len(records) > 1:
            found, size = self._read_on(records, size_of_all(records), actor, BATCH_BYTES, first)
            self._buffer.shorten(unit, len(found))
        return message, Consecutive(found, unit, actor, size, self)

    def further(self, unit: Unit, actor: str, room: int, wait_s: float) -> tuple[Sequence[Any], int]:
        """What comes behind *unit* and belongs to it from now on, and its bytes: no more than *room*."""
        known = len(unit.records)
        records, size = self._buffer.grow(unit, room, wait_s)
        if not records:
            return (), 0
        found: Sequence[Any] = ()
        try:
            found, size = self._read_on(records, size, actor, room)
            return found, size
        finally:  # what its actor does not get is not done when that has ended, whatever went wrong
            self._buffer.shorten(unit, known + len(found))

    def _read_on(
        self, records: Sequence[Record], size: int, actor: str, room: int, first: _Message | None = None
    ) -> tuple[Sequence[Any], int]:
        """Those of *actor* up to one that cannot be read, and their bytes, at most *room*; *size*: of all *records*.

        *first*: the message of the first one and its bytes, where it has its turn just now.  Else it ends in front of
        one whose content lies elsewhere, too: to fetch it may take longer than its actor waits.
        """
        short = self._short(records, actor)
        if size <= room and (not isinstance(short, list) or None not in short):
            return short, size
        found: list[Any] = []
        left = room
        for record, item in zip(records, short, strict=True):
            size = record.size
            if item is None and not found and first is not None:
                item, size = first  # noqa: PLW2901 - what stands for it
            elif item is None:
                if first is None and claims.HEADER in record.headers:
                    break
                try:
                    item, size = self._read(record)  # noqa: PLW2901 - as above
                except (Undecodable, ReadLater):
                    break
                if item.actor_name != actor:
                    break
            if size > left and (found or first is None):
                break
            found.append(item)
            left -= size
        return found, room - left

    @property
    def more(self) -> bool:
        """Whether something is there that is handed out when nothing runs."""
        return self._buffer.goes_on
