from __future__ import annotations

import datetime as dt
import json
from random import Random
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings

import cli
from replica import plan
from replica.errors import NotDeterministic
from replica.explaining import AS_IT_IS, FROZEN, REFUSED, Explanation, explain
from replica.statement import Statement
from tests.freezing import NOW, frozen
from tests.unit.test_replica_any_text import ANY_TEXT, PARAMETERS
from tests.unit.test_replica_determinism import FROZEN as FROZEN_EXAMPLES
from tests.unit.test_replica_determinism import REFUSED as REFUSED_EXAMPLES
from tests.unit.test_replica_determinism import TOLD as TOLD_EXAMPLES


def explained(text: str, **parameters: Any) -> Explanation:
    """Explain at one instant."""
    return explain(Statement(text, parameters), now=NOW, random=Random(1))


def where(found: Explanation) -> list[tuple[str, str, int | None, int | None]]:
    """The rules that fired, briefly."""
    return [(fired.rule.name, fired.what, fired.line, fired.column) for fired in found.fired]


def test_every_rule_that_fires_is_told_with_its_place() -> None:
    """Also those behind the first that refuses; lines and columns as an editor counts them."""
    found = explained("MATCH (n:X) // rand()\n  SET n.at = datetime(),\nn.r = rand() WITH n LIMIT 1 DELETE n")
    assert found.verdict == REFUSED
    assert found.statement is None
    assert where(found) == [
        ("clock", "datetime()", 2, 14),
        ("random-rows", "rand()", 3, 7),
        ("unordered-limit", "LIMIT", 3, 21),
    ]


def test_a_rule_about_a_value_or_the_whole_text_has_no_place() -> None:
    """There is nothing to point at."""
    assert where(explained("RETURN $__rows")) == [("reserved-parameter", "the name __rows", None, None)]
    assert where(explained("RETURN (1")) == [
        ("unreadable", "a string, a comment, a quoted name or a bracket does not end", None, None)
    ]


def test_what_goes_into_the_log_is_what_a_sender_would_send() -> None:
    """By the same code, with the parameters."""
    text = "CREATE (:X {at: datetime(), id: randomUUID(), name: $name})"
    found = explained(text, name="a")
    assert found.verdict == FROZEN
    assert found.statement == frozen(text, {"name": "a"}).statement
    assert found.original == Statement(text, {"name": "a"})


@pytest.mark.parametrize(
    ("text", "kind", "why"),
    [
        ("MERGE (u:User {name: $name})", plan.Kind.BATCH, "one UNWIND with those of the same text"),
        ("MERGE (u:User {name: 'a'})", plan.Kind.BATCH, "shares a transaction with its neighbours"),
        ("MATCH (u:User) DELETE u", plan.Kind.ALONE, "DELETE without DETACH"),
        ("CALL db.createLabel('X')", plan.Kind.ALONE, "it calls db.createLabel"),
        ("MATCH (n) SET n.x = 1", plan.Kind.ALONE, "a pattern without a label"),
        ("DROP INDEX i", plan.Kind.SCHEMA, "a schema change"),
    ],
)
def test_how_it_is_applied_is_told_with_the_reason(text: str, kind: plan.Kind, why: str) -> None:
    """As the plan of the applier decides it."""
    found = explained(text, name="a")
    assert (found.verdict, found.kind) == (AS_IT_IS, kind)
    assert why in found.why


def test_what_only_a_replica_refuses_is_refused_here_too() -> None:
    """The constraint that guards the position, for one, is nothing that a text alone shows."""
    found = explained("DROP CONSTRAINT kafka_position")
    assert found.verdict == REFUSED
    assert found.fired[-1].rule.name == plan.UNSUPPORTED
    assert explained("DROP CONSTRAINT $name", name="kafka_position").verdict == REFUSED


@pytest.mark.parametrize(
    "text", [text for texts in (*REFUSED_EXAMPLES.values(), *TOLD_EXAMPLES.values()) for text in texts]
)
def test_every_example_of_the_table_is_explained_by_its_rule(text: str) -> None:
    """Refused where it is refused, and the place holds what is named."""
    found = explained(text, e="4:x:1", s=1, v=[1.0], m={"a": 1})
    assert found.fired
    for fired in found.fired:
        if fired.line is not None and fired.column is not None:
            rest = text.split("\n")[fired.line - 1][fired.column - 1 :]
            assert rest
            assert rest[0] not in " \n"


