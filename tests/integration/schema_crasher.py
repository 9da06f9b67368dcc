"""A process that applies one command of three steps and kills itself at a given point of it.

``python -m tests.integration.schema_crasher URI USER PASSWORD OFFSET POINT TEXT``; POINT is one of `POINTS` or
`PIECES`.
"""

from __future__ import annotations

import sys
from typing import Final

from replica.apply import Applier
from replica.driver import connect
from replica.marker import Key
from replica.pieces import Pieces
from replica.schema import SchemaChange
from replica.statement import Command, Statement
from tests.integration.dying import Place, after, before


#: Where it may die.
POINTS: Final[dict[str, Place]] = {
    "the intent is written and not committed": after(Key, "move"),
    "the intent is committed": after(SchemaChange, "intend"),
    "the change is made and its index not awaited": before(SchemaChange, "_await_online"),
    "the change is made and the position not moved": after(SchemaChange, "change"),
    "the position is committed": after(SchemaChange, "settle"),
}
#: The same for what commits in transactions of its own.
PIECES: Final[dict[str, Place]] = {
    "the intent of it is committed": after(Pieces, "intend"),
    "all of it is committed and the position not moved": after(Pieces, "change"),
}


def main(uri: str, user: str, password: str, offset: str, point: str, text: str) -> None:
    """Never returns, unless the command does not come to *point*."""
    with connect(uri, user, password) as driver:
        applier = Applier(driver, database="neo4j", topic="command", topic_id="id")
        applier.recover(0)
        (POINTS | PIECES)[point].die_here()
        applier.apply([Command(int(offset), (Statement(text, idempotent="IN TRANSACTIONS" in text),))])


if __name__ == "__main__":
    main(*sys.argv[1:])
