from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from neo4j.time import DateTime

from replica import guard
from replica.apply import Applier
from replica.errors import QueryRejected
from replica.patience import Patience
from replica.query import Queries
from replica.statement import Command, Position, Statement
from replica.summary import Summary
from replica.together import Asked, Kind, joint, shared
from replica.values import decode, encode
from tests.support import wait_until


if TYPE_CHECKING:
    from neo4j import Driver, Transaction

    from replica.rows import Rows
    from replica.together import Shared


@pytest.fixture
def queries(driver: Driver) -> Queries:
    """Two users and one node without labels, at offset 0."""
    applier = Applier(driver, database="neo4j", topic="command", topic_id="id")
    applier.recover(0)
    text = (
        "CREATE (:User {name: 'a', age: 1})-[:KNOWS {since: date('2024-01-01')}]->(:User {name: 'b'}), ({bare: true})"
    )
    applier.apply([Command(0, (Statement(text),))])
    return Queries(driver, database="neo4j")


def rows(queries: Queries, text: str, **parameters: Any) -> list[Any]:
    """All rows of a query."""
    with queries.run(text, parameters) as found:
        return list(found)


def refused(queries: Queries, text: str, **parameters: Any) -> str:
    """The last part of the code that the query is refused with."""
    with pytest.raises(QueryRejected) as error:
        rows(queries, text, **parameters)
    return error.value.code.rpartition(".")[2]


def test_every_column_comes_back_with_its_name_and_the_position(queries: Queries) -> None:
    """All of them, in order, typed."""
    text = "MATCH (u:User) RETURN u.name AS name, u.age AS age, date('2024-02-29') AS day ORDER BY name"
    with queries.run(text) as found:
        assert found.columns == ("name", "age", "day")
        day = {"$type": "Date", "_value": "2024-02-29"}
        assert list(found) == [["a", 1, day], ["b", None, day]]
        assert found.position == Position("command", "id", 0, 0)
        assert not found.truncated


def test_a_text_is_judged_once_however_long_it_is(queries: Queries, monkeypatch: pytest.MonkeyPatch) -> None:
    """And refused the second time as it was the first time."""
    judged: list[str] = []
    refusal = guard.refusal

    def counted(text: str, allowed: guard.Allowed) -> str | None:
        judged.append(text)
        return refusal(text, allowed)

    monkeypatch.setattr(guard, "refusal", counted)
    short, long = "RETURN 1 AS x", f"RETURN 1 AS x // {'x' * 2000}"
    for _ in range(2):
        assert rows(queries, short) == rows(queries, long) == [[1]]
        assert refused(queries, "CREATE (:X)") == "QueryNotReadOnly"
        assert refused(queries, "LOAD CSV FROM 'file:///x' AS row RETURN row") == "QueryForbidden"
    assert len(judged) == 4


def test_a_position_that_was_read_a_moment_ago_is_told_to_whoever_is_content_with_it(
    queries: Queries, driver: Driver
) -> None:
    """It is behind what the rows show, never ahead of it, and nobody else is told it."""

    def asked(known_s: float) -> tuple[Any, int]:
        with queries.run("MATCH (u:User) RETURN count(u)", known_s=known_s) as found:
            [[count]] = list(found)
            assert found.position is not None
            return count, found.position.offset

    assert asked(60) == (2, 0)
    applier = Applier(driver, database="neo4j", topic="command", topic_id="id")
    applier.recover(1)
    applier.apply([Command(1, (Statement("CREATE (:User {name: 'c'})"),))])
    assert asked(60) == (3, 0)
    assert queries.read(lambda _tx: 1, known_s=60).position == Position("command", "id", 0, 0)
    assert asked(0) == (3, 1)
    assert asked(60) == (3, 1)


@pytest.mark.parametrize(
    "text",
    [
        "CYPHER runtime=slotted MATCH (n:User) RETURN n",
        "USE neo4j MATCH (n:User) RETURN n",
        "MATCH(n:User) RETURN n",
        "match (n:User) return n;",
        "// comment\nMATCH (n:User) RETURN n // MERGE",
        "MATCH (n:User) WHERE 'CREATE' <> 'DELETE' RETURN n",
        "CALL { MATCH (n:User) RETURN n } RETURN n",
        "MATCH (n:User) WITH n AS `set` RETURN `set`",
    ],
)
def test_reads_are_known_by_the_server_and_not_by_their_spelling(queries: Queries, text: str) -> None:
    """Blanks, case, comments and keywords inside strings decide nothing."""
    assert len(rows(queries, text)) == 2


