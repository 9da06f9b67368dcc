"""What commands with one text have in common is found out once, and looked up for each of them.  Pure.

A log is mostly commands of a few texts with numbers and strings for parameters.  Whether such a command is fit for a
log, how it is applied and with which neighbours, depends on nothing but its text and its parameters' names and types.
"""

from __future__ import annotations

from functools import lru_cache
from operator import methodcaller
from typing import TYPE_CHECKING, Any

from replica import plan, remembering
from replica.determinism import is_plain
from replica.statement import Command, Shape, Statement


if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def shape_of(text: str, parameters: Mapping[str, Any]) -> Shape | None:
    """That of a command of this one statement; None where more of it has to be looked at."""
    kinds = tuple(map(type, parameters.values()))
    if len(text) > remembering.LENGTH or not plan.SCALARS.issuperset(kinds):
        return None
    return _shape_of(text, tuple(parameters), kinds)


def shapes_of(texts: Sequence[str], parameters: Sequence[Mapping[str, Any]]) -> Sequence[Shape | None]:
    """`shape_of` of each; most are of the same one."""
    if len(set(texts)) == len(set(map(tuple, parameters))) == 1:
        columns = zip(*map(_values_of, parameters), strict=True)
        if all(len(set(map(type, column))) == 1 for column in columns):
            return [shape_of(texts[0], parameters[0])] * len(texts)
    return list(map(shape_of, texts, parameters))


_values_of = methodcaller("values")


@lru_cache(maxsize=4096)
def _shape_of(text: str, names: tuple[str, ...], kinds: tuple[type, ...]) -> Shape | None:
    statement = Statement(text, dict.fromkeys(names))  # of the values nothing is asked
    command = Command(-1, (statement,))
    plain = is_plain(statement) and plan.verdict(command) is None and plan.kind_of(command) is plan.Kind.BATCH
    return Shape(plan.key_of_scalars(text, names, kinds)) if plain else None
