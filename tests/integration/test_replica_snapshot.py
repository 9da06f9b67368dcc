"""Snapshots of a real graph: what comes back, and what a restore that was ended half-way leaves."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from neo4j import spatial
from neo4j.time import Date, DateTime, Duration, Time

from replica import snapshot, snapshot_restore, snapshot_schema, values
from replica.apply import Applier
from replica.checksum import checksum
from replica.driver import connect
from replica.errors import (
    HalfRestored,
    Held,
    MissingPosition,
    QueryUnavailable,
    SnapshotBroken,
    SnapshotFailed,
    SnapshotRefused,
)
from replica.marker import Key
from replica.query import Queries
from replica.snapshot_format import Schema, Source
from replica.snapshot_schema import read_schema
from replica.statement import Command, Statement
from tests.support import empty, wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator

    from neo4j import Driver

    from replica.marker import Runner
    from tests.conftest import Neo4jServer


def typed(kind: str, text: str) -> Any:
    """A value of Neo4j as its typed JSON."""
    return values.decode({"$type": kind, "_value": text})


KEY = Key("log", 0)
EVERYTHING: dict[str, Any] = {
    "text": "ünïcode \x00 \U0001f600 `quoted`",
    "yes": True,
    "small": -1,
    "large": 2**63 - 1,
    "least": -(2**63),
    "float": 1e300,
    "whole": 1.0,
    "zero": -0.0,
    "nan": float("nan"),
    "infinite": float("-inf"),
    "bytes": b"\x00\xff",
    "date": Date(9999, 12, 31),
    "time": typed("Time", "23:59:59.999999999-07:30"),
    "local_time": Time(0, 0, 0, 1),
    "zoned": typed("ZonedDateTime", "2024-10-27T02:30:00.000000001+01:00[Europe/Paris]"),
    "offset": typed("OffsetDateTime", "2024-02-29T12:00:00+01:30"),
    "local": DateTime(2024, 2, 29, 12, 0, 0, 999_999_999),
    "duration": Duration(months=-14, days=3, seconds=4, nanoseconds=500),
    "flat": spatial.CartesianPoint((1.5, -2.0)),
    "globe": spatial.WGS84Point((1.5, -2.0, 3.0)),
    "empty": [],
    "texts": ["a", ""],
    "numbers": [1, 2**62],
    "floats": [float("nan"), 0.1],
    "dates": [Date(2024, 2, 29)],
    "$type": "Integer",
    "_value": "1",
}


def silent(_text: str, _done: int, _total: int) -> None:
    """Tell nobody."""


def applier(driver: Driver, **options: Any) -> Applier:
    """An applier of the log that `fill` applies."""
    return Applier(driver, database="neo4j", topic=KEY.topic, topic_id="id", **options)


def fill(driver: Driver) -> None:
    """A graph with everything that Neo4j can store, at offset 6, with a rejected command that nobody has published."""
    statements = [
        Statement("CREATE CONSTRAINT user_name FOR (u:User) REQUIRE u.name IS UNIQUE"),
        Statement("CREATE FULLTEXT INDEX `full ``text` FOR (n:User|Group) ON EACH [n.name, n.bio]"),
        Statement("CREATE VECTOR INDEX vectors FOR (n:User) ON n.v OPTIONS {indexConfig: {`vector.dimensions`: 3}}"),
        Statement("CREATE INDEX since FOR ()-[r:KNOWS]-() ON (r.since, r.until)"),
        Statement(
            "UNWIND range(1, $n) AS i CREATE (u:User:`a ``label` {name: 'u' + i, i: i})-[:IN {i: i}]->(:Group {i: i})",
            {"n": 1500},
        ),
        Statement(
            "MATCH (u:User {name: 'u1'}), (v:User {name: 'u2'}) SET u += $all, v.v = [1.0, 2.0, 3.0]"
            " CREATE (), (u)-[:KNOWS $all]->(v), (u)-[:`odd ``type`]->(v), (u)-[:KNOWS]->(u), (v)-[:KNOWS]->(u)",
            {"all": EVERYTHING},
        ),
        Statement("CREATE (:User {name: 'u1'})"),
    ]
    one = applier(driver)
    one.recover(0)
    told = one.apply([Command(offset, (statement,)) for offset, statement in enumerate(statements)])
    assert [outcome.offset for outcome in told.rejected] == [6], told.rejected


def taken(driver: Driver) -> bytes:
    """A snapshot's bytes."""
    file = io.BytesIO()
    snapshot.create(driver, "neo4j", KEY, file, silent)
    return file.getvalue()