def test_nodes_without_labels_and_whole_paths_come_back(queries: Queries) -> None:
    """Labels, types, ids and properties."""
    [[node]] = rows(queries, "MATCH (n {bare: true}) RETURN n")
    assert decode(node).labels == frozenset()
    [[path]] = rows(queries, "MATCH p = (:User {name: 'a'})-[:KNOWS]->() RETURN p")
    found = decode(path)
    assert [node.properties["name"] for node in found.nodes] == ["a", "b"]
    assert found.relationships[0].type == "KNOWS"
    assert found.relationships[0].properties["since"].iso_format() == "2024-01-01"


@pytest.mark.parametrize(
    "text",
    [
        "CREATE (:X)",
        "MATCH (n:User) DELETE n",
        "MATCH(n:User) SET n.x = 1 RETURN n",
        "MERGE (n:User {name: 'a'}) RETURN n",
        "CALL { CREATE (:X) } RETURN 1 AS x",
        "CREATE INDEX i FOR (n:X) ON (n.a)",
        "MATCH (n:User) CALL (n) { SET n.x = 1 } IN TRANSACTIONS",
        "FOREACH (i IN [1] | CREATE (:X))",
        "MATCH (n:User) RETURN n NEXT CREATE (:X)",
        "CALL db.createLabel('X')",
        "PROFILE CREATE (:X)",
        "CREATE USER x SET PASSWORD 'secret-secret'",
        "SHOW DATABASES",
        "SHOW USERS",
        "SHOW TRANSACTIONS",
        "SHOW SETTINGS",
        "TERMINATE TRANSACTIONS 'neo4j-transaction-1'",
        "LOAD CSV FROM 'file:///etc/passwd' AS line RETURN line",
        "LOAD/**/CSV FROM 'http://127.0.0.1/' AS line RETURN line",
        "\\u004cOAD CSV FROM 'file:///etc/passwd' AS line RETURN line",
        "CALL dbms.killConnection('bolt-1')",
        "CALL `dbms`.`listConfig`() YIELD name RETURN name",
        "CALL db.clearQueryCaches()",
        "CALL db.awaitIndexes(300)",
        "CALL tx.setMetaData({a: 1})",
        "CALL apoc.load.json('http://127.0.0.1/')",
        "CALL apoc.export.csv.all('all.csv', {})",
        "RETURN apoc.cypher.runFirstColumnSingle('CREATE (:X)', {}) AS x",
        "CALL { WITH 1 AS x CALL { WITH x MERGE (:X {n: x}) } RETURN x } RETURN x",
        "MATCH (n:User) CALL (n) { CREATE (:X) } RETURN n",
        "RETURN EXISTS { CREATE (:X) } AS x",
        "RETURN COLLECT { CREATE (x:X) RETURN x } AS x",
        "PROFILE MATCH (n) DETACH DELETE n",
        "EXPLAIN PROFILE CREATE (:X)",
        "CYPHER 25 CREATE (:X)",
        "CYPHER 5 CREATE (:X)",
        "CYPHER runtime=slotted CREATE (:X)",
        "CYPHER planner=cost LOAD CSV FROM 'file:///etc/passwd' AS line RETURN line",
        "/* MATCH */ CREATE /* RETURN */ (:X) // RETURN 1",
        "\\u0043REATE (:X)",
        "RETURN '\\u0027 CREATE (:X) //'",
        "RETURN 1 AS x; CREATE (:X)",
        "CREATE (:X); RETURN 1 AS x",
        "USE neo4j CREATE (:X)",
        "USE system SHOW USERS",
        "USE system CREATE USER x SET PASSWORD 'secret-secret'",
        "USE neo4j SHOW TRANSACTIONS",
        "SHOW TRANSACTIONS YIELD transactionId AS id TERMINATE TRANSACTIONS id",
        "CALL { SHOW TRANSACTIONS YIELD transactionId RETURN transactionId } RETURN transactionId",
        "DROP INDEX i IF EXISTS",
        "CREATE CONSTRAINT c FOR (n:X) REQUIRE n.a IS UNIQUE",
        "MATCH (n:User) REMOVE n.age RETURN n",
        "MATCH (n:User) SET n:$('X') RETURN n",
        "INSERT (:X)",
        "RETURN " + "[" * 400 + "]" * 400 + " AS x",
        "RETURN " + "+".join(["1"] * 2000) + " AS x",
    ],
)
def test_nothing_but_reads_of_this_graph_is_answered(driver: Driver, queries: Queries, text: str) -> None:
    """Writes, administration, files, addresses and other people's work are refused, and nothing happened."""
    before = driver.execute_query("MATCH (n) RETURN count(n)", database_="neo4j").records[0][0]
    assert refused(queries, text)
    assert driver.execute_query("MATCH (n) RETURN count(n)", database_="neo4j").records[0][0] == before


