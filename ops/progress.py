"""What a long operation tells about itself: values, handed to a plain function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that is going on.  A later step of the same name replaces the earlier one."""

    name: str  #: "jars", or the server's name
    text: str  #: a few words, for people
    done: int = 0  #: bytes, or whatever *unit* says, so far
    total: int = 0  #: of them in all; 0 when there is nothing to count
    unit: str = "bytes"
    finished: bool = False


#: Called by any thread, must not block and must not raise.
Progress = Callable[[Step], None]


def silent(step: Step) -> None:
    """Tell nobody."""
