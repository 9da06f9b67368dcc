"""Several queries of one text in one round trip: how they are asked, and for which texts that is worth it.

Of a small query most of the time goes into asking, and not into answering.  So queries that wait for each other go to
the server as one, where that cannot be noticed: of one text that may be a subquery, with parameters of the same types,
and only as long as the server answers it within `QUICK_MS`, with a few rows and without a remark.  Whatever goes wrong
with them together, each is asked again alone, and is told what it would have been told anyway.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from replica import cypher, plan, remembering
from replica.summary import Summary, summary_of


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import neo4j

    from replica.statement import Position

    #: A text, and the names and types of its parameters.
    Shared = tuple[str, Any]

#: Milliseconds within which the server answers what goes together with others.  On a busy machine a small query takes
#: a few, and those are the times in which it pays most.
QUICK_MS: Final = 5
#: Rows and bytes of the last answer of what goes together with others, and rows of an answer to all of them.
FEW: Final = 20
SMALL: Final = 20_000
FEW_TOGETHER: Final = 1000
#: Seconds for which a text goes alone when it has failed, or was slow, together.
APART_S: Final = 10.0
#: How many quick answers outweigh a slow one, and how many slow ones at once are too many: any answer may be slow once.
SLOW: Final = 4
SLOW_AT_ONCE: Final = 3
#: Kinds of queries that are remembered.
_REMEMBERED: Final = 2048


class Asked(NamedTuple):
    """One query; all as of `Queries.run`."""

    parameters: Mapping[str, Any]
    timeout_s: float | None
    max_rows: int | None
    known_s: float
    tag: str


class Part:
    """What one query gets of an answer to several, with the face of a driver's result, and of its session."""

    def __init__(self, columns: tuple[str, ...], told: Summary, position: Position | None) -> None:
        self.rows: list[Sequence[Any]] = []
        self.position = position
        self._columns = columns
        self._told = told

    def keys(self) -> tuple[str, ...]:
        """As of a result."""
        return self._columns

    def consume(self) -> Summary:
        """As of a result, and read already, once for all."""
        return self._told

    def __iter__(self) -> Iterator[Sequence[Any]]:
        return iter(self.rows)

    def close(self) -> None:
        """As of a session; there is nothing to give back."""


@dataclass(slots=True)
class Kind:
    """How queries of one kind go together: their *columns*, and the *text* that asks for a number of them."""

    columns: tuple[str, ...]
    text: str
    slow: int = 0  # more for each answer that took long, less for each other one


class Kinds:
    """What is known of queries by what they have in common, a text and the types of its parameters.  Any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: OrderedDict[Shared, Kind] = OrderedDict()
        self._apart: OrderedDict[Shared, float] = OrderedDict()  # until when
        self._lock = threading.Lock()

    def of(self, key: Shared) -> Kind | None:
        """How those of that key go together, if they may."""
        return self._known.get(key)

    def heard(self, key: Shared, columns: tuple[str, ...], rows: int, size: int, summary: Summary) -> Kind | None:
        """One of them was answered, alone; how they might go together, where that is news: `learn` it once tried."""
        kind, quick = self._known.get(key), _took_ms(summary) <= QUICK_MS
        if kind is not None:
            self._count(key, kind, quick=quick)
            return None
        fit = bool(columns) and rows <= FEW and size <= SMALL and not summary.notifications and not summary.plan
        if not (quick and fit) or self._clock() < self._apart.get(key, 0.0):
            return None
        return Kind(columns, joint(key[0], columns))

    def learn(self, key: Shared, kind: Kind) -> None:
        """They go together from now on."""
        with self._lock:
            self._known[key] = kind
            _bound(self._known)

    def heard_together(self, key: Shared, kind: Kind, number: int, summary: Summary) -> bool:
        """So many of them were answered; whether that is what each would have been told alone."""
        self._count(key, kind, quick=_took_ms(summary) <= QUICK_MS + number)
        return not summary.notifications

    def keep_apart(self, key: Shared) -> None:
        """They do not go well together, for now."""
        with self._lock:
            self._known.pop(key, None)
            self._apart[key] = self._clock() + APART_S
            _bound(self._apart)

    def _count(self, key: Shared, kind: Kind, *, quick: bool) -> None:
        kind.slow = max(kind.slow - 1, 0) if quick else kind.slow + SLOW
        if kind.slow > SLOW * SLOW_AT_ONCE:
            self.keep_apart(key)


def _took_ms(summary: Summary) -> int:
    return (summary.available_ms or 0) + (summary.consumed_ms or 0)


def _bound(known: OrderedDict[Shared, Any]) -> None:
    if len(known) > _REMEMBERED:
        known.popitem(last=False)


def shared(text: str, parameters: Mapping[str, Any]) -> Shared | None:
    """What a query has in common with those that it could go together with; none where it goes alone in any case."""
    kinds = tuple(map(type, parameters.values()))
    if len(text) > remembering.LENGTH or not plan.SCALARS.issuperset(kinds):
        return None
    return _shared(text, tuple(parameters), kinds)


@lru_cache(maxsize=_REMEMBERED)
def _shared(text: str, names: tuple[str, ...], kinds: tuple[type, ...]) -> Shared | None:
    key = plan.key_of_scalars(text, names, kinds)
    # Within a subquery the server sees no reason to keep an order.
    ordered = any(token.word == "ORDER" for token in cypher.significant(text))
    return None if ordered else key


def joint(text: str, columns: Sequence[str]) -> str:
    """*text* for each of `$__rows`: one list of all rows, each with whose it is before its columns.

    A list, since each record takes the driver two calls of the system, whatever is in it.
    """
    inner = cypher.body(cypher.parameters_to_row(text, "__row"))
    named = ", ".join("`" + column.replace("`", "``") + "`" for column in columns)
    return (
        f"UNWIND $__rows AS __row CALL (__row) {{\n{inner}}} WITH __row.__n AS __n, {named} LIMIT {FEW_TOGETHER + 1}"
        f" RETURN collect([__n, {named}]) AS __found"
    )


def parted(
    result: neo4j.Result, number: int, columns: tuple[str, ...], position: Position | None
) -> tuple[list[Part], Summary] | None:
    """An answer to so many queries, taken apart; none where it has too many rows."""
    [[found]] = result
    if len(found) > FEW_TOGETHER:
        return None
    told = summary_of(result.consume())
    parts = [Part(columns, told, position) for _ in range(number)]
    for whose, *row in found:
        parts[whose].rows.append(row)
    return parts, told
