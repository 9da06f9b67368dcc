"""Query functions that the workers of a test import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import tasks


if TYPE_CHECKING:
    import datetime as dt

    import neo4j

    from tasks.app import App
    from tasks.queries import QueryActor


@dataclass(frozen=True)
class Actors:
    born: QueryActor
    writes: QueryActor


def make(app: App) -> Actors:
    """The query functions on *app*: a worker's own, or a caller's."""

    @app.query
    def born(tx: neo4j.Transaction, name: str, since: dt.date) -> dict[str, Any]:
        """Who was born, and when."""
        record = tx.run(
            "MATCH (u:User {name: $n}) WHERE u.born > $since RETURN u.born AS born", n=name, since=since
        ).single()
        if record is None:
            raise LookupError(f"no such user: {name}")
        return {"name": name, "born": record["born"]}

    @app.query
    def writes(tx: neo4j.Transaction) -> None:
        """Tries to write."""
        tx.run("CREATE (:Evil)").consume()

    return Actors(born, writes)


actors = make(tasks.app)
