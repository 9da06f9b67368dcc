"""Whatever text a command has, it is judged, and the short ways of judging come to the same as the long ones."""

from __future__ import annotations

from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from neo4j.time import Date

from replica import cypher, plan
from replica.determinism import check, findings
from replica.errors import NotDeterministic
from replica.rules import RULES, Verdict
from replica.statement import Command, Statement
from tests.freezing import frozen


PARTS: Final = st.sampled_from(
    [
        *("MATCH", "CREATE", "MERGE", "WITH", "RETURN", "UNWIND", "SET", "ON CREATE SET", "ORDER BY", "LIMIT", "AS"),
        *("foreach", "Call", "IN", "UNION", "LET", "FOR", "CYPHER 25", "DELETE", "COLLECT {", "LOAD CSV"),
        *("(n:X)", "(n", ")", "[", "]", "{", "}", "|", ",", ":", ".", "..", "=", "-->", ";", "$x", "$__now_date"),
        *("timestamp", "Date", "`time`", "datetime()", "RAND()", "randomUUID ( )", "date.truncate('day')", "uuid()"),
        *("localtime({timezone: 'Z'})", "datetime.realtime()", "time.statement($x)", "datetime(n.x)", "id(n)"),
        *("collect(n)", "labels(n)", "head(", "xs", "1", "0x1F", "3.5", "'rand()'", '"a\\"b"', "`rand()`", "\\u0027"),
        *(" ", "\n", "/* timestamp() */", "// date()\n", "/*", "'", "\u200b"),
    ]
)
CYPHERISH: Final = st.lists(st.one_of(PARTS, PARTS.map(lambda part: part + " ")), max_size=25).map("".join)
ANY_TEXT: Final = st.one_of(CYPHERISH, st.text(max_size=40), st.lists(PARTS, max_size=20).map(" ".join))
PARAMETERS: Final = st.dictionaries(
    st.sampled_from(["x", "y", "__now_date", "timezone"]),
    st.recursive(
        st.one_of(st.none(), st.text(max_size=3), st.integers(), st.just("Z"), st.just(Date(2024, 1, 1))),
        lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.just("timezone"), inner, max_size=1)),
        max_leaves=4,
    ),
    max_size=2,
)


def _literal(text: str) -> list[str]:
    """What must not change: strings, comments, quoted names that call nothing."""
    return [token.text for token in cypher.tokens(text) if token.kind in {"string", "comment"}]


@settings(max_examples=150, deadline=None)
@given(ANY_TEXT, PARAMETERS)
def test_any_text_is_refused_or_frozen_so_that_a_replica_accepts_it(text: str, parameters: dict[str, Any]) -> None:
    """No other exception; nothing left to freeze; once is enough; strings and comments stay."""
    try:
        result = frozen(text, parameters)
    except NotDeterministic as error:
        assert error.rule in RULES  # noqa: PT017 - the message is not the point, the rule is
        return
    check(result.statement)
    assert frozen(result.statement.text, dict(result.statement.parameters), seed=2).statement == result.statement
    assert _literal(result.statement.text) == _literal(text)
    assert {k: result.statement.parameters[k] for k in parameters} == parameters


CALLS: Final = {
    "timestamp()": "$__now_timestamp",
    "date()": "$__now_date",
    "datetime.transaction()": "$__now_datetime",
    "localtime()": "$__now_localtime",
}
SPACE: Final = st.sampled_from(["", " ", "\n", "/* ) rand() */", "// '\n", "\t/**/ "])
QUOTED: Final = st.sampled_from(
    ["'date()'", '"rand()"', "'it\\'s timestamp()'", "n.`date()`", "n.date", "{rand: 1}", "1"]
)


@st.composite
def expressions(draw: st.DrawFn) -> tuple[str, str]:
    """A list of calls and of things that look like calls, and what must become of it."""
    text, expected = [], []
    for _ in range(draw(st.integers(1, 6))):
        if draw(st.booleans()):
            call = draw(st.sampled_from(sorted(CALLS)))
            name, spaces = call[:-2], [draw(SPACE) for _ in range(2)]
            spelled = "".join(draw(st.sampled_from([c.lower(), c.upper()])) for c in name)
            text.append(f"{spelled}{spaces[0]}({spaces[1]})")
            expected.append(CALLS[call] + "".join(spaces))
        else:
            text.append(draw(QUOTED))
            expected.append(text[-1])
    return ", ".join(text), ", ".join(expected)


@settings(deadline=None)
@given(
    expressions(),
    st.sampled_from(["MATCH (n) RETURN {}", "MATCH (n) SET n.l = [{}]", "create (n:X) with [{}] as x return x"]),
)
def test_calls_are_found_in_any_spelling_and_nothing_else_is(expression: tuple[str, str], frame: str) -> None:
    """Letter case, spaces and comments between a name and its bracket hide nothing; quotes and dots protect."""
    text, expected = expression
    written = frozen(frame.format(text)).statement.text
    assert "".join(written.split()) == "".join(frame.format(expected).split())


@given(
    st.sampled_from(
        [
            "CREATE (:X {n: $n})",
            "CREATE (:X {n: $__now_date})",
            "CREATE (:X {n: date($n)})",
            "CREATE (:X {n: timestamp()})",
            "CREATE INDEX $n FOR (x:X) ON (x.n)",
            "CREATE INDEX FOR (x:X) ON (x.n)",
            "MATCH (n) SET n.`__now_date` = 1",
            "LOAD CSV FROM 'x' AS x CREATE (:X)",
            "MATCH (x:X) CALL (x) { DELETE x } IN TRANSACTIONS",
            "(",
        ]
    ),
    st.dictionaries(st.sampled_from(["n", "__now_date", "__now_", "__rows"]), st.sampled_from([1, "now", None])),
    st.booleans(),
    st.booleans(),
)
def test_what_is_passed_at_a_glance_is_what_a_close_look_passes(
    text: str, parameters: dict[str, Any], idempotent: bool, condition: bool
) -> None:
    """By all rules, in text and parameters."""
    statement = Statement(text, parameters, idempotent=idempotent)

    glanced = _passes(statement, condition=condition)

    refused_or_frozen = {Verdict.REFUSE, Verdict.FREEZE}
    close = not any(RULES[one.rule].verdict in refused_or_frozen for one in findings(statement, condition=condition))
    assert glanced == close


def _passes(statement: Statement, *, condition: bool) -> bool:
    try:
        check(statement, condition=condition)
    except NotDeterministic:
        return False
    return True


@pytest.mark.parametrize(
    ("text", "kind", "code"),
    [
        ("CREATE (:X)", plan.Kind.BATCH, None),
        ("MATCH (x:X) DELETE x", plan.Kind.ALONE, None),
        ("CREATE INDEX i FOR (x:X) ON (x.n)", plan.Kind.SCHEMA, None),
        ("CREATE INDEX FOR (x:X) ON (x.n)", plan.Kind.BATCH, plan.UNNAMED),
        ("MATCH (x:X) CALL (x) { DETACH DELETE x } IN TRANSACTIONS", plan.Kind.BATCH, plan.UNSUPPORTED),
    ],
)
def test_a_special_text_is_never_taken_for_a_plain_one(text: str, kind: plan.Kind, code: str | None) -> None:
    """Nor what was skipped or refused for a plain command."""
    command = Command(0, (Statement(text),))
    verdict = plan.verdict(command)

    assert plan.kind_of(command) is kind
    assert (verdict and verdict.code) == code
    for ended in (replace(command, skipped="why"), replace(command, refused="why")):
        assert plan.verdict(ended) is not None
        assert plan.kind_of(ended) is plan.Kind.BATCH
