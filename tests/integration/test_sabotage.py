"""What nobody should do to a replica, done to one of three: each is found, by the name that it deserves.

A node that was written directly, values that were swapped, an index that was dropped and a relationship that was moved
between twins are in `test_tasks_divergence`.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import random
import re
import shutil
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka.admin import AdminClient

from replica.apply import Applier
from replica.digest import INTERVAL
from replica.driver import connect
from replica.errors import PositionMoved, Unavailable
from replica.statement import Command, Statement
from tasks import commands
from tasks.checkpoints import disagreements
from tasks.errors import ReplicasDisagree
from tests.integration.test_tasks_divergence import fill_a_segment, names, tamper, verify
from tests.replicas import Replicas, replicas_of, value, wait_for_value
from tests.support import empty, wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from neo4j import Driver

    from ops.stack import Stack
    from tasks.decisions import Decision
    from tests.conftest import Neo4jServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # servers are killed and started again

POSITION = "MATCH (m:_KafkaPosition) RETURN m.offset"


@pytest.fixture
def replicas(kafka: str, neo4j_servers: tuple[Neo4jServer, ...], tmp_path: Path) -> Iterator[Replicas]:
    """Three replicas that have passed a checkpoint and agree."""
    with replicas_of(kafka, neo4j_servers, tmp_path) as found:
        found.app().run_command.send("CREATE CONSTRAINT k FOR (a:A) REQUIRE a.k IS UNIQUE").wait(applied=3, timeout=90)
        passed(found, fill_a_segment(found))
        yield found


def passed(replicas: Replicas, offset: int, number: int = 3) -> None:
    """Wait until so many replicas have passed the command at *offset*."""
    replicas.apps[0].follower.wait(offset, 0, number, 90)


def create(replicas: Replicas, count: int) -> int:
    """Send commands that each make a node; the last one's offset."""
    app = replicas.apps[0]
    with app.broker.batching():
        receipts = [app.run_command.send("CREATE (:N {n: $n})", n=n) for n in range(count)]
    return receipts[-1].position()


def quarantined(replicas: Replicas, number: int) -> Decision:
    """Wait until that replica has put itself in quarantine; the others have not, and go on."""
    app, name = replicas.apps[0], names(replicas)[number - 1]
    decision = wait_until(lambda: app.decisions.of("quarantine").get(name), 60, f"{name} to stop")
    assert decision is not None
    assert app.decisions.of("quarantine").keys() == {name}
    others = {other for other in names(replicas) if other != name}
    after = app.run_command.send("CREATE (:After)")
    assert after.wait(applied=2, timeout=60).keys() == others
    assert f"wrong is {name}" in decision.reason
    return decision


def test_an_offset_that_was_skipped_is_found(replicas: Replicas) -> None:
    """The command's node is missing."""
    replicas.stop(3)
    last = create(replicas, 5)
    passed(replicas, last, 2)
    tamper(replicas.servers[2], "MATCH (m:_KafkaPosition) SET m.offset = m.offset + 1")
    replicas.start(3)
    fill_a_segment(replicas)
    assert "nodes:" in quarantined(replicas, 3).reason
    made_anew(replicas, 3)


def made_anew(replicas: Replicas, number: int) -> None:
    """Empty the graph, and let it replay the log: what it said before counts no more."""
    app, server = replicas.apps[0], replicas.servers[number - 1]
    replicas.stop(number)
    with connect(server.uri, server.user, server.password) as driver:
        empty(driver)
    app.decisions.withdraw("quarantine", names(replicas)[number - 1])
    replicas.start(number)
    passed(replicas, app.run_command.send("RETURN 1").position())
    topic_id = app.broker.topics.identity(app.command_topic.name)
    wait_until(lambda: not disagreements(app.broker, app.checkpoints_topic, topic_id, timeout_s=10), 30, "all to agree")
    assert verify(replicas)[1]["verdict"] == "same"
    assert app.decisions.of("quarantine") == {}


def test_a_position_that_was_set_back_is_found(replicas: Replicas) -> None:
    """An old position on new data: commands are applied twice."""
    passed(replicas, create(replicas, 5))
    replicas.stop(3)
    tamper(replicas.servers[2], "MATCH (m:_KafkaPosition) SET m.offset = m.offset - 5")
    replicas.start(3)
    fill_a_segment(replicas)
    assert "nodes:" in quarantined(replicas, 3).reason


