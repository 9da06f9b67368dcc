"""Which ids are remembered, and for how long, without a server."""

from __future__ import annotations

import pytest

from replica import plan
from replica.ids import DUPLICATE, PREFIX, SEGMENT, WINDOW, Ids
from replica.statement import Command, Statement


def command(offset: int, id_: str | None = "order", text: str = "CREATE (:X)") -> Command:
    """One with an id."""
    return Command(offset, (Statement(text),), id=id_)


def applied(ids: Ids, *commands: Command) -> dict[str, bytes | None]:
    """Let *commands* be applied in one transaction; what it writes."""
    change = ids.change(commands)
    ids.moved(-1 if ids.known_at(-1) else commands[0].offset - 1, commands[-1].offset, commands)
    return change


def fresh() -> Ids:
    """Those of an empty graph."""
    ids = Ids()
    ids.load(-1, {})
    return ids


def test_a_second_command_with_an_id_is_a_duplicate_of_the_first() -> None:
    """It counts as applied, since its effect is there, and says where the first one is."""
    ids = fresh()
    applied(ids, command(0, "a"), command(5, "b"))
    [outcome] = ids.duplicates([command(6, "b"), command(7, "c"), command(8, None)]).values()
    assert (outcome.offset, outcome.applied, outcome.code, outcome.duplicate_of) == (6, True, DUPLICATE, 5)


@pytest.mark.parametrize("first", [0, 1, SEGMENT - 1, SEGMENT, 5 * SEGMENT + 7])
def test_an_id_is_remembered_for_exactly_so_many_offsets(first: int) -> None:
    """Whatever was written, and so forgotten, in between: offsets alone decide."""
    ids = Ids()
    ids.load(first - 1, {})
    stored: dict[str, bytes | None] = dict(ids.change([command(first)]))
    ids.moved(first - 1, first, [command(first)])
    last = first + WINDOW
    stored |= ids.change([command(last - 1, "other")])
    ids.moved(first, last - 1, [command(last - 1, "other")])
    read = Ids()
    read.load(last - 1, {name: entries for name, entries in stored.items() if entries is not None})
    for known in (ids, read):
        assert list(known.duplicates([command(last)])) == [last]
        assert known.duplicates([command(last + 1)]) == {}


def test_old_segments_go_with_the_transaction_that_writes_a_new_one() -> None:
    """What the graph keeps is bounded, and so is what a process knows."""
    ids = fresh()
    for number in range(300):
        change = applied_at(ids, number * SEGMENT)
        assert len(change) <= 2
    kept = ids.everything({})
    assert len(kept) == WINDOW // SEGMENT + 1
    assert sum(len(entries) for entries in kept.values()) == 14 * len(kept)
    again = Ids()
    again.load(299 * SEGMENT, kept)
    assert again.everything({}) == kept
    asked = 299 * SEGMENT + 1
    assert sum(bool(again.duplicates([command(asked, f"id-{n}")])) for n in range(300)) == 98


def applied_at(ids: Ids, offset: int) -> dict[str, bytes | None]:
    """One command with an id of its own, the last one before it being the one a segment earlier."""
    before = offset - SEGMENT if offset else -1
    one = [command(offset, f"id-{offset // SEGMENT}")]
    change = ids.change(one)
    ids.moved(before, offset, one)
    assert ids.known_at(offset)
    return change


def test_what_somebody_else_has_moved_is_not_known() -> None:
    """Then the graph is asked again."""
    ids = fresh()
    ids.moved(7, 8, [command(8)])
    assert ids.known_at(-1)
    assert ids.duplicates([command(9)]) == {}
    ids.forget()
    assert not ids.known_at(-1)


def test_no_transaction_has_two_commands_of_one_id() -> None:
    """Whether the second is a duplicate is known when the first is committed."""
    log = [command(0, "a"), command(1, "b"), command(2, "a"), command(3, None), command(4, None), command(5, "a")]
    cut = [[each.offset for each in unit.commands] for unit in plan.units(log, batch=500)]
    assert cut == [[0, 1], [2, 3, 4], [5]]


def test_commands_with_ids_share_an_unwind() -> None:
    """Only a duplicate among them stands apart."""
    log = [Command(n, (Statement("CREATE (:X {n: $n})", {"n": n}),), id=str(n)) for n in range(6)]
    assert len(plan.groups(log)) == 1
    assert [len(each.commands) for each in plan.groups(log, apart={3}) if isinstance(each, plan.Group)] == [3, 2]


def test_no_command_can_name_what_is_remembered() -> None:
    """The properties have the label in their name, which no text may mention."""
    assert plan.verdict(command(1, "a", f"MATCH (n) REMOVE n.{PREFIX}0")) is not None
