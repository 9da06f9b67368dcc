"""A process that applies one command of three steps and kills itself at a given point of it.

``python -m tests.integration.schema_crasher URI USER PASSWORD OFFSET POINT TEXT``; POINT is one of `POINTS` or
`PIECES`.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, Final

from replica.apply import Applier
from replica.driver import connect
from replica.marker import Key
from replica.pieces import Pieces
from replica.schema import SchemaChange
from replica.statement import Command, Statement


if TYPE_CHECKING:
    from collections.abc import Callable

#: Where it may die: a method of the applier's, before or after it runs.
POINTS: Final[dict[str, tuple[type, str, bool]]] = {
    "the intent is written and not committed": (Key, "move", True),
    "the intent is committed": (SchemaChange, "intend", True),
    "the change is made and its index not awaited": (SchemaChange, "_await_online", False),
    "the change is made and the position not moved": (SchemaChange, "change", True),
    "the position is committed": (SchemaChange, "settle", True),
}
#: The same for what commits in transactions of its own.
PIECES: Final[dict[str, tuple[type, str, bool]]] = {
    "the intent of it is committed": (Pieces, "intend", True),
    "all of it is committed and the position not moved": (Pieces, "change", True),
}


def dying(method: Callable[..., Any], *, after: bool) -> Callable[..., Any]:
    """Before *method* runs, or *after* it, SIGKILL."""

    @functools.wraps(method)
    def die(*args: Any, **kwargs: Any) -> None:
        if after:
            method(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    return die


def main(uri: str, user: str, password: str, offset: str, point: str, text: str) -> None:
    """Never returns, unless the command does not come to *point*."""
    owner, name, after = (POINTS | PIECES)[point]
    with connect(uri, user, password) as driver:
        applier = Applier(driver, database="neo4j", topic="command", topic_id="id")
        applier.recover(0)
        setattr(owner, name, dying(getattr(owner, name), after=after))
        applier.apply([Command(int(offset), (Statement(text, idempotent="IN TRANSACTIONS" in text),))])


if __name__ == "__main__":
    main(*sys.argv[1:])