@pytest.mark.parametrize(("text", "expected"), FROZEN_EXAMPLES.values())
def test_what_is_frozen_is_explained_at_its_place(text: str, expected: str) -> None:
    """Each frozen call begins where the place says."""
    found = explained(text, z="Europe/Paris", rows=[1])
    assert found.verdict == FROZEN
    assert found.statement is not None
    assert found.statement.text.split() == expected.split()
    assert all(fired.line and fired.column for fired in found.fired)


@settings(max_examples=100, deadline=None)
@given(ANY_TEXT, PARAMETERS)
def test_any_text_is_explained_as_it_would_be_judged(text: str, parameters: dict[str, Any]) -> None:
    """Never an exception, and never another verdict than the sender's."""
    found = explain(Statement(text, parameters), now=NOW, random=Random(1))
    try:
        sent = frozen(text, parameters).statement
    except NotDeterministic as error:
        assert found.verdict == REFUSED
        assert error.rule in {fired.rule.name for fired in found.fired}  # noqa: PT017
        return
    assert found.statement in {None, sent} if found.verdict == REFUSED else found.statement == sent


def run(*arguments: str) -> Result:
    """Run `explain-command` with servers that do not exist."""
    environment = {"BROKERS": "127.0.0.1:1", "NEO4J_URI": "bolt://127.0.0.1:1"}
    return CliRunner().invoke(cli.main, ["explain-command", *arguments], env=environment)


def test_the_command_line_explains_without_any_server() -> None:
    """All of it as JSON, with typed values."""
    result = run("CREATE (:X {at: date(), n: $n})", "-p", "n=1", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["original"] == {"text": "CREATE (:X {at: date(), n: $n})", "parameters": {"n": 1}}
    assert told["verdict"] == "frozen"
    assert told["frozen"]["text"] == "CREATE (:X {at: $__now_date, n: $n})"
    assert told["frozen"]["parameters"]["__now_date"]["_value"] == dt.datetime.now(dt.UTC).date().isoformat()
    assert [(rule["rule"], rule["line"], rule["column"]) for rule in told["rules"]] == [("clock", 1, 17)]
    assert told["applied"]["how"] == "batched"
    assert told["server"] is None


def test_a_refused_command_is_exit_code_four_with_the_way_to_write_it() -> None:
    """For people, too."""
    result = run("MATCH (n:X) WITH n LIMIT 1\nSET n.at = time()")
    assert result.exit_code == 4
    assert "verdict     refused" in result.stdout
    assert "unordered-limit, line 1, column 20" in result.stdout
    assert "instead: put ORDER BY" in result.stdout
    assert run("RETURN 1", "-p", "nothing").exit_code == 2


def test_the_command_line_explains_a_condition_beside_its_command() -> None:
    """With the parameters that it uses; a refused one is exit code 4."""
    command = ("MATCH (a:A {id: $id}) SET a.n = $n", "-p", "id=1", "-p", "n=2", "--when")
    told = json.loads(run(*command, "MATCH (a:A {id: $id}) WHERE a.at < datetime() RETURN true", "--json").stdout)
    assert told["condition"]["verdict"] == "frozen"
    assert told["condition"]["frozen"]["text"] == "MATCH (a:A {id: $id}) WHERE a.at < $__now_datetime RETURN true"
    assert told["condition"]["original"]["parameters"] == {"id": 1}
    result = run(*command, "CREATE (:A) RETURN true")
    assert result.exit_code == 4
    assert "condition   CREATE (:A) RETURN true" in result.stdout
    assert "CREATE may write" in result.stdout


def test_a_second_opinion_that_cannot_be_had_is_an_error() -> None:
    """No verdict is given in its place."""
    result = run("CREATE (:X)", "--check")
    assert result.exit_code == 1
    assert "ServiceUnavailable" in result.stderr
