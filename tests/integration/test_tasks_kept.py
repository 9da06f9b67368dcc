"""Answers that are kept in Redis, and queries in groups and pipelines, on real servers and real worker processes."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import dramatiq
import pytest
import redis
from dramatiq.results import ResultMissing
from neo4j.time import Date

from settings import Settings
from tasks.app import App
from tasks.errors import (
    QueryFailed,
    ResultExpired,
    ResultNotYet,
    ResultUnknown,
    StoreUnreachable,
)
from tests.replicas import ROOT, Replicas, replicas_of
from tests.support import unique, wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Neo4jServer
    from tests.integration.actors import Actors


@pytest.fixture(scope="module")
def replicas(
    kafka: str, neo4j: Neo4jServer, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Replicas]:
    """One replica whose worker knows Redis and the query functions."""
    logs = tmp_path_factory.mktemp("kept")
    with replicas_of(kafka, (neo4j,), logs, started=False, REDIS_URL=redis_url) as found:
        found.start(1, modules=("tasks", "tests.integration.actors"))
        yield found


@pytest.fixture(scope="module")
def app(replicas: Replicas) -> App:
    """A caller's app, once there is somebody to answer."""
    app = replicas.app()
    app.run_command.send("CREATE (:User {name: 'a', born: date('1990-01-02')})").wait(timeout=60)
    assert app.run_query.send("RETURN 1 AS n").get(30)[0]["n"] == 1
    return app


@pytest.fixture(scope="module")
def actors(app: App) -> Actors:
    """The query functions of the workers, as the caller knows them."""
    from tests.integration.actors import make

    return make(app)


def test_an_answer_is_fetched_later_and_elsewhere(app: App, replicas: Replicas) -> None:
    """By the message's id, as often as one likes, with its columns, types and origin; the caller has it as ever."""
    text = "MATCH (u:User) RETURN u.name AS name, u.born AS born"
    sent = app.run_query.send_with_options(args=(text,), store="redis")
    expected = [{"name": "a", "born": Date(1990, 1, 2)}]
    assert sent.get(10) == expected

    elsewhere = replicas.app()
    for _ in range(2):
        rows = elsewhere.fetch_result(sent.message_id, timeout=10)
        assert (rows, rows.columns, rows.replica) == (expected, ("name", "born"), replicas.env()["GROUP_ID"])


def test_any_value_is_kept(app: App, actors: Actors) -> None:
    """Of a query function, typed; nothing and false are values."""
    for value in ({"a": [1, 2.5, None]}, dt.date(2024, 2, 29), None, False, b"x"):
        sent = actors.echo.send_with_options(args=(value,), store="redis")
        found = app.fetch_result(sent.message_id, timeout=10)
        assert found == (Date(2024, 2, 29) if isinstance(value, dt.date) else value)


def test_an_error_is_kept_as_well(app: App, actors: Actors) -> None:
    """Of the text, and of the function."""
    wrong = app.run_query.send_with_options(args=("MATCH (n RETURN n",), store="redis")
    with pytest.raises(QueryFailed, match="SyntaxError"):
        app.fetch_result(wrong.message_id, timeout=10)
    nobody = actors.born.send_with_options(args=("nobody", dt.date(1999, 1, 1)), store="redis")
    with pytest.raises(QueryFailed, match="no such user") as failure:
        app.fetch_result(nobody.message_id, timeout=10)
    assert failure.value.code == "LookupError"


def test_an_answer_that_is_too_large_to_keep_is_an_error_in_the_store_only(app: App) -> None:
    """The caller who waits gets it whole."""
    text = "UNWIND range(1, 30) AS n RETURN n, $pad AS pad"
    sent = app.run_query.send_with_options(args=(text,), kwargs={"pad": "x" * 150_000}, store="redis")

    assert len(sent.get(30)) == 30
    with pytest.raises(QueryFailed, match="ResultTooLarge"):
        app.fetch_result(sent.message_id, timeout=10)


