"""What a dead letter is and says; pure.  What is done with letters: see `letterbox`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from brokers import replays
from brokers.dead_letters import SETTLED, SUFFIX
from brokers.records import Outgoing


if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from brokers.records import Record

    #: What is kept of a letter that was read.
    Keep = Callable[["Letter"], "Letter"]

#: Replays after which a letter is put back only by force.
MAX_REPLAYS = 3


@dataclass(frozen=True, slots=True)
class Letter:
    """One parked record.  *topic*, *partition* and *offset* are its place among the dead letters."""

    topic: str
    partition: int
    offset: int
    parked_ms: int
    key: bytes | None
    value: bytes | None
    headers: Mapping[str, bytes]

    @property
    def id(self) -> str:
        """``partition/offset``: what names it within its queue."""
        return f"{self.partition}/{self.offset}"

    def text(self, header: str) -> str:
        """A header for people; empty where it is missing."""
        return self.headers.get(header, b"").decode(errors="replace")

    @property
    def message_id(self) -> str:
        """Empty for what is no message."""
        return self.text("message_id")

    @property
    def actor(self) -> str:
        """Empty for what is no message."""
        return self.text("actor")

    @property
    def error(self) -> str:
        """The kind of failure."""
        return self.text("xq.error")

    @property
    def attempts(self) -> int | None:
        """How often it was tried before it was parked; none where an older version parked it."""
        return replays.number(self.headers, "xq.attempts")

    @property
    def replayed(self) -> int:
        """How often it was put back before."""
        return replays.number(self.headers, replays.COUNT) or 0

    @property
    def destination(self) -> str:
        """The topic to which it belongs."""
        return self.text("xq.to") or self.text("xq.topic") or self.topic.removesuffix(SUFFIX)

    def summary(self) -> dict[str, Any]:
        """What a list shows, for JSON."""
        return {
            "id": self.id,
            "message_id": self.message_id,
            "actor": self.actor,
            "error": self.error,
            "reason": self.text("xq.reason"),
            "parked_ms": self.parked_ms,
            "attempts": self.attempts,
            "replayed": self.replayed,
        }

    def again(self) -> Outgoing:
        """The record as it was, to be put back."""
        entry = {
            "parked_ms": self.parked_ms,
            "error": self.error,
            "reason": self.text("xq.reason"),
            "attempts": self.attempts,
            "worker": self.text("xq.worker"),
        }
        return Outgoing(self.destination, self.value, self.key, replays.again(self.headers, entry))


@dataclass(frozen=True, slots=True)
class Where:
    """Which letters are meant; what is not set does not matter.  *ids* are places or message ids."""

    ids: frozenset[str] = frozenset()
    error: str | None = None
    actor: str | None = None
    since_ms: int | None = None
    before_ms: int | None = None

    def __call__(self, letter: Letter) -> bool:
        """Whether *letter* is one of them."""
        return (
            (not self.ids or letter.id in self.ids or letter.message_id in self.ids)
            and self.error in {None, letter.error}
            and self.actor in {None, letter.actor}
            and (self.since_ms is None or letter.parked_ms >= self.since_ms)
            and (self.before_ms is None or letter.parked_ms < self.before_ms)
        )


#: All of them.
ALL = Where()


def refusal(letter: Letter, missing: Collection[str], ordered: Collection[str], *, force: bool) -> str:
    """Why *letter* cannot be put back, given the topics that are *missing* or *ordered*; empty when it can."""
    if letter.text("xq.ordered") or letter.destination in ordered:
        return (
            "its queue is ordered: put back, it would come after all that followed it; if that is right,"
            " send it anew as a message of its own"
        )
    if "xq.cut" in letter.headers:
        place = f"{letter.text('xq.topic')}/{letter.text('xq.partition')}@{letter.text('xq.offset')}"
        return f"it was too large to be kept whole ({letter.text('xq.cut')}); the record itself lay at {place}"
    if letter.destination in missing:
        return f"there is no topic {letter.destination!r}"
    if letter.replayed >= MAX_REPLAYS and not force:
        return f"it was replayed {letter.replayed} times already, and failed each time; --force replays it all the same"
    return ""


class Pile:
    """Letters as they are read, less those that are marked."""

    def __init__(self, where: Where, keep: Keep) -> None:
        self.ends: dict[tuple[str, int], int] = {}
        self.read = 0
        self._where = where
        self._keep = keep
        self._letters: dict[tuple[str, int, int], Letter] = {}

    def take(self, record: Record) -> None:
        """The next record of the topic."""
        self.read += 1
        self.ends[record.topic, record.partition] = record.offset + 1
        settled = record.headers.get(SETTLED)
        if settled is not None:
            for offset in settled.split(b","):
                if offset.isdigit():
                    self._letters.pop((record.topic, record.partition, int(offset)), None)
            return
        letter = Letter(
            record.topic,
            record.partition,
            record.offset,
            record.timestamp_ms,
            record.key,
            record.value,
            record.headers,
        )
        if self._where(letter):
            self._letters[record.topic, record.partition, record.offset] = self._keep(letter)

    def waiting(self) -> list[Letter]:
        """What nobody has dealt with."""
        return list(self._letters.values())


def whole(letter: Letter) -> Letter:
    """All of it."""
    return letter


def without_traceback(letter: Letter) -> Letter:
    """What is needed to put it back."""
    headers = {name: value for name, value in letter.headers.items() if name != "xq.traceback"}
    return replace(letter, headers=headers)


def without_value(letter: Letter) -> Letter:
    """What is needed to list it."""
    return replace(without_traceback(letter), value=None)
