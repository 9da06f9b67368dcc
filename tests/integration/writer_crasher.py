"""A process that applies `LOGS[name]` and kills itself at a given point of its first transaction.

``python -m tests.integration.writer_crasher URI USER PASSWORD NAME POINT``
"""

from __future__ import annotations

import sys
from typing import Final

from replica.apply import Applier
from replica.driver import connect
from replica.ids import Ids
from replica.marker import Key
from replica.statement import Command, Statement
from replica.transactions import Writer
from tests.integration.dying import Place, after, before


TEXT: Final = "MATCH (u:User {id: $id}) SET u.n = u.n + 1"
BELOW: Final = Statement("MATCH (u:User {id: $id}) RETURN u.n < 2", {"id": 1})


def step(offset: int, id_: str | None = None, when: Statement | None = None, text: str = TEXT) -> Command:
    """Count, once for each id, and as the condition says."""
    return Command(offset, (Statement(text, {"id": 1}),), when=when, id=id_)


#: One for each way in which commands are applied.
LOGS: Final = {
    "neighbours": [step(0, "a"), step(1, "b", text=f"{TEXT} // other"), step(2, "c")],
    "a group in one text": [step(0, "a"), step(1, "b"), step(2, "c")],
    "one that sees every node": [
        step(0, "a", text="MATCH (n {id: 1}) SET n.n = n.n + 1"),
        step(1, "b"),
        step(2, "c", text=f"{TEXT} // other"),
    ],
    "conditions": [step(0, "a", BELOW), step(1, "b", BELOW), step(2, "c", BELOW)],
}

#: Where it may die.
POINTS: Final[dict[str, Place]] = {
    "nothing is written": after(Key, "lock"),
    "the ids are written and not committed": after(Writer, "_move"),
    "all is committed and nobody knows": before(Ids, "moved"),
}


def main(uri: str, user: str, password: str, name: str, point: str) -> None:
    """Never returns, unless the log does not come to *point*."""
    with connect(uri, user, password) as driver:
        applier = Applier(driver, database="neo4j", topic="command", topic_id="id")
        applier.recover(0)
        POINTS[point].die_here()
        applier.apply(LOGS[name])


if __name__ == "__main__":
    main(*sys.argv[1:])
