"""The gate under statements from a grammar, and under what is left of them when they are damaged."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from random import Random
from typing import Final

from hypothesis import given, settings
from hypothesis import strategies as st

from replica import cypher, plan
from replica.determinism import check, freeze
from replica.errors import NotDeterministic
from replica.explaining import REFUSED, explain
from replica.rules import RULES
from replica.statement import Command, Statement
from tests.grammar import Grammar, damaged


NOW: Final = dt.datetime(2024, 2, 29, 12, tzinfo=dt.UTC)

seeds = st.integers(0, 2**32)


def judged(statement: Statement) -> Statement | None:
    """The frozen statement, which a replica must accept; None where it is refused, which explaining must say, too."""
    explanation = explain(statement, now=NOW, random=Random(1))
    try:
        frozen = freeze(statement, now=NOW, random=Random(1)).statement
    except NotDeterministic as error:
        rule: str | None = error.rule
    else:
        rule = None
    if rule is not None:
        assert rule in RULES
        assert explanation.verdict == REFUSED
        return None
    check(frozen)
    assert freeze(frozen, now=NOW, random=Random(2)).statement == frozen
    assert plan.verdict(Command(0, (frozen,))) is not None or explanation.statement == frozen
    return frozen


@settings(max_examples=150, deadline=None)
@given(seeds)
def test_a_statement_of_the_grammar_is_refused_or_frozen(seed: int) -> None:
    """Everything that is no clock and no random value stays as it is written."""
    statement = Grammar(Random(seed)).statement()
    frozen = judged(statement)
    if frozen is None:
        return
    kept = {"string", "comment", "number"}
    assert [t for t in cypher.tokens(frozen.text) if t.kind in kept] == [
        t for t in cypher.tokens(statement.text) if t.kind in kept
    ]
    assert {name: frozen.parameters[name] for name in statement.parameters} == statement.parameters
    assert "timestamp()" not in "".join(t.text.lower() for t in cypher.significant(frozen.text))


@settings(max_examples=200, deadline=None)
@given(seeds)
def test_what_cannot_be_cut_into_tokens_is_never_let_through(seed: int) -> None:
    """Damaged texts raise nothing else, and one with an open quote, comment or bracket is refused by everybody."""
    random = Random(seed)
    statement = Grammar(random).statement()
    broken = Statement(damaged(statement.text, random), statement.parameters)
    frozen = judged(broken)
    found = cypher.significant(broken.text)
    if any(token.kind == "unterminated" for token in found) or not cypher.is_balanced(found):
        assert frozen is None
        assert not cypher.wrappable(broken.text)
    assert "".join(token.text for token in cypher.tokens(broken.text)) == broken.text


def test_the_grammar_reaches_what_it_is_for() -> None:
    """Enough of it passes, is frozen, and is refused for several reasons; else the tests above show little."""
    seen: Counter[str] = Counter()
    for seed in range(400):
        found = explain(Grammar(Random(seed)).statement(), now=NOW, random=Random(1))
        seen[found.verdict] += 1
        seen.update({fired.rule.name for fired in found.fired})
    assert min(seen["frozen"], seen["as it is"], seen["refused"]) > 40, seen
    assert {"clock", "random", "random-rows", "realtime-rows", "list-order"} <= seen.keys()
