"""Commands kept by column are the same commands, planned alike; and are found wherever a log is of one text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replica import plan
from replica.alike import Alike, identified
from replica.digest import INTERVAL
from replica.statement import Command
from tasks import plain
from tasks.plain import PlainCommands, plain_commands
from tasks.verifying import parts
from tests.unit.test_replica_shapes import PLAIN, record, written


if TYPE_CHECKING:
    from collections.abc import Sequence

    from brokers.records import Record


def log(contents: Sequence[bytes | None], start: int = 0) -> list[Record]:
    """Records one behind the other."""
    return [msgspec.structs.replace(record(value), offset=start + at) for at, value in enumerate(contents)]


def one(number: int, **more: Any) -> bytes:
    """A plain command."""
    return written(kwargs={"id": number, "name": f"user {number}"} | more)


def alike(count: int, start: int = 0) -> Alike:
    """That many, the second time that they come."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain, "MANY", 1)
        reader = PlainCommands()
        found = log([one(number) for number in range(count)], start)
        reader.read(found)
        commands = reader.read(found)
    assert isinstance(commands, Alike)
    return commands


def bare(commands: Sequence[Command | None]) -> list[Command | None]:
    """Without what is only about."""
    return [each and msgspec.structs.replace(each, weight=0) for each in commands]


values = st.one_of(
    st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.none(), st.text()
)
forms = st.one_of(
    st.builds(one, st.integers()),
    st.builds(lambda value: written(kwargs={"id": 1, "name": value}), values),
    st.builds(lambda text, value: written((text,), {"id": value}), st.sampled_from([PLAIN, "CREATE (:A)"]), values),
    st.builds(lambda number: one(number, more=1), st.integers()),
    st.sampled_from(
        [
            None,
            b"garbage",
            one(1).replace(b'"id": 1', b'"id": 1, "id": 2'),
            one(1).replace(b'"id": 1', b'"id": 1.0'),
            written(kwargs={"id": 1, "name": "x"}, options={"id": "mine"}),
            written(kwargs={"id": 1, "name": "x"}, message_id=5),
            written(kwargs={"id": 1, "name": "x"}, actor="another"),
        ]
    ),
)


@given(st.lists(st.tuples(st.lists(forms, min_size=1, max_size=3), st.integers(1, 4)), min_size=1, max_size=6))
def test_what_is_read_after_its_like_is_what_is_read_alone(chunks: list[tuple[list[bytes | None], int]]) -> None:
    """Whatever came before: the same commands, of the same shapes, and none where there is none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain, "MANY", 1)
        reader = PlainCommands()
        for contents, times in chunks:
            found = log(contents * times)
            together, alone = list(reader.read(found)), plain_commands(found)
            assert bare(together) == bare(alone)
            assert [each and each.shape for each in together] == [each and each.shape for each in alone]
            for each, other in zip(together, alone, strict=True):
                kinds = [list(map(type, c.statements[0].parameters.values())) for c in (each, other) if c is not None]
                assert not kinds or kinds[0] == kinds[1]


def test_a_log_of_one_text_is_read_by_column() -> None:
    """Else all this would be for nothing; also where numbers have a fraction, and names are odd."""
    for kwargs in ({"id": 1, "name": "x"}, {"id": 1.5, "name": None}, {"id": True, "name": "x", "class": 1, "a b": 2}):
        reader = PlainCommands()
        found = log([written(kwargs=kwargs)] * plain.MANY)
        assert isinstance(reader.read(found), list)
        assert isinstance(reader.read(found), Alike)
        assert isinstance(reader.read(found[:-1]), list)


@given(st.integers(1, 9), st.integers(-10, 10), st.integers(-10, 10), st.integers(0, 5))
def test_it_is_a_sequence_of_commands(count: int, first: int, last: int, start: int) -> None:
    """What a list of them says, it says."""
    commands = alike(count, start)
    listed = list(commands)
    assert len(commands) == count == len(listed)
    assert [commands[index] for index in range(count)] == listed
    assert [commands[index - count] for index in range(count)] == listed
    assert bare(list(commands[first:last])) == bare(listed[first:last])
    assert not identified(commands)
    assert not identified(listed)
    assert [command.offset for command in commands] == list(range(start, start + count))


@given(st.integers(2, 40), st.integers(0, 2 * INTERVAL), st.integers(1, 50), st.booleans())
def test_they_are_planned_as_any_others(count: int, start: int, batch: int, large: bool) -> None:
    """Cut where a checkpoint is due, and where a transaction is full; and the server is sent the same."""
    commands = alike(count, start)
    if large:
        commands.weight = plan.BATCH_BYTES * count // 2

    def seen(found: Sequence[Command]) -> list[tuple[Any, ...]]:
        return [
            (
                unit.kind,
                [command.offset for command in unit.commands],
                [(each.rewritten, each.parameters) if isinstance(each, plan.Group) else each for each in unit.groups],
            )
            for unit in plan.units(found, batch=batch)
        ]

    assert seen(commands) == seen(list(commands))


@given(st.integers(1, 40), st.integers(0, 40), st.integers(1, 20))
def test_they_are_cut_at_round_offsets(count: int, start: int, size: int) -> None:
    """As messages are."""
    commands = alike(count, start)
    found = [[each.offset for each in part if isinstance(each, Command)] for part in parts(commands, size)]
    assert found == [
        [each.offset for each in part if isinstance(each, Command)] for part in parts(list(commands), size)
    ]
