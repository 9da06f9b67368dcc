"""kill -9 of workers at any moment, on real servers: nothing lost, nothing twice, all replicas the same."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import pytest

from replica.checksum import checksum
from replica.driver import connect
from replica.statement import Statement
from tasks import outcomes
from tests.replicas import Replicas, replicas_of, value
from tests.support import wait_until


if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Neo4jServer

COMMANDS = 2000

#: Every command raises it: one too few is a lost command, one too many an applied-twice one.
COUNT = "MERGE (c:Counter {id: 0}) SET c.n = coalesce(c.n, 0) + 1"

POSITION = "MATCH (m:_KafkaPosition) RETURN m.offset"


def send_commands(replicas: Replicas, random_: random.Random) -> tuple[int, int]:
    """Send commands of several kinds; how many count, and the last offset."""
    app = replicas.app()
    counted = 0
    with app.broker.batching():
        for n in range(COMMANDS):
            kind = random_.randrange(10)
            if kind == 0:  # rejected on every replica, and must leave nothing
                receipt = app.run_command.send([Statement(COUNT), Statement("CREATE (:Broken {x: $n / 0})", {"n": n})])
                continue
            counted += 1
            if kind == 1:
                receipt = app.run_command.send([Statement(COUNT), Statement("CREATE (:Extra {n: $n})", {"n": n})])
            elif kind == 2:
                receipt = app.run_command.send(COUNT + " WITH c MATCH (i:Item) DETACH DELETE i")
            else:
                receipt = app.run_command.send(COUNT + " CREATE (c)-[:HAS]->(:Item {n: $n, at: c.n})", n=n)
    return counted, receipt.position()


def send_equal_commands(replicas: Replicas, random_: random.Random) -> tuple[int, int]:
    """Send commands of one text, so that transactions are under way together; how many count, and the last offset."""
    app = replicas.app()
    counted = 0
    with app.broker.batching():
        for n in range(COMMANDS):
            divisor = int(random_.random() > 0.02)  # else it is rejected on every replica, and must leave nothing
            counted += divisor
            receipt = app.run_command.send(COUNT + " CREATE (c)-[:HAS]->(:Item {n: $n / $d, at: c.n})", n=n, d=divisor)
    return counted, receipt.position()


class Killer:
    """Kills the worker of each replica soon after it has made progress, again and again, until *most* were killed."""

    def __init__(self, replicas: Replicas, last: int, random_: random.Random, most: int) -> None:
        self._most = most
        self._replicas = replicas
        self._last = last
        self._random = random_
        self._seen = dict.fromkeys(range(1, len(replicas.servers) + 1), -1)
        self.kills = 0

    def run(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while self.kills < self._most and time.monotonic() < deadline:
            for number in self._seen:
                if self.kills < self._most:
                    self._maybe_kill(number)

    def _maybe_kill(self, number: int) -> None:
        position = value(self._replicas.servers[number - 1], POSITION) or -1
        if not self._seen[number] < position < self._last:
            return
        time.sleep(self._random.uniform(0, 0.05))  # any moment
        self._replicas.kill(number)
        self._replicas.start(number)
        self._seen[number] = position
        self.kills += 1


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("send", "kills"), [(send_commands, 20), (send_equal_commands, 10)])
def test_workers_killed_many_times_leave_equal_replicas_and_an_exact_count(
    kafka: str,
    neo4j_servers: tuple[Neo4jServer, ...],
    tmp_path: Path,
    send: Callable[[Replicas, random.Random], tuple[int, int]],
    kills: int,
) -> None:
    """2,000 commands, small batches so that the kills fall between and into many transactions."""
    random_ = random.Random(20261124)
    with replicas_of(kafka, neo4j_servers, tmp_path, started=False, APPLY_BATCH="5") as replicas:
        counted, last = send(replicas, random_)
        for number in range(1, len(neo4j_servers) + 1):
            replicas.start(number)

        killer = Killer(replicas, last, random_, kills)
        killer.run(300)

        assert killer.kills == kills
        for server in neo4j_servers:
            wait_until(lambda server=server: value(server, POSITION) == last, 150, f"{server.name} to reach {last}")  # type: ignore[misc]  # mypy cannot type a default of a lambda
            assert value(server, "MATCH (c:Counter) RETURN c.n") == counted
        sums = [_checksum(server) for server in neo4j_servers]
        assert len(set(sums)) == 1
        rejected = wait_until(lambda: told(replicas, COMMANDS - counted), 30, "every rejected command to be told")
        assert rejected is not None
        assert len(rejected) == len(neo4j_servers)


def _checksum(server: Neo4jServer) -> tuple[int, int, str]:
    with connect(server.uri, server.user, server.password) as driver:
        found = checksum(driver, "neo4j")
    return found.nodes, found.relationships, found.digest


def told(replicas: Replicas, expected: int) -> dict[str, set[int]] | None:
    """The rejected commands by replica, once each replica has told as many as there are, and the same ones."""
    rejected = rejected_by_replica(replicas)
    first = next(iter(rejected.values()), set())
    complete = len(first) == expected and all(offsets == first for offsets in rejected.values())
    return rejected if complete and len(rejected) == len(replicas.servers) else None


def rejected_by_replica(replicas: Replicas) -> dict[str, set[int]]:
    """What the outcomes topic says each replica rejected."""
    rejected: dict[str, set[int]] = {}
    for message in replicas.read("outcomes"):
        report = outcomes.decode(message.value(), outcomes.Report)
        assert report is not None
        rejected.setdefault(report.replica, set()).update(rejection.offset for rejection in report.rejected)
    return rejected
