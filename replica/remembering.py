"""What is found out about a text once, and looked up from then on: a log repeats few texts a million times."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final, TypeVar


if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

#: Characters; longer texts are hardly ever repeated and would fill the memory.
LENGTH: Final = 16_384
#: Texts.
REMEMBERED: Final = 4096
#: Texts of which something is asked many times, but only while they are looked at: one, and what is made of it.
LATELY: Final = 8


def remembered(fn: Callable[..., T], texts: int = REMEMBERED) -> Callable[..., T]:
    """*fn*, pure, of a text and perhaps some flags, asked once for each that is not too long."""
    look_up = functools.lru_cache(maxsize=texts)(fn)

    @functools.wraps(fn)
    def found(text: str, **flags: Any) -> T:
        return look_up(text, **flags) if len(text) <= LENGTH else fn(text, **flags)

    return found


def remembered_lately(fn: Callable[..., T]) -> Callable[..., T]:
    """The same for as long as few other texts are asked about."""
    return remembered(fn, LATELY)
