"""Annotations as checks: what a value has to be, and what it is turned into.  Pure; see `tasks.arguments`."""

from __future__ import annotations

import collections.abc
import datetime as dt
import types
import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from neo4j import Record, spatial, vector
from neo4j.time import Date, DateTime, Duration, Time

from replica import values
from tasks.errors import AnnotationRefused


if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Misfit(ValueError):
    """A value is not what is wanted; the text, if any, says where inside it."""


@dataclass(frozen=True, slots=True)
class Kind:
    """*name* is for people.  *convert* gives the value as the function wants it, or raises `Misfit`."""

    name: str
    convert: Callable[[Any], Any]


ANYTHING: Final = Kind("Any", lambda value: value)


def kind_of(annotation: Any) -> Kind:
    """The check that *annotation* stands for.

    Raises:
      AnnotationRefused: nothing that can be carried meets it.
    """
    origin, arguments = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if not arguments and isinstance(origin, collections.abc.Hashable) and origin in _PLAIN:
        return _PLAIN[origin]
    if isinstance(origin, collections.abc.Hashable) and origin in _GENERIC:
        return _GENERIC[origin](arguments)
    for attribute in ("__supertype__", "__value__"):  # NewType, and the `type` statement
        if hasattr(annotation, attribute):
            return kind_of(getattr(annotation, attribute))
    raise AnnotationRefused(f"{_named(annotation)} cannot be carried as JSON or a Neo4j value; {_way_out(annotation)}")


def _named(annotation: Any) -> str:
    return annotation.__qualname__ if isinstance(annotation, type) else str(annotation)


def _way_out(annotation: Any) -> str:
    if annotation in {set, frozenset} or typing.get_origin(annotation) in {set, frozenset}:
        return "say list[...], and make the set in the function"
    if isinstance(annotation, type) and hasattr(annotation, "__members__"):
        return "say Literal[...] with its values, and make the member in the function"
    return "say dict[str, Any], list[Any] or a scalar, and make the object in the function"


# What one class says.


def _exactly(*classes: type, but: tuple[type, ...] = ()) -> Callable[[Any], Any]:
    """The value, if it is of *classes* and not of *but*: a bool is an int in Python, a datetime a date."""

    def convert(value: Any) -> Any:
        if not isinstance(value, classes) or isinstance(value, but):
            raise Misfit
        return value

    return convert


