"""What may lie on the control topic, and what it means."""

from __future__ import annotations

import json
from typing import Any

import pytest
from dramatiq import Message
from hypothesis import given
from hypothesis import strategies as st

from brokers.orders import Ended, Orders, Pause, Question, Revocation, Unreadable, end, read
from brokers.records import Outgoing, Record


def arrived(sent: Outgoing) -> Record:
    """*sent*, as Kafka hands it out."""
    return Record(sent.topic, 0, 0, 0, sent.key, sent.value)


def raw(key: bytes | None, value: object) -> Record:
    """What somebody else wrote."""
    data = value if isinstance(value, bytes) or value is None else json.dumps(value).encode()
    return Record("control", 0, 0, 0, key, data)


def message(made_ms: int = 100, **fields: Any) -> Message[Any]:
    """A message of actor ``a`` in queue ``q``."""
    given = {"queue_name": "q", "actor_name": "a", "args": (), "kwargs": {}, "options": {}, "message_id": "m"}
    return Message(**{**given, "message_timestamp": made_ms, **fields})


names = st.text(min_size=1).filter(lambda name: name.isprintable())
times = st.integers(0, 2**53)


@given(queue=names, at=times, reason=st.text(st.characters(codec="utf-8")))
def test_a_pause_is_read_as_it_was_written_and_ended_by_its_key(queue: str, at: int, reason: str) -> None:
    """Whatever the queue's name."""
    pause, orders = Pause(queue, at, reason), Orders()
    assert read(arrived(pause.record("control"))) == pause
    orders.take(pause)
    assert orders.pauses == {queue: pause}
    orders.take(read(arrived(end("control", pause.key))))
    assert orders.pauses == {}


@given(kind=st.sampled_from(["id", "actor", "queue"]), name=names, at=times, abort=st.booleans())
def test_a_revocation_is_read_as_it_was_written_and_ended_by_its_key(
    kind: Any, name: str, at: int, abort: bool
) -> None:
    """Names may hold slashes; another one of the same name is not touched."""
    one, other = Revocation(kind, name, at, at + 10, abort, "why"), Revocation(kind, name, at + 1, at + 10)
    assert read(arrived(one.record("control"))) == one
    orders = Orders()
    for order in (one, other, Ended(one.key)):
        orders.take(order)
    assert orders.revocations == [other]
    orders.take(Ended(other.key))
    assert orders.revocations == []


def test_a_question_is_read_as_it_was_written() -> None:
    """And changes nothing that holds."""
    question, orders = Question("c1", 5), Orders()
    assert read(arrived(question.record("control"))) == question
    orders.take(question)
    assert (orders.pauses, orders.revocations) == ({}, [])


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (None, {"v": 1, "at_ms": 1}, "no key"),
        (b"pause/", {"v": 1, "at_ms": 1}, "nothing is known"),
        (b"resize/q", {"v": 1, "at_ms": 1}, "nothing is known"),
        (b"revoke/group/g/1", {"v": 1, "at_ms": 1}, "nothing is known"),
        (b"revoke/id/m", {"v": 1, "at_ms": 1}, "nothing is known"),
        (b"pause/q", b"\xff", "malformed|invalid|truncated"),
        (b"pause/q", {"v": 1}, "at_ms"),
        (b"pause/q", {"v": 1, "at_ms": "now"}, "at_ms"),
        (b"pause/q", {"at_ms": 1}, "v"),
        (b"pause/q", {"v": 2, "at_ms": {"new": "meaning"}}, "version 2, and this worker knows 1"),
        (b"revoke/id/m/2", {"v": 1, "at_ms": 1, "expires_ms": 9}, "contradict"),
    ],
)
def test_what_is_no_order_is_unreadable(key: bytes | None, value: object, reason: str) -> None:
    """With a reason for the log."""
    with pytest.raises(Unreadable, match=rf"(?i){reason}"):
        read(raw(key, value))


@given(st.one_of(st.none(), st.binary()), st.one_of(st.none(), st.binary()))
def test_garbage_is_unreadable_or_changes_nothing(key: bytes | None, value: bytes | None) -> None:
    """Never any other error."""
    orders = Orders()
    try:
        orders.take(read(raw(key, value)))
    except Unreadable:
        return
    assert (orders.pauses, orders.revocations) == ({}, [])


@pytest.mark.parametrize(
    ("revocation", "made_ms", "now_ms", "covered"),
    [
        (Revocation("id", "m", 50, 1000), 100, 100, True),  # an id is meant whenever it was made
        (Revocation("id", "m", 50, 1000), 100, 1000, False),  # expired
        (Revocation("id", "n", 50, 1000), 10, 100, False),
        (Revocation("actor", "a", 50, 1000), 50, 100, True),
        (Revocation("actor", "a", 50, 1000), 51, 100, False),  # made later
        (Revocation("actor", "b", 50, 1000), 10, 100, False),
        (Revocation("queue", "q", 50, 1000), 50, 100, True),
        (Revocation("queue", "r", 50, 1000), 10, 100, False),
    ],
)
def test_a_revocation_means_what_was_made_before_it(
    revocation: Revocation, made_ms: int, now_ms: int, covered: bool
) -> None:
    """Until it expires."""
    orders = Orders()
    orders.take(revocation)
    found = orders.against(message(made_ms), now_ms)
    assert (found == revocation) is covered


def test_expired_revocations_are_known_for_being_cleared_away() -> None:
    """The others stay."""
    old, new, orders = Revocation("id", "m", 1, 10), Revocation("id", "m", 2, 20), Orders()
    orders.take(old)
    orders.take(new)
    assert orders.expired(10) == [old]