def test_a_graph_that_goes_back_as_a_whole_catches_up_and_agrees(replicas: Replicas) -> None:
    """Data and position of one moment, here of the beginning: that is no divergence."""
    replicas.stop(3)
    server = replicas.servers[2]
    with connect(server.uri, server.user, server.password) as driver:
        empty(driver)
    last = fill_a_segment(replicas)
    replicas.start(3)
    passed(replicas, last)
    assert replicas.apps[0].decisions.of("quarantine") == {}
    assert verify(replicas)[1]["verdict"] == "same"


@contextlib.contextmanager
def files_of(stack: Stack, name: str) -> Iterator[Path]:
    """The folder of a database while its server is down, killed."""
    stack.kill(name)
    yield stack.folder / name / "data"
    stack.start(name)


@pytest.fixture
def ours(request: pytest.FixtureRequest) -> Stack:
    """The stack that the servers are of."""
    if "TEST_NEO4J_URIS" in os.environ:
        pytest.skip("the files of a server of yours are left alone")
    stack: Stack = request.getfixturevalue("stack")
    return stack


def test_an_old_backup_catches_up_under_a_worker_that_runs(replicas: Replicas, ours: Stack, tmp_path: Path) -> None:
    """The files of some time ago: what is missing is applied again, once, though the worker had been beyond it."""
    server = replicas.servers[2]
    old = value(server, POSITION)
    with files_of(ours, server.name) as data:
        shutil.copytree(data, tmp_path / "backup")
    last = create(replicas, 20)
    passed(replicas, last)

    with files_of(ours, server.name) as data:
        shutil.rmtree(data)
        shutil.copytree(tmp_path / "backup", data)

    after = replicas.apps[0].run_command.send("CREATE (:N {n: 20})")  # an applier without work does not look
    begun = f"replica_started replica={names(replicas)[2]} position={old}\n"
    wait_until(lambda: begun in replicas.log(3).read_text(), 90, "the replica to begin anew where the backup ends")
    wait_for_value(server, POSITION, after.position())
    assert value(server, "MATCH (n:N) RETURN count(n)") == 21
    passed(replicas, fill_a_segment(replicas))
    assert replicas.apps[0].decisions.of("quarantine") == {}
    assert verify(replicas)[1]["verdict"] == "same"


def test_a_backup_that_is_older_than_the_log_is_told_from_others(
    replicas: Replicas, ours: Stack, tmp_path: Path
) -> None:
    """Commands that it lacks are gone: it stands and names the snapshot that helps, which a repair restores."""
    server, store = replicas.servers[2], ("--store", (tmp_path / "snapshots").as_uri())
    with files_of(ours, server.name) as data:
        shutil.copytree(data, tmp_path / "backup")
    passed(replicas, create(replicas, 20))
    taken = json.loads(replicas.neo4j_kafka("snapshot", "create", *store, "--json").stdout)
    passed(replicas, create(replicas, 5))
    assert replicas.neo4j_kafka("log", "truncate", *store).exit_code == 0

    replicas.stop(3)
    with files_of(ours, server.name) as data:
        shutil.rmtree(data)
        shutil.copytree(tmp_path / "backup", data)
    replicas.start(3)

    row = wait_until(lambda: state_of(replicas, 3, "held"), 60, "the replica to stand")
    assert row is not None
    assert f"the log of {replicas.prefix}command begins at {taken['offset'] + 1}" in row["why"]
    repaired = replicas.neo4j_kafka("replica", "repair", names(replicas)[2], "--yes", *store)
    assert repaired.exit_code == 0, repaired.output
    assert value(server, "MATCH (n:N) RETURN count(n)") == 25
    assert verify(replicas)[1]["verdict"] == "same"


def test_a_command_that_fails_on_one_replica_only_is_found(replicas: Replicas) -> None:
    """What is rejected by two is applied by the third: whoever waits is told at once, and the third one stops."""
    app = replicas.apps[0]
    app.run_command.send("CREATE (:A {k: 1})").wait(applied="all", timeout=60)
    tamper(replicas.servers[2], "DROP CONSTRAINT k")
    twice = app.run_command.send("CREATE (:A {k: 1})")
    with pytest.raises(ReplicasDisagree, match=r"rejected by .*replica-1, .*replica-2, applied by .*replica-3"):
        twice.wait(applied="all", timeout=60)
    fill_a_segment(replicas)
    assert "rejected commands (chain)" in quarantined(replicas, 3).reason


