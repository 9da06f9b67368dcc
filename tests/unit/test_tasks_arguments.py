"""What a query function's annotations let through, and what callers and authors are told about the rest."""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NewType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from neo4j.spatial import CartesianPoint, Point, WGS84Point
from neo4j.time import Date, DateTime, Duration, Time

from replica import values
from replica.errors import QueryRejected
from tasks.arguments import Arguments
from tasks.errors import AnnotationRefused, ArgumentRefused
from tasks.functions import on_worker
from tasks.kinds import Misfit, kind_of


UserId = NewType("UserId", int)
UTC = dt.UTC
NOON = dt.datetime(2024, 2, 29, 12)  # noqa: DTZ001 - Neo4j's LocalDateTime has no zone


class Colour(enum.Enum):
    RED = "red"


def friends_of(tx: Unknown, name: str, limit: int = 10, *, since: dt.date | None = None) -> Nothing:  # type: ignore[name-defined]  # noqa: F821
    """A query whose transaction and result have annotations that cannot be read, which nobody needs."""


def test_a_way_to_call_is_looked_at_once_where_arguments_may_be_anything() -> None:
    """Any other one is looked at, too."""

    def fn(tx: object, a: Any, b: Any = 2, /, *, c: Any = 3) -> None: ...

    arguments = Arguments(fn, "fn")
    for value in (1, "two"):
        assert arguments.converted((value,), {"c": 4}) == ((value,), {"c": 4})
    for args, kwargs in (((1, 2, 3), {"c": 4}), ((), {"c": 4}), ((1,), {"d": 4}), ((), {"a": 1})):
        for _ in range(2):
            with pytest.raises(ArgumentRefused):
                arguments.converted(args, kwargs)
    assert arguments.converted((), {"c": 4}, whole=False) == ((), {"c": 4})
    annotated = Arguments(friends_of_many, "friends_of_many")
    for _ in range(2):
        assert annotated.converted((["a"],), {}) == ((["a"],), {})
        with pytest.raises(ArgumentRefused):
            annotated.converted(([1],), {})


def friends_of_many(tx: object, names: list[str]) -> None:
    """A query whose arguments are checked each time."""


@pytest.mark.parametrize(
    ("annotation", "value", "converted"),
    [
        (Any, object, object),
        (object, 1, 1),
        (int, 2**70, 2**70),
        (float, 1, 1.0),
        (float, 0, 0.0),
        (str, "", ""),
        (bytes, bytearray(b"x"), b"x"),
        (None, None, None),
        (int | None, None, None),
        (float | int, 1, 1),
        (int | float, 1.5, 1.5),
        (UserId, 7, 7),
        (Annotated[int, []], 7, 7),
        (Literal["a", 1], 1, 1),
        (list, [1, "a"], [1, "a"]),
        (list[int], (1, 2), [1, 2]),
        (Sequence[float], [1, 2.5], [1.0, 2.5]),
        (tuple, [1, "a"], (1, "a")),
        (tuple[int, ...], [1, 2], (1, 2)),
        (tuple[str, float], ["a", 1], ("a", 1.0)),
        (dict, {"a": 1}, {"a": 1}),
        (Mapping[str, list[dt.date]], {"a": [Date(2024, 2, 29)]}, {"a": [dt.date(2024, 2, 29)]}),
        (dt.date, Date(2024, 2, 29), dt.date(2024, 2, 29)),
        (dt.datetime, DateTime(2024, 2, 29, 12), NOON),
        (dt.datetime, DateTime(2024, 2, 29, 12, tzinfo=UTC), dt.datetime(2024, 2, 29, 12, tzinfo=UTC)),
        (dt.time, Time(12, 30), dt.time(12, 30)),
        (dt.timedelta, Duration(days=1, microseconds=-1), dt.timedelta(days=1, microseconds=-1)),
        (Date, dt.date(2024, 2, 29), Date(2024, 2, 29)),
        (DateTime, NOON, DateTime(2024, 2, 29, 12)),
        (Time, dt.time(12, 30), Time(12, 30)),
        (Duration, dt.timedelta(days=-1, seconds=5), Duration(days=-1, seconds=5)),
        (Point, CartesianPoint((1, 2)), CartesianPoint((1, 2))),
    ],
)
def test_a_value_that_fits_arrives_as_what_the_annotation_says(annotation: Any, value: Any, converted: Any) -> None:
    """Where nothing is lost by it."""
    found = kind_of(annotation).convert(value)

    assert found == converted
    assert type(found) is type(converted)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, True),
        (int, 1.0),
        (int, "1"),
        (int, None),
        (float, True),
        (float, "1.5"),
        (float, 2**53 + 1),
        (str, b"x"),
        (bool, 1),
        (bytes, "x"),
        (Literal[1], True),
        (Literal["a"], "b"),
        (list, "ab"),
        (list, Duration(days=1)),
        (tuple[float, ...], CartesianPoint((1, 2))),
        (tuple[int, int], [1]),
        (dict, [("a", 1)]),
        (dict[str, int], {1: 1}),
        (dt.date, NOON),
        (dt.date, "2024-02-29"),
        (dt.datetime, dt.date(2024, 2, 29)),
        (dt.datetime, DateTime(2024, 2, 29, 12, 0, 0, 1)),
        (dt.time, Time(12, 0, 0, 1)),
        (dt.timedelta, Duration(months=1)),
        (dt.timedelta, Duration(days=2**40)),
        (Date, DateTime(2024, 2, 29)),
        (Date, NOON),
        (WGS84Point, CartesianPoint((1, 2))),
    ],
)
def test_a_value_that_would_have_to_be_guessed_or_cut_does_not_fit(annotation: Any, value: Any) -> None:
    """No text is read as a number or date, no truth counted, no nanosecond dropped."""
    with pytest.raises(Misfit):
        kind_of(annotation).convert(value)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5))
