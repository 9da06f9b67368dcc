"""What becomes of a command, told before it is sent: the text as it goes into the log, and why.  Pure.

The verdict is the one of `replica.determinism` and `replica.plan`, by the same code, so that it cannot say anything
else than a sender and a replica will do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from replica import cypher, plan
from replica.determinism import findings, freeze
from replica.errors import NotDeterministic
from replica.footprint import sees_any_node
from replica.rules import RULES, Rule, Verdict
from replica.statement import Command, Statement


if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator
    from random import Random

    from replica.clocks import Finding

FROZEN: Final = "frozen"
AS_IT_IS: Final = "as it is"
REFUSED: Final = "refused"


@dataclass(frozen=True, slots=True)
class Fired:
    """A rule that applies, *what* in the statement it is about, and where; lines and columns count from 1.

    *line* and *column* are None where the rule is about the whole text, or about a parameter's value.
    """

    rule: Rule
    what: str
    line: int | None = None
    column: int | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """What becomes of *original*.

    *verdict* is `frozen`, `as it is` or `refused`; *statement* is what goes into the log, None where nothing does.
    *kind* is how a replica applies it and *why* the reason; None where it is refused.  *condition* is the same of its
    condition, for which nothing is said of how it is applied.
    """

    original: Statement
    verdict: str
    fired: tuple[Fired, ...]
    statement: Statement | None = None
    kind: plan.Kind | None = None
    why: str = ""
    condition: Explanation | None = None


def explain(statement: Statement, *, now: dt.datetime, random: Random, when: Statement | None = None) -> Explanation:
    """Explain what a sender makes of *statement* at *now*, and how a replica applies it.  Never raises.

    *when* is its condition.  Every rule that applies is told, also behind the one that refuses.
    """
    condition = None if when is None else _frozen(when, now=now, random=random, condition=True)
    found = replace(_frozen(statement, now=now, random=random), condition=condition)
    if found.statement is None or (condition is not None and condition.statement is None):
        return replace(found, verdict=REFUSED, statement=None)
    command = Command(-1, (found.statement,), when=None if condition is None else condition.statement)
    outcome = plan.verdict(command)
    if outcome is not None:
        rule = Rule(outcome.code or "", Verdict.REFUSE, outcome.message or "")
        fired = (*found.fired, Fired(rule, "the statement"))
        return replace(found, verdict=REFUSED, fired=fired, statement=None)
    kind = plan.kind_of(command)
    return replace(found, kind=kind, why="; ".join(_reasons(command, kind)))


def _frozen(statement: Statement, *, now: dt.datetime, random: Random, condition: bool = False) -> Explanation:
    """What a sender makes of one text, and nothing yet of how it is applied."""
    fired = [_fired(statement.text, finding) for finding in findings(statement, condition=condition)]
    try:
        frozen = freeze(statement, now=now, random=random, condition=condition).statement
    except NotDeterministic as error:
        if error.rule not in {each.rule.name for each in fired}:
            fired.append(Fired(RULES[error.rule], error.reason.partition(": ")[0]))
        return Explanation(statement, REFUSED, tuple(fired))
    return Explanation(statement, AS_IT_IS if frozen.text == statement.text else FROZEN, tuple(fired), frozen)


def _fired(text: str, finding: Finding) -> Fired:
    rule = RULES[finding.rule]
    if finding.at < 0:
        return Fired(rule, finding.what)
    before = text[: finding.at]
    return Fired(rule, finding.what, before.count("\n") + 1, finding.at - before.rfind("\n"))


def _reasons(command: Command, kind: plan.Kind) -> Iterator[str]:
    [statement] = command.statements
    text = cypher.analyse(statement.text)
    if kind is plan.Kind.SCHEMA:
        yield "a schema change shares no transaction with the position: intent, change, position"
    elif kind is plan.Kind.PIECES:
        yield "it commits in transactions of its own, and is run again after a crash"
    elif kind is plan.Kind.ALONE:
        if called := cypher.procedures(statement.text):
            yield f"it calls {', '.join(called)}"
        if cypher.deletes_without_detach(statement.text):
            yield "DELETE without DETACH is judged only when its transaction commits"
        if any(sees_any_node(each.text) for each in plan.texts(command)):
            yield "a pattern without a label may see the node that holds the position"
    elif command.when is not None:
        yield "it shares a transaction with its neighbours, and its condition is looked at in its place among them"
    elif text.wrappable and text.parameters and text.parameters <= statement.parameters.keys():
        yield "it shares a transaction with its neighbours, and one UNWIND with those of the same text"
    else:
        yield "it shares a transaction with its neighbours"
