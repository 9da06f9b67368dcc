from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from replica.apply import Applier
from replica.marker import Key
from replica.schema import SchemaChange
from replica.statement import Applied, Command, Statement
from replica.transactions import Database, Writer
from tests.integration.schema_crasher import POINTS
from tests.replicas import ROOT


if TYPE_CHECKING:
    from neo4j import Driver

    from replica.marker import Marker
    from tests.conftest import Neo4jServer


def command(offset: int, text: str, **parameters: Any) -> Command:
    """A command of one statement."""
    return Command(offset, (Statement(text, parameters),))


def recovered(driver: Driver) -> Applier:
    """An applier that knows its position."""
    applier = Applier(driver, database="neo4j", topic="command", topic_id="id")
    applier.recover(0)
    return applier


def marker(driver: Driver) -> Marker:
    """What the graph says."""
    with driver.session(database="neo4j") as session:
        found = Key("command", 0).read(session)
    assert found is not None
    return found


def steps(driver: Driver, change: Command) -> SchemaChange:
    """The same three steps that the applier takes, one at a time."""
    database, key = Database(driver, "neo4j", 30), Key("command", 0)
    return SchemaChange(database, key, Writer(database, key, "id"), change)


def names(driver: Driver) -> set[str]:
    """The indexes and constraints that commands made."""
    records = driver.execute_query("SHOW INDEXES YIELD name, type WHERE type <> 'LOOKUP'", database_="neo4j").records
    return {record["name"] for record in records} - {"kafka_position"}


CREATE = "CREATE INDEX i FOR (x:X) ON (x.a)"


def test_schema_commands_keep_their_place_between_data(driver: Driver) -> None:
    """Batches end before them and go on after them; the index is online by then."""
    log = [
        command(0, "CREATE (:X {a: 1})"),
        command(1, CREATE),
        command(2, "MATCH (x:X) USING INDEX x:X(a) WHERE x.a = 1 SET x.found = true"),
        command(3, "CREATE CONSTRAINT c FOR (y:Y) REQUIRE y.a IS UNIQUE"),
        command(4, "CREATE (:Y {a: 1})"),
        command(5, "CREATE (:Y {a: 1})"),
        command(6, "DROP INDEX i"),
        command(7, "CREATE FULLTEXT INDEX `f t` FOR (x:X) ON EACH [x.s]"),
    ]
    applied = recovered(driver).apply(log)
    assert [outcome.offset for outcome in applied.rejected] == [5]
    assert names(driver) == {"c", "f t"}
    assert applied.counters["indexes_added"] == 2
    assert marker(driver).intent is None


def test_schema_does_not_mix_with_anything_else_in_one_command(driver: Driver) -> None:
    """Neo4j runs them in different transactions, so together-or-not-at-all cannot be kept."""
    mixed = Command(0, (Statement(CREATE), Statement("CREATE (:X)")))
    assert [outcome.code for outcome in recovered(driver).apply([mixed]).rejected] == ["Replica.Unsupported"]
    assert names(driver) == set()


CASES = [
    # what exists before, the command, whether it counts as applied
    ([], CREATE, True),
    ([CREATE], CREATE, False),
    (["CREATE INDEX other FOR (x:X) ON (x.a)"], CREATE, False),
    (["CREATE INDEX i FOR (x:X) ON (x.b)"], CREATE, False),
    ([CREATE], "CREATE INDEX i IF NOT EXISTS FOR (x:X) ON (x.a)", True),
    ([], "CREATE CONSTRAINT i FOR (x:X) REQUIRE x.a IS UNIQUE", True),
    ([CREATE], "DROP INDEX i", True),
    ([], "DROP INDEX i", False),
    ([], "DROP INDEX i IF EXISTS", True),
    (["CREATE CONSTRAINT i FOR (x:X) REQUIRE x.a IS UNIQUE"], "DROP CONSTRAINT i", True),
    ([], "DROP CONSTRAINT i", False),
    ([], "CREATE CONSTRAINT i FOR (x:X) REQUIRE x.a IS NODE KEY", False),
]


