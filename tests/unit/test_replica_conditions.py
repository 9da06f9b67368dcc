"""What a condition may be, and what its rows mean, without a server."""

from __future__ import annotations

import datetime as dt
from random import Random
from typing import Any

import pytest

from replica import conditions, plan
from replica.conditions import NOT_MET, UNCLEAR, judged
from replica.determinism import check, freeze
from replica.errors import NotDeterministic
from replica.explaining import REFUSED, explain
from replica.plan import Kind
from replica.statement import Command, Statement


NOW = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
WHEN = Statement("MATCH (a:Account {id: $id}) RETURN a.balance >= 5", {"id": 1})
WRITE = Statement("MATCH (a:Account {id: $id}) SET a.balance = 0", {"id": 1})


def command(when: str | Statement = WHEN, *statements: Statement) -> Command:
    """One with a condition."""
    return Command(7, statements or (WRITE,), when=when if isinstance(when, Statement) else Statement(when))


@pytest.mark.parametrize("rows", [[[True]], [[False], [True]], [[None], [True], [False]], [[True], [True]]])
def test_a_condition_is_met_by_one_row_of_true_wherever_it_comes(rows: list[list[Any]]) -> None:
    """So that the order of rows, which is each replica's own, decides nothing."""
    assert judged(command(), ["x"], rows) is None


@pytest.mark.parametrize("rows", [[], [[False]], [[None]], [[False], [None]]])
def test_a_condition_is_not_met_by_false_null_or_nothing(rows: list[list[Any]]) -> None:
    """It ends with a code of its own, which names the condition."""
    outcome = judged(command(), ["x"], rows)
    assert outcome is not None
    assert (outcome.offset, outcome.applied, outcome.code) == (7, False, NOT_MET)
    assert WHEN.text in (outcome.message or "")


@pytest.mark.parametrize(
    ("columns", "rows"),
    [
        (["x"], [[1]]),
        (["x"], [["true"]]),
        (["x"], [[True], [1]]),
        (["x"], [[0], [True]]),
        (["x"], [[[True]]]),
        (["x", "y"], [[True, True]]),
        (["x", "y"], []),
        ([], []),
    ],
)
def test_what_is_no_truth_value_is_neither_met_nor_not_met(columns: list[str], rows: list[list[Any]]) -> None:
    """A mistake of its author has another code than an unmet condition, in whatever order the rows come."""
    outcome = judged(command(), columns, rows)
    assert outcome is not None
    assert outcome.code == UNCLEAR


WRITING = [
    "CREATE (:X) RETURN true",
    "MATCH (n:X) SET n.x = 1 RETURN true",
    "MERGE (:X) RETURN true",
    "MATCH (n:X) DETACH DELETE n RETURN true",
    "MATCH (n:X) REMOVE n.x RETURN true",
    "FOREACH (x IN [1] | CREATE (:X)) RETURN true",
    "CALL () { CREATE (:X) } RETURN true",
    "CALL db.createLabel('x') RETURN true",
    "CREATE INDEX i FOR (n:X) ON (n.a)",
    "DROP INDEX i",
    "CYPHER 25 DROP INDEX i",
    "LOAD CSV FROM 'file:///x' AS row RETURN true",
    "UNWIND [1] AS r CALL (r) { CREATE (:X) } IN TRANSACTIONS RETURN true",
    "SHOW INDEXES",
    "RETURN 'open",
]


@pytest.mark.parametrize("text", WRITING)
def test_a_condition_that_may_write_is_refused_at_the_sender_and_never_run_by_a_replica(text: str) -> None:
    """By the text alone, so that every replica rejects it alike."""
    with pytest.raises(NotDeterministic):
        freeze(Statement(text), now=NOW, random=Random(1), condition=True)
    with pytest.raises(NotDeterministic):
        check(Statement(text), condition=True)
    outcome = plan.verdict(command(text))
    assert outcome is not None
    assert (outcome.applied, outcome.code) == (False, plan.UNSUPPORTED)


@pytest.mark.parametrize(
    "text",
    [
        "RETURN true",
        "RETURN NOT EXISTS { (:X {k: 1}) }",
        "MATCH (n:X {set: 1}) WHERE n.create = 2 RETURN true",
        "CALL () { MATCH (n:X) RETURN count(n) AS c } RETURN c > 1",
        "CYPHER 25 MATCH (n:X) RETURN n.delete IS NULL",
        "MATCH (n:X) RETURN n.name = 'CREATE (:X)'",
    ],
)
def test_a_condition_that_reads_passes(text: str) -> None:
    """Words in strings and names of properties write nothing."""
    assert conditions.refusal(text) is None
    assert freeze(Statement(text), now=NOW, random=Random(1), condition=True).statement.text == text


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("MATCH (n:X) RETURN n.flag LIMIT 1", "unordered-limit"),
        ("MATCH (n:X) WITH collect(n.flag) AS flags RETURN flags[0]", "unordered-list"),
        ("MATCH (n:X) RETURN labels(n) = ['X']", "unordered-names"),
        ("MATCH (n:X) RETURN id(n) = 1", "ids"),
        ("MATCH (n:X) RETURN rand() < 0.5", "random-rows"),
    ],
)
def test_what_decides_about_a_write_is_judged_as_if_it_were_written(text: str, rule: str) -> None:
    """A query may return any row; a condition with another row on each replica would make them differ."""
    with pytest.raises(NotDeterministic) as caught:
        freeze(Statement(text), now=NOW, random=Random(1), condition=True)
    assert caught.value.rule == rule


def test_the_clock_of_a_condition_is_frozen() -> None:
    """One instant, taken at the sender; the replica finds nothing left to freeze."""
    made = freeze(Statement("RETURN datetime() > $t", {"t": 1}), now=NOW, random=Random(1), condition=True).statement
    assert made.text == "RETURN $__now_datetime > $t"
    check(made, condition=True)


def test_a_condition_holds_for_one_transaction() -> None:
    """So there is none for what cannot share one with it."""
    schema = plan.verdict(command(WHEN, Statement("CREATE INDEX i FOR (n:X) ON (n.a)")))
    pieces = Statement("UNWIND [1] AS r CALL (r) { CREATE (:X) } IN TRANSACTIONS", idempotent=True)
    for outcome in (schema, plan.verdict(command(WHEN, pieces))):
        assert outcome is not None
        assert outcome.code == plan.UNSUPPORTED
        assert "has no condition" in (outcome.message or "")


def test_conditional_commands_share_transactions_but_no_unwind() -> None:
    """And one whose condition may see the position's node is applied alone."""
    many = [Command(offset, (WRITE,), when=WHEN) for offset in range(3)]
    [unit] = plan.units(many, batch=500)
    assert unit.kind is Kind.BATCH
    assert plan.groups(many) == many
    assert plan.kind_of(command("MATCH (n) RETURN count(n) = 1")) is Kind.ALONE


def test_a_condition_is_explained_beside_its_command() -> None:
    """A refused one refuses the command."""
    found = explain(WRITE, now=NOW, random=Random(1), when=Statement("RETURN date() > date('2020-01-01')"))
    assert found.condition is not None
    assert found.condition.statement is not None
    assert found.condition.statement.text == "RETURN $__now_date > date('2020-01-01')"
    assert "its condition" in found.why
    refused = explain(WRITE, now=NOW, random=Random(1), when=Statement("CREATE (:X) RETURN true"))
    assert (refused.verdict, refused.statement) == (REFUSED, None)
    assert refused.condition is not None
    assert [fired.rule.name for fired in refused.condition.fired] == ["condition"]
