"""What waits for its time, for people and for programs."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from ops.connection import connected
from ops.errors import NotDelayed
from ops.progress import Progress, Step


if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from brokers.delays import Entry
    from brokers.roster import Periodic
    from brokers.waiting import Waiting
    from settings import Settings

#: Messages of one id that are shown: one that was delayed more than once.
SHOWN = 10


@dataclass(frozen=True, slots=True)
class DelayedRow:
    """One delayed message."""

    due: str
    in_s: float
    queue: str
    actor: str
    message_id: str
    attempt: int

    def cells(self) -> tuple[object, ...]:
        """For a table."""
        return self.due, span(self.in_s), self.queue, self.actor, self.message_id, self.attempt


@dataclass(frozen=True, slots=True)
class PeriodicRow:
    """One periodic actor and its next time; none when its schedule has no more."""

    next: str | None
    in_s: float | None
    queue: str
    actor: str
    schedule: str

    def cells(self) -> tuple[object, ...]:
        """For a table."""
        return self.next or "never", span(self.in_s or 0), self.queue, self.actor, self.schedule


@dataclass(frozen=True, slots=True)
class Listed:
    """The soonest messages, how many there are in all, and the periodic actors."""

    messages: Sequence[DelayedRow]
    periodic: Sequence[PeriodicRow]
    by_queue: dict[str, int]
    total: int

    def summary(self) -> str:
        """One line for people."""
        counted = ", ".join(f"{queue} {count:,}" for queue, count in sorted(self.by_queue.items()))
        waits = "1 message waits" if self.total == 1 else f"{self.total:,} messages wait"
        return f"{waits}: {counted}" if counted else "No message waits for its time."


def listed(settings: Settings, queue: str | None, actor: str | None, limit: int, show: Progress) -> Listed:
    """The *limit* soonest.

    Raises:
      KafkaAway: no Kafka server answers.
    """
    with connected(settings) as app:
        found = app.broker.delayed(limit, queue=queue, actor=actor, progress=_told(show))
        return _listed(found, app.broker.prefix, time.time())


def _listed(found: Waiting, prefix: str, now: float) -> Listed:
    return Listed(
        messages=[_row(entry, prefix, now) for entry in found.entries],
        periodic=[_periodic(actor, now) for actor in found.periodic],
        by_queue={topic.removeprefix(prefix): count for topic, count in found.by_topic.items()},
        total=found.total,
    )


def _row(entry: Entry, prefix: str, now: float) -> DelayedRow:
    at = entry.eta_ms / 1000
    queue = entry.due.topic.removeprefix(prefix)
    return DelayedRow(when(at), round(at - now, 3), queue, entry.actor, entry.message_id, entry.attempt)


def _periodic(actor: Periodic, now: float) -> PeriodicRow:
    if actor.next_ms is None:
        return PeriodicRow(None, None, actor.queue, actor.actor, actor.schedule)
    at = actor.next_ms / 1000
    return PeriodicRow(when(at), round(at - now, 3), actor.queue, actor.actor, actor.schedule)


def shown(settings: Settings, message_id: str, show: Progress) -> list[dict[str, Any]]:
    """All there is to say about the delayed messages of that id.

    Raises:
      NotDelayed: there is none.
      KafkaAway: no Kafka server answers.
    """
    with connected(settings) as app:
        found = app.broker.delayed(SHOWN, ids=[message_id], progress=_told(show))
        if not found.entries:
            raise NotDelayed(
                f"no message {message_id!r} waits for its time: it was fired, cancelled, or never delayed."
            )
        return [_details(entry, app.broker.prefix, time.time()) for entry in found.entries]


def _details(entry: Entry, prefix: str, now: float) -> dict[str, Any]:
    row, value = _row(entry, prefix, now), entry.due.value or b""
    about: dict[str, Any] = {name: getattr(row, name) for name in row.__slots__} | {"bytes": len(value)}
    try:
        message = json.loads(value)
        return about | {name: message[name] for name in ("args", "kwargs", "options", "message_timestamp")}
    except (ValueError, TypeError, KeyError):  # an encoder of the application's own
        return about | {"value": value.decode(errors="replace")}


def cancelled(
    settings: Settings, ids: Sequence[str], queue: str | None, actor: str | None, show: Progress, *, dry_run: bool
) -> int:
    """How many were taken back, or would be.

    Raises:
      KafkaAway: no Kafka server answers.
    """
    with connected(settings) as app:
        if dry_run:
            return app.broker.delayed(0, ids=ids, queue=queue, actor=actor, progress=_told(show)).total
        return app.broker.cancel(*ids, queue=queue, actor=actor, progress=_told(show))


def _told(show: Progress) -> Callable[[int, int], None]:
    def tell(done: int, total: int) -> None:
        show(Step("delayed", "reading", done, total, finished=done >= total, unit="records"))

    return tell


def when(at: float) -> str:
    """A time in UTC, to the second."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"


def span(seconds: float) -> str:
    """How long until then: ``3 days, 4:05:06``; with a minus when it is past."""
    text = str(timedelta(seconds=round(abs(seconds))))
    return f"-{text}" if round(seconds) < 0 else text
