"""Conditions and ids mean in batches what they mean one by one, and survive whatever kills their applier."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from neo4j.exceptions import Neo4jError

from replica.apply import Applier
from replica.checksum import checksum
from replica.conditions import NOT_MET
from replica.ids import DUPLICATE
from replica.outcomes import is_deterministic
from replica.statement import Applied, Command, Statement
from tests.integration.proxy import COMMIT
from tests.integration.test_replica_equivalence import MARKER, PARAMETERS, SETUP, TEMPLATES, renew
from tests.integration.writer_crasher import LOGS, POINTS, step
from tests.replicas import ROOT
from tests.support import empty


if TYPE_CHECKING:
    from collections.abc import Sequence

    from neo4j import Driver

    from tests.conftest import Neo4jServer
    from tests.integration.proxy import Proxy

CONDITIONS = [
    "MATCH (a:A {k: $k}) RETURN a.v > $v",
    "MATCH (a:A) RETURN a.v = $v",
    "RETURN NOT EXISTS { (:A {k: $k}) }",
    "MATCH (n) RETURN count(n) > 3",
    "MATCH (n:Tag) RETURN true",
    "RETURN 1 / $v > 0",
    "RETURN $s",
    "RETURN true",
    "MATCH (a:A {k: $k}) RETURN a.v, true",
    "CREATE (:A) RETURN true",
    "RETURN",
]

IDS = st.sampled_from([None, None, "a", "b", "c", "d", "e"])
WHENS = st.one_of(st.none(), st.none(), st.builds(Statement, st.sampled_from(CONDITIONS), PARAMETERS))
#: Statements, id and condition; neighbours of one text, as an application sends them, and single ones.
RUNS = st.builds(
    lambda text, each: [((Statement(text, parameters),), id_, when) for parameters, id_, when in each],
    st.sampled_from(TEMPLATES),
    st.lists(st.tuples(PARAMETERS, IDS, st.one_of(st.none(), WHENS)), min_size=1, max_size=6),
)
COMMANDS = st.lists(RUNS, min_size=1, max_size=12).map(
    lambda runs: [
        Command(offset, statements, when=when, id=id_)
        for offset, (statements, id_, when) in enumerate([command for run in runs for command in run], 1)
    ]
)


class Undone(Exception):
    """The condition of a command is not met, or unclear."""


def one_by_one(driver: Driver, log: Sequence[Command]) -> dict[int, str]:
    """Each command in a plain transaction; what was not applied, and why, in the words of this test."""
    ends: dict[int, str] = {}
    used: set[str | None] = set()
    with driver.session(database="neo4j") as session:
        session.run(SETUP[0].text).consume()
        session.run("CREATE (:_KafkaPosition $m)", m=MARKER | {"offset": 0}).consume()
        for command in log:
            if command.id is not None and command.id in used:
                ends[command.offset] = "duplicate"
                continue
            try:
                with session.begin_transaction() as tx:
                    look(tx, command.when)
                    for statement in command.statements:
                        list(tx.run(statement.text, dict(statement.parameters)))
                    renew(tx, command.offset)
                    tx.commit()
            except Undone as reason:
                ends[command.offset] = str(reason)
            except Neo4jError as error:
                if not is_deterministic(error.code or ""):
                    raise
                ends[command.offset] = "error"
            else:
                used.add(command.id)
    return ends


def look(tx: Any, when: Statement | None) -> None:
    """Raise unless the condition is met."""
    if when is None:
        return
    if "CREATE" in when.text:
        raise Undone("error")
    result = tx.run(when.text, dict(when.parameters))
    keys, values = result.keys(), [record.values() for record in result]
    if len(keys) != 1 or not all(row[0] in {True, False, None} and row[0].__class__ is not int for row in values):
        raise Undone("error")
    if [True] not in values:
        raise Undone("not met")


def in_batches(driver: Driver, log: Sequence[Command], size: int) -> dict[int, str]:
    """The same by the applier."""
    applier = Applier(driver, database="neo4j", topic="command", topic_id="id")
    applier.recover(0)
    commands = [Command(0, SETUP), *log]
    ends: dict[int, str] = {}
    for start in range(0, len(commands), size):
        for outcome in applier.apply(commands[start : start + size]).rejected:
            ends[outcome.offset] = {DUPLICATE: "duplicate", NOT_MET: "not met"}.get(outcome.code or "", "error")
    return ends


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(log=COMMANDS, size=st.sampled_from([500, 500, 7, 1]))
def test_conditions_and_ids_mean_in_batches_what_they_mean_one_by_one(
    driver: Driver, log: list[Command], size: int
) -> None:
    """Same graph, same outcomes, for any neighbours in any batch."""
    empty(driver)
    expected_ends = one_by_one(driver, log)
    expected = checksum(driver, "neo4j").digest
    empty(driver)
    assert in_batches(driver, log, size) == expected_ends
    assert checksum(driver, "neo4j").digest == expected


USER = "CREATE (:User {id: 1, n: 0})"
#: What the commands do that come after a log.
AGAIN = [step(3, "a"), step(4, "b"), step(5, "c")]


def ends_of(*reports: Applied | None) -> dict[int, str | None]:
    """Offsets and codes of what was not applied."""
    return {outcome.offset: outcome.code for report in reports if report for outcome in report.rejected}


def expected_of(name: str) -> dict[int, str | None]:
    """Three steps; where there are conditions, the third does not count, and so has not used up its id."""
    if name == "conditions":
        return {2: NOT_MET, 3: DUPLICATE, 4: DUPLICATE}
    return dict.fromkeys((3, 4, 5), DUPLICATE)


def counted(driver: Driver) -> int:
    """How often something was counted."""
    return int(driver.execute_query("MATCH (u:User) RETURN u.n", database_="neo4j").records[0][0])


@pytest.mark.parametrize("name", LOGS)
def test_a_lost_answer_makes_nobody_forget_an_id(driver: Driver, proxy: Proxy, replica: Applier, name: str) -> None:
    """COMMIT was sent, the reply never came: the graph says which ids it has, and it is asked."""
    driver.execute_query(USER, database_="neo4j")
    proxy.fatal = b"__m[$__ids]" if "group" in name else COMMIT
    first = replica.apply(LOGS[name])
    again = replica.apply(AGAIN)
    assert proxy.broken == 1
    assert ends_of(first, again) == expected_of(name)
    assert counted(driver) == 3


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("name", LOGS)
def test_an_applier_that_is_killed_leaves_its_successor_all_it_has_to_know(
    driver: Driver, neo4j: Neo4jServer, name: str, point: str
) -> None:
    """SIGKILL between any two steps: each command once, each id once, each condition where it stands."""
    Applier(driver, database="neo4j", topic="command", topic_id="id").recover(0)
    driver.execute_query(USER, database_="neo4j")
    arguments = [neo4j.uri, neo4j.user, neo4j.password, name, point]
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.writer_crasher", *arguments], cwd=ROOT, check=False, timeout=60
    )
    at_once = "group" in name and "not committed" in point  # written and committed in one text
    assert done.returncode == (0 if at_once else -signal.SIGKILL)

    successor = Applier(driver, database="neo4j", topic="command", topic_id="id")
    unreported = successor.recover(0)
    assert ends_of(unreported, successor.apply(LOGS[name]), successor.apply(AGAIN)) == expected_of(name)
    assert counted(driver) == 3