def test_what_is_not_there_is_told_apart(app: App, actors: Actors) -> None:
    """Nobody asked, not yet answered, answered and gone."""
    with pytest.raises(ResultUnknown, match="nobody has asked"):
        app.fetch_result(unique())

    slow = actors.slow.send_with_options(args=(1500,), store="redis")
    with pytest.raises(ResultNotYet, match="was asked 0 s ago, and no answer to it has come"):
        app.fetch_result(slow.message_id)
    assert app.fetch_result(slow.message_id, timeout=10) == 1500

    brief = app.run_query.send_with_options(args=("RETURN 1 AS n",), store="redis", ttl=0.2)
    assert brief.get(10)[0]["n"] == 1

    def gone() -> bool:
        try:
            app.fetch_result(brief.message_id, timeout=5)
        except ResultExpired as exc:
            return "was kept for 0.2 s, and is gone" in str(exc)
        return False

    assert wait_until(gone, 5, "the answer to expire")


def test_what_is_not_to_be_kept_is_not(app: App, redis_url: str) -> None:
    """And what is kept ends by itself: nothing in Redis is without a time to live."""
    plain = app.run_query.send("RETURN 1 AS n")
    plain.get(10)
    with pytest.raises(ResultUnknown):
        app.fetch_result(plain.message_id)

    client: Any = redis.Redis.from_url(redis_url)
    keys = client.keys(f"{app.settings.topic_prefix}kept:*")
    assert keys
    assert all(client.pttl(key) > 0 for key in keys)


def test_without_redis_nothing_is_sent(app: App, replicas: Replicas) -> None:
    """The text says what is away.  So it does to who fetches."""
    settings: dict[str, Any] = {**replicas.env(), "REDIS_URL": "redis://localhost:1/0"}
    away = App(Settings(**settings))
    sent = len(replicas.read("request"))
    try:
        with pytest.raises(StoreUnreachable, match="nothing was sent: Redis: "):
            away.run_query.send_with_options(args=("RETURN 1",), store="redis")
        with pytest.raises(StoreUnreachable, match="cannot be read"):
            away.fetch_result("id")
    finally:
        away.close()
    assert len(replicas.read("request")) == sent


def test_a_worker_without_redis_says_so(
    app: App, kafka: str, neo4j: Neo4jServer, redis_url: str, tmp_path: Any
) -> None:
    """It hands the query to others as long as there may be some; alone, it answers with what is missing."""
    alone = Replicas(kafka, (neo4j,), tmp_path)
    alone.start(1)
    caller = Replicas(kafka, (neo4j,), tmp_path, REDIS_URL=redis_url)
    caller.prefix = alone.prefix
    try:
        sent = caller.app().run_query.send_with_options(args=("RETURN 1 AS n",), store="redis")
        with pytest.raises(QueryFailed, match="this worker has no REDIS_URL"):
            sent.get(60)
    finally:
        caller.close()
        alone.close()


def test_the_command_line_fetches_answers(app: App, replicas: Replicas, actors: Actors) -> None:
    """As rows or a value, with an exit code for each way in which there is none."""
    rows = app.run_query.send_with_options(args=("RETURN 1 AS n, 'x' AS text",), store="redis")
    value = actors.echo.send_with_options(args=(dt.date(2024, 2, 29),), store="redis")
    wrong = app.run_query.send_with_options(args=("RETURN n",), store="redis")

    def run(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "cli.py", "result", *arguments],
            cwd=ROOT,
            env={**replicas.env(), "PATH": ""},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    code, text = run(rows.message_id, "--json", "--wait", "10")
    assert (code, json.loads(text)["rows"]) == (0, [{"n": 1, "text": "x"}])
    assert run(rows.message_id)[1].startswith("n\ttext\n1\tx\n1 row from")
    assert run(value.message_id, "--wait", "10") == (0, '{"$type": "Date", "_value": "2024-02-29"}\n')
    assert run(wrong.message_id, "--wait", "10")[0] == 1
    assert run("no-such-id")[0] == 2


# Groups and pipelines.


def test_a_group_of_queries_gathers_their_answers(app: App, actors: Actors) -> None:
    """Texts and functions, in the order of the group."""
    messages = [
        app.run_query.message_with_options(args=("RETURN $n AS n",), kwargs={"n": 1}, store="redis"),
        actors.echo.message_with_options(args=(dt.date(2024, 2, 29),), store="redis"),
        *(actors.numbers.message_with_options(args=(n,), store="redis") for n in range(3)),
    ]
    group: Any = dramatiq.group(messages, broker=app.broker).run()  # type: ignore[no-untyped-call]  # Dramatiq's gap

    found = list(group.get_results(block=True, timeout=20_000))
    assert found == [[{"n": 1}], Date(2024, 2, 29), [], [0], [0, 1]]


