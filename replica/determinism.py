"""Statements that mean the same on every replica: checked, and made so where that is exact.  Pure.

    freeze   at the sender, before the log: clock and randomness become parameters, what differs is refused
    check    at a replica, since anyone may write to a log: the same rules, and nothing is left to freeze

What cannot be judged is refused, never passed.  The rules are data, in `replica.rules`.
"""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace
from neo4j.time import Date, DateTime, Time

from replica import cypher, temporal
from replica.clocks import HIDDEN_CLOCK, Finding
from replica.errors import NotDeterministic
from replica.judging import Judgement, judge
from replica.remembering import remembered
from replica.rules import RULES, Rule, Verdict


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from random import Random

    from replica.statement import Statement

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MILLISECOND: Final = dt.timedelta(milliseconds=1)
#: Values nested deeper than this have no place in a log anyway.
_MAX_DEPTH: Final = 100


@dataclass(frozen=True, slots=True)
class Frozen:
    """A statement that every replica executes alike, and the rules that apply to it: frozen, warned about, ..."""

    statement: Statement
    rules: tuple[Rule, ...]


def freeze(statement: Statement, *, now: dt.datetime, random: Random, condition: bool = False) -> Frozen:
    """Replace clock and randomness in *statement* by parameters `$__now_...`, `$__rand_...`, `$__uuid_...`.

    *now* is aware, and the same for all statements of a command, which so share one instant.  A statement that needs
    nothing frozen comes back as it is; freezing twice changes nothing.  A *condition* of a command is judged as one.

    Raises `NotDeterministic` for what differs between replicas and for what cannot be judged, and ValueError for a
    *now* without a time zone.
    """
    if now.utcoffset() is None:
        raise ValueError("now has no time zone")
    judgement = _judged(statement, condition=condition)
    if not judgement.needed:
        same = judgement.text == statement.text
        return Frozen(statement if same else replace(statement, text=judgement.text), _rules(judgement))
    if any(name.startswith(cypher.RESERVED_PREFIX) for name in _names(statement)):
        raise _error("reserved-parameter", "a clock or a random value beside names that are already ours")
    drawn = {name: _value(name, now.astimezone(dt.UTC), random) for name in judgement.needed}
    parameters = {**statement.parameters, **drawn}
    return Frozen(replace(statement, text=judgement.text, parameters=parameters), _rules(judgement))


def check(statement: Statement, *, condition: bool = False) -> None:
    """Raise `NotDeterministic` if anything in *statement* should have been frozen or refused by its sender."""
    if is_plain(statement, condition=condition):
        return
    judgement = _judged(statement, condition=condition)
    for finding in judgement.findings:
        if RULES[finding.rule].verdict is Verdict.FREEZE:
            raise NotDeterministic(
                f"{finding.what}: {RULES[finding.rule].reason}", "freeze the statement at the sender", finding.rule
            )


def is_plain(statement: Statement, *, condition: bool = False) -> bool:
    """Whether nothing can be said against the text, nor against any value of its parameters: so are most."""
    judgement = _judgement(statement, condition=condition)
    touched = judgement.findings or judgement.schema or judgement.zones or judgement.temporal
    if touched or cypher.RESERVED_PREFIX in statement.text:
        return False
    return not any(name.startswith(cypher.RESERVED_PREFIX) for name in statement.parameters)


def findings(statement: Statement, *, condition: bool = False) -> tuple[Finding, ...]:
    """Every rule that *statement* touches, in text and parameters, where `freeze` stops at the first that refuses."""
    judgement = _judgement(statement, condition=condition)
    return (*judgement.findings, *(Finding(*found) for found in _refused_values(statement, judgement)))


def _judgement(statement: Statement, *, condition: bool) -> Judgement:
    return _judge(statement.text, idempotent=statement.idempotent, condition=condition)


def _judged(statement: Statement, *, condition: bool) -> Judgement:
    """The judgement of a statement with nothing in it to refuse."""
    judgement = _judgement(statement, condition=condition)
    for finding in judgement.findings:
        if RULES[finding.rule].verdict is Verdict.REFUSE:
            raise _error(finding.rule, finding.what)
    for rule, what in _refused_values(statement, judgement):
        raise _error(rule, what)
    return judgement


_judge = remembered(judge)


def _error(rule: str, what: str) -> NotDeterministic:
    found = RULES[rule]
    return NotDeterministic(f"{what}: {found.reason}", found.rewrite, rule)


def _rules(judgement: Judgement) -> tuple[Rule, ...]:
    return tuple(RULES[name] for name in dict.fromkeys(finding.rule for finding in judgement.findings))


