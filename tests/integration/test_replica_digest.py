"""A checkpoint says what the commands did, whatever form they ran in, and whatever was killed meanwhile."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from neo4j.exceptions import Neo4jError

from replica.apply import Applier
from replica.digest import INTERVAL, Checkpoint
from replica.marker import Key
from replica.schema import SchemaChange
from replica.statement import Applied, Command, Statement
from replica.transactions import _counted
from tests.integration.test_replica_equivalence import LOGS, MARKER, SETUP, TEMPLATES, renew
from tests.support import empty


if TYPE_CHECKING:
    from collections.abc import Sequence

    from neo4j import Driver

    from replica.marker import Marker

    Log = Sequence[tuple[Statement, ...]]

MERGE = "MERGE (a:A {k: $k}) ON CREATE SET a.v = 1 ON MATCH SET a.v = a.v + 1, a.w = 2"
#: The last command of a log in these tests: it ends the segment.
END = Command(INTERVAL, (Statement("MATCH (n:Nope) RETURN n"),))


def applier_of(driver: Driver) -> Applier:
    """One that has read the position."""
    applier = Applier(driver, database="neo4j", topic="command", topic_id="id")
    applier.recover(0)
    return applier


def commands_of(log: Log) -> list[Command]:
    """At offsets from 0 on."""
    return [Command(offset, statements) for offset, statements in enumerate(log)]


def merges(count: int) -> list[Command]:
    """That make 40 nodes, and then set properties."""
    return commands_of([(Statement(MERGE, {"k": number % 40}),) for number in range(count)])


def checkpoint_after(driver: Driver, log: Log, size: int) -> Checkpoint:
    """What an empty graph says of *log*, applied in calls of *size* commands."""
    empty(driver)
    applier = applier_of(driver)
    commands = commands_of(log)
    for start in range(0, len(commands), size):
        applier.apply(commands[start : start + size])
    return _one(applier.apply([END]))


def _one(applied: Applied) -> Checkpoint:
    [checkpoint] = applied.checkpoints
    return checkpoint


def counted_one_by_one(driver: Driver, log: Log) -> Counter[str]:
    """What the server itself counts for each command, as written, in a transaction of its own."""
    empty(driver)
    total: Counter[str] = Counter()
    with driver.session(database="neo4j") as session:
        session.run("CREATE (:_KafkaPosition $m)", m=MARKER | {"offset": -1, "digest": "", "checkpoints": []}).consume()
        for offset, statements in enumerate(log):
            if "CONSTRAINT" in statements[0].text:
                total += _counted(session.run(statements[0].text).consume())
                continue
            try:
                total += _count(session, statements, offset)
            except Neo4jError:
                continue
    return total


def _count(session: Any, statements: Sequence[Statement], offset: int) -> Counter[str]:
    found: Counter[str] = Counter()
    with session.begin_transaction() as tx:
        for statement in statements:
            result = tx.run(statement.text, dict(statement.parameters))
            list(result)
            found += _counted(result.consume())
        renew(tx, offset)
        tx.run("MATCH (m:_KafkaPosition) SET m.digest = '', m.checkpoints = []").consume()
        tx.commit()
    return found


def same(driver: Driver, log: Log, sizes: Sequence[int]) -> None:
    """Every form counts as the server does for the commands as written."""
    expected = counted_one_by_one(driver, log)
    found = [checkpoint_after(driver, log, size) for size in sizes]
    for checkpoint in found:
        assert checkpoint.counters == dict(+expected)
        assert checkpoint.differences(found[0]) == []
        assert checkpoint.chain == found[0].chain


def test_every_form_counts_alike(driver: Driver) -> None:
    """Wrapped one by one, in UNWIND over neighbours, and as written: each text of the equivalence tests, four times."""
    parameters = [{"k": 1 + turn % 2, "v": turn % 3, "s": "text", "m": {"x": turn}} for turn in range(4)]
    log = [SETUP, *((Statement(text, each),) for text in TEMPLATES for each in parameters)]
    same(driver, log, (1, 500))


@pytest.mark.slow
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(log=LOGS)
def test_any_neighbours_in_any_batch_count_alike(driver: Driver, log: Log) -> None:
    """The counters, the rejected ones and the size of the graph."""
    same(driver, [SETUP, *log], (500, 7, 1))


def test_no_transaction_crosses_a_checkpoint_and_the_graph_itself_is_counted(driver: Driver) -> None:
    """What was written beside the log shows as soon as the segment ends: more nodes than anybody created."""
    applier = applier_of(driver)
    driver.execute_query("CREATE (:Stray)", database_="neo4j")
    checkpoint = _one(applier.apply(merges(INTERVAL + 300)))
    assert (checkpoint.before, checkpoint.nodes, checkpoint.unexplained) == (INTERVAL, 42, (1, 0))
    assert checkpoint.counters == {
        "nodes_created": 40,
        "labels_added": 40,
        "properties_set": 40 * 2 + (INTERVAL - 40) * 2,
    }


def test_a_restart_costs_no_more_than_the_counters_of_one_segment(driver: Driver) -> None:
    """What a commit in one round trip counted is not in the graph yet; the chain is, and so is the next segment."""
    log = merges(2 * INTERVAL + 1)
    first = applier_of(driver)
    first.apply([*log[:10], Command(10, (Statement("RETURN 1 / 0"),))])
    first.apply(log[11:500])
    first.apply(log[500:1000])
    again = applier_of(driver)
    lost = _one(again.apply(log[1000:1025]))
    assert (lost.counters, lost.nodes, lost.unexplained) == (None, 41, None)
    assert lost.chain
    whole = _one(again.apply(log[1025:]))
    assert whole.counters == {"properties_set": 2 * INTERVAL}
    assert applier_of(driver).checkpoints == (lost, whole)


@pytest.mark.parametrize("how", ["close"])
def test_a_checkpoint_counts_what_the_graph_held_when_the_position_moved(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """A zombie counts, another applier goes on, and then the zombie's transaction finds another position.

    What it has committed itself it counts without the lock, and what somebody else has, with it.
    """
    log = merges(INTERVAL + 2)
    other, zombie = applier_of(driver), applier_of(driver)
    (zombie if how == "close" else other).apply(log[:INTERVAL])
    zombie.apply(log[:INTERVAL])
    count = getattr(Key, how)

    def overtaken(*args: Any) -> Marker | None:
        counted: Marker | None = count(*args)
        monkeypatch.undo()
        assert _one(other.apply(log)).nodes == 41
        driver.execute_query("CREATE (:Stray)", database_="neo4j")
        return counted

    monkeypatch.setattr(Key, how, overtaken)
    applied = zombie.apply(log)
    assert (applied.last, _one(applied).nodes) == (INTERVAL + 1, 41)
    [record] = driver.execute_query("MATCH (a:A) RETURN sum(a.v) AS sum", database_="neo4j").records
    assert record["sum"] == INTERVAL + 2


def test_an_applier_that_was_overtaken_counts_nothing(driver: Driver) -> None:
    """The graph is not where it thinks, so that there is no checkpoint of that place to be had."""
    log = merges(INTERVAL + 2)
    zombie = applier_of(driver)
    zombie.apply(log[:INTERVAL])
    expected = _one(applier_of(driver).apply(log))
    assert _one(zombie.apply(log)) == expected


def test_an_unpublished_checkpoint_survives_a_restart(driver: Driver) -> None:
    """Killed between the commit and the publication: the successor is told by `recover`."""
    checkpoint = _one(applier_of(driver).apply(merges(INTERVAL + 1)))
    again = Applier(driver, database="neo4j", topic="command", topic_id="id")
    recovered = again.recover(0)
    assert recovered is not None
    assert recovered.checkpoints == (checkpoint,)


@pytest.mark.parametrize("crashed", [False, True])
def test_a_schema_command_counts_once_however_often_it_was_tried(driver: Driver, *, crashed: bool) -> None:
    """A server that says "already exists" to the second attempt counts nothing; the replica does."""
    log = commands_of(
        [
            (Statement("CREATE CONSTRAINT c FOR (a:A) REQUIRE a.k IS UNIQUE"),),
            (Statement("CREATE INDEX i FOR (a:A) ON (a.v)"),),
            (Statement("CREATE INDEX i IF NOT EXISTS FOR (a:A) ON (a.v)"),),
            (Statement("DROP INDEX i"),),
        ]
    )
    applier = applier_of(driver)
    for command in log:
        if crashed:
            attempt = SchemaChange(applier._schema_database, applier._key, applier._writer, command)
            attempt.change(existed=attempt.intend(applier._current()).existed)
            applier = applier_of(driver)
        applier.apply([command])
    counters = _one(applier.apply([END])).counters
    assert counters == {"constraints_added": 1, "indexes_added": 1, "indexes_removed": 1}
