"""Lists whose order differs between replicas, and what depends on that order.  Pure.

`collect()` without ORDER BY before it, pattern comprehensions, `labels()` and `keys()` make such lists.  They are
followed through the names that they are given (`AS xs`), wherever such a name stands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from replica.rules import BEFORE_BRACKET, ORDERED_USES


if TYPE_CHECKING:
    from collections.abc import Iterator

    from replica.reading import Reading

#: What makes no difference between two orders of one list.
_ORDER_FREE: Final = frozenset(["size", "isempty", "any", "all", "none", "single"])


@dataclass(frozen=True, slots=True)
class Unordered:
    """A list from *start* to *end*; *named* lists are labels and keys, whose order is local even for one row."""

    start: int
    end: int
    named: bool


def found_in(reading: Reading) -> Iterator[tuple[str, str, int]]:
    """The rules that the lists of a text break, each with what is at fault, and the character where it begins."""
    names: dict[str, bool] = {}
    for item in sorted([*_made(reading)], key=lambda item: item.start):
        yield from ((*found, reading.offset(item.start)) for found in _judged(reading, item, made=True))
        names.update(dict.fromkeys(_aliases(reading, item), item.named))
    seen: set[int] = set()
    while names:
        renamed: dict[str, bool] = {}
        for index in _mentions(reading, names):
            item = Unordered(index, index, names[reading.found[index].name])
            if index not in seen:
                seen.add(index)
                yield from ((*found, reading.offset(index)) for found in _judged(reading, item, made=False))
                renamed.update(dict.fromkeys(_aliases(reading, item), item.named))
        names = {name: named for name, named in renamed.items() if name not in names}


def _made(reading: Reading) -> Iterator[Unordered]:
    for call in reading.calls:
        if call.name in {"labels", "keys"}:
            yield Unordered(call.start, call.end, named=True)
        elif call.name == "collect" and not _sorted_before(reading, call.start):
            yield Unordered(call.start, call.end, named=False)
    for index, token in enumerate(reading.found):
        if token.text == "[" and _is_pattern_comprehension(reading, index):
            yield Unordered(index, reading.partner[index], named=False)
        elif (
            token.text == "{"
            and reading.found[max(0, index - 1)].word == "COLLECT"
            and not _sorted_within(reading, index)
        ):
            yield Unordered(index - 1, reading.partner[index], named=False)


def _sorted_before(reading: Reading, index: int) -> bool:
    """The clause before the one around *index* ends in ORDER BY: `WITH x ORDER BY x.k WITH collect(x)`."""
    clause = reading.clauses[index]
    return (
        clause >= 0
        and reading.words[clause] in {"WITH", "RETURN"}
        and not _operator(reading, clause)
        and reading.is_ordered(clause)
    )


def _operator(reading: Reading, index: int) -> bool:
    """What may be the WITH of STARTS WITH or ENDS WITH."""
    return reading.words[index] == "WITH" and reading.word(index - 1) in {"STARTS", "ENDS"}


def _sorted_within(reading: Reading, opened: int) -> bool:
    """The last RETURN of a COLLECT subquery has ORDER BY."""
    return reading.is_ordered(reading.partner[opened])


def _is_pattern_comprehension(reading: Reading, opened: int) -> bool:
    start = opened + 1
    if reading.is_name(start) and reading.at(start + 1) == "=":
        start += 2
    inside = range(start, reading.partner[opened])
    return reading.at(start) == "(" and any(reading.at(i) == "|" and reading.enclosing[i] == opened for i in inside)


def _judged(reading: Reading, item: Unordered, *, made: bool) -> Iterator[tuple[str, str]]:
    what = "".join(token.text for token in reading.found[item.start : item.end + 1])
    if _picked(reading, item):
        yield ("unordered-names" if item.named else "unordered-list"), f"picks from {what} by position"
    elif made and reading.feeds_write(item.start) and not _order_free(reading, item):
        yield ("unordered-names", f"writes what follows from {what}") if item.named else ("list-order", what)


def _picked(reading: Reading, item: Unordered) -> bool:
    """An index, a slice, head(), last() or reduce() over it, directly or through brackets."""
    if _indexed(reading, item.end) or _reduced(reading, item.start):
        return True
    for opened in reading.around(item.start):
        if _free_of_order(reading, opened):
            return False
        if _indexed(reading, reading.partner[opened]) or reading.functions.get(opened) in ORDERED_USES:
            return True
        if _is_list(reading, opened):
            return True
    return False


def _free_of_order(reading: Reading, opened: int) -> bool:
    return reading.functions.get(opened) in _ORDER_FREE or reading.word(opened - 1) in {"ANY", "ALL"}


def _is_list(reading: Reading, opened: int) -> bool:
    """`[xs]`, out of which a loop may take the list under a name that is not followed."""
    if reading.at(opened) != "[" or opened in reading.several:
        return False
    indexes = reading.is_name(opened - 1) and reading.found[opened - 1].word not in BEFORE_BRACKET
    return not indexes and reading.at(opened - 1) not in {")", "]", "}"}


def _indexed(reading: Reading, end: int) -> bool:
    """`xs[0]`, also through properties: `m.xs[0]`."""
    while reading.at(end + 1) == "." and reading.is_name(end + 2):
        end += 2
    return reading.at(end + 1) == "["


def _reduced(reading: Reading, start: int) -> bool:
    return any(reading.functions.get(opened) in {"reduce", "allreduce"} for opened in reading.around(start))


def _order_free(reading: Reading, item: Unordered) -> bool:
    before, opened = reading.word(item.start - 1), reading.enclosing[item.start]
    if before == "UNWIND" or (before == "IN" and reading.at(opened) != "["):
        return True
    if opened < 0 or reading.at(opened) != "(":
        return False
    return _free_of_order(reading, opened) or reading.at(opened - 1) == "$"


def _aliases(reading: Reading, item: Unordered) -> Iterator[str]:
    """The names that an expression with *item* in it is given in its WITH, RETURN or LET."""
    clause = reading.clauses[item.start]
    while clause >= 0 and _operator(reading, clause):
        clause = reading.clauses[clause]
    if clause < 0 or reading.words[clause] == "UNWIND":
        return
    level = reading.enclosing[clause]
    index = item.end + 1
    while index < len(reading.found) and (not reading.begins_clause(index) or _operator(reading, index)):
        outside = reading.enclosing[index] == level
        if (outside and reading.at(index) == ",") or reading.partner.get(index) == level:
            break
        if reading.words[index] == "AS" and reading.is_name(index + 1):
            yield reading.found[index + 1].name
            break
        index = reading.partner[index] if reading.found[index].kind == "open" else index
        index += 1
    if reading.words[clause] == "LET":
        yield from _let(reading, clause, item.start)


def _let(reading: Reading, clause: int, index: int) -> Iterator[str]:
    for i in range(index, clause, -1):
        if reading.at(i) == "=" and reading.enclosing[i] == reading.enclosing[clause] and reading.is_name(i - 1):
            yield reading.found[i - 1].name
            return


def _mentions(reading: Reading, names: dict[str, bool]) -> Iterator[int]:
    for index, token in enumerate(reading.found):
        if reading.is_name(index) and token.name in names and reading.at(index - 1) != ".":
            yield index