def test_each_value_meets_its_own_class_and_no_other_scalar(value: Any) -> None:
    """But an int stands for a float that is as exact."""
    for annotation in (bool, int, str, list, None):
        fits = type(value) is (type(None) if annotation is None else annotation)
        try:
            kind_of(annotation).convert(value)
        except Misfit:
            assert not fits
        else:
            assert fits


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        ((5,), {}, r"friends_of: the argument 'name' is str, and 5 \(int\) was given"),
        (("a", "ten"), {}, r"'limit' is int, and 'ten' \(str\) was given"),
        (("a",), {"since": "2024"}, r"'since' is datetime.date \| None, and '2024' \(str\)"),
        ((), {}, r"missing a required argument: 'name'; it takes \(name: str, limit: int = 10, since: .* = None\)"),
        (("a",), {"nmae": "b"}, "unexpected keyword argument 'nmae'; it takes .*name: str"),
        (("a", 1, 2), {}, "too many positional arguments"),
        (("a",), {"name": "b"}, "multiple values for argument 'name'"),
        (("a",), {"tx": "b"}, "unexpected keyword argument 'tx'"),
    ],
)
def test_what_a_function_does_not_take_is_named(args: tuple[Any, ...], kwargs: dict[str, Any], text: str) -> None:
    """With what was given and what is wanted."""
    with pytest.raises(ArgumentRefused, match=text):
        Arguments(friends_of, "friends_of").converted(args, kwargs)


def test_a_mistake_inside_a_list_or_a_map_is_told_with_its_place() -> None:
    """However deep."""

    def fn(tx: object, rows: dict[str, list[tuple[int, str]]]) -> None: ...

    with pytest.raises(ArgumentRefused, match=r"was given: \['a'\]\[1\]\[0\] is not int"):
        Arguments(fn, "fn").converted(({"a": [(1, "x"), ("y", "z")]},), {})


def test_a_message_for_a_pipeline_may_lack_what_the_pipeline_adds() -> None:
    """What it does have is checked."""
    taken = Arguments(friends_of, "friends_of")

    assert taken.converted((), {"limit": 3}, whole=False) == ((), {"limit": 3})
    with pytest.raises(ArgumentRefused, match="'limit' is int"):
        taken.converted((), {"limit": "3"}, whole=False)


