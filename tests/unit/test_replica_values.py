from __future__ import annotations

import datetime as dt
import json
import math
import zoneinfo
from typing import TYPE_CHECKING, Any

import pytest
import pytz  # type: ignore[import-untyped]  # ships no types
from hypothesis import given
from hypothesis import strategies as st
from neo4j import Record
from neo4j.spatial import CartesianPoint, Point, WGS84Point
from neo4j.time import Date, DateTime, Duration, Time
from neo4j.vector import Vector

from replica.errors import ValueNotDecodable, ValueNotEncodable
from replica.values import Node, Path, Relationship, decode, encode


if TYPE_CHECKING:
    from collections.abc import Callable

NANOSECONDS = st.integers(0, 999_999_999)
OFFSETS = st.integers(-18 * 60, 18 * 60).map(lambda minutes: dt.timezone(dt.timedelta(minutes=minutes)))
COORDINATES = st.floats(allow_nan=False)
CLOCK = (st.integers(0, 23), st.integers(0, 59), st.integers(0, 59), NANOSECONDS)
DAY = (st.integers(1, 9999), st.integers(1, 12), st.integers(1, 28))
TEXT = st.text(st.characters(exclude_categories=["Cs"]))

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    TEXT,
    st.binary(),
    st.builds(Date, *DAY),
    st.builds(Time, *CLOCK),
    st.builds(Time, *CLOCK, OFFSETS),
    st.builds(DateTime, *DAY, *CLOCK),
    st.builds(DateTime, *DAY, *CLOCK, OFFSETS),
    st.builds(
        lambda seconds, nanoseconds, zone: pytz.timezone(zone).fromutc(
            (DateTime(1980, 1, 1) + Duration(seconds=seconds)).replace(nanosecond=nanoseconds)
        ),
        st.integers(0, 2_000_000_000),
        NANOSECONDS,
        st.sampled_from(["Europe/Paris", "America/New_York", "Asia/Kathmandu"]),
    ),
    st.builds(
        lambda months, days, nanoseconds: Duration(months=months, days=days, nanoseconds=nanoseconds),
        st.integers(-10_000, 10_000),
        st.integers(-100_000, 100_000),
        st.integers(-(10**18), 10**18),
    ),
    st.lists(COORDINATES, min_size=2, max_size=3).map(CartesianPoint),
    st.lists(COORDINATES, min_size=2, max_size=3).map(WGS84Point),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["$type", "_value", "a", "b c", "é"]) | TEXT, inner, max_size=4)
    ),
    max_leaves=12,
)


def same(a: Any, b: Any) -> bool:
    """Equal, of one type, with signed zeros, NaN and zones told apart as Neo4j tells them apart."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(fingerprint(a) == fingerprint(b))


def fingerprint(value: Any) -> Any:
    """What tells two scalars apart."""
    match value:
        case float():
            return "NaN" if math.isnan(value) else (math.copysign(1, value), repr(value))  # no sign of NaN in Java
        case Point():
            return value.srid, [fingerprint(number) for number in value]
        case Time():
            return value.iso_format()
        case DateTime():
            return value.iso_format(), getattr(value.tzinfo, "zone", None)
        case _:
            return value


@given(VALUES)
def test_every_value_survives_json(value: Any) -> None:
    """Types, nanoseconds, zones, signed zero, NaN, 64 bits, and maps that look like typed values."""
    text = json.dumps(encode(value), allow_nan=False)
    back = decode(json.loads(text))
    assert same(value, back)


@given(
    st.recursive(
        st.none() | st.integers() | st.text() | st.sampled_from(["Date", "Point", "Vector", "Node", "Path"]),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["$type", "_value", "x"]), inner),
    )
)
def test_no_json_crashes_the_decoder(value: Any) -> None:
    """Anyone may write to a topic: malformed values give one error, never another."""
    try:
        decode(value)
    except ValueNotDecodable:
        return


def test_plain_json_stays_plain() -> None:
    """Any Kafka client can write and read what JSON can say."""
    plain = {"a": [1, -2.5, "x", True, None], "b": {"_value": 1}}
    assert encode(plain) == plain
    assert decode(plain) == plain


def test_integers_that_others_round_travel_as_text() -> None:
    """JavaScript holds 53 bits."""
    assert encode(2**53) == 2**53
    assert encode(2**53 + 1) == {"$type": "Integer", "_value": "9007199254740993"}


def test_python_dates_become_neo4j_dates() -> None:
    """Callers need not know the driver's classes."""
    paris = zoneinfo.ZoneInfo("Europe/Paris")
    assert encode(dt.date(2024, 2, 29)) == {"$type": "Date", "_value": "2024-02-29"}
    assert encode(dt.time(1, 2, 3, 4)) == {"$type": "LocalTime", "_value": "01:02:03.000004"}
    assert encode(dt.datetime(2024, 1, 1)) == {"$type": "LocalDateTime", "_value": "2024-01-01T00:00:00"}  # noqa: DTZ001
    assert encode(dt.datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=paris)) == {
        "$type": "ZonedDateTime",
        "_value": "2024-10-27T02:30:00+01:00[Europe/Paris]",
    }
    assert encode(dt.timedelta(days=-1, seconds=1)) == {"$type": "Duration", "_value": "P0M-1DT1S"}