def test_a_procedure_that_is_missing_on_one_replica_holds_it_there(replicas: Replicas) -> None:
    """It skips nothing and differs in nothing: it stands, and says at which command and why."""
    app = replicas.apps[0]
    replicas.stop(3)
    replicas.start(3, modules=("tasks", "tests.integration.missing_procedure"))
    receipt = app.run_command.send("CREATE (:N {missing_procedure: true})")
    receipt.wait(applied=2, timeout=60)
    row = wait_until(lambda: state_of(replicas, 3, "held"), 60, "the replica to be held")
    assert row is not None
    assert f"offset {receipt.position()} is held" in row["why"]
    assert "ProcedureNotFound" in row["why"]
    assert app.decisions.of("quarantine") == {}


def test_a_function_that_is_missing_on_one_replica_is_found(replicas: Replicas) -> None:
    """Its server calls that a mistake in the text, as every server would of a function that nobody has."""
    app = replicas.apps[0]
    replicas.stop(3)
    replicas.start(3, modules=("tasks", "tests.integration.missing_procedure"))
    with pytest.raises(ReplicasDisagree, match=r"rejected by .*replica-3"):
        app.run_command.send("CREATE (:N {missing_function: true})").wait(applied="all", timeout=60)
    fill_a_segment(replicas)
    assert "rejected commands (chain)" in quarantined(replicas, 3).reason


def test_values_that_were_swapped_are_found_on_schedule(
    kafka: str, neo4j_servers: tuple[Neo4jServer, ...], tmp_path: Path
) -> None:
    """No count shows it; whole graphs are compared though nobody asks, and though no command comes."""
    with replicas_of(kafka, neo4j_servers, tmp_path, VERIFY_EVERY_S="2") as replicas:
        app = replicas.app()
        app.run_command.send("CREATE (:A {k: 1, v: 'x'}), (:A {k: 2, v: 'y'})").wait(applied=3, timeout=90)
        tamper(replicas.servers[1], "MATCH (a:A {k: 1}), (b:A {k: 2}) SET a.v = 'y', b.v = 'x'")
        assert "checksum of the whole graph" in quarantined(replicas, 2).reason


def state_of(replicas: Replicas, number: int, state: str) -> dict[str, Any] | None:
    """The row of ``replica list`` once the replica is in that *state*."""
    result = replicas.neo4j_kafka("replica", "list", "--json")
    rows = {row["name"]: row for row in json.loads(result.stdout)["replicas"]}
    row: dict[str, Any] = rows[names(replicas)[number - 1]]
    return row if row["state"] == state else None


def test_a_topic_that_was_made_anew_stops_every_replica(kafka: str, neo4j: Neo4jServer, tmp_path: Path) -> None:
    """Offsets of another log are no positions in this one."""
    with replicas_of(kafka, [neo4j], tmp_path) as replicas:
        app = replicas.app()
        app.run_command.send("CREATE (:A)").wait(applied=1, timeout=60)
        replicas.stop(1)
        name = app.command_topic.name
        admin = AdminClient({"bootstrap.servers": kafka})
        admin.delete_topics([name])[name].result(30)
        wait_until(lambda: app.broker.topics.partitions(name) is None, 30, "the topic to be gone")
        fresh = replicas.app()
        wait_until(lambda: fresh.broker.topics.ensure(fresh.command_topic), 30, "the topic to be there again")
        fresh.run_command.send("CREATE (:B)")
        replicas.start(1)
        wait_until(lambda: "it was deleted and created again" in replicas.log(1).read_text(), 60, "the halt")
        assert value(neo4j, "MATCH (b:B) RETURN count(b)") == 0


