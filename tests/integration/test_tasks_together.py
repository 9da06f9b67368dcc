"""Small queries that come at the same time are run together on a worker: nobody can tell."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from dramatiq import Worker

from replica.together import Kind, joint
from tasks.errors import QueryCancelled, QueryFailed
from tests.replicas import replicas_of
from tests.support import wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tasks.app import App
    from tasks.results import Result
    from tests.conftest import Neo4jServer

CALLERS = 12
KILLS = 3

DOUBLE = "UNWIND [$n] AS n RETURN 2 * n AS x"
DIVIDE = "UNWIND [$n] AS n RETURN 10 / n AS x"
SLOW = "UNWIND range(1, $n) AS a UNWIND range(1, $n) AS b WITH a WHERE a < 0 RETURN count(*) AS x"


class Here:
    """A replica whose worker runs in this process, and how many queries it has run together."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.together: list[int] = []
        self._queries = app._queries.get()
        run_together = self._queries.run_together

        def counted(kind: Any, asked: Any) -> Any:
            found = run_together(kind, asked)
            self.together.append(len(asked) if found is not None else 0)
            return found

        self._queries.run_together = counted  # type: ignore[method-assign]  # to look on
        self.worker = Worker(app.broker, queues={"request"}, worker_threads=4, worker_timeout=100)

    def ask(self, text: str, n: int, **options: Any) -> Any:
        return self.app.run_query.send_with_options(args=(text,), kwargs={"n": n}, **options)

    def learn(self, text: str) -> None:
        """Queries of that text go together from now on, however slow this machine is."""
        for _ in range(2):
            self.ask(text, 1).get(60)
        key = (text, (("n", int),))
        self._queries._kinds._apart.clear()
        self._queries._kinds.learn(key, Kind(("x",), joint(text, ("x",))))
        assert self._queries.kind_of(text, {"n": 1}) == key
        self.together.clear()


@pytest.fixture(scope="module")
def here(
    kafka: str, neo4j_servers: tuple[Neo4jServer, ...], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Here]:
    """Running."""
    with replicas_of(kafka, neo4j_servers[:1], tmp_path_factory.mktemp("together"), started=False) as replicas:
        found = Here(replicas.app())
        found.worker.start()
        try:
            yield found
        finally:
            found.worker.stop()


def outcome(result: Result) -> Any:
    """What came for a query: its only value, or the code of an error."""
    try:
        return result.get(60)[0]["x"]
    except QueryFailed as error:
        return error.code


def answered(here: Here, text: str, numbers: Sequence[int], **options: Any) -> list[Any]:
    """What comes for each, as `outcome` has it."""
    with ThreadPoolExecutor(CALLERS) as threads:
        return list(threads.map(lambda n: outcome(here.ask(text, n, **options)), numbers))


def test_each_caller_gets_its_own(here: Here) -> None:
    """Though one call of the actor answers several."""
    here.learn(DOUBLE)
    numbers = range(200)
    assert answered(here, DOUBLE, numbers) == [2 * n for n in numbers]
    assert max(here.together) > 1
    assert len(here.together) < len(numbers) / 2


def test_a_limit_holds_for_the_query_that_has_it(here: Here) -> None:
    """And what is told of an answer is told of each."""
    text = "UNWIND range(1, $n) AS n RETURN n AS x"
    here.learn(text)
    sent = [here.ask(text, n, max_rows=n % 2 + 1) for n in range(1, 40)]
    for n, result in enumerate(sent, 1):
        rows = result.get(60)
        assert ([row["x"] for row in rows], rows.truncated) == (list(range(1, min(n, n % 2 + 1) + 1)), n > n % 2 + 1)
        assert (result.summary().rows, result.summary().query_type) == (len(rows), "r")
    assert max(here.together) > 1


def test_one_that_fails_spoils_none(here: Here) -> None:
    """Each is run for itself then, and told what it would have been told."""
    here.learn(DIVIDE)
    found = answered(here, DIVIDE, [1, 2, 0, 5] * 10)
    assert found == [10, 5, "Neo.ClientError.Statement.ArithmeticError", 2] * 10
    assert 0 in here.together


def test_one_that_is_slow_holds_up_none_and_can_be_cancelled(here: Here) -> None:
    """It was taken for quick by its text."""
    here.learn(SLOW)
    began = time.monotonic()
    slow = here.ask(SLOW, 100_000)
    assert answered(here, SLOW, [1] * 30) == [0] * 30
    assert time.monotonic() - began < 20
    slow.cancel()
    with pytest.raises(QueryCancelled):
        slow.get(20)


def test_one_that_comes_too_late_is_told_so(here: Here) -> None:
    """The others are answered."""
    here.learn(DOUBLE)
    sent = [here.ask(DOUBLE, n, **({"deadline": 0.001} if n % 5 == 0 else {})) for n in range(30)]
    for n, result in enumerate(sent):
        told = outcome(result)
        assert told == 2 * n or (n % 5 == 0 and told == "Replica.QueryExpired")


def test_a_level_is_judged_for_itself(here: Here) -> None:
    """Such a query goes alone."""
    here.learn(DOUBLE)
    assert answered(here, DOUBLE, range(20), max_lag=1000) == [2 * n for n in range(20)]
    assert here.together == []


def test_what_was_under_way_when_a_worker_was_killed_is_answered_by_the_next_one(
    kafka: str, neo4j_servers: tuple[Neo4jServer, ...], tmp_path: Path
) -> None:
    """Each caller gets its own answer, once, however often."""
    with replicas_of(kafka, neo4j_servers[:1], tmp_path) as replicas:
        app = replicas.app()
        app.run_query.send(DOUBLE, n=1).get(90)
        done: list[int] = []
        over = threading.Event()

        def call(first: int) -> None:
            n = first
            while not over.is_set():
                assert app.run_query.send(DOUBLE, n=n).get(60) == [{"x": 2 * n}]
                done.append(n)
                n += CALLERS

        with ThreadPoolExecutor(CALLERS) as threads:
            callers = [threads.submit(call, number) for number in range(CALLERS)]
            try:
                for killed in range(KILLS + 1):
                    if killed:
                        replicas.kill(1)
                        replicas.start(1)
                    enough = len(done) + 300
                    wait_until(lambda enough=enough: len(done) > enough, 60, "queries to be answered")  # type: ignore[misc]
            finally:
                over.set()
            for caller in callers:
                caller.result(90)
        assert len(set(done)) == len(done)
        assert not app.broker.dead_letters("request").list()
