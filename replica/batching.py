"""CALL { ... } IN TRANSACTIONS, declared idempotent by its author: what else it takes for replicas to agree.  Pure.

What was committed before a batch fails stays.  So all replicas have to cut the same batches out of the same rows, in
the same order, and none may be left out because of something that only one server met.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from replica.clocks import Finding
from replica.footprint import sees_any_node
from replica.rules import ROWS


if TYPE_CHECKING:
    from collections.abc import Iterator

    from replica.reading import Reading

#: Where rows come in the order of a list.
_LISTS: Final = frozenset(["UNWIND", "FOR"])
#: Tokens after the closing bracket among which its options stand: IN n CONCURRENT TRANSACTIONS OF n ROWS ON ERROR ...
_OPTIONS: Final = 24


def found_in(reading: Reading) -> Iterator[Finding]:
    """The rules that the subqueries with transactions of their own break."""
    for closed in range(len(reading.found)):
        if reading.at(closed) == "}" and reading.word(closed + 1) == "IN" and _own(reading, closed):
            yield from _judged(reading, closed)
            if sees_any_node(reading.text):
                yield Finding("unordered-batches", "a pattern without a label, which may see the position's node")


def _own(reading: Reading, closed: int) -> bool:
    return "TRANSACTIONS" in reading.words[closed + 2 : closed + 5]


def _judged(reading: Reading, closed: int) -> Iterator[Finding]:
    call = _call(reading, closed)
    at = reading.offset(call)
    options = reading.words[closed + 1 : closed + _OPTIONS]
    if "CONCURRENT" in options:
        yield Finding("unordered-batches", "CONCURRENT TRANSACTIONS", at)
    if "ERROR" in options and options[options.index("ERROR") + 1 :][:1] != ("FAIL",):
        yield Finding("unordered-batches", "ON ERROR other than FAIL", at)
    if reading.enclosing[call] >= 0:
        yield Finding("unordered-batches", "IN TRANSACTIONS within brackets", at)
    if any(not call < index < closed for index in reading.writes):
        yield Finding("unordered-batches", "a write beside IN TRANSACTIONS", at)
    made = {reading.words[i] for i in range(call) if reading.words[i] in ROWS and reading.enclosing[i] < 0}
    if made - _LISTS and not reading.is_ordered(call):
        yield Finding("unordered-batches", "rows without an order", at)


def _call(reading: Reading, closed: int) -> int:
    """The CALL of the subquery that ends at *closed*: `CALL {`, `CALL (x) {`, `OPTIONAL CALL (x) {`."""
    before = reading.partner[closed] - 1
    if reading.at(before) == ")":
        before = reading.partner[before] - 1
    return before
