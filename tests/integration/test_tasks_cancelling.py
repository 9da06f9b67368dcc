"""Queries that are ended from outside, that come too late, or that wait for room."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

import cli
from tasks.errors import QueryCancelled, QueryFailed
from tests.replicas import Replicas, replicas_of, value
from tests.support import wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator

    from tasks.app import App
    from tests.conftest import Neo4jServer

#: Takes a minute, and gives nothing before.
SLOW = "UNWIND range(1, 400000000) AS i RETURN sum(i % 7) AS s"

RUNNING = "SHOW TRANSACTIONS YIELD metaData WHERE metaData.kafka_query IS NOT NULL RETURN count(*)"

FUNCTIONS = """
from tasks import query


@query
def slow_function(tx, text):
    return tx.run(text).data()
"""


@pytest.fixture(scope="module")
def replicas(
    kafka: str, neo4j_servers: tuple[Neo4jServer, ...], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Replicas]:
    """One replica that runs one query at a time."""
    folder = tmp_path_factory.mktemp("cancelling")
    (folder / "cancelling_functions.py").write_text(FUNCTIONS)
    with replicas_of(kafka, neo4j_servers[:1], folder, started=False, QUERY_AT_ONCE="1") as found:
        found.start(1, modules=("tasks", "cancelling_functions"))
        found.app().run_command.send("CREATE (:Ready)").wait(applied=1, timeout=60)
        yield found


@pytest.fixture
def app(replicas: Replicas) -> App:
    """The caller's side, when no query of another test runs any more."""
    wait_until(lambda: running(replicas) == 0, 20, "the last query to end")
    return replicas.apps[0]


def running(replicas: Replicas) -> int:
    """Queries at work on the server."""
    return int(value(replicas.servers[0], RUNNING))


def begun(replicas: Replicas) -> None:
    """Wait until a query runs."""
    wait_until(lambda: running(replicas) == 1, 30, "the query to begin")


def test_a_query_that_runs_is_ended_on_the_server(replicas: Replicas, app: App) -> None:
    """And its caller is told."""
    result = app.run_query.send(SLOW)
    begun(replicas)
    result.cancel()
    with pytest.raises(QueryCancelled):
        result.get(10)
    wait_until(lambda: running(replicas) == 0, 5, "the transaction to end")
    result.cancel()  # it has ended: nothing happens


def test_rows_that_are_on_their_way_end_with_an_error_that_says_so(replicas: Replicas, app: App) -> None:
    """Leaving the `with` block is enough."""
    text = "UNWIND range(1, 9000) AS i RETURN i, reduce(x = 0, j IN range(1, 20000) | x + j) AS slow"
    with app.run_query.send(text) as result:
        assert next(result.stream(30))["i"] == 1
    with pytest.raises(QueryCancelled):
        list(result)
    assert running(replicas) == 0


def test_a_query_function_is_ended_as_well(replicas: Replicas, app: App) -> None:
    """At what it asks the server."""

    def slow_function(tx: Any, text: str) -> Any:
        raise AssertionError("it runs on the worker")

    result = app.query(slow_function).send(SLOW)
    begun(replicas)
    result.cancel()
    with pytest.raises(QueryCancelled):
        result.get(10)


def test_queries_beyond_the_limit_wait_and_commands_do_not(replicas: Replicas, app: App) -> None:
    """In the consumer: no thread waits with them.  When one ends, the next one begins."""
    first, second, third = app.run_query.send(SLOW), app.run_query.send(SLOW), app.run_query.send("RETURN 3 AS n")
    begun(replicas)
    app.run_command.send("CREATE (:Meanwhile)").wait(applied=1, timeout=20)
    assert running(replicas) == 1
    first.cancel()
    second.cancel()
    for result in (first, second):
        with pytest.raises(QueryCancelled):
            result.get(20)
    assert third.get(20) == [{"n": 3}]


def test_a_deadline_ends_what_runs_and_what_waits(replicas: Replicas, app: App) -> None:
    """Whatever became of the caller: nobody waits for either any more."""
    runs = app.run_query.send_with_options(args=(SLOW,), deadline=3)
    begun(replicas)
    waits = app.run_query.send_with_options(args=("RETURN 1 AS n",), deadline=0.2)
    with pytest.raises(QueryFailed) as late:
        runs.get(20)
    assert "TimedOut" in late.value.code
    with pytest.raises(QueryFailed) as expired:
        waits.get(20)
    assert expired.value.code == "Replica.QueryExpired"


def test_an_operator_ends_a_query_in_the_database(replicas: Replicas, app: App) -> None:
    """Then it is over, and not passed on to the next replica."""
    result = app.run_query.send(SLOW)
    begun(replicas)
    ids = value(
        replicas.servers[0],
        "SHOW TRANSACTIONS YIELD transactionId, metaData WHERE metaData.kafka_query IS NOT NULL"
        " RETURN collect(transactionId)",
    )
    value(replicas.servers[0], "TERMINATE TRANSACTIONS $ids", ids=ids)
    with pytest.raises(QueryFailed, match="erminated"):
        result.get(10)


def test_the_command_line_ends_a_query_by_its_id(replicas: Replicas, app: App) -> None:
    """It says who has ended it, or that nobody has."""
    result = app.run_query.send(SLOW)
    begun(replicas)
    told = CliRunner().invoke(cli.main, ["cancel-query", result.message_id, "--json"], env=replicas.env(1))
    name = replicas.env(1)["GROUP_ID"]
    assert json.loads(told.stdout) == {"query": result.message_id, "replica": name, "cancelled": True}
    with pytest.raises(QueryCancelled):
        result.get(10)
    told = CliRunner().invoke(cli.main, ["cancel-query", "nobody", "--timeout", "0.5"], env=replicas.env(1))
    assert told.exit_code == 3
    assert "no worker has ended nobody" in told.stderr
