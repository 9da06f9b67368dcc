"""What the arguments of a query function may be: its annotations, read once, as checks.  Pure.

The sender checks before anything is sent, and the worker again, since anybody may write to the topic.  An annotation
says what Neo4j's typed JSON can carry (see `replica.values`):

    bool, int, float, str, bytes, None     an int will do for a float, a bool for neither
    datetime, date, time, timedelta        of Python, or DateTime, Date, Time, Duration of the driver: each is taken for
                                           the other where nothing is lost, and arrives as the one that is written
    Point, CartesianPoint, WGS84Point, Vector, and Node, Relationship, Path of `replica.values`
    list[T], Sequence[T], tuple[T, ...], tuple[A, B], dict[str, T], Mapping[str, T]
    A | B, Literal[...], Annotated[T, ...] and names for any of these
    Any, object, or no annotation          whatever can be carried
"""

from __future__ import annotations

import inspect
import reprlib
import types
import typing
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from tasks.errors import AnnotationRefused, ArgumentRefused
from tasks.kinds import ANYTHING, kind_of


if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from tasks.kinds import Kind

#: Ways to call a function that are remembered.
REMEMBERED = 100

_shown = reprlib.Repr()
_shown.maxstring = _shown.maxother = 60  # characters


#: Parameters that are given by their place, or by their name.
_BY_PLACE = frozenset({inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD})
_BY_NAME = frozenset({inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY})


class _Looks(NamedTuple):
    """What has to be looked at of the arguments of a call, by place and by name; all others may be anything."""

    places: Mapping[int, Kind]
    names: Mapping[str, Kind]

    def converted(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments as they are wanted; raises `Misfit`."""
        found, named = args, dict(kwargs)
        if self.places:
            wanted = self.places.get
            found = tuple(kind.convert(arg) if (kind := wanted(at)) else arg for at, arg in enumerate(args))
        for name, kind in self.names.items():
            named[name] = kind.convert(named[name])
        return found, named


class Arguments:
    """What a query function takes besides its transaction; callers know it as *name*.

    Raises:
      AnnotationRefused: an annotation that no argument could meet, or that cannot be read; no first parameter; a
        function that does not return its value.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self._name = name
        first, others = _split(function)
        if first not in {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}:
            raise AnnotationRefused(f"{self._name}: the first parameter of a query function is its transaction")
        if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
            raise AnnotationRefused(f"{self._name}: a query function returns its value: no `async def`, and no `yield`")
        self._parameters = {parameter.name: parameter for parameter in others}
        self._kinds = {parameter.name: self._kind(function, parameter) for parameter in others}
        #: What to look at, by how many arguments and which names fit.
        self._fitting: dict[tuple[int, frozenset[str]], _Looks] = {}
        self._signature = inspect.Signature(
            [parameter.replace(annotation=inspect.Parameter.empty) for parameter in others]
        )

    def converted(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, whole: bool = True
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments as the function wants them.  Without *whole* some may be missing, which a pipeline adds.

        Raises:
          ArgumentRefused: names the argument, what was given and what is wanted.
        """
        shape = len(args), frozenset(kwargs)
        if whole and (looks := self._fitting.get(shape)) is not None:
            with suppress(ValueError):  # what does not fit is told below
                return looks.converted(args, kwargs)
        bind = self._signature.bind if whole else self._signature.bind_partial
        try:
            bound = bind(*args, **kwargs)
        except TypeError as exc:
            raise ArgumentRefused(f"{self._name}: {exc}; it takes ({', '.join(self._described())})") from exc
        if whole and len(self._fitting) < REMEMBERED:
            self._fitting[shape] = self._looks(*shape)
        for name, value in bound.arguments.items():
            bound.arguments[name] = self._each(name, value)
        return bound.args, bound.kwargs

    def _looks(self, count: int, names: Iterable[str]) -> _Looks:
        """Those that *count* arguments and others of these *names* need, which are known to fit."""
        gathers = {parameter.kind: parameter.name for parameter in self._parameters.values()}
        given = [name for name, parameter in self._parameters.items() if parameter.kind in _BY_PLACE][:count]
        given += [gathers[inspect.Parameter.VAR_POSITIONAL] for _ in range(count - len(given))]
        by_name = [name for name, parameter in self._parameters.items() if parameter.kind in _BY_NAME]
        others = {name: name if name in by_name else gathers[inspect.Parameter.VAR_KEYWORD] for name in names}
        return _Looks(
            {place: self._kinds[name] for place, name in enumerate(given) if self._kinds[name] is not ANYTHING},
            {name: self._kinds[its] for name, its in others.items() if self._kinds[its] is not ANYTHING},
        )

    def _each(self, name: str, value: Any) -> Any:
        """*value*, or each of the values that ``*args`` or ``**kwargs`` has gathered."""
        match self._parameters[name].kind:
            case inspect.Parameter.VAR_POSITIONAL:
                return tuple(self._one(f"{name}[{index}]", name, item) for index, item in enumerate(value))
            case inspect.Parameter.VAR_KEYWORD:
                return {key: self._one(key, name, item) for key, item in value.items()}
        return self._one(name, name, value)

    def _one(self, shown: str, name: str, value: Any) -> Any:
        kind = self._kinds[name]
        try:
            return kind.convert(value)
        except ValueError as exc:
            given = f"{_shown.repr(value)} ({type(value).__name__}) was given"
            why = f": {exc}" if str(exc) else ""
            raise ArgumentRefused(f"{self._name}: the argument {shown!r} is {kind.name}, and {given}{why}") from exc

    def _described(self) -> Iterator[str]:
        stars: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
        for name, parameter in self._parameters.items():
            default = "" if parameter.default is inspect.Parameter.empty else f" = {_shown.repr(parameter.default)}"
            kind = self._kinds[name]
            annotation = "" if kind is ANYTHING else f": {kind.name}"
            yield f"{stars.get(parameter.kind, '')}{name}{annotation}{default}"

    def _kind(self, function: Callable[..., Any], parameter: inspect.Parameter) -> Kind:
        if parameter.annotation is inspect.Parameter.empty:
            return ANYTHING
        try:
            return kind_of(_resolved(function, parameter))
        except AnnotationRefused as exc:
            raise AnnotationRefused(f"{self._name}: the argument {parameter.name!r}: {exc}") from exc


def _split(function: Callable[..., Any]) -> tuple[object, list[inspect.Parameter]]:
    """What kind of parameter the first one is, and the others."""
    parameters = list(inspect.signature(function).parameters.values())
    return (parameters[0].kind if parameters else None), parameters[1:]


def _resolved(function: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """The annotation itself, where only its text is there.  Of this parameter alone: others need not be readable."""
    holder = types.SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    plain = inspect.unwrap(function)
    names = {"globalns": getattr(plain, "__globals__", {}), "localns": dict(_enclosing(plain))}
    try:
        return typing.get_type_hints(holder, include_extras=True, **names)[parameter.name]
    except (NameError, AttributeError, SyntaxError, TypeError) as exc:
        raise AnnotationRefused(
            f"{parameter.annotation!r} cannot be read ({exc}): import what it names at run time, not for type checkers"
            " alone"
        ) from exc


def _enclosing(function: Any) -> Iterator[tuple[str, Any]]:
    """The names that *function* takes from the functions around it; its own is not there yet when it is decorated."""
    code, cells = getattr(function, "__code__", None), getattr(function, "__closure__", None)
    for name, cell in zip(code.co_freevars if code else (), cells or (), strict=False):
        with suppress(ValueError):
            yield name, cell.cell_contents
