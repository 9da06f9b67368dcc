"""Frozen statements on a real server: the type, the zone and the moment that the original would have given."""

from __future__ import annotations

import datetime as dt
import random
from typing import TYPE_CHECKING, Any

import pytest

from replica.apply import Applier
from replica.determinism import check, freeze
from replica.statement import Command, Statement


if TYPE_CHECKING:
    import neo4j

KINDS = ("date", "time", "localtime", "datetime", "localdatetime")
FORMS = (
    "{f}()",
    "{f}({{timezone: 'Europe/Paris'}})",
    "{f}({{timezone: $zone}})",
    "{f}.statement()",
    "{f}.transaction()",
    "{f}.realtime()",
    "{f}.transaction('America/New_York')",
    "{f}.statement($zone)",
    "{f}.truncate('{unit}')",
)
UNITS = {"time": "hour", "localtime": "hour"}
CALLS = [form.format(f=kind, unit=UNITS.get(kind, "month")) for kind in KINDS for form in FORMS]

#: Between the two runs, and no more; in the units that Cypher compares below.
CLOSE = "abs(duration.inSeconds($other, x).seconds) < 60"


def frozen(text: str, **parameters: Any) -> Statement:
    """As a sender of ours puts it into the log."""
    return freeze(Statement(text, parameters), now=dt.datetime.now(dt.UTC), random=random.SystemRandom()).statement


@pytest.mark.parametrize("call", CALLS)
def test_a_frozen_clock_says_what_the_clock_says(driver: neo4j.Driver, call: str) -> None:
    """Judged by the server itself: type, and distance in time, which a wrong zone would make hours."""
    parameters = {"zone": "Asia/Tokyo"} if "$zone" in call else {}
    statement = frozen(f"RETURN {call} AS x", **parameters)
    check(statement)
    assert statement.text != f"RETURN {call} AS x"

    before = driver.execute_query(f"RETURN {call} AS x", parameters_=parameters).records[0]["x"]
    given = driver.execute_query(statement.text, parameters_=dict(statement.parameters)).records[0]["x"]

    assert type(given) is type(before)
    assert getattr(given, "utcoffset", lambda: None)() == getattr(before, "utcoffset", lambda: None)()
    near = driver.execute_query(f"WITH $x AS x RETURN {CLOSE} AS near", parameters_={"x": given, "other": before})
    assert near.records[0]["near"]


def test_frozen_randomness_and_timestamps_have_the_servers_types(driver: neo4j.Driver) -> None:
    """A float below one, a UUID, milliseconds."""
    statement = frozen("RETURN rand() AS r, randomUUID() AS u, timestamp() AS t")

    row = driver.execute_query(statement.text, parameters_=dict(statement.parameters)).records[0]

    assert 0 <= row["r"] < 1
    assert len(row["u"]) == 36
    assert abs(row["t"] - dt.datetime.now(dt.UTC).timestamp() * 1000) < 60_000


def test_commands_with_frozen_values_share_a_transaction(driver: neo4j.Driver) -> None:
    """Freezing does not cost the fast form: forty commands of one text, each with a moment of its own."""
    texts = "MERGE (n:F {i: $i}) SET n.at = datetime(), n.month = date.truncate('month')"
    applier = Applier(driver, database="neo4j", topic="frozen", topic_id="id")
    applier.recover(0)

    applied = applier.apply([Command(offset, (frozen(texts, i=offset),)) for offset in range(40)])

    assert applied.rejected == ()
    assert applier._writer.transactions <= 3
    [row] = driver.execute_query("MATCH (n:F) RETURN count(n) AS n, count(DISTINCT n.at) AS moments").records
    assert (row["n"], row["moments"]) == (40, 40)
