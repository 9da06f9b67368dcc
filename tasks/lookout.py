"""How far this replica is, as one thread of this process has last seen it.

The position lies in the graph, since another process may be the one that applies.  It is looked at only when somebody
wants to know, by one thread for all who wait, and what has been reached stays reached.

*Lag in seconds* is the age of the oldest command that is not applied yet, by the time that the record of this command
carries (its sender's clock, or Kafka's, as the topic is set up).  A replica that had applied everything up to the log's
end when the end was asked for lacks nothing that is older than that question.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dramatiq.errors import BrokerError

from brokers.errors import Unreachable
from replica.errors import QueryUnavailable


if TYPE_CHECKING:
    from collections.abc import Callable

    from brokers.peek import Peek
    from replica.statement import Position
    from tasks.log import CommandLog

logger = logging.getLogger("tasks.lookout")

#: Seconds between two looks while somebody waits: at first, while nothing moves, and while the graph is out of reach.
SOON_S, LATER_S, AWAY_S = 0.002, 0.05, 0.25


@dataclass(frozen=True, slots=True)
class Sight:
    """What one look has shown.  *at*: monotonic seconds when it began.

    *covered*: no command up to there is missing, be it that the offsets behind the position are no commands.
    *end* of the log, asked for at *end_at*, and *oldest_ms*, a time than which no missing command is older: where they
    were ever asked for.
    """

    at: float
    position: int = -1
    topic_id: str = ""
    covered: int = -1
    end: int | None = None
    end_at: float = 0.0
    oldest_ms: int | None = None
    problem: str | None = None

    @property
    def caught_up(self) -> bool:
        """Nothing is missing of what was in the log when its end was asked for."""
        return self.end is not None and self.covered >= self.end - 1

    @property
    def lag(self) -> int | None:
        """Offsets that are missing of what was in the log then; none where that was never asked."""
        return None if self.end is None else max(self.end - 1 - self.covered, 0)

    def lag_s(self, now: float, wall_ms: float) -> float | None:
        """The age, at most, of the oldest command that may be missing at *now*; none where that is not known."""
        if self.caught_up:
            return max(now - self.end_at, 0.0)
        if self.oldest_ms is None:
            return None
        return max((wall_ms - self.oldest_ms) / 1000, 0.0)


def beyond(before: Sight | None, sight: Sight) -> Sight:
    """*sight* of a look that did not ask for the log, with what is known of the log from the one *before*."""
    if before is None or before.topic_id != sight.topic_id or before.position > sight.position:
        return sight
    # What is missing after a move is no older than what was missing before it.
    known = replace(sight, end=before.end, end_at=before.end_at, oldest_ms=before.oldest_ms)
    if before.position < sight.position:
        return known
    return replace(known, covered=max(before.covered, sight.covered))


class Lookout:
    """The thread that looks.  *changed* is called after each look.  Any thread; anew in a forked child."""

    def __init__(
        self,
        log: CommandLog,
        position: Callable[[], Position | None],
        peek: Callable[[], Peek],
        changed: Callable[[], None],
    ) -> None:
        self._log = log
        self._position = position
        self._open_peek = peek
        self._changed = changed
        self._lock = threading.Lock()
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._thread: threading.Thread | None = None
        self._wanted = threading.Event()
        self._closing = threading.Event()
        self._ask_log = False
        self._peek: Peek | None = None
        self.sight: Sight | None = None
        self.moved_at = time.monotonic()  #: when the position was last seen to be another one than before

    def want(self, *, log: bool) -> None:
        """Look soon; at the *log*'s end and the oldest missing command, too.  Does not wait."""
        with self._lock:
            if self._pid != os.getpid():
                self._reset()
            self._ask_log |= log
            self._wanted.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="lookout", daemon=True)
                self._thread.start()

    def forget(self) -> None:
        """What was seen has turned out to be wrong: the graph is another one."""
        self.sight = None

    def close(self) -> None:
        """End the thread.  Idempotent; it can be used again."""
        with self._lock:
            thread, self._thread = self._thread, None
            closing, wanted = self._closing, self._wanted
            if thread is None or self._pid != os.getpid():
                return
            self._closing = threading.Event()
        closing.set()
        wanted.set()
        thread.join()

    def _run(self) -> None:
        closing, pause = self._closing, SOON_S
        while not closing.is_set():
            self._wanted.wait()
            self._wanted.clear()
            ask_log, self._ask_log = self._ask_log, False
            before, sight = self.sight, self.look(log=ask_log)
            moved = before is None or before.position != sight.position
            if moved:
                self.moved_at = time.monotonic()
            self.sight = sight
            self._tell()
            pause = AWAY_S if sight.problem else SOON_S if moved else min(pause * 2, LATER_S)
            closing.wait(pause)
        if self._peek is not None:
            self._peek.close()
            self._peek = None

    def _tell(self) -> None:
        try:
            self._changed()
        except Exception:  # whoever waits asks again by itself, and the next look must come
            logger.exception("lookout_failed")

    def look(self, *, log: bool) -> Sight:
        """Look now.  The log's end first: what is told of it holds for that moment, whatever is applied meanwhile."""
        at = time.monotonic()
        try:
            end = self._log.end() if log else None
            found = self._position()
            sight = Sight(at, covered=-1) if found is None else Sight(at, found.offset, found.topic_id, found.offset)
            return beyond(self.sight, sight) if end is None else self._with_log(sight, end)
        except QueryUnavailable as exc:
            return Sight(at, problem=f"{exc.code}: {exc.message}")
        except (BrokerError, OSError) as exc:
            return Sight(at, problem=f"Kafka: {exc}")
        except Exception as exc:
            logger.exception("lookout_failed")
            return Sight(at, problem=repr(exc))

    def _with_log(self, sight: Sight, end: int) -> Sight:
        if sight.position >= end - 1:
            return replace(sight, end=end, end_at=sight.at)
        if self._peek is None:
            self._peek = self._open_peek()
        try:
            following, oldest_ms = self._peek.first_from(sight.position + 1)
        except Unreachable:
            self._peek.close()
            self._peek = None
            raise
        return replace(sight, covered=following - 1, end=end, end_at=sight.at, oldest_ms=oldest_ms)
