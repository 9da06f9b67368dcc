"""The short way for plain commands: it says nothing else than the long one, and takes none for plain that is not."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokers.records import Record
from replica import plan, remembering
from replica.shapes import shape_of
from tasks import wire
from tasks.plain import plain_commands


if TYPE_CHECKING:
    from replica.statement import Command


PLAIN = "CREATE (:User {id: $id, name: $name})"

#: Texts of every kind that is looked at: plain, refused, schema, alone, frozen, several, reserved.
TEXTS = [
    PLAIN,
    "MATCH (u:User {id: $id}) SET u.name = $name",
    "MATCH (u:User) RETURN u LIMIT $id",
    "MATCH (u {id: $id}) DELETE u",
    "CREATE (:User {at: datetime()})",
    "CREATE (:User {at: datetime($name)})",
    "CREATE (:User {at: datetime($__now_datetime)})",
    "CREATE INDEX users FOR (u:User) ON (u.id)",
    "CREATE INDEX FOR (u:User) ON (u.id)",
    "MATCH (u) CALL (u) { DELETE u } IN TRANSACTIONS",
    "LOAD CSV FROM $name AS row CREATE (:Row)",
    "not Cypher at all",
    "",
    "CREATE (:User {id: 'it''s})",
]

values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=3),
    st.lists(st.integers(), max_size=2),
    st.just({"$type": "Date", "_value": "2026-01-01"}),
)
parameters = st.dictionaries(st.sampled_from(["id", "name", "other", "__row", "__now_datetime"]), values, max_size=4)
options = st.dictionaries(
    st.sampled_from(["command", "key", "id", "when", "idempotent", "refused", "eta", "verify"]),
    st.sampled_from(["a", 1, True, "RETURN true"]),
    max_size=2,
)
arguments = st.one_of(
    st.tuples(st.sampled_from(TEXTS)),
    st.just(()),
    st.tuples(st.sampled_from(TEXTS), st.just("more")),
    st.tuples(st.just([{"text": PLAIN, "parameters": {}}])),
    st.tuples(st.integers()),
)


def record(value: bytes | None) -> Record:
    """A record on the command topic."""
    return Record("command", 0, 7, 1, b"key", value)


def written(
    args: Any = (PLAIN,), kwargs: Any = None, options: Any = None, actor: str = wire.COMMAND_ACTOR, **more: Any
) -> bytes:
    """A message as Dramatiq writes it."""
    fields = {"queue_name": "command", "actor_name": actor, "args": args, "kwargs": kwargs or {}}
    return json.dumps(fields | {"options": options or {}, "message_id": "m", "message_timestamp": 1} | more).encode()


def long_way(value: bytes | None) -> Command:
    """What a replica makes of it where nothing is known beforehand."""
    return wire.command_of(wire.read_command(record(value), "command"), 7)


def same(short: Command, long: Command) -> bool:
    """Whether they mean the same, and are applied alike."""
    assert short.shape is not None
    assert plan.verdict(long) is None
    assert plan.kind_of(long) is plan.kind_of(short) is plan.Kind.BATCH
    together = [isinstance(each, plan.Group) for each in plan.groups([short, short])]
    assert together == [isinstance(each, plan.Group) for each in plan.groups([long, long])]
    assert together == [isinstance(each, plan.Group) for each in plan.groups([short, long])]
    return msgspec.structs.replace(short, shape=None, weight=0) == long


@given(args=arguments, kwargs=parameters, options=options, actor=st.sampled_from([wire.COMMAND_ACTOR, "another"]))
def test_the_short_way_says_what_the_long_one_does(args: Any, kwargs: Any, options: Any, actor: str) -> None:
    """Or nothing."""
    value = written(args, kwargs, options, actor)
    [short] = plain_commands([record(value)])
    assert short is None or same(short, long_way(value))


@given(
    st.lists(
        st.one_of(
            st.builds(written, arguments, parameters, options),
            st.sampled_from([None, b"garbage", written(kwargs={"id": 1, "name": "x"})]),
        ),
        max_size=5,
    )
)
def test_many_are_read_as_each_alone(contents: list[bytes | None]) -> None:
    """Equal ones and others, plain ones and others, in any order."""
    found = [msgspec.structs.replace(record(value), offset=7 + place) for place, value in enumerate(contents)]
    alone = [command for one in found for command in plain_commands([one])]
    together = plain_commands(found)
    assert together == alone
    assert [one and one.shape for one in together] == [one and one.shape for one in alone]


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"garbage",
        b"[" * 100_000,
        b'{"command": "CREATE (:A)"}',
        b'{"command": "CREATE (:A)", "params": {"actor_name": 1}}',
        written(message_id=5),
        written(["\ud800"]),
        written(kwargs={"id": float("nan")}),
        b'{"command": "CREATE (:A)", ' + written()[1:],
        written().replace(b'"actor_name"', b'"\\u0061ctor_name"'),
    ],
)
def test_what_is_written_otherwise(value: bytes | None) -> None:
    """A body of another client, nonsense, and escapes: the same, or nothing."""
    [short] = plain_commands([record(value)])
    assert short is None or same(short, long_way(value))


@pytest.mark.parametrize("options", [{}, {"command": "follow"}, {"key": "k"}])
def test_most_commands_are_plain(options: dict[str, Any]) -> None:
    """Else all this would be for nothing; also those of a command function, and with a key."""
    [short] = plain_commands([record(written(kwargs={"id": 1, "name": "x"}, options=options))])
    assert short is not None
    assert short.weight > len(PLAIN)


@pytest.mark.parametrize(
    ("text", "given"),
    [
        (PLAIN, {"id": [1], "name": "x"}),
        (PLAIN, {"id": {"$type": "Date", "_value": "2026-01-01"}, "name": "x"}),
        ("CREATE (:User {at: datetime($name)})", {"name": ""}),
        ("CREATE (:User {at: datetime()})", {}),
        ("MATCH (u {id: $id}) DELETE u", {"id": 1}),
        ("CREATE INDEX users FOR (u:User) ON (u.id)", {}),
        ("RETURN $id // " + "x" * remembering.LENGTH, {"id": 1}),
    ],
)
def test_what_needs_a_look_is_not_plain(text: str, given: dict[str, Any]) -> None:
    """Values that are no scalars, or may hide a clock; what stands alone, and what would fill the memory."""
    assert shape_of(text, given) is None


@given(st.lists(st.sampled_from([{"id": 1}, {"id": 1.5}, {"id": "1"}, {"id": True}, {"id": None}, {"id": 2}])))
def test_neighbours_of_one_shape_have_values_of_one_type(given: list[dict[str, Any]]) -> None:
    """A server compiles a text against the types of its parameters: one UNWIND is for one set of them."""
    text = "CREATE (:User {id: $id})"
    found = [(shape_of(text, each), type(each["id"])) for each in given]
    for (shape, kind), (next_shape, next_kind) in pairwise(found):
        assert shape is not None
        assert next_shape is not None
        assert (shape.key == next_shape.key) == (kind is next_kind)
