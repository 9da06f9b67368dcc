"""Sequences of commands that come back: what is cut where, and what becomes one text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from replica import chains, cypher, plan
from replica.chains import Chain, Sequences, cut, members
from replica.statement import Command, Statement


if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

TEXTS = [f"CREATE (:Number{number} {{id: $id}})" for number in range(20)]
#: Not to be chained: no parameter, of several statements, alone in its transaction.
OTHERS = ["CREATE (:Nothing)", "", "MATCH (n {id: $id}) DELETE n"]


def command(offset: int, text: str, **parameters: Any) -> Command:
    """One of the log."""
    statement = Statement(text, parameters or {"id": offset})
    return Command(offset, (statement, statement) if text == "" else (statement,))


def log_of(texts: Sequence[str]) -> list[Command]:
    """They, one after the other."""
    return [command(offset, text) for offset, text in enumerate(texts)]


texts_of_logs = st.lists(st.sampled_from([*TEXTS, *OTHERS, TEXTS[0], TEXTS[0]]), max_size=60)


@given(texts_of_logs, st.sets(st.integers(0, 59), max_size=5))
def test_whatever_is_cut_stays_in_order(texts: list[str], apart: set[int]) -> None:
    """No command is lost, and those apart, or of another kind, stand alone."""
    log = log_of(texts)
    found = list(cut(plan.groups(log, apart), apart))
    assert [one for item in found for one in (item.commands if isinstance(item, plan.Group) else item)] == log
    for item in found:
        if isinstance(item, tuple) and len(item) > 1:
            assert len(item) <= chains.LONGEST
            assert not any(one.offset in apart or plan.group_key(one) is None for one in item)


@settings(max_examples=30)
@given(st.lists(st.sampled_from(TEXTS), max_size=9), st.lists(st.sampled_from(TEXTS), max_size=9))
def test_a_sequence_is_cut_alike_wherever_it_begins(before: list[str], other: list[str]) -> None:
    """Behind the first place where it is cut for what it is."""
    found = [texts_of(cut(log_of([*some, *TEXTS, *TEXTS]))) for some in (before, other)]
    common = list(zip(*(reversed(each) for each in found), strict=False))
    assert sum(len(left) for left, right in common if left == right) >= 2 * (len(TEXTS) - chains.LONGEST)


def texts_of(found: Iterable[plan.Group | Sequence[Command]]) -> list[tuple[str, ...]]:
    """What was cut."""
    return [
        tuple(one.statements[0].text for one in (item.commands if isinstance(item, plan.Group) else item))
        for item in found
    ]


def shapes(items: Sequence[chains.Item]) -> list[int | str]:
    """How many commands a chain has, and a letter for what is none."""
    return [
        len(item.commands) if isinstance(item, Chain) else "group" if isinstance(item, plan.Group) else "one"
        for item in items
    ]


def test_a_sequence_becomes_a_text_when_it_has_come_back() -> None:
    """One that was seen less often is left alone, as the server would plan it for nothing."""
    sequences = Sequences()
    pair = [command(0, TEXTS[0]), command(1, TEXTS[1])]
    found = [shapes(list(sequences.joined(pair, ()))) for _ in range(chains.OFTEN + 1)]
    assert found == [["one", "one"]] * chains.OFTEN + [[2]]
    other = [command(0, TEXTS[0]), command(1, TEXTS[1], id="another type")]
    assert shapes(list(sequences.joined(other, ()))) == ["one", "one"]
    assert shapes(list(sequences.joined(pair, {0}))) == ["one", "one"]


def test_a_group_is_left_as_it_is() -> None:
    """Equal neighbours go faster by themselves."""
    log = log_of([TEXTS[0], TEXTS[1], TEXTS[1], TEXTS[2]])
    sequences = Sequences()
    for _ in range(9):
        found = list(sequences.joined(plan.groups(log), ()))
    assert shapes(found) == ["one", "group", "one"]
    assert [one for item in found for one in members(item)] == log


def test_only_so_many_sequences_are_remembered() -> None:
    """The one that was seen longest ago is forgotten."""
    sequences = Sequences()
    pairs = [[command(0, TEXTS[0]), command(1, f"{TEXTS[1]} // {number}")] for number in range(chains.REMEMBERED + 1)]
    for pair in (*[pairs[0]] * chains.OFTEN, *pairs[1:], pairs[0]):
        found = shapes(list(sequences.joined(pair, ())))
    assert found == ["one", "one"]


def test_parameters_go_under_the_places_of_their_commands() -> None:
    """Those that the text uses; names may be anything, and values stay what they are."""
    value = [1, {"x": 2}]
    first = command(4, "CREATE (:A {a: $a, b: $`b c`})", **{"b c": 2, "a": value, "unused": 3})
    chain = Chain((first, command(5, "MATCH (a:A) SET a.x = $x // end", x="x")))
    assert chain.rewritten == (
        "CALL () { CALL () {\nCREATE (:A {a:  $__0_0, b:  $__0_1})\n} RETURN count(*) AS __done }\n"
        "CALL () { CALL () {\nMATCH (a:A) SET a.x =  $__1_0 // end\n} RETURN count(*) AS __1 }"
    )
    assert chain.parameters == {"__0_0": value, "__0_1": 2, "__1_0": "x"}
    assert chain.parameters["__0_0"] is value
    assert cypher.parameter_names(chain.rewritten) == chain.parameters.keys()