def test_the_callers_mistakes_have_the_servers_code(queries: Queries) -> None:
    """So that a caller can tell what to mend."""
    assert refused(queries, "MATCH (n RETURN n") == "SyntaxError"
    assert refused(queries, "RETURN $gone AS x") == "ParameterMissing"
    assert refused(queries, "UNWIND [1, 0] AS x RETURN 1 / x AS y") == "ArithmeticError"
    assert refused(queries, "RETURN $x AS x", x=2**70) == "ParameterNotEncodable"
    assert refused(queries, "") == "SyntaxError"


def test_results_are_cut_at_the_limits_and_say_so(driver: Driver, queries: Queries) -> None:
    """By rows, by bytes; a result of just the limit's size is whole."""
    for limit, size, truncated in ((10, 11, True), (10, 10, False), (0, 1, True), (0, 0, False)):
        with queries.run("UNWIND range(1, $n) AS i RETURN i", {"n": size}, max_rows=limit) as found:
            assert len(list(found)) == min(limit, size)
            assert found.truncated is truncated
    small = Queries(driver, database="neo4j", max_bytes=10_000)
    with small.run("UNWIND range(1, 1000) AS i RETURN $text AS text", {"text": "x" * 1000}) as found:
        assert 5 < len(list(found)) < 11
        assert found.truncated


def test_an_endless_result_can_be_left_early(queries: Queries) -> None:
    """Rows are streamed; what is not read is dropped at the server."""
    started = time.monotonic()
    with queries.run("UNWIND range(1, 2000000) AS i RETURN i", max_rows=5) as found:
        assert [row[0] for row in found] == [1, 2, 3, 4, 5]
        assert found.truncated
    assert time.monotonic() - started < 20


def test_a_query_that_takes_too_long_is_the_callers_fault(queries: Queries) -> None:
    """The time limit ends it at the server."""
    text = "UNWIND range(1, 100000000) AS i RETURN sum(i % 7) AS s"
    with pytest.raises(QueryRejected) as error, queries.run(text, timeout_s=0.5) as found:
        list(found)
    assert "Tim" in error.value.code


def test_a_query_function_runs_in_a_read_transaction(queries: Queries) -> None:
    """It gets the transaction and its arguments; what it returns is encoded."""

    def ages(tx: Transaction, least: int, *, name: str) -> list[dict[str, Any]]:
        result = tx.run(
            "MATCH (u:User) WHERE u.age >= $least AND u.name = $name RETURN u.age AS age", least=least, name=name
        )
        return [dict(record) for record in result]

    read = queries.read(ages, (1,), {"name": "a"})
    assert (read.value, read.position) == ([{"age": 1}], Position("command", "id", 0, 0))

    def write(tx: Transaction) -> None:
        tx.run("CREATE (:X)").consume()

    with pytest.raises(QueryRejected):
        queries.read(write)

    def broken(tx: Transaction) -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError):
        queries.read(broken)

    with pytest.raises(QueryRejected, match="has no place"):
        queries.read(lambda _tx: object())


def test_a_graph_that_follows_no_log_has_no_position(driver: Driver) -> None:
    """Queries work before the first command."""
    queries = Queries(driver, database="neo4j")
    assert queries.position() is None
    assert rows(queries, "RETURN 1 AS x") == [[1]]


VALUES = [
    "null",
    "true",
    "42",
    "9223372036854775807",
    "-9223372036854775808",
    "1.5",
    "-0.0",
    "0.0 / 0.0",
    "1 / 0.0",
    "'é😀\u2028'",
    "[1, 'a', null]",
    "{a: 1, `$type`: 'Date', _value: [1]}",
    "date('2024-02-29')",
    "time('12:00:00.000000001+01:30')",
    "localtime('23:59:59.999999999')",
    "datetime('2024-10-27T02:30:00.000000001+01:00[Europe/Paris]')",
    "datetime('2024-10-27T02:30:00+02:00[Europe/Paris]')",
    "datetime('2024-01-01T00:00:00-03:00')",
    "datetime('1700-01-01T00:00:00Z')",
    "localdatetime('2024-01-01T00:00:00.123456789')",
    "duration('P14M3DT4.5S')",
    "duration({months: -1, days: 1, seconds: -1, nanoseconds: 1})",
    "point({x: 1.5, y: -2})",
    "point({x: 1, y: 2, z: 3})",
    "point({longitude: 1, latitude: 2})",
    "point({longitude: 1, latitude: 2, height: 3})",
]