def restored(driver: Driver, data: bytes) -> None:
    """Restore a snapshot's bytes."""
    snapshot_restore.restore(driver, "neo4j", Source(io.BytesIO(data), "test"), silent)


def marker(driver: Driver) -> dict[str, Any]:
    """All that the position's node holds."""
    return dict(driver.execute_query("MATCH (m:_KafkaPosition) RETURN properties(m) AS m").records[0]["m"])


def test_a_restored_graph_is_the_same_graph(driver: Driver) -> None:
    """Every value, label, type, duplicate, constraint and index, and all that the position's node holds."""
    fill(driver)
    before, position = checksum(driver, "neo4j"), marker(driver)
    data = taken(driver)
    found = snapshot.verify(io.BytesIO(data), "test", silent)
    assert (found.end.nodes, found.end.relationships) == (3001, 1504)
    empty(driver)

    restored(driver, data)

    assert checksum(driver, "neo4j") == before
    assert marker(driver) == position
    again = snapshot.verify(io.BytesIO(taken(driver)), "test", silent)
    assert again.header.schema == found.header.schema


def test_what_a_snapshot_says_of_its_graph_is_what_the_graph_says(driver: Driver) -> None:
    """The checksum of the file's content is that of the database; one changed property makes it another one."""
    fill(driver)
    data = taken(driver)

    assert snapshot.checksum_of(io.BytesIO(data), "test", silent) == checksum(driver, "neo4j")
    driver.execute_query("MATCH (u:User {name: 'u7'}) SET u.i = 8")
    assert snapshot.checksum_of(io.BytesIO(data), "test", silent) != checksum(driver, "neo4j")


def test_a_restored_replica_goes_on_and_publishes_what_was_not(driver: Driver) -> None:
    """It is at the snapshot's offset, returns the rejected outcome that nobody had published, and applies the next."""
    fill(driver)
    data = taken(driver)
    empty(driver)
    restored(driver, data)

    again = applier(driver)
    told = again.recover(0)

    assert told is not None
    assert [outcome.offset for outcome in told.rejected] == [6]
    again.apply([Command(6, (Statement("CREATE (:Twice)"),)), Command(7, (Statement("CREATE (:Once)"),))])
    assert driver.execute_query("MATCH (n:Once) RETURN count(n) AS n").records[0]["n"] == 1
    assert driver.execute_query("MATCH (n:Twice) RETURN count(n) AS n").records[0]["n"] == 0


def test_a_snapshot_goes_into_an_empty_database_only(driver: Driver) -> None:
    """Not over data, and not over a position; nothing is touched, and the text says what to do."""
    fill(driver)
    data, before = taken(driver), checksum(driver, "neo4j")

    with pytest.raises(SnapshotRefused, match="already follows topic log"):
        restored(driver, data)
    assert checksum(driver, "neo4j") == before
    empty(driver)
    driver.execute_query("CREATE (:Mine)")
    with pytest.raises(MissingPosition, match="empty the database"):
        restored(driver, data)
    assert driver.execute_query("MATCH (n) RETURN count(n) AS n").records[0]["n"] == 1


def test_a_damaged_snapshot_never_becomes_a_replica(driver: Driver) -> None:
    """Its last block is broken: the data before are in the database, and the database says that it is no replica."""
    fill(driver)
    data = taken(driver)
    empty(driver)

    with pytest.raises(SnapshotBroken):
        restored(driver, data[:-500] + bytes([data[-500] ^ 1]) + data[-499:])

    with pytest.raises(HalfRestored):
        applier(driver).recover(0)


