"""A Dramatiq message as a Kafka record, and back.

The value is Dramatiq's own JSON, so that any Dramatiq tool can read it.  The headers say what a person who searches a
log wants to know without decoding values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import dramatiq
import msgspec
from dramatiq.encoder import JSONEncoder
from dramatiq.message import get_encoder

from brokers.errors import Undecodable, WrongKey


if TYPE_CHECKING:
    from dramatiq.encoder import Encoder

    _Headers = list[tuple[str, bytes | None]]  # the stub allows what only a sender may hand in

#: Longest broken value that an error quotes, in bytes.
QUOTED = 80

#: Options that would make a message leave its place; they mean nothing on an ordered queue.
MOVING_OPTIONS = frozenset({"eta", "max_retries", "on_retry_exhausted", "retries", "retry_when"})


class Record(msgspec.Struct, frozen=True, gc=False):
    """One record as Kafka delivered it.

    A struct, as all that is made once a message: a frozen dataclass takes four times as long to make.  Python's
    collector of cycles passes it by, as there are none: looking for them costs a message a fifth of its time.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Mapping[str, bytes] = {}

    @property
    def size(self) -> int:
        """Bytes of key and value."""
        return len(self.key or b"") + len(self.value or b"")

    def with_value(self, value: bytes) -> Record:
        """The same with another value."""
        return msgspec.structs.replace(self, value=value)

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}@{self.offset}"


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """One record to be produced.  No *partition*: the key decides."""

    topic: str
    value: bytes | None
    key: bytes | None = None
    headers: Mapping[str, bytes] = {}
    partition: int | None = None

    @property
    def size(self) -> int:
        """Bytes of key, value and headers."""
        headers = sum(len(name) + len(value) for name, value in self.headers.items())
        return len(self.key or b"") + len(self.value or b"") + headers

    def with_headers(self, further: Mapping[str, bytes]) -> Outgoing:
        """The same with *further* headers."""
        return msgspec.structs.replace(self, headers={**self.headers, **further})


class Wire(msgspec.Struct, gc=False):
    """Dramatiq's message, strictly: what Dramatiq's own decoder lets through can end a worker thread."""

    queue_name: str
    actor_name: str
    args: list[Any]
    kwargs: dict[str, Any]
    options: dict[str, Any]
    message_id: str
    message_timestamp: int


#: Raises what msgspec does about JSON that is no message.
read: Final = msgspec.json.Decoder(Wire).decode


def encode(message: dramatiq.Message[Any], topic: str, *, uniform: bool = False) -> Outgoing:
    """The record that carries *message* on *topic*, which may be *uniform* (see `topics.TopicSpec`).

    The option ``key``, a text or a whole number, decides the partition; without it the message id does.

    Raises:
      WrongKey: the key is something else.
    """
    options = message.options
    message_id = _text(message.message_id)
    key = message_id if options.get("key") is None else _text(_key(message))
    headers = {"message_id": message_id}
    if not uniform:
        headers["actor"] = _text(message.actor_name)
        headers["attempt"] = _text(str(int(options["retries"]) + 1)) if options.get("retries") else b"1"
    elif key is message_id:
        headers = {}
    return Outgoing(topic, _encoded(message), key, headers)


def _encoded(message: dramatiq.Message[Any]) -> bytes:
    """As the message encodes itself, in a fifth of the time where it is plain."""
    if type(message) is dramatiq.Message and type(get_encoder()) is JSONEncoder and _is_plain(message):
        try:
            return _plain_encoder.encode(message)  # its fields, in order
        except (OverflowError, UnicodeEncodeError):  # a number above 64 bits, a lone surrogate: Python's JSON has them
            pass
    return message.encode()


#: What is the same in both kinds of JSON, unlike NaN, and no surprise to read back, unlike a date.
_PLAIN = frozenset({str, int, bool, type(None)})

_plain_encoder = msgspec.json.Encoder()


def _is_plain(message: dramatiq.Message[Any]) -> bool:
    args, kwargs, options = message.args, message.kwargs, message.options
    if not (args or kwargs or options):
        return True
    return _PLAIN.issuperset(map(type, (*args, *kwargs.values(), *options.values())))


def _key(message: dramatiq.Message[Any]) -> str:
    key = message.options["key"]
    if isinstance(key, bool) or not isinstance(key, (str, int)):
        raise WrongKey(f"option key of message {message.message_id} is {key!r}; it has to be a text or a whole number")
    return str(key)


def _text(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:  # a lone surrogate is no reason to refuse a message
        return text.encode("utf-8", "backslashreplace")


#: What reads a message unless the application's own encoder is trusted.  Pickle, above all, would run what lies there.
JSON: Encoder = JSONEncoder()


def decode(record: Record, queue_name: str, encoder: Encoder = JSON) -> dramatiq.Message[Any]:
    """The message that *record* carries, in JSON, or in what *encoder* reads.

    Its queue name is forced to *queue_name*: a message that claims another queue would be acked on a queue that it
    never came from.

    Raises:
      Undecodable: with the reason.
    """
    if record.value is None:
        raise Undecodable("the record has no value")
    wire = _strict(record.value, encoder)
    return made(
        queue_name=queue_name,
        actor_name=wire.actor_name,
        args=tuple(wire.args),
        kwargs=wire.kwargs,
        options=wire.options,
        message_id=wire.message_id,
        message_timestamp=wire.message_timestamp,
    )


def made(**fields: Any) -> dramatiq.Message[Any]:
    """The message of all these *fields*: a frozen dataclass's own `__init__` sets each, in four times the time."""
    message: dramatiq.Message[Any] = object.__new__(dramatiq.Message)
    message.__dict__.update(fields)
    return message


def _strict(value: bytes, encoder: Encoder) -> Wire:
    try:
        return read(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        reason = exc
    try:  # a trusted encoder of the application's own, or what only Python's JSON takes (NaN, a lone surrogate)
        return msgspec.convert(encoder.decode(value), Wire)
    except Exception as exc:  # encoders raise what they like
        raise Undecodable(f"not a Dramatiq message: {reason} in {value[:QUOTED]!r}") from exc


def pinned(message: dramatiq.Message[Any]) -> dramatiq.Message[Any]:
    """*message* without the options that would make it leave its place in an ordered queue."""
    if message.options:
        for name in MOVING_OPTIONS & message.options.keys():
            del message.options[name]
    return message
