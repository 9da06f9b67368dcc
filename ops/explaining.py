"""`explain-command`: what would go into the log, why, and what a server says to it."""

from __future__ import annotations

import datetime as dt
import random
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ops import connection, parameters
from replica import explaining, opinion, values
from replica.statement import Statement
from replica.transactions import Database
from tasks import wire


if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from replica.explaining import Explanation, Fired
    from replica.opinion import Opinion
    from settings import Settings

#: Seconds for the server to compile one text.
ASK_S = 10.0

REFUSED = 4

_KINDS = {"batch": "batched", "alone": "alone", "schema": "schema", "pieces": "in transactions of its own"}


@dataclass(frozen=True, slots=True)
class Told:
    """An explanation, and the server's opinion of the command, and of its condition, where it was asked for it."""

    explanation: Explanation
    server: Opinion | None
    server_of_condition: Opinion | None = None

    @property
    def exit_code(self) -> int:
        """Not 0 when it is refused, or when the server has something against it."""
        against = [said for said in (self.server, self.server_of_condition) if said and said.contradictions]
        return REFUSED if self.explanation.statement is None or against else 0

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        found = self.explanation
        return {
            **_text(found, self.server),
            "applied": None if found.kind is None else {"how": _KINDS[found.kind.value], "why": found.why},
            "condition": None if found.condition is None else _text(found.condition, self.server_of_condition),
        }

    def as_text(self) -> str:
        """For people."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        found = self.explanation
        if found.condition is not None:
            yield from _told("condition", found.condition)
            if self.server_of_condition is not None:
                yield from _server(self.server_of_condition)
        yield from _told("original", found)
        if found.kind is not None:
            yield f"applied     {_KINDS[found.kind.value]}: {found.why}"
        if self.server is not None:
            yield from _server(self.server)


def explained(
    settings: Settings,
    text: str,
    pairs: Sequence[str],
    params: str | None,
    *,
    check: bool,
    idempotent: bool,
    when: str | None = None,
) -> Told:
    """Explain one command; Kafka is not asked, and the replica's server only to *check*.

    Raises:
      InputUnusable, ValueNotDecodable: the parameters.
      Unavailable: the server does not answer, or not about the text.
    """
    statement = Statement(text, parameters.parse(pairs, params), idempotent)
    condition = None if when is None else wire.condition(when, statement.parameters)
    found = explaining.explain(statement, now=dt.datetime.now(dt.UTC), random=random.SystemRandom(), when=condition)
    return _asked(settings, found) if check and found.statement is not None else Told(found, None)


def _asked(settings: Settings, found: Explanation) -> Told:
    with connection.database(settings) as driver:
        database = Database(driver, settings.neo4j_database, ASK_S)
        said = None if found.statement is None else opinion.ask(database, found.statement)
        if found.condition is None or found.condition.statement is None:
            return Told(found, said)
        return Told(found, said, opinion.ask(database, found.condition.statement, condition=True))


def _text(found: Explanation, server: Opinion | None) -> dict[str, Any]:
    return {
        "original": _statement(found.original),
        "verdict": found.verdict,
        "frozen": None if found.statement is None else _statement(found.statement),
        "rules": [_rule(fired) for fired in found.fired],
        "server": None if server is None else asdict(server),
    }


def _statement(statement: Statement) -> dict[str, Any]:
    return {"text": statement.text, "parameters": _encoded(statement)}


def _encoded(statement: Statement) -> dict[str, Any]:
    return {name: values.encode(value, name) for name, value in statement.parameters.items()}


def _rule(fired: Fired) -> dict[str, Any]:
    rule = fired.rule
    return {
        "rule": rule.name,
        "verdict": rule.severity,
        "what": fired.what,
        "line": fired.line,
        "column": fired.column,
        "reason": rule.reason,
        "rewrite": rule.rewrite or None,
    }


def _where(fired: Fired) -> str:
    return "the whole command" if fired.line is None else f"line {fired.line}, column {fired.column}"


def _told(label: str, found: Explanation) -> Iterator[str]:
    yield from _block(label, found.original)
    if found.statement is not None and found.statement != found.original:
        yield from _block("in the log", found.statement)
    yield f"verdict     {found.verdict}"
    for fired in found.fired:
        yield f"  {fired.rule.severity:<13} {fired.rule.name}, {_where(fired)}"
        yield f"  {'':<13} {fired.what}: {fired.rule.reason}"
        if fired.rule.rewrite:
            label = "becomes" if fired.rule.severity == "freeze" else "instead"
            yield f"  {'':<13} {label}: {fired.rule.rewrite}"


def _block(label: str, statement: Statement) -> Iterator[str]:
    first, *others = statement.text.splitlines() or [""]
    yield f"{label:<12}{first}"
    yield from (f"{'':<12}{line}" for line in others)
    for name, value in _encoded(statement).items():
        yield f"{'':<12}${name} = {parameters.shown(value)}"


def _server(said: Opinion) -> Iterator[str]:
    if said.query_type is not None:
        yield f"server      type {said.query_type}, plan {' < '.join(said.operators)}"
    for text in said.contradictions:
        yield f"  against     {text}"
    for text in said.remarks:
        yield f"  remark      {text}"
