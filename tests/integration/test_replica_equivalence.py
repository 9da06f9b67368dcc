"""A batch means what its commands mean one by one: the rule that lets every replica cut batches as it likes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from neo4j import Transaction
from neo4j.exceptions import Neo4jError

from replica import chains
from replica.apply import Applier
from replica.checksum import checksum
from replica.outcomes import is_deterministic
from replica.statement import Command, Statement
from tests.support import empty


if TYPE_CHECKING:
    from collections.abc import Sequence

    from neo4j import Driver

    Log = Sequence[tuple[Statement, ...]]

#: What neighbours can do to each other: read, repair, break, hide; and what rewriting can do to a text.
TEMPLATES = [
    "MERGE (a:A {k: $k}) SET a.v = $v",
    "CREATE (a:A {k: $k, v: $v})",
    "CREATE (a:A {k: $k}) RETURN 1 / $v AS x",
    "MATCH (a:A {k: $k}) DELETE a",
    "MATCH (a:A {k: $k}) DETACH DELETE a",
    "MATCH (a:A {k: $k}), (b:A {k: $v}) CREATE (a)-[:R {v: $v}]->(b)",
    "MATCH (a:A {k: $k})-[r:R]->(:A) DELETE r",
    "MATCH (a:A {k: $k})-[r:R]->() DELETE r, a",
    "MATCH (n) DETACH DELETE n",
    "MATCH (n) SET n.seen = coalesce(n.seen, 0) + 1",
    "MATCH (n) WHERE n.seen IS NULL CREATE (:C {v: $v})",
    "MATCH (n) SET n:Tag",
    "MATCH (n:Tag) SET n.tagged = coalesce(n.tagged, 0) + 1",
    "MATCH (n) SET n = {}",
    "MATCH (n), (m:A {k: $k}) MERGE (n)-[:Q]->(m)",
    "MATCH (a:A {k: $k}) SET a.v = coalesce(a.v, 0) + $v",
    "MATCH (a:A {k: $k}) CREATE (b:B {of: a.v}) RETURN b",
    "MATCH (a:A {k: $k}) SET a.k = $v",
    "MATCH (a:A) WITH a ORDER BY a.k LIMIT $k SET a.v = $v",
    "CREATE (b:B $m)",
    "MERGE (b:B {m: $m.x})",
    "CREATE (b:B) SET b += $m",
    "MATCH (n:Nope) SET n.v = abs($s)",
    "MATCH (n:Nope) SET $m = 1",
    "MATCH (n:Nope) SET n = $s",
    "CREATE (:B {v: $missing})",
    "CREATE (:B {v: 10 / $v})",
    "CREATE (:B {v: $m})",
    "CREATE (:B",
    "UNWIND range(0, $k) AS i CREATE (b:B {i: i}) RETURN b.i AS i",
    "UNWIND range(0, $k) AS i CREATE (b:B {i: i}) RETURN b.i",
    "MATCH (a:A) RETURN a.k AS k UNION MATCH (b:B) RETURN b.i AS k",
    "MATCH (a:A), (b:B) RETURN *",
    "MERGE (a:A {k: $k}) SET a.v = $v // } trailing",
    "MERGE (a:A {k: $k}) SET a.v = $v ; ;",
    "MATCH (a:A) SET a.v = 1 } CALL () { CREATE (:Injected)",
    "MATCH (a:A) SET a.v = '} CALL () { CREATE (:Injected)'",
    "FOREACH (i IN range(0, $k) | MERGE (a:A {k: i}) ON CREATE SET a.v = $v)",
    "MATCH (a:A {k: $k}) CALL (a) { MATCH (b:B) SET b.of = a.k } RETURN count(*) AS c",
    "MATCH (a:A {k: $k}) CALL (a) { SET a.w = $v }",
    "MATCH (a:A {k: $k}) WHERE exists { (a)-[:R]->(:A {k: $v}) } SET a.e = true",
    "MATCH (a:A {k: $k}) SET a.l = size([(a)-[:R]->(b:A) | b.k])",
    "CALL db.createLabel('L') ",
    "CALL db.labels() YIELD label WITH count(*) AS c CREATE (:B {c: c > 0})",
    "CREATE (a:A {k: $k})-[:R]->(b:B) WITH b MATCH (x:A {k: $v}) MERGE (x)-[:S]->(b)",
    "RETURN$k AS k",
    "MATCH (a:A {k: $k}) SET a.s = $s",
    "",
]

PARAMETERS = st.fixed_dictionaries(
    {
        "k": st.integers(0, 3),
        "v": st.integers(-1, 3),
        "s": st.sampled_from([1, 2, "text", None, 1.5]),
        "m": st.sampled_from([{}, {"x": 1}, {"x": 1, "y": [1, 2]}, {"x": None}, {"x": {"deep": 1}}]),
    }
)
STATEMENTS = st.builds(Statement, st.sampled_from(TEMPLATES), PARAMETERS)
RUNS = st.builds(
    lambda text, parameters: [(Statement(text, each),) for each in parameters],
    st.sampled_from(TEMPLATES),
    st.lists(PARAMETERS, min_size=1, max_size=6),
)
LOGS = st.lists(
    st.one_of(RUNS, RUNS, st.lists(STATEMENTS, min_size=2, max_size=3).map(lambda several: [tuple(several)])),
    min_size=1,
    max_size=10,
).map(lambda runs: [command for run in runs for command in run])

SETUP = (Statement("CREATE CONSTRAINT a_key FOR (a:A) REQUIRE a.k IS UNIQUE"),)
MARKER = {"topic": "command", "partition": 0, "topic_id": "id", "published": -1, "rejections": []}


def one_by_one(driver: Driver, log: Log) -> set[int]:
    """Each command in a plain transaction, as written, beside a marker that is pristine before each."""
    rejected = set()
    with driver.session(database="neo4j") as session:
        session.run(SETUP[0].text).consume()
        session.run("CREATE (:_KafkaPosition $m)", m=MARKER | {"offset": 0}).consume()
        for offset, statements in enumerate(log, start=1):
            try:
                with session.begin_transaction() as tx:
                    for statement in statements:
                        list(tx.run(statement.text, dict(statement.parameters)))
                    renew(tx, offset)
                    tx.commit()
            except Neo4jError as error:
                if not is_deterministic(error.code or ""):
                    raise
                rejected.add(offset)
    return rejected


def renew(tx: Any, offset: int) -> None:
    """A marker like the real one, new."""
    tx.run("MATCH (m:_KafkaPosition) DETACH DELETE m").consume()
    tx.run("CREATE (:_KafkaPosition $m)", m=MARKER | {"offset": offset}).consume()


def in_batches(driver: Driver, log: Log, size: int) -> set[int]:
    """The same by the applier."""
    applier = Applier(driver, database="neo4j", topic="command", topic_id="id")
    applier.recover(0)
    commands = [Command(offset, statements) for offset, statements in enumerate([SETUP, *log])]
    rejected: set[int] = set()
    for start in range(0, len(commands), size):
        rejected |= {outcome.offset for outcome in applier.apply(commands[start : start + size]).rejected}
    return rejected


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(log=LOGS, size=st.sampled_from([500, 500, 7]))
def test_batches_mean_what_their_commands_mean_one_by_one(driver: Driver, log: Log, size: int) -> None:
    """Same graph, same rejected offsets, for any neighbours in any batch."""
    empty(driver)
    expected_rejected = one_by_one(driver, log)
    expected = checksum(driver, "neo4j")
    empty(driver)
    rejected = in_batches(driver, log, size)
    found = checksum(driver, "neo4j")
    assert rejected == expected_rejected
    assert (found.nodes, found.relationships) == (expected.nodes, expected.relationships)
    assert found.digest == expected.digest


SEQUENCES = st.builds(
    lambda texts, rounds: [(Statement(text, each),) for each in rounds for text in texts],
    st.lists(st.sampled_from(TEMPLATES), min_size=2, max_size=6),
    st.lists(PARAMETERS, min_size=4, max_size=8),
)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(log=SEQUENCES, size=st.sampled_from([500, 500, 7]))
def test_sequences_that_come_back_mean_what_their_commands_mean_one_by_one(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, log: Log, size: int
) -> None:
    """Whatever comes behind whatever in one text, and reads, repairs or breaks what that has done."""
    monkeypatch.setattr(chains, "OFTEN", 1)
    empty(driver)
    expected_rejected = one_by_one(driver, log)
    expected = checksum(driver, "neo4j")
    empty(driver)
    rejected = in_batches(driver, log, size)
    assert rejected == expected_rejected
    assert checksum(driver, "neo4j").digest == expected.digest


def test_a_sequence_that_comes_back_goes_to_the_server_as_one(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its commands did is counted as ever, and one that fails is found."""
    texts = ["MERGE (a:A {k: $k}) SET a.v = $v", "CREATE (:B {of: $k})", "MATCH (a:A {k: $k}) SET a.w = 1 / $v"]
    log = [
        Command(offset, (Statement(texts[offset % 3], {"k": offset // 3 % 5, "v": 401 - offset}),))
        for offset in range(405)
    ]
    asked: list[str] = []
    run = Transaction.run

    def tapped(tx: Transaction, text: Any, *rest: Any) -> Any:
        asked.append(str(text))
        return run(tx, text, *rest)

    monkeypatch.setattr(Transaction, "run", tapped)
    applier = Applier(driver, database="neo4j", topic="command", topic_id="id")
    applier.recover(0)
    applied = applier.apply(log[:400])
    assert len(asked) < 400 * 0.7
    assert max(text.count("CALL () { CALL () {") for text in asked) == chains.LONGEST
    assert (applied.counters["nodes_created"], applied.rejected) == (133 + 5, ())
    assert [outcome.offset for outcome in applier.apply(log[400:]).rejected] == [401]


P = {"k": 1, "v": 2, "s": "text", "m": {"x": 1}}
TWO = [
    "MERGE (a:A {k: $k}) SET a.v = $v",
    "MERGE (a:A {k: 2})",
    "MATCH (a:A {k: $k}), (b:A {k: 2}) CREATE (a)-[:R]->(b)",
]
TRAPS = {
    "a later command hides an illegal delete": [
        *TWO,
        "MATCH (a:A {k: $k}) DELETE a",
        "MATCH (:A)-[r:R]->(:A) DELETE r",
    ],
    "a later command deletes what an illegal delete left": [
        *TWO,
        "MATCH (a:A {k: $k}) DELETE a",
        "MATCH (a:A) DETACH DELETE a",
    ],
    "the position is missing after everything was deleted": [
        "CREATE (:A {k: 1})",
        "MATCH (n) DETACH DELETE n",
        "MATCH (n) CREATE (:C)",
        "MATCH (n) DETACH DELETE n",
        "MATCH (n) CREATE (:D)",
    ],
    "the position keeps a property of the command before": ["MATCH (n) SET n.x = 1", "MATCH (n {x: 1}) CREATE (:C)"],
    "the position keeps a label of the command before": ["MATCH (n) SET n:Tag", "MATCH (t:Tag) CREATE (:C)"],
    "the position keeps a relationship": ["MATCH (n) CREATE (n)-[:R]->(:B)", "MATCH (b:B)<--(x) CREATE (:C)"],
    "a parameter's type is wrong though no row is found": ["MATCH (n:Nope) SET n.v = abs($s)"] * 3,
    "a field of a row stands where no parameter may": ["MATCH (n:Nope) SET $m = 1"] * 3,
    "a variable of the text is out of scope": ["MATCH (a:A {k: $k}) CALL (a) { SET a.w = $v }", *TWO] * 2,
    "the text leaves its brackets": [*TWO, "MATCH (a:A) SET a.v = 1 } CALL () { CREATE (:Injected)"] * 2,
}


@pytest.mark.parametrize("size", [1, 500])
@pytest.mark.parametrize("trap", TRAPS)
def test_known_traps_of_batching_are_avoided(driver: Driver, trap: str, size: int) -> None:
    """Each of these differed in some simpler way of batching or rewriting."""
    log = [(Statement(text, P),) for text in TRAPS[trap]]
    expected_rejected = one_by_one(driver, log)
    expected = checksum(driver, "neo4j")
    empty(driver)
    assert in_batches(driver, log, size) == expected_rejected
    assert checksum(driver, "neo4j").digest == expected.digest


def test_neighbours_of_different_types_are_not_proven_by_each_other(driver: Driver) -> None:
    """The server compiles against types: what it accepts for a number it refuses for a string, found row or not."""
    text = "MATCH (n:Nope) SET n.v = abs($s)"
    log = [(Statement(text, {"s": value}),) for value in (1, 2, 1, 2, "text", "text", [1], [1], 1.5, 2.5)]
    expected = one_by_one(driver, log)
    assert expected == {5, 6, 7, 8}
    empty(driver)
    assert in_batches(driver, log, 500) == expected


def test_repeated_single_commands_mean_the_same_in_their_short_form(driver: Driver) -> None:
    """From the second time on a text runs wrapped, in one round trip."""
    log = [
        (Statement(text, {"k": 1 + turn % 2, "v": turn % 3, "s": "text", "m": {"x": turn}}),)
        for turn in range(4)
        for text in TEMPLATES
    ]
    empty(driver)
    expected_rejected = one_by_one(driver, log)
    expected = checksum(driver, "neo4j")
    empty(driver)
    assert in_batches(driver, log, 1) == expected_rejected
    assert checksum(driver, "neo4j").digest == expected.digest
