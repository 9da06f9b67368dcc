"""Reads as fresh as asked for, on real servers: a replica that stands still, one that does not, and their queries."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

import cli
from tasks.errors import StaleRead
from tests.replicas import ROOT, Replicas, replicas_of
from tests.support import wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator

    from tasks.app import App
    from tests.conftest import Neo4jServer

COUNT = "MATCH (n:N) RETURN count(n) AS n"


class Apart(Replicas):
    """Replicas whose appliers and query servers are processes of their own: workers 1 and 2 apply, 11 and 12 answer."""

    def env(self, number: int = 1) -> dict[str, str]:
        """That of the replica."""
        return super().env(number % 10)


@pytest.fixture(scope="module")
def replicas(
    kafka: str, neo4j_servers: tuple[Neo4jServer, ...], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Apart]:
    """Two of them; their query servers leave at a lag of 2 s."""
    with replicas_of(kafka, neo4j_servers[:2], tmp_path_factory.mktemp("levels"), started=False) as found:
        apart = Apart(found.kafka, found.servers, found.logs, QUERY_MAX_LAG_S="2")
        try:
            for number in (1, 2):
                apart.start(number, "--queues", "command")
                apart.start(10 + number, "--queues", "request", modules=("tasks", "tests.integration.actors"))
            yield apart
        finally:
            apart.close()


@pytest.fixture(scope="module")
def app(replicas: Apart) -> App:
    """A caller's app, when both replicas apply and answer."""
    app = replicas.app()
    app.run_command.send("MERGE (:Start)").wait(applied=2, timeout=60)
    wait_until(lambda: len(holders(app)) == 2, 30, "both replicas to answer queries")
    return app


def holders(app: App) -> set[str]:
    """The replicas that answer queries just now."""
    return {name.rpartition("@")[0] for name in app.broker.holders("request")}