def test_a_pipeline_hands_rows_and_values_from_query_to_query(app: App, actors: Actors) -> None:
    """Each takes what was before it as one more argument, typed; ``pipe_ignore`` takes nothing."""
    chain: Any = dramatiq.pipeline(  # type: ignore[no-untyped-call]  # as above
        [
            app.run_query.message("MATCH (u:User {name: 'a'}) RETURN u.name AS name, u.born AS born"),
            actors.echo.message(),
            actors.echo.message_with_options(store="redis"),
        ],
        broker=app.broker,
    ).run()
    assert chain.get_result(block=True, timeout=20_000) == [{"name": "a", "born": Date(1990, 1, 2)}]

    ignoring: Any = dramatiq.pipeline(  # type: ignore[no-untyped-call]  # as above
        [
            actors.echo.message(1),
            app.run_query.message_with_options(args=("RETURN 2 AS n",), pipe_ignore=True, store="redis"),
        ],
        broker=app.broker,
    ).run()
    assert ignoring.get_result(block=True, timeout=20_000) == [{"n": 2}]


def test_a_pipeline_ends_with_a_query_that_fails(app: App, actors: Actors, replicas: Replicas) -> None:
    """What follows is not sent, nothing is taken for its value, and the reason lies with the dead letters."""
    chain: Any = dramatiq.pipeline(  # type: ignore[no-untyped-call]  # as above
        [
            actors.echo.message("first"),
            app.run_query.message_with_options(args=("RETURN n",), pipe_ignore=True, store="redis"),
            actors.echo.message_with_options(store="redis"),
        ],
        broker=app.broker,
    ).run()

    with pytest.raises(QueryFailed, match="SyntaxError"):
        app.fetch_result(chain.messages[1].message_id, timeout=20)
    wait_until(lambda: len(replicas.read("request.XQ")) >= 1, 20, "the query to be parked")
    [parked] = [record for record in replicas.read("request.XQ") if chain.messages[1].message_id in str(record.value())]
    assert "SyntaxError" in str(parked.headers())
    with pytest.raises(QueryFailed, match=r"run_query, before it in its pipeline, has failed .*SyntaxError") as failure:
        chain.get_result(block=True, timeout=20_000)
    assert failure.value.code == "Replica.PipelineEnded"
    assert chain.messages[2].message_id.encode() not in [record.key() for record in replicas.read("request")]


def test_what_was_never_sent_has_no_result(app: App, actors: Actors) -> None:
    """As Dramatiq says it."""
    chain: Any = dramatiq.pipeline([actors.echo.message_with_options(args=(1,), store="redis")], broker=app.broker)
    with pytest.raises(ResultMissing):
        chain.get_result()


def test_a_worker_killed_while_it_answers_leaves_the_answer_to_the_next(
    app: App, actors: Actors, replicas: Replicas
) -> None:
    """The query is not acknowledged before its answer is kept."""
    sent = actors.slow.send_with_options(args=(3000,), store="redis")
    wait_until(lambda: "slow_began ms=3000" in replicas.log(1).read_text(), 20, "the query to begin")
    replicas.kill(1)
    replicas.start(1, modules=("tasks", "tests.integration.actors"))

    assert app.fetch_result(sent.message_id, timeout=60) == 3000


def test_a_worker_whose_redis_is_away_keeps_the_answer_later(
    app: App, actors: Actors, replicas: Replicas, request: pytest.FixtureRequest
) -> None:
    """The query does not run again for it, and is not acknowledged before."""
    if os.environ.get("TEST_REDIS_URL"):
        pytest.skip("the Redis is not ours to kill")
    stack = request.getfixturevalue("stack")
    sent = actors.slow.send_with_options(args=(2500,), store="redis")
    wait_until(lambda: "slow_began ms=2500" in replicas.log(1).read_text(), 30, "the query to begin")
    stack.kill("redis")
    try:
        assert sent.get(30) == 2500
        wait_until(lambda: "Unexpected failure in after_process_message" in replicas.log(1).read_text(), 30, "a try")
    finally:
        stack.start("redis")

    def found() -> Any:
        try:
            return app.fetch_result(sent.message_id, timeout=1)
        except ResultUnknown as exc:  # this Redis remembers nothing of its former life
            raise AssertionError(str(exc)) from exc

    assert wait_until(found, 60, "the answer to be kept") == 2500
    assert replicas.log(1).read_text().count("slow_began ms=2500") == 1
