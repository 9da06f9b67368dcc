"""CALL { ... } IN TRANSACTIONS as a command: once or again, the graph and the outcome are the same."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import neo4j
import pytest
from neo4j.exceptions import DriverError, Neo4jError

from replica import pieces
from replica.apply import Applier
from replica.driver import connect
from replica.errors import Held
from replica.marker import Key
from replica.statement import Command, Statement
from tests.integration.schema_crasher import PIECES
from tests.replicas import ROOT, value
from tests.support import wait_until


if TYPE_CHECKING:
    from neo4j import Driver

    from replica.marker import Marker
    from tests.conftest import Neo4jServer

MERGED = (
    "UNWIND range(1, 50) AS k CALL (k) { MERGE (x:X {k: k}) SET x.n = 1 / (k - 31 * $bad) } IN TRANSACTIONS OF 10 ROWS"
)


def declared(offset: int, text: str = MERGED, **parameters: Any) -> Command:
    """A command of which its author says that it may be run again."""
    return Command(offset, (Statement(text, {"bad": 0, **parameters}, idempotent=True),))


def recovered(driver: Driver) -> Applier:
    """An applier that knows its position."""
    applier = Applier(driver, database="neo4j", topic="command", topic_id="id")
    applier.recover(0)
    return applier


def marker(driver: Driver) -> Marker:
    """What the graph says."""
    with driver.session(database="neo4j") as session:
        found = Key("command", 0).read(session)
    assert found is not None
    return found


def test_it_keeps_its_place_and_is_counted_by_nobody(driver: Driver, neo4j_servers: tuple[Neo4jServer, ...]) -> None:
    """A repetition would count again, and replicas compare what they counted."""
    applied = recovered(driver).apply(
        [Command(0, (Statement("CREATE (:X {k: 7})"),)), declared(1), Command(2, (Statement("CREATE (:After)"),))]
    )
    assert (applied.last, applied.rejected) == (2, ())
    assert applied.counters["nodes_created"] == 2
    assert value(neo4j_servers[0], "MATCH (x:X) RETURN count(x)") == 50


def test_a_batch_that_fails_rejects_it_and_keeps_those_before(
    driver: Driver, neo4j_servers: tuple[Neo4jServer, ...]
) -> None:
    """The same batches on every replica, since the rows have an order; run again, it ends alike."""
    replica = recovered(driver)
    for offset in (0, 1):
        applied = replica.apply([declared(offset, bad=1)])
        assert [o.code for o in applied.rejected] == ["Neo.ClientError.Statement.ArithmeticError"]
        assert value(neo4j_servers[0], "MATCH (x:X) RETURN count(x)") == 30
    assert (marker(driver).offset, marker(driver).intent) == (1, None)


@pytest.mark.parametrize("bad", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("point", PIECES)
def test_killed_within_it_a_successor_runs_it_again(
    driver: Driver, neo4j_servers: tuple[Neo4jServer, ...], point: str, bad: int
) -> None:
    """The same graph and the same outcome as without the crash."""
    server = neo4j_servers[0]
    text = MERGED.replace("$bad", str(bad))
    arguments = [server.uri, server.user, server.password, "0", point, text]
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.schema_crasher", *arguments], cwd=ROOT, check=False, timeout=60
    )
    assert done.returncode == -signal.SIGKILL

    successor = Applier(driver, database="neo4j", topic="command", topic_id="id")
    assert successor.recover(0) is None
    assert value(server, "MATCH (x:X) RETURN count(x)") == (0 if "intent" in point else 50 - 20 * bad)
    assert "has begun" in str(successor.objection(declared(0, text)))
    applied = successor.apply([declared(0, text), Command(1, (Statement("CREATE (:After)"),))])

    assert [o.offset for o in applied.rejected] == [0] * bad
    assert value(server, "MATCH (x:X) RETURN count(x)") == 50 - 20 * bad
    assert (marker(driver).offset, marker(driver).intent) == (1, None)


def test_what_a_killed_applier_left_at_work_is_ended_first(
    driver: Driver, neo4j_servers: tuple[Neo4jServer, ...]
) -> None:
    """Two runs side by side would not be one after the other."""
    server = neo4j_servers[0]
    endless = "UNWIND range(1, 100000000) AS i CALL (i) { MERGE (:Left {k: i % 10}) } IN TRANSACTIONS OF 100 ROWS"
    ended: list[Exception] = []

    def left_behind() -> None:
        with connect(server.uri, server.user, server.password) as other, other.session(database="neo4j") as session:
            try:
                session.run(neo4j.Query(endless, metadata={pieces.TAG: "command/0/0"})).consume()
            except (Neo4jError, DriverError) as error:
                ended.append(error)

    thread = threading.Thread(target=left_behind)
    thread.start()
    wait_until(lambda: value(server, "MATCH (l:Left) RETURN count(l)") == 10, 20, "it to be at work")

    assert recovered_beside_data(driver).apply([declared(0)]).last == 0

    thread.join(20)
    assert len(ended) == 1
    assert value(server, "MATCH (x:X) RETURN count(x)") == 50


def recovered_beside_data(driver: Driver) -> Applier:
    """An applier that was there before the data."""
    driver.execute_query(
        "CREATE (:_KafkaPosition {topic: 'command', partition: 0, topic_id: 'id', offset: -1, published: -1,"
        " rejections: []})"
    )
    return recovered(driver)


def test_what_only_this_server_cannot_do_holds_it(driver: Driver) -> None:
    """A time limit is no verdict: nothing is skipped, and it is run again from its beginning."""
    slow = "UNWIND range(1, 100000000) AS i CALL (i) { MERGE (:Slow {k: i % 10}) } IN TRANSACTIONS OF 1000 ROWS"
    applier = Applier(driver, database="neo4j", topic="command", topic_id="id", schema_timeout_s=1)
    applier.recover(0)
    with pytest.raises(Held) as held:
        applier.apply([declared(0, slow)])
    assert held.value.offset == 0
    assert (marker(driver).offset, marker(driver).intent) == (-1, 0)
    with pytest.raises(Held):
        applier.apply([declared(0, slow)])
    assert applier.apply([declared(0)]).last == 0