def _refused_values(statement: Statement, judgement: Judgement) -> Iterator[tuple[str, str]]:
    """What the values of the parameters make of a text that is fine by itself."""
    parameters = statement.parameters
    yield from _reserved(statement)
    if judgement.schema and not (cypher.schema_name(judgement.text, parameters) or "").strip():
        yield "unnamed-schema", "a schema change without a name"
    for name in sorted(judgement.zones):
        if not isinstance(parameters.get(name), str):
            yield "clock-hidden", f"the time zone ${name} is no string"
    if judgement.temporal and (reason := _hides_clock(_looked_at(parameters, judgement))):
        yield "clock-hidden", reason


def _looked_at(parameters: Mapping[str, Any], judgement: Judgement) -> Mapping[str, Any]:
    """The parameters that may reach a temporal function."""
    if judgement.open_clock:
        return parameters
    return {name: parameters.get(name) for name in judgement.inputs | judgement.zones}


def _reserved(statement: Statement) -> Iterator[tuple[str, str]]:
    """Names of ours are fine if freezing could have made them: known, used, and with a value of the right type."""
    given = {name for name in statement.parameters if name.startswith(cypher.RESERVED_PREFIX)}
    used = {name for name in _names(statement) if name.startswith(cypher.RESERVED_PREFIX)}
    for name in sorted(given | used):
        if name not in given or name not in used or not _is_ours(name, statement.parameters[name]):
            yield "reserved-parameter", f"the name {name}"


def _names(statement: Statement) -> Iterator[str]:
    """Every name that a rewritten text could take for one of ours, and the parameters that are given."""
    if cypher.RESERVED_PREFIX in statement.text:
        for token in cypher.tokens(statement.text):
            if token.kind == "parameter" or (token.kind in {"name", "quoted"} and cypher.FROZEN.fullmatch(token.name)):
                yield token.name
    yield from (name for name in statement.parameters if name.startswith(cypher.RESERVED_PREFIX))


def _is_ours(name: str, value: Any) -> bool:
    match = cypher.FROZEN.fullmatch(name)
    if match is None:
        return False
    kind = match[1].partition("_")[2] if match[1].startswith("now_") else match[1].partition("_")[0]
    zoned = getattr(value, "tzinfo", None) is not None
    return {
        "date": type(value) is Date,
        "time": type(value) is Time and zoned,
        "localtime": type(value) is Time and not zoned,
        "datetime": type(value) is DateTime and zoned,
        "localdatetime": type(value) is DateTime and not zoned,
        "timestamp": type(value) is int,
        "rand": type(value) is float,
        "uuid": type(value) is str,
    }[kind]


def _value(name: str, now: dt.datetime, random: Random) -> Any:
    """The value of a parameter of ours, in the type and the precision that the server would give."""
    if name.startswith("__rand"):
        return random.random()
    if name.startswith("__uuid"):
        return str(uuid.UUID(int=random.getrandbits(128), version=4))
    text = temporal.datetime_text(now.replace(tzinfo=None))
    clocks: dict[str, Callable[[], Any]] = {
        "__now_date": lambda: temporal.parse_date(text.partition("T")[0]),
        "__now_time": lambda: temporal.parse_time(text.partition("T")[2] + "Z"),
        "__now_localtime": lambda: temporal.parse_time(text.partition("T")[2]),
        "__now_datetime": lambda: temporal.parse_datetime(text + "Z"),
        "__now_localdatetime": lambda: temporal.parse_datetime(text),
        "__now_timestamp": lambda: (now - _EPOCH) // _MILLISECOND,
    }
    return clocks[name]()


def _hides_clock(parameters: Mapping[str, Any]) -> str | None:
    """Whether a value, at any depth, would make a temporal function read the clock."""
    waiting: list[tuple[str, Any, int]] = [(name, value, 0) for name, value in parameters.items()]
    while waiting:
        name, value, depth = waiting.pop()
        if depth > _MAX_DEPTH:
            return f"${name} is nested deeper than {_MAX_DEPTH}"
        if value == HIDDEN_CLOCK if isinstance(value, str) else _only_zone(value):
            return f"${name} holds what a temporal function takes for the clock"
        if isinstance(value, dict):
            waiting += [(name, inner, depth + 1) for inner in value.values()]
        elif type(value) in {list, tuple}:
            waiting += [(name, inner, depth + 1) for inner in value]
    return None


def _only_zone(value: Any) -> bool:
    return isinstance(value, dict) and [str(key).lower() for key in value] == ["timezone"]
