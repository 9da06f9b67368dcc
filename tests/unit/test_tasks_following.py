"""What a caller is told whose command was not applied in time."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from brokers.records import Record
from brokers.topics import TopicSpec
from tasks.following import Follower
from tasks.outcomes import Holding, Registration, Report


TOPIC_ID = "this log"


@pytest.fixture
def follower() -> Follower:
    """One that hears what the test says."""
    commands, reports, registry = (TopicSpec(name) for name in ("command", "outcomes", "replicas"))
    nothing: Any = None
    found = Follower(nothing, commands, reports, registry, timeout_s=1)
    found._topic_id = TOPIC_ID
    return found


def say(follower: Follower, topic: str, key: str, value: msgspec.Struct) -> None:
    """A record on one of the topics."""
    follower._heard(
        Record(topic=topic, partition=0, offset=0, timestamp_ms=0, key=key.encode(), value=msgspec.json.encode(value))
    )


def registered(follower: Follower, *names: str) -> None:
    """These replicas are known."""
    for name in names:
        say(follower, "replicas", name, Registration(name, TOPIC_ID, "bolt://here", 0))


def hold(follower: Follower, name: str, offset: int, message: str) -> None:
    """The replica cannot get past *offset*."""
    say(follower, "replicas", f"held/{name}", Holding(name, TOPIC_ID, offset, "Neo.Code", message, 0, 0, 1))


def test_nobody_is_said_to_be_where_nobody_knows_it_to_be(follower: Follower) -> None:
    """Reports are read from the command's time on: who said nothing since may be anywhere before it."""
    registered(follower, "a", "b")
    say(follower, "outcomes", "a", Report("a", TOPIC_ID, 5, 7))

    told = follower._missing(8, "all", 2)

    assert told == (
        "command 8 was not applied by all 2 replicas within 2 s: a is at 7, b has reported nothing since"
        "; `replica list` says what keeps a replica"
    )


def test_what_keeps_replicas_is_told_once_for_all_that_say_the_same(follower: Follower) -> None:
    """Not what is behind the command, or was passed: a killed worker cannot take its word back."""
    registered(follower, "a", "b", "c", "d", "e")
    say(follower, "outcomes", "e", Report("e", TOPIC_ID, 0, 7))
    for name in ("a", "b"):
        hold(follower, name, 8, "no memory")
    hold(follower, "c", -1, "no position")
    hold(follower, "d", 9, "later")
    hold(follower, "e", 6, "long ago")

    told = follower._missing(8, "any", 2)

    assert "; a, b cannot apply 8: Neo.Code: no memory; c cannot start: Neo.Code: no position;" in told
    assert "later" not in told
    assert "long ago" not in told
