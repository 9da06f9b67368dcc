"""The short way from records to commands, for those that are one text with numbers and texts for parameters.  Pure.

So are most, and a log may have a million of them: they are read a thousand at a time, and without making messages.  It
says what the long way says (`wire.read_command`, `wire.command_of`), or nothing.
"""

from __future__ import annotations

from itertools import repeat
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from replica.shapes import shapes_of
from replica.statement import Command, Statement


if TYPE_CHECKING:
    from collections.abc import Sequence

    from brokers.records import Record


def plain_commands(found: Sequence[Record]) -> list[Command | None]:
    """The command of each record on the command topic where it is plain; none where only its message tells.

    It is the one that `wire.command_of` finds in the message that `wire.read_command` makes, in a tenth of the time.
    """
    try:
        messages = list(map(_read_plain, map(_value, found)))
    except (msgspec.DecodeError, TypeError, UnicodeDecodeError, RecursionError):
        return [None] if len(found) == 1 else [command for one in found for command in plain_commands([one])]
    texts, parameters = [message.args[0] for message in messages], [message.kwargs for message in messages]
    shapes = shapes_of(texts, parameters)
    statements = zip(map(Statement, texts, parameters), strict=True)  # each the only one of its command
    none, sizes = repeat(None), map(len, map(_value, found))
    commands = map(Command, map(_offset, found), statements, none, none, none, none, shapes, sizes)
    return [None if command.shape is None else command for command in commands] if None in shapes else list(commands)


class _NothingSaid(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """Options that mean nothing to a replica: the name of a command function, and the record's key."""

    command: Any = None
    key: Any = None


class _Plain(msgspec.Struct, gc=False):
    """A `records.Wire` that is one text with parameters, and nothing else."""

    queue_name: str
    actor_name: Literal["run_command"]
    args: tuple[str]
    kwargs: dict[str, Any]
    options: _NothingSaid
    message_id: str
    message_timestamp: int


_read_plain = msgspec.json.Decoder(_Plain).decode
_value, _offset = attrgetter("value"), attrgetter("offset")
