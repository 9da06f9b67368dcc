"""What is true after the connection broke at the worst moment."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest
from neo4j import GraphDatabase

from replica.apply import Applier
from replica.driver import connect
from replica.errors import Held, QueryUnavailable, Unavailable, WrongCredentials
from replica.query import Queries
from replica.statement import Command, Statement
from tests.integration.proxy import COMMIT


if TYPE_CHECKING:
    from neo4j import Driver

    from tests.integration.proxy import Proxy

TEXT = "MERGE (u:User {id: $id}) SET u.n = coalesce(u.n, 0) + 1"


def command(offset: int, text: str = TEXT, **parameters: Any) -> Command:
    """A command of one statement."""
    return Command(offset, (Statement(text, parameters or {"id": 1}),))


def count(driver: Driver) -> int:
    """How often the counter was incremented."""
    return int(driver.execute_query("MATCH (u:User) RETURN u.n AS n", database_="neo4j").records[0]["n"])


MIXED = [command(0), command(1, TEXT + " // other"), command(2)]
GROUP = [command(0), command(1), command(2)]


@pytest.mark.parametrize(
    ("log", "fatal"),
    [
        (MIXED, COMMIT),  # neighbours in an explicit transaction
        ([command(0, "MATCH (n {id: 1}) SET n.n = n.n + 1"), *MIXED[1:]], COMMIT),
        (GROUP, b"SET __m.offset"),  # a group in one auto-commit text
    ],
)
def test_a_lost_answer_is_settled_by_reading_the_position(
    driver: Driver, proxy: Proxy, replica: Applier, log: list[Command], fatal: bytes
) -> None:
    """COMMIT was sent, the reply never came: the graph says whether it happened; nothing happens twice."""
    driver.execute_query("CREATE (:User {id: 1, n: 0})", database_="neo4j")
    proxy.fatal = fatal
    applied = replica.apply(log)
    assert proxy.broken == 1
    assert (applied.last, applied.rejected) == (2, ())
    assert count(driver) == 3


def test_a_lost_answer_to_a_single_command_is_settled_too(driver: Driver, proxy: Proxy, replica: Applier) -> None:
    """The one-round-trip form: the driver calls its error retryable, and it is not."""
    replica.apply([command(0)])
    replica.apply([command(1)])
    proxy.fatal = b"SET __m.offset"
    assert replica.apply([command(2)]).last == 2
    assert proxy.broken == 1
    assert count(driver) == 3


def test_a_lost_answer_to_a_rejection_loses_no_outcome(driver: Driver, proxy: Proxy, replica: Applier) -> None:
    """The outcome is in the graph, so it is in the report."""
    proxy.fatal = COMMIT
    applied = replica.apply([command(0, "RETURN 1 / $zero AS x", zero=0)])
    assert proxy.broken == 1
    assert [outcome.offset for outcome in applied.rejected] == [0]


@pytest.mark.parametrize("fatal", [b"CREATE INDEX", COMMIT])
def test_a_schema_command_survives_a_lost_answer(driver: Driver, proxy: Proxy, replica: Applier, fatal: bytes) -> None:
    """Whichever of its three steps it was."""
    proxy.fatal = fatal
    applied = replica.apply([command(0, "CREATE INDEX i FOR (u:User) ON (u.id)"), command(1)])
    assert proxy.broken == 1
    assert (applied.last, applied.rejected) == (1, ())


def test_a_server_that_is_away_holds_the_command_until_it_is_back(
    driver: Driver, proxy: Proxy, replica: Applier
) -> None:
    """Nothing is guessed meanwhile; the same call succeeds afterwards."""
    replica.apply([command(0)])
    proxy.refuse = True
    proxy.fatal = b"User"
    log = [command(1), command(2)]
    for _ in range(2):
        with pytest.raises(Held) as held:
            replica.apply(log)
        assert (held.value.offset, held.value.retryable) == (1, True)
    proxy.refuse = False
    assert replica.apply(log).last == 2
    assert count(driver) == 3


def test_nobody_at_the_address_is_said_at_once() -> None:
    """Recovery and queries name the driver's error; neither hangs."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with connect(f"bolt://127.0.0.1:{port}", "neo4j", "") as driver:
        with pytest.raises(Unavailable) as error:
            Applier(driver, database="neo4j", topic="t", topic_id="i").recover(0)
        assert error.value.code == "ServiceUnavailable"
        with pytest.raises(QueryUnavailable):
            Queries(driver, database="neo4j").run("RETURN 1 AS x")


def test_a_wrong_password_is_not_tried_in_haste(neo4j: Any) -> None:
    """Three wrong attempts lock out the right password, so the error asks for a long pause."""
    with GraphDatabase.driver(neo4j.uri, auth=(neo4j.user, "certainly wrong")) as driver:
        try:
            driver.verify_connectivity()
        except Exception:  # noqa: BLE001 - any refusal will do
            pass
        else:
            pytest.skip("this server asks for no password")
        with pytest.raises(WrongCredentials) as error:
            Applier(driver, database="neo4j", topic="t", topic_id="i").recover(0)
        assert error.value.retry_after_s >= 10
