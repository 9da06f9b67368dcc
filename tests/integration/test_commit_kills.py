"""kill -9 of a server while it commits: position, data and outcomes agree, whatever way the commands took.

``TEST_COMMIT_KILLS`` says how often, for each way; each kill takes as long as a server needs to start.  ``TEST_SEED``
chooses other moments.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from replica.apply import BATCH, Applier
from replica.driver import connect
from replica.errors import Unavailable
from replica.ids import DUPLICATE
from replica.statement import Command, Statement
from tests.integration.proxy import COMMIT, Proxy


if TYPE_CHECKING:
    from collections.abc import Callable

    from neo4j import Driver

    from ops.stack import Stack
    from replica.statement import Applied
    from tests.conftest import Neo4jServer

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("TEST_COMMIT_KILLS", "3"))
SEED = int(os.environ.get("TEST_SEED", "20261125"))

COUNT = "MERGE (c:Counter {id: 0}) SET c.n = coalesce(c.n, 0) + 1"
NODE = "CREATE (:N {offset: $offset})"
#: What a database holds; in one question, since a server that has just started takes long over each.
STATE = """
MATCH (m:_KafkaPosition)
OPTIONAL MATCH (c:Counter)
WITH m.offset AS position, coalesce(sum(c.n), 0) AS counted
OPTIONAL MATCH (n:N)
WITH position, counted, n.offset AS offset ORDER BY offset
RETURN position, counted, collect(offset) AS made, COUNT { (n) WHERE NOT n:_KafkaPosition } AS nodes
"""
DIVISION = "Neo.ClientError.Statement.ArithmeticError"


def several(offset: int) -> tuple[Command, str | None]:
    """Several statements each, some of them failing, some with an id that was used five commands before."""
    last = Statement("RETURN 1 / $zero", {"zero": 0}) if _fails(offset) else Statement(NODE, {"offset": offset})
    id_ = None if offset % 5 else f"id-{offset // 10}"
    repeated = offset % 10 == 5 and not _fails(offset - 5)
    code = DUPLICATE if repeated else DIVISION if _fails(offset) else None
    return Command(offset, (Statement(COUNT), last), id=id_), code


def _fails(offset: int) -> bool:
    return offset % 7 == 3


def equal(offset: int) -> tuple[Command, str | None]:
    """One text, so that neighbours become one round trip without a COMMIT; some with an id."""
    id_ = None if offset % 3 else f"id-{offset}"
    return Command(offset, (Statement(f"{COUNT} {NODE}", {"offset": offset}),), id=id_), None


def unequal(offset: int) -> tuple[Command, str | None]:
    """One text, so that its transactions are under way together; some of them with one that fails."""
    text, fails = f"{COUNT} CREATE (:N {{offset: $offset, x: 1 / $one}})", offset % 50 == 17
    return Command(offset, (Statement(text, {"offset": offset, "one": int(not fails)}),)), DIVISION if fails else None


def schema(offset: int) -> tuple[Command, str | None]:
    """An index that comes and goes; half of its dropping is for nothing, so every third command is rejected."""
    texts = ["CREATE INDEX i FOR (n:N) ON (n.offset)", "DROP INDEX i", "DROP INDEX i"]
    code = "Neo.DatabaseError.Schema.IndexDropFailed" if offset % 3 == 2 else None
    return Command(offset, (Statement(texts[offset % 3]),)), code


@dataclass(frozen=True)
class Way:
    """What is applied, what the client has sent when the server dies, how much at once, and how long that may take."""

    command: Callable[[int], tuple[Command, str | None]]
    fatal: tuple[bytes, ...]
    most: int
    longest_s: float
    #: Commands in one transaction, of those that are under way together.
    batch: int | None = None


WAYS = {
    "an explicit transaction": Way(several, (COMMIT,), 8, 0.01),
    "one round trip": Way(equal, (b"SET __m.offset",), 60, 0.1),
    "two under way": Way(unequal, (b"SET __m.offset",), 80, 0.1, batch=10),
    "a schema change": Way(schema, (COMMIT, b"CREATE INDEX", b"DROP INDEX"), 4, 0.06),
}


@dataclass
class Expected:
    """What the log up to *offset* makes."""

    way: Way
    offset: int = -1
    applied: list[int] = field(default_factory=list)
    rejected: dict[int, str] = field(default_factory=dict)

    def reach(self, offset: int) -> None:
        """Go on to *offset*."""
        for one in range(self.offset + 1, offset + 1):
            code = self.way.command(one)[1]
            if code is None:
                self.applied.append(one)
            else:
                self.rejected[one] = code
        self.offset = offset


class Doomed:
    """A server, an applier in front of it, and what they have told."""

    def __init__(self, stack: Stack, server: Neo4jServer, way: Way, random_: random.Random) -> None:
        self.told: dict[int, str] = {}
        self.had_committed = self.had_not = 0
        self._stack = stack
        self._server = server
        self._way = way
        self._random = random_
        self._proxy = Proxy(server.uri, silent=True)
        self._driver = connect(self._proxy.uri, server.user, server.password)
        self._applier = self._begin()

    def close(self) -> None:
        """The driver first, which says goodbye."""
        self._driver.close()
        self._proxy.close()

    def _begin(self) -> Applier:
        """A new applier, as after a restart of the worker."""
        batch = self._way.batch or BATCH
        applier = Applier(self._driver, database="neo4j", topic="command", topic_id="id", batch=batch)
        self._hear(applier.recover(0))
        return applier

    def _hear(self, applied: Applied | None) -> None:
        if applied is not None:
            self.told |= {outcome.offset: outcome.code or "" for outcome in applied.rejected}

    @property
    def _position(self) -> int:
        position = self._applier.position
        assert position is not None
        return position.offset

    def die(self) -> None:
        """Apply commands until the server is killed in the middle, and start it again."""
        for _ in range(self._random.randint(0, 2)):
            self._apply(self._more())
        pid = next(row.pid for row in self._stack.status() if row.name == self._server.name)
        assert pid is not None
        delay = self._random.uniform(0, self._way.longest_s)
        self._proxy.struck.clear()
        self._proxy.fatal = self._random.choice(self._way.fatal)

        def kill() -> None:
            if self._proxy.struck.wait(60):
                time.sleep(delay)
                os.kill(pid, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        unsure: list[Command] = []
        with contextlib.suppress(Unavailable):
            while not self._proxy.struck.is_set():
                self._apply(unsure := self._more())
        killer.join()
        assert self._proxy.struck.is_set(), "the server died of something else"
        self._stack.start(self._server.name)
        self._settle(unsure)

    def _settle(self, unsure: list[Command]) -> None:
        """A worker goes on with what it has, or another one takes its place; either way with the same commands."""
        before = unsure[0].offset - 1
        with connect(self._server.uri, self._server.user, self._server.password) as fresh:
            found = value_of(fresh, "MATCH (m:_KafkaPosition) RETURN m.offset")
        assert before <= found <= unsure[-1].offset
        self.had_committed += found > before
        self.had_not += found == before
        if self._random.random() < 0.5:
            self._applier = self._begin()
            assert self._position == found
        self._apply(unsure)

    def _apply(self, commands: list[Command]) -> None:
        size = self._way.batch
        if size is None:
            self._hear(self._applier.apply(commands))
            return
        parts = [commands[start : start + size] for start in range(0, len(commands), size)]
        self._applier.apply_all(parts, self._hear, before=lambda: None, published=lambda: self._position)

    def _more(self) -> list[Command]:
        first, size = self._position + 1, self._random.randint(1, self._way.most)
        return [self._way.command(offset)[0] for offset in range(first, first + size)]

    def require(self, expected: Expected, what: str) -> None:
        """Position, data, schema and outcomes are those of the log."""
        expected.reach(self._position)
        made = [] if self._way.command is schema else expected.applied
        indexed = self._way.command is schema and expected.offset % 3 == 0
        with connect(self._server.uri, self._server.user, self._server.password) as fresh:
            [found] = fresh.execute_query(STATE, database_="neo4j").records
            assert found.data() == {
                "position": expected.offset,
                "counted": len(made),
                "made": made,
                "nodes": len(made) + bool(made),
            }, what
            assert value_of(fresh, "SHOW INDEXES YIELD name WHERE name = 'i' RETURN count(*)") == indexed, what
        assert self.told == expected.rejected, what


def value_of(driver: Driver, text: str) -> Any:
    """One value out of a database."""
    return driver.execute_query(text, database_="neo4j").records[0][0]


@pytest.mark.timeout(60 + 60 * KILLS)
@pytest.mark.parametrize("name", WAYS)
def test_a_server_killed_during_commit_leaves_position_and_data_in_step(
    stack: Stack, driver: Driver, neo4j: Neo4jServer, name: str
) -> None:
    """After each kill data and schema are what the position says, and each outcome was told by some applier."""
    if os.environ.get("TEST_NEO4J_URIS"):
        pytest.skip("a server of yours is not killed")
    way, began = WAYS[name], time.monotonic()
    expected = Expected(way)
    with contextlib.closing(Doomed(stack, neo4j, way, random.Random(f"{SEED} {name}"))) as doomed:
        try:
            for kill in range(1, KILLS + 1):
                doomed.die()
                doomed.require(expected, f"after kill {kill} of seed {SEED}")
        finally:
            print(  # noqa: T201  # -s shows how the kills fell
                f"{name}, seed {SEED}: killed {doomed.had_committed + doomed.had_not} times in"
                f" {time.monotonic() - began:.0f} s, {doomed.had_committed} had committed, {doomed.had_not} had not;"
                f" {expected.offset + 1} commands, {len(expected.rejected)} not applied"
            )
