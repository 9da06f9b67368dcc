"""The replica's side of read levels: may this query be answered here, now?

Asked twice.  First in the consumer, from memory, so that a query that has to wait waits there (see `brokers.held_back`)
and no worker thread with it.  Then by the worker, of the position that it has read in the query's own session just
before the rows: that one decides, whatever was remembered, also where the graph has been replaced in between.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

from brokers.delays import now_ms
from tasks import levels


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import dramatiq

    from replica.rows import Rows
    from replica.statement import Position
    from replica.summary import Summary
    from tasks.levels import Level
    from tasks.lookout import Lookout, Sight

T = TypeVar("T")

#: Seconds after which a query that is held back is asked about again, also if nothing was seen to change.
ASK_AGAIN_S = 0.1

#: Queries with a limit of lag whose arrival is remembered; one that was forgotten counts as arriving again.
REMEMBERED = 1000

#: In place of its arrival: the query was let go, and what is seen from then on is no matter.
LET_GO = -1.0

#: Seconds without a move after which the log is asked whether the offsets that are waited for are commands at all.
STILL_S = 0.3


class NotFresh(Exception):
    """This replica is not as fresh as the query asks for; how far it is."""


class Torn(NotFresh):
    """A command was applied while the rows were read."""


class Freshness:
    """What the queries of one replica's workers ask.  Any thread."""

    def __init__(self, replica: str, lookout: Lookout) -> None:
        self._replica = replica
        self._lookout = lookout
        self._lock = threading.Lock()
        self._arrived: dict[str, float] = {}  # by message id: monotonic seconds

    # In the consumer.

    def ready(self, message: dramatiq.Message[Any]) -> float | None:
        """Whether a worker may have *message*, or when to ask again: the hook of the queue.

        It may, too, when waiting here makes no sense any more: the worker passes it on, or answers with the error.
        """
        level = levels.of(message)
        if level is None or not _asks(level):
            return None
        left_ms = level.pass_ms - now_ms()
        sight = self._lookout.sight
        away = sight is not None and sight.problem is not None and time.monotonic() - sight.at < 1.0
        since = self._arrival(message.message_id) if level.limits_lag else 0.0
        if left_ms <= 0 or away:
            return None
        if self._lack(level, sight, since) is None:
            if level.limits_lag:
                self._arrived[message.message_id] = LET_GO
            return None
        still = time.monotonic() - self._lookout.moved_at > STILL_S
        self._lookout.want(log=still or level.limits_lag)
        return min(ASK_AGAIN_S, left_ms / 1000)

    def _arrival(self, message_id: str) -> float:
        """When it was asked about first: how far behind a replica was before that says nothing."""
        with self._lock:
            while len(self._arrived) >= REMEMBERED and message_id not in self._arrived:
                del self._arrived[next(iter(self._arrived))]
            return self._arrived.setdefault(message_id, time.monotonic())

    # In the worker.

    def admitted(self, message: dramatiq.MessageProxy) -> Level | None:
        """The level of *message*, when as far as is known this replica is fresh enough.

        Raises:
          NotFresh: it is not.
        """
        level = levels.of(message)
        if level is not None and _asks(level):
            with self._lock:
                since = self._arrived.pop(message.message_id, time.monotonic())
            lack = None if since == LET_GO else self._lack(level, self._lookout.sight, since)
            if lack is not None:
                raise NotFresh(self._told(level, lack))
        return level

    def check(self, level: Level | None, position: Position | None) -> None:
        """Refuse rows of a graph at *position*, unless *level* is content with it.

        Raises:
          NotFresh: it was another graph that has been there.
        """
        if level is None or level.at_least is None:
            return
        offset, topic_id = (-1, "") if position is None else (position.offset, position.topic_id)
        sight = self._lookout.sight
        covered = (
            sight.covered if sight is not None and (sight.position, sight.topic_id) == (offset, topic_id) else offset
        )
        lack = _behind(level, topic_id, offset, covered)
        if lack is not None:
            self._lookout.forget()
            raise NotFresh(self._told(level, lack))

    def _lack(self, level: Level, sight: Sight | None, since: float) -> str | None:
        """What is missing, in words; none where nothing is.  A number of offsets counts that was seen *since* then."""
        if sight is None or sight.problem is not None:
            return "where it is cannot be seen" + ("" if sight is None else f" ({sight.problem})")
        if level.at_least is not None:
            lack = _behind(level, sight.topic_id, sight.position, sight.covered)
            if lack is not None:
                return lack + (f"; the log ends at {sight.end}" if sight.end is not None else "")
        now = time.monotonic()
        lag = sight.lag if sight.end_at >= since else None
        if level.max_lag is not None and (lag is None or lag > level.max_lag):
            return f"at {sight.position}, {'?' if lag is None else lag} offsets behind the log's end"
        if level.max_lag_s is not None:
            lag_s = sight.lag_s(now, now_ms())
            if lag_s is None or lag_s > level.max_lag_s:
                return f"at {sight.position}, {'?' if lag_s is None else f'{lag_s:.1f}'} s behind"
        return None

    def _told(self, level: Level, lack: str) -> str:
        waited_s = (now_ms() - level.sent_ms) / 1000
        return f"{level.wanted}: replica {self._replica} is {lack}, {waited_s:.1f} s after the query was sent"


def _asks(level: Level) -> bool:
    return level.at_least is not None or level.limits_lag


def _behind(level: Level, topic_id: str, position: int, covered: int) -> str | None:
    """How a replica that is at *position* falls short of *level*'s offset."""
    if level.at_least is None:
        return None
    if topic_id and level.topic_id not in {"", topic_id}:
        return f"at {position} of another log ({topic_id}, not {level.topic_id})"
    missing = level.at_least - max(position, covered)
    return f"at {position}, {missing} behind" if missing > 0 else None


def steady(level: Level | None, attempt: Callable[[], T]) -> T:
    """What *attempt* gives, again and again until no command is applied while it reads; once, without a *level*.

    Raises:
      Torn: not in time.
    """
    while True:
        try:
            return attempt()
        except Torn:
            if level is None or now_ms() >= level.until_ms:
                raise


class Whole:
    """The rows of a snapshot: all of them, read at one position."""

    def __init__(self, rows: Rows, level: Level) -> None:
        self._rows = list(rows)
        self.columns, self.position, self.truncated = rows.columns, rows.position, rows.truncated
        self._summary, self._seen = rows.summary(), rows.seen()
        untorn(level, self.position, self._seen)

    def __iter__(self) -> Iterator[list[Any]]:
        return iter(self._rows)

    def summary(self) -> Summary:
        """What the server says about the attempt that succeeded."""
        return self._summary

    def seen(self) -> Position | None:
        """The same position."""
        return self._seen


def untorn(level: Level | None, before: Position | None, after: Position | None) -> None:
    """Refuse what was read between two positions, where *level* wants a snapshot.

    Neo4j reads what is committed, record by record, and a commit becomes visible record by record: one text may see
    half of a command.  The later position is read when everything is applied that had begun to be visible.

    Raises:
      Torn: they differ.
    """
    if level is not None and level.snapshot and before != after:
        raise Torn("snapshot: commands were applied during every attempt to read")
