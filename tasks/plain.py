"""The short way from records to commands, for those that are one text with numbers and texts for parameters.  Pure.

So are most, and a log may have a million of them: they are read a thousand at a time, and without making messages.  It
says what the long way says (`wire.read_command`, `wire.command_of`), or nothing.

Where all that came last were of one text, those that follow probably are, too: then the decoder is told what to find
but for the values, and nothing is made of a record but these.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import repeat
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

import msgspec

from replica.alike import Alike
from replica.shapes import shapes_of
from replica.statement import Command, Statement


if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from brokers.records import Record
    from replica.statement import Shape

#: Records at least that are worth a look at what they have in common.
MANY = 16

#: What a decoder raises for a record that is not what it is told to find.
_OTHERWISE = (msgspec.DecodeError, TypeError, UnicodeDecodeError, RecursionError)


class PlainCommands:
    """Reads the plain commands of one log.  One thread at a time."""

    def __init__(self) -> None:
        self._form: _Form | None = None  # of those that came last

    def read(self, found: Sequence[Record]) -> Sequence[Command | None]:
        """As `plain_commands`, and what it says is `Alike` where all of them are."""
        if len(found) < MANY:
            return plain_commands(found)
        alike = None if self._form is None else self._form.read(found)
        if alike is not None:
            return alike
        commands = plain_commands(found)
        self._form = _form_of(commands)
        return commands


def plain_commands(found: Sequence[Record]) -> list[Command | None]:
    """The command of each record on the command topic where it is plain; none where only its message tells.

    It is the one that `wire.command_of` finds in the message that `wire.read_command` makes, in a tenth of the time.
    """
    try:
        messages = list(map(_read_plain, map(_value, found)))
    except _OTHERWISE:
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


class _Form:
    """What plain commands of one text have in common, but for their values."""

    def __init__(self, text: str, shape: Shape, kinds: Mapping[str, type]) -> None:
        self._text, self._shape, self._kinds = text, shape, kinds
        fields = {f"p{number}": name for number, name in enumerate(kinds)}  # a parameter may be called anything
        # An integer passes for a float, so that it is left to `read` to tell them apart.
        types = [int | float if kind is float else kind for kind in kinds.values()]
        parameters = msgspec.defstruct(
            "_Parameters", list(zip(fields, types, strict=True)), rename=fields, forbid_unknown_fields=True, gc=False
        )
        more = {"args": tuple[Literal[text]], "kwargs": parameters}  # type: ignore[valid-type]  # known only now
        self._decode = msgspec.json.Decoder(
            msgspec.defstruct("_OfOneText", list((get_type_hints(_Plain) | more).items()), gc=False)
        ).decode
        self._values = {name: attrgetter(field) for field, name in fields.items()}

    def read(self, found: Sequence[Record]) -> Alike | None:
        """The commands of *found*; None where not all of them are like that."""
        try:
            parameters = list(map(_kwargs, map(self._decode, map(_value, found))))
        except _OTHERWISE:
            return None
        columns = {name: list(map(value, parameters)) for name, value in self._values.items()}
        if any(kind is float and set(map(type, columns[name])) != {kind} for name, kind in self._kinds.items()):
            return None
        return Alike(self._text, self._shape, list(map(_offset, found)), columns, sum(map(len, map(_value, found))))


def _form_of(commands: Sequence[Command | None]) -> _Form | None:
    """That of all *commands*; None where they differ, or where each goes by itself."""
    first = commands[0]
    shape = None if first is None else first.shape
    if first is None or shape is None or shape.key is None:
        return None
    if not all(command is not None and command.shape is shape for command in commands):
        return None
    statement = first.statements[0]
    return _form(statement.text, shape, tuple((name, type(value)) for name, value in statement.parameters.items()))


@lru_cache(maxsize=256)
def _form(text: str, shape: Shape, kinds: tuple[tuple[str, type], ...]) -> _Form:
    return _Form(text, shape, dict(kinds))


_read_plain = msgspec.json.Decoder(_Plain).decode
_value, _offset, _kwargs = attrgetter("value"), attrgetter("offset"), attrgetter("kwargs")