@pytest.mark.parametrize("text", VALUES)
def test_every_value_returns_to_the_server_as_it_came(queries: Queries, text: str) -> None:
    """Out of a query, through JSON, into a command's parameter: the server finds it equal, and of the same type."""
    [[encoded]] = rows(queries, f"RETURN {text} AS x")
    back = decode(json.loads(json.dumps(encoded, allow_nan=False)))
    check = f"RETURN $x = {text} OR ($x IS NULL AND {text} IS NULL) OR ($x <> $x) AS same, toString($x) AS text"
    if text[0] == "{":
        check = f"RETURN $x = {text} AS same, null AS text"
    if text[0] == "[":
        check = "RETURN $x[0] = 1 AND $x[1] = 'a' AND $x[2] IS NULL AND size($x) = 3 AS same, null AS text"
    [[same, shown]] = rows(queries, check, x=back)
    assert same
    if text[0] not in "[{" and not text.startswith("point"):
        [[expected]] = rows(queries, f"RETURN toString({text}) AS text")
        assert shown == expected


def test_bytes_return_as_they_came(queries: Queries) -> None:
    """Neo4j has no literal for them."""
    [[encoded]] = rows(queries, "RETURN $x AS x", x=b"\x00\xff")
    assert decode(encoded) == b"\x00\xff"


def test_vectors_return_as_they_came(driver: Driver, queries: Queries) -> None:
    """Where the server knows them."""
    if driver.get_server_info().agent.startswith("Neo4j/5"):
        pytest.skip("no vectors before 2025")
    [[encoded]] = rows(queries, "CYPHER 25 RETURN vector([1.5, 0.1], 2, FLOAT32) AS x")
    [[again]] = rows(queries, "RETURN $x AS x", x=decode(json.loads(json.dumps(encoded))))
    assert again == encoded


def test_values_of_the_driver_and_of_python_are_stored_alike(driver: Driver, queries: Queries) -> None:
    """A parameter encoded at the sender is, decoded, what the driver would have sent."""
    import datetime as dt

    moment = dt.datetime(2024, 1, 1, 12, tzinfo=dt.timezone(dt.timedelta(hours=1)))
    assert decode(encode(moment)) == DateTime.from_native(moment)
    [[same]] = rows(queries, "RETURN $a = $b AS same", a=decode(encode(moment)), b=moment)
    assert same


def learnt(queries: Queries, text: str, parameters: dict[str, Any], columns: tuple[str, ...]) -> Shared:
    """What queries of that text have in common, which go together from now on, however slow this machine is."""
    key = shared(text, parameters)
    assert key is not None
    queries._kinds.learn(key, Kind(columns, joint(text, columns)))
    return key


def asked(parameters: dict[str, Any], tag: str = "tag") -> Asked:
    """One query, as it goes together with others."""
    return Asked(parameters, timeout_s=60.0, max_rows=None, known_s=60.0, tag=tag)


def together(queries: Queries, text: str, given: list[dict[str, Any]]) -> tuple[list[Any], bool]:
    """What queries of one text get alone, rows or the code of an error, and whether they go together.

    Then each gets the same.
    """

    def one(found: Rows) -> Any:
        try:
            with found:
                return found.columns, list(found), found.summary().query_type, found.position
        except QueryRejected as error:
            return error.code

    alone = [one(queries.run(text, parameters, known_s=60)) for parameters in given]
    key = learnt(queries, text, given[0], next(found[0] for found in alone if isinstance(found, tuple)))
    found = queries.run_together(key, [asked(parameters) for parameters in given])
    if found is not None:
        assert list(map(one, found)) == alone
    return alone, found is not None


