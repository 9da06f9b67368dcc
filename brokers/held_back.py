"""Messages that may not be handed out yet, because their queue's ``ready`` says so.

A message that has to wait for something outside of Kafka would fill a worker thread, if an actor waited for it, and
with a few of them nobody works any more.  So it waits here, in the consumer, where others pass it.  Its offset stays
unacked, and so does it after a kill: whoever gets the partition next reads it again.
"""

from __future__ import annotations

import itertools
import logging
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    import dramatiq

    from brokers.assignment import Assignment, Unit
    from brokers.topics import Ready

logger = logging.getLogger("brokers.reader")

#: Messages of one queue that are held back in one process.  Each is a gap in the completion map, which has room for
#: several hundred, and counts as waiting, of which a paused partition must have less than 500 to go on.
HELD_BACK = 256

#: Shortest time, in seconds, between two questions about a message, whatever its queue says.
SHORTEST_S = 0.001


def asked(ready: Ready, message: dramatiq.Message[Any]) -> float | None:
    """What *ready* says; a defect of it must not stop the queue, and whoever works on the message looks again."""
    try:
        return ready(message)
    except Exception:
        logger.exception("kafka_ready_failed message_id=%s", message.message_id)
        return None


class HeldBack:
    """What one buffer holds back, by when it is asked about again.  Called with the buffer's condition held."""

    def __init__(self, ready: Ready | None) -> None:
        self._ready = ready
        self._units: list[tuple[float, int, Unit]] = []  # a heap: monotonic seconds
        self._count = itertools.count()

    @property
    def full(self) -> bool:
        """No more can be held back."""
        return len(self._units) >= HELD_BACK

    def __bool__(self) -> bool:
        return bool(self._units)

    def put(self, unit: Unit, due: float) -> None:
        """Hold *unit*, which has its message, back until *due*."""
        heappush(self._units, (due, next(self._count), unit))

    def all_due(self) -> bool:
        """Everything is due now; whether there is anything."""
        self._units = [(0.0, number, unit) for _, number, unit in self._units]
        heapify(self._units)
        return bool(self._units)

    def take(self, now: float) -> Unit | None:
        """One that may be handed out, if any may; those that are due and may not wait again."""
        while self._units and self._units[0][0] <= now:
            _, number, unit = heappop(self._units)
            seconds = None if self._ready is None or unit.message is None else asked(self._ready, unit.message)
            if seconds is None:
                return unit
            heappush(self._units, (now + max(seconds, SHORTEST_S), number, unit))
        return None

    def drop(self, assignment: Assignment) -> None:
        """Forget those of *assignment*: somebody else reads them again."""
        self._units = [held for held in self._units if held[2].assignment is not assignment]
        heapify(self._units)

    def due_in(self, now: float) -> float:
        """Seconds until one is due."""
        return max(self._units[0][0] - now, SHORTEST_S) if self._units else float("inf")
