from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from replica.server import ServerFacts
from tasks.outcomes import Registration
from tasks.registry import others_that_differ


def facts(version: str = "2026.04.0", *called: str, **settings: str) -> ServerFacts:
    """A server."""
    return ServerFacts(
        version, "community", {name.replace("__", "."): value for name, value in settings.items()}, called
    )


def test_a_difference_names_the_setting_and_both_values() -> None:
    """As seen from the first."""
    mine = facts(db__temporal__timezone="Z", same="1")
    theirs = facts(db__temporal__timezone="Europe/Berlin", same="1")

    assert mine.differences(theirs) == ["db.temporal.timezone: Z, there Europe/Berlin"]


def test_a_setting_that_one_version_does_not_know_is_a_difference() -> None:
    """An older server cannot say what it does not have."""
    assert facts("5.26.12").differences(facts(db__query__default_language="CYPHER_5")) == [
        "db.query.default_language: unknown, there CYPHER_5",
        "version: 5.26.12, there 2026.04.0",
    ]


def test_missing_procedures_are_named_on_equal_versions_only() -> None:
    """Between versions they differ anyhow, and the version says so."""
    apoc = [f"apoc.{letter}" for letter in "abcdefg"]

    found = facts("1", "db.labels", *apoc).differences(facts("1", "db.labels", "gds.x"))

    assert found == [
        "procedures only here: apoc.a, apoc.b, apoc.c, apoc.d, apoc.e and 2 more",
        "procedures only there: gds.x",
    ]
    assert facts("1", "a").differences(facts("2", "b")) == ["version: 1, there 2"]


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=5)), st.lists(st.text(max_size=5)))
def test_a_server_does_not_differ_from_itself(settings: dict[str, str], called: list[str]) -> None:
    """Also not after a journey through a record."""
    one = ServerFacts("1", "community", settings, tuple(called))
    registration = Registration("r", "t", "bolt://h:1", 5, one)

    again = msgspec.json.decode(msgspec.json.encode(registration), type=Registration)

    assert again == registration
    assert one.differences(again.server or facts()) == []


def test_a_registration_of_an_earlier_version_is_still_read() -> None:
    """It did not say on which server."""
    old = b'{"replica":"r","topic_id":"t","neo4j_uri":"bolt://h:1","since_ms":5}'

    assert msgspec.json.decode(old, type=Registration).server is None


def test_only_other_replicas_of_the_same_log_are_compared() -> None:
    """Not oneself, not those of a former topic, and not those whose server is unknown."""
    other = facts("2")
    registered = {
        "me": Registration("me", "t", "u", 1, other),
        "same": Registration("same", "t", "u", 1, facts("1")),
        "unlike": Registration("unlike", "t", "u", 1, other),
        "former": Registration("former", "old", "u", 1, other),
        "silent": Registration("silent", "t", "u", 1),
    }

    assert others_that_differ("me", "t", facts("1"), registered) == {"unlike": ["version: 1, there 2"]}