@pytest.mark.parametrize(
    "text",
    [
        "MATCH (u:User {name: $name}) RETURN u.name AS name, u.age AS age",
        "MATCH (u:User {name: $name})-[k:KNOWS]->(v:User) RETURN k.since AS `since when`, k AS k, v AS v;",
        "OPTIONAL MATCH (u:User {name: $name}) RETURN u AS u, $name AS asked // whatever",
        "MATCH (u:User {name: $name}) RETURN count(*) AS n, collect(u.age) AS ages",
        "MATCH (u:User) WHERE u.name <> $name RETURN u.name AS name UNION ALL RETURN $name AS name",
        "MATCH (u:User) WITH DISTINCT u WHERE EXISTS { MATCH (v:User {name: $name}) WHERE v = u } RETURN u.name AS n",
        "UNWIND range(1, size($name)) AS n RETURN n, {a: [n, $name]} AS map",
        "RETURN date($name) AS day",
        "OPTIONAL MATCH p = (u:User {name: $name})-[:KNOWS]->(v:User) RETURN p AS `a path`, [null, $name] AS m",
    ],
)
def test_queries_that_go_together_get_what_they_would_have_got_alone(queries: Queries, text: str) -> None:
    """Columns, rows and position, with as many rows as each has; nothing of what the others get."""
    given = [{"name": name} for name in ("2024-02-29", "20240101") if "date" in text] or [
        {"name": name} for name in ("a", "b", "nobody", "a")
    ]
    assert together(queries, text, given)[1]


def test_of_queries_that_go_together_one_that_fails_spoils_none(queries: Queries) -> None:
    """Each is asked alone then, and from then on."""
    text = "RETURN 10 / $n AS x"
    assert rows(queries, text, n=5) == [[2]]
    found, went_together = together(queries, text, [{"n": 1}, {"n": 0}, {"n": 2}])
    assert not went_together
    assert found[1] == "Neo.ClientError.Statement.ArithmeticError"
    assert [found[0][1], found[2][1]] == [[[10]], [[5]]]
    key = shared(text, {"n": 1})
    assert key is not None
    assert queries._kinds.of(key) is None


@pytest.mark.parametrize(
    ("text", "together"),
    [
        ("MATCH (u:User) WHERE u.age >= $n RETURN u.name AS name", True),
        ("MATCH (u:User) RETURN u.name AS name LIMIT $n", False),
        ("MATCH (u:User) WHERE u.age >= $n RETURN u.name", False),
        ("MATCH (u:User) WHERE u.age >= $n AND u.nothing IS NULL RETURN u.name AS name", False),
    ],
    ids=["plain", "limit", "no name", "remark"],
)
def test_a_text_goes_together_where_the_server_takes_it_for_a_subquery(
    queries: Queries,
    text: str,
    together: bool,
) -> None:
    """It is asked that once, before anybody waits."""
    key = shared(text, {"n": 1})
    assert key is not None
    with queries.run(text, {"n": 1}) as found:
        assert len(list(found)) == 1
        queries._learn(key, {"n": 1}, found, Summary())
    assert (queries._kinds.of(key) is not None) == together


def test_one_of_those_that_went_together_is_ended_by_its_own_tag(queries: Queries) -> None:
    """The server knows all of them."""
    text = "UNWIND range(1, $n) AS a UNWIND range(1, $n) AS b WITH a WHERE a < 0 RETURN a AS a"
    key = learnt(queries, text, {"n": 1}, ("a",))
    queries._patience = Patience(print, patience_s=60.0)
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(queries.run_together, key, [asked({"n": 1_000_000}, tag) for tag in ("one", "two")])
        wait_until(lambda: queries.terminate("two"))
        assert running.result(30.0) is None
    assert queries.kind_of(text, {"n": 1}) is None


def test_what_takes_long_together_is_ended_and_goes_alone(queries: Queries) -> None:
    """Nobody waits for another one's slow query."""
    text = "UNWIND range(1, $n) AS a UNWIND range(1, $n) AS b WITH a WHERE a < 0 RETURN a AS a"
    assert rows(queries, text, n=1) == []
    key = learnt(queries, text, {"n": 1}, ("a",))
    assert queries.kind_of(text, {"n": 2}) == key
    began = time.monotonic()
    assert queries.run_together(key, [asked({"n": 1_000_000}), asked({"n": 1})]) is None
    assert time.monotonic() - began < 20.0
    assert queries.kind_of(text, {"n": 2}) is None


def test_a_text_that_was_not_judged_goes_alone(queries: Queries) -> None:
    """Whatever is known of it otherwise."""
    text = "MATCH (u:User {name: $name}) RETURN u.age AS age"
    learnt(queries, text, {"name": "a"}, ("age",))
    assert queries.kind_of(text, {"name": "a"}) is None
