"""Priorities that hold over all workers: a queue with levels is several topics, and a reader prefers the higher ones.

Kafka hands records out in the order of their log, so what is urgent needs a log of its own: `<queue>` is level 0,
`<queue>.p1`, `<queue>.p2` and so on come before it.  Each level is read, acked and committed as any queue.  Dramatiq's
own `priority` is something else: it sorts what one worker has fetched already, and there lower numbers come first.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from brokers.errors import WrongPriority


if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import dramatiq

    from brokers.assignment import Buffer, Unit
    from brokers.topics import Queue

#: One message in so many comes from a lower level, if any waits there: whatever is urgent, the rest goes on.
FAIR_EVERY = 8


def level_for(queue: Queue, message: dramatiq.Message[object]) -> Queue:
    """The level of *queue* that *message* belongs to; its option ``broker_priority`` says so, without it level 0.

    A queue without levels takes no notice of the option.

    Raises:
      WrongPriority: there is no such level.
    """
    priority = message.options.get("broker_priority")
    if queue.max_priority is None or priority is None:
        return queue
    if isinstance(priority, bool) or not isinstance(priority, int) or not 0 <= priority <= queue.max_priority:
        raise WrongPriority(
            f"option broker_priority of message {message.message_id} is {priority!r}; queue {queue.name!r} has the"
            f" levels 0 to {queue.max_priority}"
        )
    return queue.level(priority)


def order(turn: int, levels: int) -> list[int]:
    """Which level is asked first, second and so on for the *turn*-th message; 0 is the highest."""
    ranks = list(range(levels))
    if turn % FAIR_EVERY == FAIR_EVERY - 1:
        lower = 1 + turn // FAIR_EVERY % (levels - 1)  # the lower ones take turns, or the middle ones would starve
        ranks.insert(0, ranks.pop(lower))
    return ranks


def together(buffers: Sequence[Buffer]) -> Buffer | Levels:
    """What a reader takes from: the *buffers* of one queue's levels, the highest first."""
    return buffers[0] if len(buffers) == 1 else Levels(buffers)


class Levels:
    """The buffers of one queue's levels, the highest first, as if they were one.

    They share their condition, which is re-entrant.
    """

    def __init__(self, buffers: Sequence[Buffer]) -> None:
        self._buffers = buffers
        self._changed = buffers[0].changed
        self._turn = 0

    @property
    def stopped(self) -> str | None:
        """Why there will be no more messages."""
        return next((buffer.stopped for buffer in self._buffers if buffer.stopped is not None), None)

    def take(self, limit: int, timeout_s: float) -> Unit | None:
        """As `Buffer.take`; *limit* counts what is out of all levels."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while self.stopped is None:
                unit = self._next(limit)
                left = deadline - time.monotonic()
                if unit is not None or left <= 0:
                    return unit
                now = time.monotonic()
                self._changed.wait(min(left, *(buffer.due_in(now) for buffer in self._buffers)))
        return None

    def wait_for(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """As `Buffer.wait_for`."""
        with self._changed:
            return self._changed.wait_for(condition, timeout_s)

    def _next(self, limit: int) -> Unit | None:
        if sum(buffer.outstanding for buffer in self._buffers) >= limit:
            return None
        for rank in order(self._turn, len(self._buffers)):
            buffer = self._buffers[rank]
            unit = buffer.take(buffer.outstanding + 1, 0)
            if unit is not None:
                self._turn += 1
                return unit
        return None