def test_the_hour_that_a_clock_shows_twice_stays_the_right_one() -> None:
    """The offset in the text decides, not the zone's first guess."""
    for offset in ("+02:00", "+01:00"):
        value = decode({"$type": "ZonedDateTime", "_value": f"2024-10-27T02:30:00{offset}[Europe/Paris]"})
        assert encode(value)["_value"] == f"2024-10-27T02:30:00{offset}[Europe/Paris]"


def test_graph_values_keep_labels_ids_and_types() -> None:
    """Nothing of a path is lost."""
    a, b = Node("4:x:1", frozenset(["A", "B"]), {"d": Date(2024, 1, 1)}), Node("4:x:2", frozenset(), {})
    path = Path((a, b), (Relationship("5:x:1", "4:x:1", "4:x:2", "R", {"w": 1}),))
    assert decode(json.loads(json.dumps(encode(path)))) == path
    assert encode(a)["_value"]["_labels"] == ["A", "B"]


@pytest.mark.parametrize("kind", ["i8", "i16", "i32", "i64", "f32", "f64"])
def test_vectors_keep_their_coordinates_type(kind: str) -> None:
    """To the last bit."""
    value = Vector([1, 2, 3] if kind.startswith("i") else [1.5, 0.1, float("inf")], kind)  # type: ignore[call-overload]
    back = decode(json.loads(json.dumps(encode(value), allow_nan=False)))
    assert (back.dtype, back.raw()) == (value.dtype, value.raw())


def test_records_become_maps() -> None:
    """A query function may return records; their columns keep their names."""
    make: Callable[..., Record] = Record
    assert encode([make({"a": 1, "b": Duration(days=1)})]) == [
        {"a": 1, "b": {"$type": "Duration", "_value": "P0M1DT0S"}}
    ]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"user": {"photo": object()}}, "parameters.user.photo: a object"),
        ([1, 2**63], "parameters[1]: an integer of more than 64 bits"),
        ({"a": {1: 2}}, "parameters.a: the key 1"),
        ({"a": "\ud800"}, "parameters.a: not valid Unicode"),
        ({"a": {1, 2}}, "parameters.a: a set"),
        (dt.time(1, tzinfo=zoneinfo.ZoneInfo("Europe/Paris")), "parameters: a time with a named zone"),
    ],
)
def test_what_has_no_place_in_neo4j_is_refused_with_its_path(value: Any, message: str) -> None:
    """At the sender, as a TypeError that says where."""
    with pytest.raises(ValueNotEncodable) as caught:
        encode(value, "parameters")
    assert str(caught.value).startswith(message)
    assert isinstance(caught.value, TypeError)


def test_endless_nesting_is_refused() -> None:
    """A list inside itself ends in an error, not in a crash."""
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ValueNotEncodable):
        encode(loop)
