"""Query functions that the workers of a test import."""

from __future__ import annotations

import datetime as dt  # noqa: TC003 - read at run time, to check the arguments
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import tasks


if TYPE_CHECKING:
    import neo4j

    from tasks.app import App
    from tasks.queries import QueryActor


@dataclass(frozen=True)
class Actors:
    born: QueryActor
    writes: QueryActor
    given: QueryActor
    numbers: QueryActor
    echo: QueryActor
    slow: QueryActor


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

    @app.query
    def given(tx: neo4j.Transaction, day: dt.date, more: dict[str, list[float]]) -> list[Any]:
        """What arrives."""
        return [type(day).__name__, day.isoformat(), [n for numbers in more.values() for n in numbers]]

    @app.query(max_rows=3)
    def numbers(tx: neo4j.Transaction, count: int) -> list[int]:
        """So many numbers."""
        return list(range(count))

    @app.query
    def echo(tx: neo4j.Transaction, value: Any) -> Any:
        """What it was given."""
        return value

    @app.query
    def slow(tx: neo4j.Transaction, ms: int) -> int:
        """What it was given, so many milliseconds later."""
        logging.getLogger("actors").warning("slow_began ms=%d", ms)
        time.sleep(ms / 1000)
        return ms

    return Actors(born, writes, given, numbers, echo, slow)


actors = make(tasks.app)
