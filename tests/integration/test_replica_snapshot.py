"""Snapshots of a real graph: what comes back, and what a restore that was ended half-way leaves."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from neo4j import spatial
from neo4j.time import Date, DateTime, Duration, Time

from replica import snapshot, snapshot_restore, values
from replica.apply import Applier
from replica.checksum import checksum
from replica.driver import connect
from replica.errors import HalfRestored, MissingPosition, QueryUnavailable, SnapshotRefused
from replica.marker import Key
from replica.query import Queries
from replica.snapshot_format import Source
from replica.statement import Command, Statement
from tests.support import empty, wait_until


if TYPE_CHECKING:
    from neo4j import Driver

    from tests.conftest import Neo4jServer



def typed(kind: str, text: str) -> Any:
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
            {"n": 3000},
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
    file = io.BytesIO()
    snapshot.create(driver, "neo4j", KEY, file, silent)
    return file.getvalue()


def restored(driver: Driver, data: bytes) -> None:
    snapshot_restore.restore(driver, "neo4j", Source(io.BytesIO(data), "test"), silent)


def marker(driver: Driver) -> dict[str, Any]:
    return dict(driver.execute_query("MATCH (m:_KafkaPosition) RETURN properties(m) AS m").records[0]["m"])


def test_a_restored_graph_is_the_same_graph(driver: Driver) -> None:
    """Every value, label, type, duplicate, constraint and index, and all that the position's node holds."""
    fill(driver)
    before, position = checksum(driver, "neo4j"), marker(driver)
    data = taken(driver)
    found = snapshot.verify(io.BytesIO(data), "test", silent)
    assert (found.end.nodes, found.end.relationships) == (6001, 3004)
    empty(driver)

    restored(driver, data)

    assert checksum(driver, "neo4j") == before
    assert marker(driver) == position
    again = snapshot.verify(io.BytesIO(taken(driver)), "test", silent)
    assert again.header.schema == found.header.schema