@contextmanager
def stopped(replicas: Apart, *numbers: int) -> Iterator[None]:
    """These workers do nothing for a while, and look as if they were slow."""
    for number in numbers:
        os.killpg(replicas.workers[number].pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for number in numbers:
            os.killpg(replicas.workers[number].pid, signal.SIGCONT)


def test_a_write_is_in_the_next_read_that_asks_for_it(app: App) -> None:
    """By its receipt, its offset, the log's end or a session; whichever replica answers."""
    with app.session() as session:
        for n in range(1, 11):
            receipt = session.command("CREATE (:N)")
            asked = [
                app.run_query.send_with_options(args=(COUNT,), at_least=receipt),
                app.run_query.send_with_options(args=(COUNT,), at_least=receipt.position(), max_lag_s=60),
                app.run_query.send_with_options(args=(COUNT,), linearizable=True),
                app.run_query.send_with_options(args=(COUNT,), max_lag=0, snapshot=True),
                session.query(COUNT),
            ]
            for result in asked:
                rows = result.get(20)
                assert rows == [{"n": n}]
                assert rows.position >= receipt.position()


def test_a_session_goes_on_in_another_process(app: App, replicas: Apart) -> None:
    """Its token is all that has to be passed."""
    with app.session() as session:
        session.command("MERGE (t:Token) SET t.n = 1")
        ask = "rows = s.query('MATCH (t:Token) RETURN t.n AS n').get()"
        program = f"import sys, tasks; s = tasks.session(sys.argv[1]); {ask}; print(rows[0]['n'], s.token)"
        environment = {**os.environ, **replicas.env(1), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", program, session.token]
        told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)

    n, token = told.stdout.split()
    assert n == "1"
    assert app.session(token).position == session.position


def test_the_command_line_reads_what_it_has_written(app: App, replicas: Apart) -> None:
    """And says with exit code 3 that nobody is fresh enough."""
    app.run_command.send("MERGE (c:Cli) SET c.n = 5")
    text = "MATCH (c:Cli) RETURN c.n AS n"

    good = CliRunner().invoke(cli.main, ["enqueue-query", text, "--at-least", "last", "--json"], env=replicas.env(1))
    options = ["--at-least", "100000", "--timeout", "1", "--json"]
    bad = CliRunner().invoke(cli.main, ["enqueue-query", text, *options], env=replicas.env(1))

    assert json.loads(good.stdout)["rows"] == [{"n": 5}]
    assert bad.exit_code == 3
    error = json.loads(bad.stdout)["error"]
    assert error["type"] == "StaleRead"
    assert "at_least=100000: replica" in error["message"]


def test_what_waits_for_a_slow_replica_is_passed_on_and_fills_no_thread(app: App, replicas: Apart) -> None:
    """Twenty queries wait, with four threads a worker; others pass them; the replica that applies answers them all."""
    with stopped(replicas, 2):
        receipt = app.run_command.send("CREATE (:Ahead)")
        waiting = [
            app.run_query.send_with_options(args=("RETURN $n AS n",), kwargs={"n": n}, at_least=receipt, wait=8)
            for n in range(20)
        ]
        others = [app.run_query.send("RETURN 1 AS n") for _ in range(20)]

        began = time.monotonic()
        assert all(other.get(10) for other in others)
        assert time.monotonic() - began < 4, "they waited behind those that wait"
        answers = [result.get(20) for result in waiting]

    assert [rows[0]["n"] for rows in answers] == list(range(20))
    assert {rows.replica for rows in answers} == {replicas.env(1)["GROUP_ID"]}


def test_what_nobody_can_answer_in_time_says_who_was_how_far(app: App, replicas: Apart) -> None:
    """Which level, which position, how far behind, which replica; and it may be asked again."""
    with stopped(replicas, 1, 2):
        receipt = app.run_command.send("CREATE (:Nowhere)")
        position = receipt.position()
        began = time.monotonic()
        with pytest.raises(StaleRead) as failure:
            app.run_query.send_with_options(args=(COUNT,), at_least=receipt, wait=1.5).get(20)
        took_s = time.monotonic() - began

    text = str(failure.value)
    assert f"at_least={position}: replica {replicas.prefix}replica-" in text
    assert f"is at {position - 1}, 1 behind" in text
    assert failure.value.retryable
    assert 1.4 < took_s < 6
    assert app.run_query.send_with_options(args=(COUNT,), at_least=receipt).get(20)


def test_a_query_that_is_held_back_survives_the_kill_of_its_worker(app: App, replicas: Apart) -> None:
    """It was never acked: whoever starts again reads it again."""
    with stopped(replicas, 1, 2):
        receipt = app.run_command.send("CREATE (:AfterKill)")
        result = app.run_query.send_with_options(args=(COUNT,), at_least=receipt, wait=40)
        time.sleep(0.5)  # it may wait anywhere: on its way, held back, or on its way again
        for number in (11, 12):
            replicas.kill(number)
            replicas.start(number, "--queues", "request", modules=("tasks", "tests.integration.actors"))

    assert result.get(45).position >= receipt.position()


@pytest.mark.slow
def test_a_replica_that_lags_leaves_queries_to_others_and_comes_back(app: App, replicas: Apart) -> None:
    """At 2 s of lag; nothing that was on its way is lost; the last one stays, and answers."""
    names = [replicas.env(number)["GROUP_ID"] for number in (1, 2)]
    wait_until(lambda: holders(app) == set(names), 30, "both to answer")
    with stopped(replicas, 2):
        app.run_command.send("CREATE (:Lag)")
        results = []

        def alone() -> bool:
            results.append(app.run_query.send("RETURN 1 AS n"))
            return holders(app) == {names[0]}

        wait_until(alone, 30, "the replica that lags to leave")
        assert all(result.get(20) == [{"n": 1}] for result in results)
        assert {app.run_query.send("RETURN 1 AS n").get(20).replica for _ in range(9)} == {names[0]}
        with stopped(replicas, 1):
            app.run_command.send("CREATE (:Lag)")
            time.sleep(8)
            assert len(holders(app)) == 1, "the last one stays"
            assert app.run_query.send("RETURN 1 AS n").get(20) == [{"n": 1}]
    wait_until(lambda: holders(app) == set(names), 30, "both to come back")
    assert app.run_query.send_with_options(args=(COUNT,), linearizable=True).get(20)
