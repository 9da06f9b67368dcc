"""How answers come back: their header, parts and end; large ones; and what is too large."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from tasks.errors import AnswerBroken, QueryFailed
from tests.replicas import Replicas, replicas_of
from tests.support import unique, wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tasks.app import App
    from tests.conftest import Neo4jServer

FUNCTIONS = """
from tasks import query


@query
def text_of(tx, size):
    return "x" * size
"""


@pytest.fixture(scope="module")
def claims(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a claim store."""
    return tmp_path_factory.mktemp("claims")


@pytest.fixture(scope="module")
def replicas(
    kafka: str, neo4j_servers: tuple[Neo4jServer, ...], tmp_path_factory: pytest.TempPathFactory, claims: Path
) -> Iterator[Replicas]:
    """One replica at work that lets large answers through."""
    folder = tmp_path_factory.mktemp("replies")
    (folder / "replies_functions.py").write_text(FUNCTIONS)
    limits = {"QUERY_MAX_ROWS": "200000", "QUERY_MAX_BYTES": "100000000", "CLAIM_STORE": f"file://{claims}"}
    with replicas_of(kafka, neo4j_servers[:1], folder, started=False, **limits) as found:
        found.start(1, modules=("tasks", "replies_functions"))
        found.app().run_command.send("CREATE (:User {name: 'ann'})").wait(applied=1, timeout=60)
        yield found


@pytest.fixture
def app(replicas: Replicas) -> App:
    """The caller's side."""
    return replicas.apps[0]


def parts(replicas: Replicas, key: str) -> list[dict[str, Any]]:
    """The records of one answer, as any Kafka client reads them."""
    both = replicas.read("response") + replicas.read("response.callers")
    found = [message for message in both if message.key() == key.encode()]
    return [json.loads(message.value() or b"") for message in found]


def asked(replicas: Replicas, text: str) -> list[dict[str, Any]]:
    """The records of the answer to a plain JSON body."""
    key = unique("query")
    replicas.produce("request", json.dumps({"to": "response", "with_key": key, "command": text}).encode())
    return wait_until(lambda: _whole(parts(replicas, key)), 40, f"an end of the answer to {text}")