def test_an_index_that_the_server_does_not_have_is_named(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a newer Neo4j may write it: with what the server says of it and where it is from.  No replica comes of it."""
    fill(driver)
    statement = "CREATE FUTURE INDEX newer FOR (n:`User`) ON (n.`v`)"

    def read_newer(runner: Runner) -> Schema:
        return msgspec.structs.replace(read_schema(runner), indexes={"newer": statement})

    monkeypatch.setattr(snapshot, "read_schema", read_newer)
    data = taken(driver)
    empty(driver)

    with pytest.raises(SnapshotFailed, match=rf"Neo4j \S+ has: {re.escape(statement)}: Invalid input"):
        restored(driver, data)
    with pytest.raises(HalfRestored):
        applier(driver).recover(0)


def test_a_login_that_is_refused_is_not_taken_for_a_constraint_that_is(
    driver: Driver, neo4j: Neo4jServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it is refused at once, when nothing is to be restored again, or later, as after a new password."""
    fill(driver)
    data = taken(driver)
    empty(driver)

    with (
        connect(neo4j.uri, neo4j.user, "wrong") as stranger,
        pytest.raises(SnapshotFailed, match=r"did not begin: Neo\.ClientError\.Security\.Unauthorized: [^.]*$"),
    ):
        restored(stranger, data)

    def refused(*_: object) -> None:
        with connect(neo4j.uri, neo4j.user, "wrong") as stranger:
            stranger.verify_connectivity()

    monkeypatch.setattr(snapshot_schema, "_run", refused)
    with pytest.raises(
        SnapshotFailed, match=r"did not get to its end: Neo\.ClientError\.Security.*[^.]\. Restore again"
    ):
        restored(driver, data)


@pytest.mark.parametrize(
    "stage",
    [
        pytest.param("nodes", marks=pytest.mark.slow),
        "relationships",
        pytest.param("schema", marks=pytest.mark.slow),
    ],
)
def test_a_restore_that_is_killed_leaves_no_replica_and_can_begin_again(
    stage: str, driver: Driver, neo4j: Neo4jServer, tmp_path: Path
) -> None:
    """Killed at each stage: no applier starts, no query is answered, and the next restore gives the whole graph."""
    fill(driver)
    before = checksum(driver, "neo4j")
    file = tmp_path / "graph"
    file.write_bytes(taken(driver))
    empty(driver)

    with stopped_at(stage, "restore", neo4j, file) as process:
        with pytest.raises(HalfRestored, match="restore again"):
            applier(driver).recover(0)
        with pytest.raises(SnapshotRefused, match="it waits for a restore"):
            restored(driver, file.read_bytes())
        process.kill()
        process.wait()

    with pytest.raises(HalfRestored):
        applier(driver).recover(0)
    with pytest.raises(QueryUnavailable, match="HalfRestored"):
        Queries(driver, database="neo4j", topic=KEY.topic).run("RETURN 1")
    with pytest.raises(SnapshotRefused, match="restore it again"):
        taken(driver)
    restored(driver, file.read_bytes())
    assert checksum(driver, "neo4j") == before


def test_the_applier_waits_for_a_snapshot_and_no_longer_than_it_lives(
    driver: Driver, neo4j: Neo4jServer, tmp_path: Path
) -> None:
    """A command is held, and says for what; queries go on.  The snapshot killed, it is applied at once."""
    fill(driver)
    command = Command(7, (Statement("CREATE (:Late)"),))
    one = applier(driver, timeout_s=1)
    one.recover(0)

    with stopped_at("nodes", "create", neo4j, tmp_path / "graph") as process:
        with pytest.raises(Held, match="it waits for a snapshot"):
            one.apply([command])
        with Queries(driver, database="neo4j", topic=KEY.topic).run("MATCH (u:User) RETURN count(u)") as rows:
            assert list(rows) == [[1500]]
        process.kill()
        process.wait()

    wait_until(lambda: applied(one, command), 20, "the command to be applied")
    assert driver.execute_query("MATCH (n:Late) RETURN count(n) AS n").records[0]["n"] == 1


def applied(one: Applier, command: Command) -> bool:
    """Whether *command* was applied; false while it is held."""
    try:
        return one.apply([command]).last == command.offset
    except Held:
        return False


@contextmanager
def stopped_at(stage: str, act: str, neo4j: Neo4jServer, file: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that takes or restores a snapshot and stands still in the middle of *stage*."""
    command = [sys.executable, "-m", "tests.integration.snapshot_worker", act, stage, neo4j.uri, str(file)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{neo4j.user} {neo4j.password}\n")
        process.stdin.flush()
        try:
            assert process.stdout.readline() == f"in {stage}\n"
            yield process
        finally:
            process.kill()
