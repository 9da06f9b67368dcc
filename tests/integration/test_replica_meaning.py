"""Freezing changes no meaning: original and frozen statements side by side on a real server, each rolled back."""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from random import Random
from typing import TYPE_CHECKING, Any, Final

import pytest
from neo4j.exceptions import Neo4jError
from neo4j.graph import Node
from neo4j.time import Date, DateTime, Time

from replica.determinism import freeze
from replica.errors import NotDeterministic
from replica.outcomes import code_of, is_deterministic
from tests.grammar import SETUP, Grammar


if TYPE_CHECKING:
    from collections.abc import Mapping

    import neo4j
    from neo4j import Driver

    from replica.statement import Statement

#: Everything that is in the graph, without ids.
GRAPH: Final = "MATCH (n) RETURN labels(n) AS l, properties(n) AS p, COUNT { (n)-->() } AS o, COUNT { (n)<--() } AS i"
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TIME: Final = re.compile(r"\d\d:\d\d(:\d\d)?(\.\d+)?")
#: Seconds between the two runs, and milliseconds since which a number is a timestamp.
_CLOSE_S: Final = 120
_TIMESTAMPS: Final = 1_500_000_000_000
_DAY_S: Final = 86_400


def ran(session: neo4j.Session, text: str, parameters: Mapping[str, Any]) -> tuple[str, Any]:
    """The code of the error, or rows, counters and the graph afterwards; nothing of it stays."""
    tx = session.begin_transaction()
    try:
        result = tx.run(text, dict(parameters))
        rows = [record.values() for record in result]
        counters = {k: v for k, v in vars(result.consume().counters).items() if not k.startswith("_")}
        graph = [record.values() for record in tx.run(GRAPH)]
    except Neo4jError as error:
        return code_of(error), None
    finally:
        tx.close()  # leaving a `with` block would commit
    return "", (rows, counters, sorted(graph, key=_shape))


def _shape(value: Any) -> str:
    """An order in which clocks and random values do not count."""
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{_shape(value[key])}' for key in sorted(value))}}}"
    if isinstance(value, list):
        return f"[{','.join(map(_shape, value))}]"
    return _scalar_shape(value)


def _scalar_shape(value: Any) -> str:
    if isinstance(value, str):
        return _TIME.sub("T", _UUID.sub("U", value))
    if type(value) is int and value > _TIMESTAMPS:
        return "T"
    if isinstance(value, float):
        return "R" if 0 <= value < 1 else str(value)
    return type(value).__name__ if isinstance(value, (Date, DateTime, Time)) else str(value)


def alike(one: Any, other: Any) -> bool:
    """Whether the two are equal, apart from what a clock has gone on and from what is random."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Node):
        return bool(one.labels == other.labels) and alike(dict(one), dict(other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if type(one) in {list, tuple}:
        return len(one) == len(other) and all(map(alike, one, other))
    return _scalars_alike(one, other)


def _scalars_alike(one: Any, other: Any) -> bool:
    if isinstance(one, (Date, DateTime, Time)):
        return _near(one, other)
    if type(one) is int and one > _TIMESTAMPS:
        return bool(abs(one - other) < _CLOSE_S * 1000)
    return bool(one == other) or _shape(one) == _shape(other)


def _near(one: Any, other: Any) -> bool:
    if getattr(one, "utcoffset", lambda: None)() != getattr(other, "utcoffset", lambda: None)():
        return False
    if isinstance(one, Date):
        return bool(abs(one.to_ordinal() - other.to_ordinal()) <= 1)
    if isinstance(one, Time):
        distance = abs(one.ticks - other.ticks) / 1e9
        return bool(min(distance, _DAY_S - distance) < _CLOSE_S)
    return bool(abs((one.to_native() - other.to_native()).total_seconds()) < _CLOSE_S)


def differing(driver: Driver, seeds: range) -> tuple[list[str], Counter[str], Counter[str]]:
    """What means something else when it is frozen; how often texts were what; and the codes that would be held."""
    found: list[str] = []
    seen: Counter[str] = Counter()
    held: Counter[str] = Counter()
    driver.execute_query(SETUP)
    with driver.session(database="neo4j") as session:
        for seed in seeds:
            statement = Grammar(Random(seed)).statement()
            frozen = _frozen(statement)
            if frozen is None:
                seen["refused"] += 1
                continue
            seen["same" if frozen.text == statement.text else "frozen"] += 1
            before = ran(session, statement.text, statement.parameters)
            after = ran(session, frozen.text, frozen.parameters)
            seen["failed" if after[0] else "ran"] += 1
            if after[0] and not is_deterministic(after[0]):
                held[f"{after[0]}: {frozen.text}"] += 1
            if bool(before[0]) is not bool(after[0]) or not alike(before[1], after[1]):
                found.append(f"seed {seed}: {statement.text!r} became {frozen.text!r}: {before} / {after}")
    return found, seen, held


def _frozen(statement: Statement) -> Statement | None:
    try:
        return freeze(statement, now=dt.datetime.now(dt.UTC), random=Random(1)).statement
    except NotDeterministic:
        return None


@pytest.mark.parametrize("count", [60, pytest.param(3000, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])])
def test_a_frozen_statement_does_what_the_original_does(driver: Driver, count: int) -> None:
    """Rows, counters and graph alike, within what a clock goes on; and no statement would hold a queue for ever."""
    found, seen, held = differing(driver, range(count))
    print(seen)  # noqa: T201 - how much was shown
    assert found == []
    assert held == {}
    assert seen["ran"] > seen["failed"], "most statements have to mean something"
    assert seen["frozen"] > count / 6
