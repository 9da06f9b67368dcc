"""What workers are told over the control topic, and what of it holds just now.  Pure: time comes in as a number.

The topic is compacted, so that a worker that starts later reads everything that still holds, and little else::

    pause/<queue>                              hand out nothing more of the queue
    revoke/<id|actor|queue>/<name>/<time>      do not begin these messages
    inspect                                    a question to whoever runs now; only the last one stays

The value is a JSON object (see `_Value`), or none to end what the key began.  The key of a revocation holds its time
and so is never used again: whoever clears away an expired one cannot hit a later one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import msgspec

from brokers.records import Outgoing
from brokers.topics import DAY_S, FOR_EVER, TopicSpec


if TYPE_CHECKING:
    from collections.abc import Callable

    import dramatiq

    from brokers.records import Record

    Kind = Literal["id", "actor", "queue"]
    Message = dramatiq.Message[Any] | dramatiq.MessageProxy

#: How values are written.  A later one is left alone: it may mean anything.
VERSION = 1

#: What a revocation can be about, as it stands in keys.
KINDS = ("id", "actor", "queue")

INSPECT = b"inspect"


def control_topic(prefix: str) -> TopicSpec:
    """Where workers of one prefix are told."""
    return TopicSpec(f"{prefix}control", 1, FOR_EVER, exact=True, compacted=True)


def answers_topic(prefix: str) -> TopicSpec:
    """Where they answer."""
    return TopicSpec(f"{prefix}control.answers", 1, DAY_S / 24, exact=True)


class Unreadable(Exception):
    """A record of the control topic is not an order that this version knows."""


class _Value(msgspec.Struct, omit_defaults=True):
    """Any order's value; times are milliseconds of the wall clock."""

    v: int
    at_ms: int
    expires_ms: int = 0
    abort: bool = False
    reason: str = ""
    correlation_id: str = ""


class _Version(msgspec.Struct):
    v: int


@dataclass(frozen=True, slots=True)
class Pause:
    """A queue of which nothing is handed out."""

    queue: str
    at_ms: int
    reason: str = ""

    @property
    def key(self) -> bytes:
        """Under which it lies on the control topic."""
        return _bytes(f"pause/{self.queue}")

    def record(self, topic: str) -> Outgoing:
        """To be put on the control topic."""
        return _outgoing(topic, self.key, _Value(VERSION, self.at_ms, reason=self.reason))


@dataclass(frozen=True, slots=True)
class Revocation:
    """Messages that are not to begin: one by its id, or all of an actor or a queue that were made until *at_ms*."""

    kind: Kind
    name: str
    at_ms: int
    expires_ms: int
    abort: bool = False
    reason: str = ""

    @property
    def key(self) -> bytes:
        """As for `Pause`."""
        return _bytes(f"revoke/{self.kind}/{self.name}/{self.at_ms}")

    def record(self, topic: str) -> Outgoing:
        """As for `Pause`."""
        value = _Value(VERSION, self.at_ms, expires_ms=self.expires_ms, abort=self.abort, reason=self.reason)
        return _outgoing(topic, self.key, value)

    def covers(self, message: Message, now_ms: int) -> bool:
        """Whether *message* is not to begin at *now_ms*.

        A message made before the revocation counts as sent before it, also when it is retried or delayed after it.
        """
        name = {"id": message.message_id, "actor": message.actor_name, "queue": message.queue_name}[self.kind]
        in_time = self.kind == "id" or message.message_timestamp <= self.at_ms
        return name == self.name and in_time and now_ms < self.expires_ms

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Question:
    """Somebody wants to know what every worker does."""

    correlation_id: str
    at_ms: int

    def record(self, topic: str) -> Outgoing:
        """As for `Pause`."""
        return _outgoing(topic, INSPECT, _Value(VERSION, self.at_ms, correlation_id=self.correlation_id))


@dataclass(frozen=True, slots=True)
class Ended:
    """What the key began is over."""

    key: bytes


#: Whatever a record of the control topic can say.
Order: TypeAlias = Pause | Revocation | Question | Ended


def end(topic: str, key: bytes) -> Outgoing:
    """The record that ends what *key* began."""
    return Outgoing(topic, None, key, partition=0)


def _outgoing(topic: str, key: bytes, value: _Value) -> Outgoing:
    return Outgoing(topic, msgspec.json.encode(value), key, partition=0)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def read(record: Record) -> Order:
    """What *record* says.

    Raises:
      Unreadable: with the reason.
    """
    if record.key is None:
        raise Unreadable("it has no key")
    if record.value is None:
        return Ended(record.key)
    key = record.key.decode(errors="replace")
    order = _maker(key)(_value(record.value))
    if isinstance(order, (Pause, Revocation)) and order.key != record.key:
        raise Unreadable(f"key {key[:80]!r} and value contradict each other")
    return order


def _value(data: bytes) -> _Value:
    try:
        version = msgspec.json.decode(data, type=_Version).v
        if version > VERSION:
            raise Unreadable(f"it is of version {version}, and this worker knows {VERSION}")
        return msgspec.json.decode(data, type=_Value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise Unreadable(str(exc)) from exc


def _maker(key: str) -> Callable[[_Value], Order]:
    what, _, rest = key.partition("/")
    if what == "inspect" and not rest:
        return lambda value: Question(value.correlation_id, value.at_ms)
    if what == "pause" and rest:
        return lambda value: Pause(rest, value.at_ms, value.reason)
    kind, _, named = rest.partition("/")
    name = named.rpartition("/")[0]
    if what == "revoke" and kind in KINDS and name:
        return lambda v: Revocation(cast("Kind", kind), name, v.at_ms, v.expires_ms, v.abort, v.reason)
    raise Unreadable(f"nothing is known of {key[:80]!r}")


@dataclass(slots=True)
class Orders:
    """What holds, as the control topic tells it record by record."""

    pauses: dict[str, Pause] = field(default_factory=dict)
    _revoked: dict[tuple[str, str], dict[bytes, Revocation]] = field(default_factory=dict)

    @property
    def revokes(self) -> bool:
        """Whether anything is revoked, expired or not."""
        return bool(self._revoked)

    @property
    def revocations(self) -> list[Revocation]:
        """All, expired ones too, the older first."""
        found = [one for same in self._revoked.values() for one in same.values()]
        return sorted(found, key=lambda one: one.at_ms)

    def take(self, order: Order) -> None:
        """The next order of the log."""
        match order:
            case Pause():
                self.pauses[order.queue] = order
            case Revocation():
                self._revoked.setdefault((order.kind, order.name), {})[order.key] = order
            case Ended():
                self._end(order.key.decode(errors="replace"), order.key)
            case Question():
                pass

    def _end(self, text: str, key: bytes) -> None:
        what, _, rest = text.partition("/")
        if what == "pause":
            self.pauses.pop(rest, None)
        if what == "revoke":
            kind, _, named = rest.partition("/")
            about = kind, named.rpartition("/")[0]
            same = self._revoked.get(about, {})
            same.pop(key, None)
            if not same:
                self._revoked.pop(about, None)

    def against(self, message: Message, now_ms: int) -> Revocation | None:
        """The revocation that keeps *message* from beginning."""
        if not self._revoked:
            return None
        names = zip(KINDS, (message.message_id, message.actor_name, message.queue_name), strict=True)
        about = (one for name in names for one in self._revoked.get(name, {}).values())
        return next((one for one in about if one.covers(message, now_ms)), None)

    def expired(self, now_ms: int) -> list[Revocation]:
        """Revocations whose time is over."""
        return [one for one in self.revocations if one.expires_ms <= now_ms]