@pytest.mark.parametrize("crash_after", [0, 1, 2])
@pytest.mark.parametrize(("before", "text", "expected"), CASES)
def test_a_crash_between_the_steps_changes_neither_schema_nor_outcome(
    driver: Driver, before: list[str], text: str, expected: bool, crash_after: int
) -> None:
    """Repeated after a crash, a command that was done counts as applied, and one that never could be as rejected."""
    recovered(driver).apply([command(offset, each) for offset, each in enumerate(before)])
    change = command(len(before), text)
    if crash_after:
        attempt = steps(driver, change)
        intended = attempt.intend(marker(driver))
        if crash_after == 2:
            attempt.change(existed=intended.existed)
    applied: Applied = recovered(driver).apply([change, command(len(before) + 1, "CREATE (:After)")])
    assert [outcome.offset for outcome in applied.rejected] == ([] if expected else [len(before)])
    assert marker(driver).offset == len(before) + 1
    assert marker(driver).intent is None


def test_a_slow_applier_cannot_repeat_an_old_change_over_a_newer_one(driver: Driver) -> None:
    """Its transaction compares the position under the lock before the change."""
    from replica.transactions import Moved

    replica = recovered(driver)
    slow = steps(driver, command(0, CREATE))
    known = marker(driver)
    slow.intend(known)
    replica.apply([command(0, CREATE), command(1, "DROP INDEX i")])
    with pytest.raises(Moved):
        slow.settle(known, published=-1)
    assert names(driver) == set()


def states(driver: Driver) -> dict[str, str]:
    """The indexes that commands made, and whether they are filled."""
    records = driver.execute_query(
        "SHOW INDEXES YIELD name, state, type WHERE type <> 'LOOKUP' AND name <> 'kafka_position'", database_="neo4j"
    ).records
    return {record["name"]: record["state"] for record in records}


CONSTRAINT = "CREATE CONSTRAINT c FOR (x:X) REQUIRE x.a IS UNIQUE"
KILLED = [
    # the command, what is there afterwards, whether it counts as applied
    (CREATE, {"i": "ONLINE"}, True),
    (CONSTRAINT, {"c": "ONLINE"}, True),
    ("CREATE CONSTRAINT c FOR (x:X) REQUIRE x.same IS UNIQUE", {}, False),
    ("DROP INDEX old", {}, True),
]


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize(
    ("text", "left", "expected"), [KILLED[0], *(pytest.param(*case, marks=pytest.mark.slow) for case in KILLED[1:])]
)
def test_a_process_killed_within_a_schema_command_is_succeeded_by_one_that_ends_it(
    driver: Driver, neo4j_servers: tuple[Neo4jServer, ...], point: str, text: str, left: dict[str, str], expected: bool
) -> None:
    """SIGKILL at each step, on a graph whose index takes a while to fill: same schema, same outcome, index online."""
    old = {} if "old" not in text else {"old": "CREATE INDEX old FOR (x:X) ON (x.b)"}
    rows = "UNWIND range(1, 5000) AS a CREATE (:X {a: a, b: a, same: 1})"
    before = [command(offset, each) for offset, each in enumerate([rows, *old.values()])]
    recovered(driver).apply(before)
    server, offset = neo4j_servers[0], len(before)

    arguments = [server.uri, server.user, server.password, str(offset), point, text]
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.schema_crasher", *arguments], cwd=ROOT, check=False, timeout=60
    )

    never_made = not expected and "awaited" in point
    assert done.returncode == (0 if never_made else -signal.SIGKILL)
    successor = Applier(driver, database="neo4j", topic="command", topic_id="id")
    unreported = successor.recover(0)
    applied = successor.apply([command(offset, text), command(offset + 1, "CREATE (:After)")])
    rejected = [*(unreported.rejected if unreported else ()), *applied.rejected]
    assert {outcome.offset for outcome in rejected} == (set() if expected else {offset})
    assert states(driver) == left
    assert (marker(driver).offset, marker(driver).intent) == (offset + 1, None)


def test_a_command_is_not_skipped_once_its_schema_change_is_made(driver: Driver) -> None:
    """Only what has left nothing in any graph can be passed over; a look at it waits for attempts under way."""
    replica = recovered(driver)
    change = command(0, CREATE)
    attempt = steps(driver, change)
    assert replica.objection(change) is None
    intended = attempt.intend(marker(driver))
    assert replica.objection(change) is None
    attempt.change(existed=intended.existed)
    assert "schema change is made already" in str(replica.objection(change))
    replica.apply([change])
    assert "the graph is at 0" in str(replica.objection(change))

    skipped = Command(1, (), skipped="poison (ann)")
    steps(driver, command(1, "DROP INDEX i")).intend(marker(driver))
    applied = replica.apply([skipped])
    assert [(o.offset, o.code, o.message) for o in applied.rejected] == [(1, "Replica.Skipped", "poison (ann)")]
    assert marker(driver).intent is None
    assert names(driver) == {"i"}
