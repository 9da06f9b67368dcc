"""Many maps of properties as typed JSON, by the short way where they are plain JSON already.  Pure.

`replica.values` looks at each value by itself.  Most graphs hold nothing but texts, booleans and numbers, which are
written as they are: so here all values of a block are looked at together, in C, and only what is left goes there.
"""

from __future__ import annotations

from itertools import chain
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

from replica import values
from replica.values import SAFE_INTEGER


if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: Types whose every value is written as it is; a text from a server has no lone surrogates.
_AS_IS: Final = frozenset([str, bool, type(None)])
_PLAIN: Final = _AS_IS | {int, float}
#: Of a map that looks like a typed value.
_TYPE: Final = "$type"


def encode_all(maps: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """What `values.encode` gives of each; *maps* themselves where that is the same.

    The maps are a server's: their keys are texts, and no text has a lone surrogate.
    """
    return maps if _are_plain(maps) else [_encoded(one) for one in maps]


def _are_plain(maps: Sequence[dict[str, Any]]) -> bool:
    found = list(chain.from_iterable(map(dict.values, maps)))
    kinds = set(map(type, found))
    if list in kinds:
        inner = list(chain.from_iterable(value for value in found if type(value) is list))
        kinds.discard(list)
        kinds.update(map(type, inner))
        found += inner
    return kinds <= _PLAIN and _are_small(found, kinds) and not any(_TYPE in one for one in maps)


def _are_small(found: Iterable[Any], kinds: set[type]) -> bool:
    """Whether all numbers are those that JSON has."""
    if int in kinds:
        whole = [value for value in found if type(value) is int]
        if min(whole) < -SAFE_INTEGER or max(whole) > SAFE_INTEGER:
            return False
    return float not in kinds or all(isfinite(value) for value in found if type(value) is float)


def _encoded(properties: dict[str, Any]) -> dict[str, Any]:
    if _TYPE in properties:
        encoded: dict[str, Any] = values.encode(properties, "properties")
        return encoded
    return {
        key: value if type(value) in _AS_IS else values.encode(value, f"properties.{key}")
        for key, value in properties.items()
    }
