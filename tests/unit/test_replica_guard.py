"""What a query must not contain, before any server sees it."""

from __future__ import annotations

import pytest

from replica import guard


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("load csv from 'http://127.0.0.1/' AS line RETURN line", "LOAD CSV"),
        ("CYPHER 25 LOAD // CREATE\n CSV FROM 'file:///x' AS line RETURN line", "LOAD CSV"),
        ("CYPHER runtime=slotted LOAD CSV FROM 'x' AS l RETURN l", "LOAD CSV"),
        ("CALL { LOAD CSV FROM 'x' AS l RETURN l } RETURN l", "LOAD CSV"),
        ("\\u004c\\u004fAD CSV FROM 'x' AS l RETURN l", "LOAD CSV"),
        ("\\uuu004cOAD CSV FROM 'x' AS l RETURN l", "LOAD CSV"),
        ("RETURN '\\u0027 LOAD CSV FROM \\u0027x\\u0027 AS l RETURN l //'", "LOAD CSV"),
        ("RETURN 1 AS x; TERMINATE TRANSACTIONS 'x'", "TERMINATE"),
        ("SHOW TRANSACTIONS YIELD transactionId AS id TERMINATE TRANSACTIONS id", "TERMINATE"),
        ("terminate /* MATCH */ transaction 'x'", "TERMINATE"),
        ("SHOW TRANSACTIONS YIELD transactionId AS index RETURN index", "SHOW TRANSACTIONS"),
        ("SHOW TRANSACTIONS YIELD index", "SHOW TRANSACTIONS"),
        ("USE neo4j SHOW TRANSACTIONS", "SHOW TRANSACTIONS"),
        ("USE system SHOW USERS", "SHOW USERS"),
        ("PROFILE SHOW SETTINGS", "SHOW SETTINGS"),
        ("CALL { SHOW CURRENT USER YIELD user RETURN user } RETURN user", "SHOW CURRENT"),
        ("MATCH (n) RETURN n UNION SHOW DATABASES", "SHOW DATABASES"),
        ("SHOW USER x PRIVILEGES", "SHOW USER"),
        ("CALL dbms.listConfig()", "dbms.listConfig"),
        ("CALL dbms . `killConnection` ('bolt-1')", "dbms.killConnection"),
        ("OPTIONAL CALL dbms.queryJmx('*') YIELD name RETURN name", "dbms.queryJmx"),
        ("CALL apoc.export.csv.all('all.csv', {})", "apoc.export.csv.all"),
        ("CALL apoc.cypher.doIt('CREATE (:X)', {})", "apoc.cypher.doIt"),
        ("CALL { CALL apoc.export.json.all('x', {}) YIELD file RETURN file } RETURN file", "apoc.export.json.all"),
        ("RETURN apoc.cypher.runFirstColumnSingle('LOAD CSV ...', {}) AS x", "apoc.cypher.runFirstColumnSingle"),
        ("RETURN `apoc`.`load`.anything('http://x') AS x", "apoc.load.anything"),
        ("MATCH (n) WHERE custom /**/ . f (n) RETURN n", "custom.f"),
        ("RETURN genai.vector.encode('x', 'OpenAI', {}) AS x", "genai.vector.encode"),
    ],
)
def test_what_does_more_than_read_is_refused_however_it_is_written(text: str, says: str) -> None:
    """Case, comments, escapes, quotes, prefixes and subqueries hide nothing."""
    reason = guard.refusal(text)
    assert reason is not None
    assert says in reason


@pytest.mark.parametrize(
    "text",
    [
        "RETURN 'LOAD CSV' AS x, \"TERMINATE TRANSACTIONS\" AS y // LOAD CSV",
        "MATCH (show:Show {terminate: 1}) RETURN show ORDER BY show.users",
        "RETURN 1 AS show UNION RETURN 2 AS show",
        "MATCH (n) RETURN n.`LOAD CSV` AS `SHOW USERS`",
        "SHOW INDEXES YIELD name RETURN name",
        "SHOW RANGE INDEXES",
        "SHOW ALL CONSTRAINTS",
        "SHOW BUILT IN FUNCTIONS YIELD name",
        "SHOW PROCEDURES",
        "CALL db.labels() YIELD label RETURN label",
        "CALL (n) { RETURN 1 AS x } RETURN x",
        "RETURN date.truncate('day', datetime()) AS d, point.distance($a, $b) AS m",
        "RETURN vector.similarity.cosine($x, $y) AS c",
        "MATCH (n) WHERE n.a AND (n.b) OR n.c IN (n.d) RETURN n.a",
        "CYPHER 25 MATCH (n) LET x = n.a RETURN x",
        "CYPHER runtime=slotted MATCH (n) RETURN n",
        "USE neo4j MATCH (n) RETURN n",
    ],
)
def test_what_only_looks_like_it_is_a_query(text: str) -> None:
    """Words inside strings, comments and names decide nothing."""
    assert guard.refusal(text) is None


ALLOWED = guard.Allowed.read(" apoc.coll.*, Gds.Graph.List,custom.f ")


@pytest.mark.parametrize(
    "text",
    [
        "RETURN apoc.coll.sum([1, 2]) AS s",
        "RETURN `apoc`.COLL.sum([1, 2]) AS s",
        "CALL gds.graph.list() YIELD name RETURN name",
        "CALL apoc.coll.split([1], 2) YIELD value RETURN value, custom.f(1)",
        "CALL db.labels() YIELD label RETURN label",
    ],
)
def test_what_an_operator_allows_may_be_called(text: str) -> None:
    """By its name or by its namespace; what comes with Neo4j may be called as ever."""
    assert guard.refusal(text, ALLOWED) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("RETURN apoc.collection.sum([1]) AS s", "apoc.collection.sum"),
        ("RETURN apoc.coll([1]) AS s", "apoc.coll"),
        ("CALL gds.graph.list.all()", "gds.graph.list.all"),
        ("CALL gds.graph.drop('g')", "gds.graph.drop"),
        ("RETURN custom.fun(1) AS x", "custom.fun"),
        ("RETURN apoc.coll.sum([apoc.load.json('http://x')]) AS s", "apoc.load.json"),
    ],
)
def test_what_is_only_named_alike_is_refused(text: str, says: str) -> None:
    """And the refusal says which setting would let it."""
    reason = guard.refusal(text, ALLOWED)
    assert reason is not None
    assert says in reason
    assert "QUERY_ALLOWED" in reason


def test_nothing_is_allowed_unless_it_is_said() -> None:
    """Neither by an empty list nor by a comma."""
    assert guard.Allowed.read(" , ") == guard.NOTHING_ELSE
