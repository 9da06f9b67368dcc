"""Parameters as people type them.  Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from ops.errors import InputUnusable
from replica import values


if TYPE_CHECKING:
    from collections.abc import Iterable


def parse(pairs: Iterable[str], whole: str | None = None) -> dict[str, Any]:
    """Parameters out of ``name=value`` pairs and one JSON object, over which the pairs win.

    A value is JSON where it is valid JSON, else text: ``age=30`` is a number, ``name=user_1`` a text, and so is
    ``zip="30"``.  Typed JSON (see `replica.values`) is understood.

    Raises:
      InputUnusable: says which one is wrong.
      ValueNotDecodable: malformed typed JSON; names the parameter.
    """
    found = {} if whole is None else _object(whole)
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise InputUnusable(f"{pair!r} is not name=value")
        found[name] = _value(value)
    return decoded(found)


def decoded(parameters: dict[str, Any]) -> dict[str, Any]:
    """Typed JSON as values.

    Raises:
      ValueNotDecodable: names the parameter.
    """
    return {name: values.decode(value, name) for name, value in parameters.items()}


def _object(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise InputUnusable(f"--params is not a JSON object: {error}") from error


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.MsgspecError:
        return text


def shown(value: Any) -> str:
    """An encoded value for people, as it may be typed again."""
    return msgspec.json.encode(value).decode()