def test_gathered_arguments_are_checked_one_by_one() -> None:
    """``*args`` and ``**kwargs`` have the annotation of each of them."""

    def fn(tx: object, *names: str, **ages: int) -> None: ...

    taken = Arguments(fn, "fn")
    assert taken.converted(("a", "b"), {"a": 1}) == (("a", "b"), {"a": 1})
    with pytest.raises(ArgumentRefused, match=r"'names\[1\]' is str"):
        taken.converted(("a", 2), {})
    with pytest.raises(ArgumentRefused, match="'b' is int"):
        taken.converted((), {"a": 1, "b": "x"})


@given(
    args=st.lists(st.integers(0, 9) | st.just("x"), min_size=2, max_size=5),
    kwargs=st.dictionaries(st.sampled_from(["b", "d", "other"]), st.integers(0, 9) | st.just("x")),
)
def test_a_way_to_call_that_is_known_gives_what_it_gave_before(args: list[Any], kwargs: dict[str, Any]) -> None:
    """A call of that kind is looked at quicker, and as closely."""

    def fn(tx: object, a: float, /, b: Any, *c: float, d: float = 0.5, **others: str | float) -> Any:
        return a, b, c, d, others

    def called() -> str:
        try:
            found, named = taken.converted(tuple(args), kwargs)
        except ArgumentRefused as exc:
            return str(exc)
        return repr(fn(None, *found, **named))

    taken = Arguments(fn, "fn")
    first = called()
    assert called() == first


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (set[int], "say list"),
        (Colour, "Colour cannot be carried .*say Literal"),
        (complex, "complex cannot be carried .*say dict"),
        (dict[int, str], "keys of a map are strings, and not int"),
        (list[Colour], "Colour cannot be carried"),
        (int | set[int], "say list"),
        (Literal[Colour.RED], "what JSON cannot say"),
        ("Missing", "'Missing' cannot be read .*import what it names at run time"),
        ("dt.Missing", "cannot be read"),
        ("list[", "cannot be read"),
    ],
)
def test_an_annotation_that_no_argument_could_meet_is_refused_at_decoration(annotation: Any, text: str) -> None:
    """With the argument's name and another way to say it."""

    def fn(tx: object, given: Any) -> None: ...

    fn.__annotations__["given"] = annotation
    with pytest.raises(AnnotationRefused, match=f"fn: the argument 'given': .*{text}"):
        Arguments(fn, "fn")


def test_a_function_that_calls_itself_can_be_declared() -> None:
    """Its own name has no value yet when it is decorated; other names around it have."""
    number = int

    def declared(fn: Any) -> Arguments:
        return Arguments(fn, "again")

    @declared
    def again(tx: object, n: number) -> Any:  # type: ignore[valid-type]
        return again, number

    with pytest.raises(ArgumentRefused, match="'n' is int"):
        again.converted(("x",), {})


@pytest.mark.parametrize("fn", [lambda: None, lambda *tx: tx, lambda *, tx: tx], ids=["none", "star", "named"])
def test_a_query_function_has_a_transaction(fn: Any) -> None:
    """It is the first argument that a worker gives it."""
    with pytest.raises(AnnotationRefused, match="first parameter of a query function is its transaction"):
        Arguments(fn, "fn")


async def _awaits(tx: object) -> int:
    return 1


def _yields(tx: object) -> Iterator[int]:
    yield 1


@pytest.mark.parametrize("fn", [_awaits, _yields])
def test_a_query_function_returns_its_value(fn: Any) -> None:
    """A worker could send neither a coroutine nor a generator."""
    with pytest.raises(AnnotationRefused, match="returns its value: no `async def`, and no `yield`"):
        Arguments(fn, "fn")


def test_a_worker_checks_what_arrives_and_makes_it_what_was_written() -> None:
    """Over the wire a date of Python becomes one of the driver; the function gets Python's."""

    def fn(tx: object, day: dt.date, *, node: values.Node | None = None) -> Any:
        return day

    run = on_worker(fn, Arguments(fn, "fn"))
    assert run(None, values.decode(values.encode(dt.date(2024, 2, 29)))) == dt.date(2024, 2, 29)
    with pytest.raises(QueryRejected, match=r"'day' is datetime\.date, and 'x'") as failure:
        run(None, "x")
    assert failure.value.code == "Replica.ArgumentRefused"
