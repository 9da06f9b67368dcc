from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, TypeVar


if TYPE_CHECKING:
    from collections.abc import Callable

    from neo4j import Driver

T = TypeVar("T")

POLL_S = 0.02


def wait_until(condition: Callable[[], T], timeout_s: float = 10.0, what: str = "the condition to hold") -> T:
    """Return what *condition* returns as soon as that is true, asking every 20 ms.

    Raises AssertionError, saying *what* was waited for, after *timeout_s* seconds.  An AssertionError of the condition
    itself counts as "not yet".
    """
    deadline = time.monotonic() + timeout_s
    while True:
        value, reason = _ask(condition)
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:g} s for {what}; last seen: {value!r}") from reason
        time.sleep(POLL_S)


def _ask(condition: Callable[[], T]) -> tuple[T | None, AssertionError | None]:
    try:
        return condition(), None
    except AssertionError as error:
        return None, error


def unique(prefix: str = "test") -> str:
    """Return a name that no other test has: for topic prefixes, groups, labels."""
    return f"{prefix}-{uuid.uuid4().hex[:10]}"


def empty(driver: Driver, database: str = "neo4j") -> None:
    """Delete all data, in batches that fit a small heap, and drop all constraints and indexes."""
    with driver.session(database=database) as session:
        for (name,) in session.run("SHOW CONSTRAINTS YIELD name").values():
            session.run(f"DROP CONSTRAINT `{name.replace('`', '``')}`").consume()
        for (name,) in session.run("SHOW INDEXES YIELD name, type WHERE type <> 'LOOKUP' RETURN name").values():
            session.run(f"DROP INDEX `{name.replace('`', '``')}`").consume()
        session.run("MATCH (n) CALL (n) { DETACH DELETE n } IN TRANSACTIONS OF 5000 ROWS").consume()