def _either(classes: type, but: tuple[type, ...], other: type, change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The value, if it is of *classes*; one of *other* is changed."""

    def convert(value: Any) -> Any:
        if isinstance(value, other) and not isinstance(value, classes):
            return change(value)
        return _exactly(classes, but=but)(value)

    return convert


def _native(value: Any) -> Any:
    """Python's form of a date or time of the driver.  Python knows no nanoseconds, and no year beyond 9999."""
    if getattr(value, "nanosecond", 0) % 1000:
        raise Misfit("Python's clock has no nanoseconds; annotate it with the class of neo4j.time")
    return value.to_native()


def _timedelta(value: Duration) -> dt.timedelta:
    if value.months or value.nanoseconds % 1000:
        raise Misfit("months and nanoseconds are no part of a timedelta; annotate it with neo4j.time.Duration")
    try:
        return dt.timedelta(value.days, value.seconds, value.nanoseconds // 1000)
    except OverflowError as exc:
        raise Misfit("longer than a timedelta can be; annotate it with neo4j.time.Duration") from exc


def _duration(value: dt.timedelta) -> Duration:
    return Duration(days=value.days, seconds=value.seconds, microseconds=value.microseconds)


def _no_date(value: Any) -> Any:
    if isinstance(value, (dt.datetime, DateTime)):
        raise Misfit("it has a time")
    return Date.from_native(value)


def _float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Misfit
    if isinstance(value, int) and int(float(value)) != value:
        raise Misfit("no float is as exact as that; annotate it with int")
    return float(value)


_PLAIN: Final[Mapping[Any, Kind]] = {
    Any: ANYTHING,
    object: ANYTHING,
    None: Kind("None", _exactly(type(None))),
    type(None): Kind("None", _exactly(type(None))),
    bool: Kind("bool", _exactly(bool)),
    int: Kind("int", _exactly(int, but=(bool,))),
    float: Kind("float", _float),
    str: Kind("str", _exactly(str)),
    bytes: Kind("bytes", _either(bytes, (), bytearray, bytes)),
    dt.datetime: Kind("datetime.datetime", _either(dt.datetime, (), DateTime, _native)),
    dt.date: Kind("datetime.date", _either(dt.date, (dt.datetime,), Date, _native)),
    dt.time: Kind("datetime.time", _either(dt.time, (), Time, _native)),
    dt.timedelta: Kind("datetime.timedelta", _either(dt.timedelta, (), Duration, _timedelta)),
    DateTime: Kind("neo4j.time.DateTime", _either(DateTime, (), dt.datetime, DateTime.from_native)),
    Date: Kind("neo4j.time.Date", _either(Date, (DateTime,), dt.date, _no_date)),
    Time: Kind("neo4j.time.Time", _either(Time, (), dt.time, Time.from_native)),
    Duration: Kind("neo4j.time.Duration", _either(Duration, (), dt.timedelta, _duration)),
    **{
        kind: Kind(kind.__name__, _exactly(kind))
        for kind in (
            spatial.Point,
            spatial.CartesianPoint,
            spatial.WGS84Point,
            vector.Vector,
            values.Node,
            values.Relationship,
            values.Path,
        )
    },
}


# What is made of others.

#: Tuples that are values of their own.
_NO_LISTS: Final = (Duration, spatial.Point, Record)


def _inside(place: str, kind: Kind, value: Any) -> Any:
    try:
        return kind.convert(value)
    except Misfit as exc:
        deeper = str(exc) if str(exc).startswith("[") else f" is not {kind.name}{f': {exc}' if str(exc) else ''}"
        raise Misfit(f"[{place}]{deeper}") from exc


def _list(arguments: tuple[Any, ...]) -> Kind:
    item = kind_of(arguments[0]) if arguments else ANYTHING

    def convert(value: Any) -> Any:
        found = _exactly(list, tuple, but=_NO_LISTS)(value)
        return [_inside(str(index), item, one) for index, one in enumerate(found)]

    return Kind(f"list[{item.name}]", convert)


def _tuple(arguments: tuple[Any, ...]) -> Kind:
    if not arguments or arguments[1:] == (...,):
        several = _list(arguments[:1])
        return Kind(f"tuple[{several.name[5:-1]}, ...]", lambda value: tuple(several.convert(value)))
    items = tuple(kind_of(argument) for argument in arguments)

    def convert(value: Any) -> Any:
        found = _exactly(list, tuple, but=_NO_LISTS)(value)
        if len(found) != len(items):
            raise Misfit(f"it has {len(found)} items and not {len(items)}")
        return tuple(_inside(str(index), kind, one) for index, (kind, one) in enumerate(zip(items, found, strict=True)))

    return Kind(f"tuple[{', '.join(item.name for item in items)}]", convert)


def _map(arguments: tuple[Any, ...]) -> Kind:
    key, item = arguments or (str, Any)
    if key not in {str, Any}:
        raise AnnotationRefused(f"the keys of a map are strings, and not {_named(key)}: say dict[str, ...]")
    kind = kind_of(item)

    def convert(value: Any) -> Any:
        found = _exactly(dict)(value)
        wrong = next((one for one in found if not isinstance(one, str)), None)
        if wrong is not None:
            raise Misfit(f"the key {wrong!r} is no string")
        return {name: _inside(repr(name), kind, one) for name, one in found.items()}

    return Kind(f"dict[str, {kind.name}]", convert)


def _union(arguments: tuple[Any, ...]) -> Kind:
    kinds = tuple(kind_of(argument) for argument in arguments)
    return Kind(" | ".join(kind.name for kind in kinds), lambda value: _first(kinds, value))


def _first(kinds: tuple[Kind, ...], value: Any) -> Any:
    """What the first of *kinds* makes of *value*, but rather one that leaves it as it is."""
    found, why = [], ""
    for kind in kinds:
        try:
            converted = kind.convert(value)
        except Misfit as exc:
            why = why or str(exc)
            continue
        if converted is value:
            return value
        found.append(converted)
    if not found:
        raise Misfit(why)
    return found[0]


def _literal(arguments: tuple[Any, ...]) -> Kind:
    strange = next((one for one in arguments if not isinstance(one, (str, int, bytes, type(None)))), None)
    if strange is not None or any(type(one) not in {str, int, bool, bytes, type(None)} for one in arguments):
        raise AnnotationRefused(f"Literal[{arguments!r}] has what JSON cannot say: use texts, numbers and booleans")

    def convert(value: Any) -> Any:
        if not any(type(one) is type(value) and one == value for one in arguments):
            raise Misfit
        return value

    return Kind(f"one of {', '.join(map(repr, arguments))}", convert)


_GENERIC: Final[Mapping[Any, Callable[[tuple[Any, ...]], Kind]]] = {
    list: _list,
    collections.abc.Sequence: _list,
    tuple: _tuple,
    dict: _map,
    collections.abc.Mapping: _map,
    typing.Union: _union,
    types.UnionType: _union,
    typing.Literal: _literal,
    typing.Annotated: lambda arguments: kind_of(arguments[0]),
}