def test_a_sender_whose_clock_is_wrong_makes_no_replica_differ(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The moment is the sender's, right or wrong, and the same everywhere."""

    class Wrong(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> Wrong:
            return cls(2001, 2, 3, 4, 5, 6, tzinfo=tz)

    monkeypatch.setattr(commands, "dt", SimpleNamespace(datetime=Wrong, UTC=dt.UTC))
    receipt = replicas.apps[0].run_command.send("CREATE (:T {at: datetime(), n: timestamp()})")
    monkeypatch.undo()
    receipt.wait(applied="all", timeout=60)
    for server in replicas.servers:
        wait_for_value(server, "MATCH (t:T) RETURN t.at.year", 2001)
    assert verify(replicas)[1]["verdict"] == "same"


def test_a_worker_whose_clock_is_wrong_makes_its_replica_not_differ(replicas: Replicas) -> None:
    """It applies what the sender's clock said, agrees with others, says truly how far it is, and somebody is told."""
    app = replicas.apps[0]
    replicas.stop(3)
    replicas.start(3, modules=("tasks", "tests.integration.wrong_clock"))
    app.run_command.send("CREATE (:T {at: datetime(), n: timestamp()})").wait(applied="all", timeout=60)
    days = "MATCH (t:T) RETURN duration.inDays(t.at, datetime()).days"
    assert [value(server, days) for server in replicas.servers] == [0, 0, 0]
    said = wait_until(lambda: replicas.neo4j_kafka("replica", "list").stderr, 30, "the clock to be told of")
    assert re.fullmatch(rf"the clock of {names(replicas)[2]}'s worker is 86,[34]\d\d s ahead of this machine's\n", said)
    passed(replicas, fill_a_segment(replicas))
    assert app.decisions.of("quarantine") == {}
    assert verify(replicas)[1]["verdict"] == "same"
    replicas.stop(1)
    replicas.stop(2)
    rows = app.run_query.send_with_options(args=("MATCH (t:T) RETURN count(t) AS n",), max_lag_s=5).get(timeout=30)
    assert (rows.replica, list(rows)) == (names(replicas)[2], [{"n": 1}])


def test_two_replicas_of_one_database_apply_each_command_once_and_are_told_of(
    kafka: str, neo4j: Neo4jServer, tmp_path: Path
) -> None:
    """One has the other's address, by mistake: two workers race for every command, and somebody should know."""
    with replicas_of(kafka, [neo4j, neo4j], tmp_path) as replicas:
        app = replicas.app()
        app.run_command.send("CREATE (:Counter {n: 0})").wait(applied=2, timeout=90)
        for _ in range(100):
            with app.broker.batching():
                some = [app.run_command.send("MATCH (c:Counter) SET c.n = c.n + 1") for _ in range(5)]
        passed(replicas, some[-1].position(), 2)
        assert value(neo4j, "MATCH (c:Counter) RETURN c.n") == 500

        first, second = names(replicas)
        text = replicas.neo4j_kafka("replica", "list").stderr
        assert f"{first} shares its database, {neo4j.uri}, with {second}" in text
        told = replicas.log(1).read_text() + replicas.log(2).read_text()
        assert "replica_shares_database" in told


def test_two_appliers_of_one_graph_say_what_one_would_say(driver: Driver) -> None:
    """They race for every command; each is applied once, and nothing that they say is wrong."""
    log = [
        Command(n, (Statement("CREATE (:A {n: $n})", {"n": n}) if n % 50 else Statement("RETURN 1 / 0"),))
        for n in range(INTERVAL + 5)
    ]
    expected = alone(driver, log)
    empty(driver)
    threads = [threading.Thread(target=racing, args=(driver, log, seed)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = applier(driver).checkpoints
    assert [one.differences(other) for one, other in zip(found, expected, strict=True)] == [[]]
    assert found[0].chain == expected[0].chain
    assert value_of(driver, "MATCH (a:A) RETURN count(a)") == sum(bool(command.offset % 50) for command in log)


def applier(driver: Driver) -> Applier:
    """One that knows its position."""
    made = Applier(driver, database="neo4j", topic="command", topic_id="id")
    made.recover(0)
    return made


def alone(driver: Driver, log: list[Command]) -> Any:
    """The checkpoints of an applier that nobody disturbs."""
    empty(driver)
    one = applier(driver)
    one.apply(log)
    return one.checkpoints


def racing(driver: Driver, log: list[Command], seed: int) -> None:
    """Apply *log* beside others that do the same."""
    random_, one, at = random.Random(seed), applier(driver), 0
    while at < len(log):
        size = random_.randint(1, 40)
        try:
            one.apply(log[at : at + size])
            at += size
        except PositionMoved:
            one.recover(0)
        except Unavailable as exc:  # a deadlock between the two
            time.sleep(min(exc.retry_after_s, 0.1))


def value_of(driver: Driver, text: str) -> Any:
    """One value out of a database."""
    return driver.execute_query(text, database_="neo4j").records[0][0]
