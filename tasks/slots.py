"""How many queries of one process run at a time; the others wait in the consumer, where no thread waits with them."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dramatiq.middleware import Middleware

from replica.errors import QueryUnavailable


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import dramatiq

#: The code of an answer from where nobody had room for it.
BUSY = "Replica.Busy"

#: Seconds after which a query that waits for room is asked about again; usually it is as soon as another one ends.
ASK_AGAIN_S = 0.1

#: Seconds after which a query that was let go and has not begun counts no more: its partition has moved, most likely.
LET_GO_S = 10.0


class Slots:
    """Room for *most* queries at a time, or for any number.  Any thread.

    *freed* is called when one has ended while others wait.
    """

    def __init__(self, freed: Callable[[], None]) -> None:
        self.most: int | None = None
        self._freed = freed
        self._lock = threading.Lock()
        self._running = 0
        self._let_go: dict[str, float] = {}  # by message id: monotonic seconds
        self._waited = False

    def full(self, message_id: str) -> float | None:
        """None where there is room for it, else when to ask again.  In the consumer, which may ask more than once."""
        if self.most is None:
            return None
        with self._lock:
            before = time.monotonic() - LET_GO_S
            self._let_go = {name: at for name, at in self._let_go.items() if at > before}
            if message_id in self._let_go or self._running + len(self._let_go) < self.most:
                return None
            self._waited = True
            return ASK_AGAIN_S

    def let_go(self, message_id: str) -> None:
        """It gets a worker thread, and begins soon."""
        if self.most is not None:
            with self._lock:
                self._let_go[message_id] = time.monotonic()

    def forget(self, message_id: str) -> None:
        """It will not begin here."""
        with self._lock:
            self._let_go.pop(message_id, None)
        self._told()

    @contextmanager
    def taken(self, message_id: str) -> Iterator[None]:
        """Within, the query runs.

        Raises:
          QueryUnavailable: there is no room; it was let go all the same, since too many were held back.
        """
        with self._lock:
            self._let_go.pop(message_id, None)
            if self.most is not None and self._running >= self.most:
                raise QueryUnavailable(BUSY, f"{self._running} queries run here already (QUERY_AT_ONCE)")
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
            self._told()

    def _told(self) -> None:
        with self._lock:
            waited, self._waited = self._waited, False
        if waited:
            self._freed()


class QueriesAtOnce(Middleware):
    """Gives *slots* their number when a worker starts.

    Unless *most* says otherwise, a worker that applies commands, too, keeps one of its threads free for them.
    """

    def __init__(self, slots: Callable[[], Slots], most: int, queue_names: tuple[str, str]) -> None:
        self._slots = slots
        self._most = most
        self._queue_names = queue_names

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        """Dramatiq's."""
        wanted = worker.consumer_whitelist
        both = not wanted or all(name in wanted for name in self._queue_names)
        self._slots().most = self._most or (max(worker.worker_threads - 1, 1) if both else None)
