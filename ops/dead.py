"""What `ops.dead_cli` asks and shows: which letters are meant, and how they look."""

from __future__ import annotations

import base64
import datetime as dt
import json
import re
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ops.errors import InputUnusable
from ops.progress import Step


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from brokers.letterbox import DeadLetters
    from brokers.letters import Letter, Where
    from ops.progress import Progress

#: Characters of a reason in a table.
REASON_CHARS = 60

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_age = re.compile(r"(\d{1,9})([smhd])")


def moment(text: str) -> int:
    """A time in milliseconds: so long ago (``90s``, ``30m``, ``2h``, ``7d``), or a date, with or without time.

    Without an offset it is local time.

    Raises:
      InputUnusable: it is neither.
    """
    if match := _age.fullmatch(text):
        return int((time.time() - int(match[1]) * _SECONDS[match[2]]) * 1000)
    try:
        return int(dt.datetime.fromisoformat(text).astimezone().timestamp() * 1000)
    except (ValueError, OverflowError):
        raise InputUnusable(f"{text!r} is no time: write 30m, 2h, 7d, 2026-01-31 or 2026-01-31T08:00") from None


@dataclass(frozen=True, slots=True)
class Selection:
    """Which letters were named on the command line."""

    ids: tuple[str, ...] = ()
    error: str | None = None
    actor: str | None = None
    since_ms: int | None = None
    before_ms: int | None = None

    @classmethod
    def of(
        cls,
        ids: tuple[str, ...],
        *,
        error: str | None = None,
        actor: str | None = None,
        since: str | None = None,
        before: str | None = None,
    ) -> Selection:
        """As it was typed.  Raises `InputUnusable` for what is no time."""
        times = [None if text is None else moment(text) for text in (since, before)]
        return cls(ids, error, actor, *times)

    @property
    def narrows(self) -> bool:
        """Whether it names anything."""
        return self != Selection()

    def required(self, *, everything: bool) -> Selection:
        """Itself, if it names something, or *everything* is wanted.

        Raises:
          InputUnusable: neither, or both.
        """
        if everything == self.narrows:
            raise InputUnusable("say which letters: their ids, or --error, --actor, --since, --before, or else --all")
        return self

    def where(self) -> Where:
        """For `brokers.letters`."""
        from brokers.letters import Where  # noqa: PLC0415  # heavy, and --help has no use for it

        return Where(frozenset(self.ids), self.error, self.actor, self.since_ms, self.before_ms)


@contextmanager
def letters_of(state_dir: Path, queue: str) -> Iterator[DeadLetters]:
    """The dead letters of *queue*.

    Raises:
      KafkaAway: no Kafka server answers.
      WrongTopic: there is no such queue.
    """
    from ops.connection import connected, settings_for  # noqa: PLC0415  # as above

    with connected(settings_for(state_dir)) as app:
        yield app.broker.dead_letters(queue)


def counts(state_dir: Path) -> dict[str, int]:
    """How many letters wait in each queue.  Raises `KafkaAway`."""
    from brokers.letterbox import overview  # noqa: PLC0415  # as above
    from ops.connection import connected, settings_for  # noqa: PLC0415  # as above

    with connected(settings_for(state_dir)) as app:
        return overview(app.broker)


def steps(display: Progress) -> Callable[[int, int], None]:
    """Show on *display* how far a replay is."""

    def show(done: int, total: int) -> None:
        display(Step("replay", "", done, total, "letters", finished=done == total))

    return show


def described(letter: Letter) -> tuple[object, ...]:
    """One line of a list."""
    reason = " ".join(letter.text("xq.reason").split())
    short = reason if len(reason) <= REASON_CHARS else f"{reason[: REASON_CHARS - 1]}…"
    attempts = "" if letter.attempts is None else letter.attempts
    return letter.id, letter.message_id, letter.actor, letter.error, short, when(letter), attempts, letter.replayed


def when(letter: Letter) -> str:
    """The local time at which it was parked."""
    return dt.datetime.fromtimestamp(letter.parked_ms / 1000).astimezone().isoformat(" ", "seconds")


def whole(letter: Letter) -> dict[str, Any]:
    """All of it, for JSON."""
    from brokers.replays import history  # noqa: PLC0415  # as above

    source = f"{letter.text('xq.topic')}/{letter.text('xq.partition')}@{letter.text('xq.offset')}"
    return {
        **letter.summary(),
        "parked": when(letter),
        "source": source,
        "group": letter.text("xq.group"),
        "worker": letter.text("xq.worker"),
        "crashes": letter.text("xq.crashes"),
        "cut": letter.text("xq.cut"),
        "history": history(letter.headers),
        "traceback": letter.text("xq.traceback"),
        "key": None if letter.key is None else letter.key.decode(errors="replace"),
        "headers": {name: letter.text(name) for name in letter.headers if not name.startswith(("xq.", "replay."))},
        **_body(letter.value),
    }


def _body(value: bytes | None) -> dict[str, Any]:
    """As JSON where it is, as text where it is text, as base 64 where it is neither."""
    if value is None:
        return {"body": None}
    try:
        return {"body": json.loads(value)}
    except (ValueError, RecursionError):
        pass
    try:
        return {"body": value.decode()}
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(value).decode()}