def _whole(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return found if found and found[-1]["end"] else []


def test_a_small_answer_is_one_record_with_header_rows_and_end(replicas: Replicas) -> None:
    """Also for a plain JSON body, also without rows, and its end has a summary."""
    [answer] = asked(replicas, "MATCH (u:User) RETURN u.name AS name")
    assert (answer["seq"], answer["end"], answer["columns"], answer["rows"]) == (0, True, ["name"], [["ann"]])
    assert (answer["replica"], answer["position"]) == (replicas.env(1)["GROUP_ID"], 0)
    assert (answer["summary"]["rows"], answer["summary"]["query_type"]) == (1, "r")
    assert answer["summary"]["took_ms"] > 0
    [empty] = asked(replicas, "MATCH (u:User) WHERE false RETURN u.name AS name")
    assert (empty["columns"], empty["rows"], empty["end"]) == (["name"], [], True)
    [failed] = asked(replicas, "RETURN 1 +")
    assert (failed["end"], failed["error"]["code"]) == (True, "Neo.ClientError.Statement.SyntaxError")
    assert failed["summary"]["took_ms"] > 0


def test_the_summary_says_what_the_server_says(app: App) -> None:
    """A misspelt label is a warning, the level is told, and times are those of the server and of the worker."""
    result = app.run_query.send_with_options(args=("MATCH (n:Usr) RETURN n",), at_least=0)
    summary = result.summary(20)
    assert (summary.rows, summary.columns, summary.level) == (0, ("n",), "at_least=0")
    assert (summary.query_type, summary.truncated, dict(summary.counters)) == ("r", False, {})
    assert "Usr" in summary.notifications[0]["description"]
    assert summary.notifications[0]["position"]["line"] == 1
    assert summary.server.startswith("Neo4j/")
    assert summary.available_ms is not None
    assert summary.took_ms > 0
    assert result.get() == []


def test_a_large_answer_comes_in_numbered_parts_that_fit(replicas: Replicas, app: App) -> None:
    """Whatever its letters are: a control character takes six bytes of JSON."""
    text = "UNWIND range(1, 300) AS i RETURN i, $text AS text"
    result = app.run_query.send(text, text="\x01" * 1000)
    rows = result.get(30)
    assert [row["i"] for row in rows] == list(range(1, 301))
    assert rows[-1]["text"] == "\x01" * 1000
    found = parts(replicas, result.message_id)
    assert [part["seq"] for part in found] == list(range(len(found)))
    assert [part["end"] for part in found] == [False] * (len(found) - 1) + [True]
    assert len(found) == 5
    assert result.summary().rows == 300


def test_a_row_larger_than_a_record_lies_in_the_claim_store(replicas: Replicas, app: App, claims: Path) -> None:
    """The record says where, and has all but the rows; a function's value takes the same way."""
    result = app.run_query.send("UNWIND [10, 3000000, 20] AS n RETURN n, left($text, n) AS text", text="x" * 900_000)
    small, large, other = result.get(30)
    assert (len(small["text"]), len(large["text"]), other["n"]) == (10, 900_000, 20)
    result = app.run_query.send("RETURN reduce(t = '', i IN range(1, 1500) | t + $text) AS text", text="x" * 1000)
    [row] = result.get(30)
    assert len(row["text"]) == 1_500_000
    [part] = parts(replicas, result.message_id)
    assert "rows" not in part
    assert part["summary"]["rows"] == 1
    assert list(claims.glob("*/*/*"))


def test_a_row_that_fits_nowhere_is_an_error_that_says_so(replicas: Replicas) -> None:
    """Other clients know nothing of claims: what they get is whole, or an error."""
    text = "RETURN reduce(t = '', i IN range(1, 1500) | t + reduce(s = '', j IN range(1, 1000) | s + 'x')) AS text"
    [answer] = asked(replicas, text)
    assert answer["error"]["code"] == "Replica.AnswerTooLarge"
    assert "return less of it" in answer["error"]["message"]


def test_a_value_of_a_function_may_be_as_large_as_it_likes(replicas: Replicas, app: App) -> None:
    """As rows are."""

    def text_of(tx: Any, size: int) -> str:
        raise AssertionError("it runs on the worker")

    ask = app.query(text_of)
    assert len(ask.send(2_000_000).get(30)) == 2_000_000
    assert ask.send(5).summary(20).columns is None


def test_an_error_after_rows_ends_the_answer(app: App) -> None:
    """What came before it is no answer."""
    text = "UNWIND range(30000, 0, -1) AS i RETURN 1000 / i AS x, $text AS text"
    with pytest.raises(QueryFailed, match="by zero"):
        app.run_query.send(text, text="x" * 100).get(30)


def test_rows_stream_and_a_slow_reader_keeps_little_in_memory(app: App) -> None:
    """What it does not take stays in Kafka: its memory is bounded, and the worker is done long before it is."""
    result = app.run_query.send("UNWIND range(1, 100000) AS i RETURN i, $text AS text", text="x" * 300)
    stream = result.stream(30)
    first = next(stream)
    assert (first["i"], stream.header is not None and stream.header.columns) == (1, ("i", "text"))
    waiter: Any = result._arrivals._waiter
    wait_until(lambda: waiter._left_off is not None, 60, "more to arrive than is kept")
    assert waiter._records.qsize() * 400_000 < 9_000_000
    assert [row["i"] for row in stream] == list(range(2, 100_001))
    assert result.summary().rows == 100_000
    with pytest.raises(RuntimeError, match="one by one"):
        result.get()


def test_a_whole_answer_that_is_larger_than_what_is_kept_arrives(app: App) -> None:
    """Nobody took it while it came."""
    result = app.run_query.send("UNWIND range(1, 50000) AS i RETURN i, $text AS text", text="x" * 300)
    waiter: Any = result._arrivals._waiter
    wait_until(lambda: waiter._left_off is not None, 60, "more to arrive than is kept")
    assert [row["i"] for row in result.get(30)] == list(range(1, 50_001))


def test_asyncio_waits_for_answers_without_threads(app: App) -> None:
    """Many at once, whole ones and streams, also one that is larger than what is kept."""

    async def ask_all() -> tuple[list[Any], list[int]]:
        small = [app.run_query.send("RETURN $n AS n", n=n) for n in range(20)]
        large = app.run_query.send("UNWIND range(1, 50000) AS i RETURN i, $text AS text", text="x" * 300)
        found = await asyncio.gather(*small)
        return found, [row["i"] async for row in large]

    found, large = asyncio.run(ask_all())
    assert found == [[{"n": n}] for n in range(20)]
    assert large == list(range(1, 50_001))


def test_rows_become_a_data_frame(app: App) -> None:
    """With the columns in their order."""
    pandas = pytest.importorskip("pandas")
    frame = app.run_query.send("UNWIND [1, 2] AS n RETURN n, date('2024-02-29') AS day").to_pandas(20)
    assert list(frame.columns) == ["n", "day"]
    assert frame["n"].sum() == 3
    assert str(frame["day"][0]) == "2024-02-29"
    assert isinstance(frame, pandas.DataFrame)


def test_an_error_in_a_stream_comes_after_the_rows_before_it(app: App) -> None:
    """Whoever reads as they come has seen them, and is told that there are no more."""
    result = app.run_query.send("UNWIND range(30000, 0, -1) AS i RETURN 1000 / i AS x, $text AS text", text="x" * 100)
    seen: list[Any] = []
    with pytest.raises(QueryFailed, match="by zero"):
        seen.extend(result)
    assert 0 < len(seen) < 30_000


def test_a_worker_that_is_killed_half_way_is_told_to_whoever_took_rows(replicas: Replicas, app: App) -> None:
    """Another one begins anew; a whole answer is that of the second, a stream does not mix the two."""
    slow = "reduce(x = 0, j IN range(1, 3000) | x + j)"
    result = app.run_query.send(f"UNWIND range(1, 20000) AS i RETURN i, {slow} AS slow, $text AS text", text="x" * 300)
    stream = result.stream(60)
    next(stream)
    replicas.kill(1)
    replicas.start(1, modules=("tasks", "replies_functions"))
    with pytest.raises(AnswerBroken, match="ask again"):
        list(stream)
