from __future__ import annotations

import json
from typing import Any

import dramatiq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brokers.dead_letters import REASON_CHARS, TRACEBACK_CHARS, bare, dead_letter
from brokers.errors import Undecodable, WrongKey
from brokers.records import Record, decode, encode, pinned
from brokers.topics import Queue, TopicSpec


few = settings(max_examples=60, deadline=None)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)

QUEUE = Queue("q", TopicSpec("p-q"), "g")


def message(**changes: Any) -> dramatiq.Message[Any]:
    """A message with *changes*."""
    fields = {"queue_name": "q", "actor_name": "a", "args": (), "kwargs": {}, "options": {}} | changes
    return dramatiq.Message(**fields)


def body(**changes: Any) -> dict[str, Any]:
    """A message as it is written, with *changes*."""
    return message().asdict() | {"args": []} | changes


def record(value: bytes | None, **changes: Any) -> Record:
    """A record that carries *value*."""
    return Record("p-q", 3, 42, 1000, b"k", value, **changes)


@few
@given(st.lists(json_values, max_size=4), st.dictionaries(st.text(), json_values, max_size=4), st.text(min_size=1))
def test_a_message_arrives_as_it_was_sent(args: list[Any], kwargs: dict[str, Any], actor: str) -> None:
    """All that JSON can say goes over the wire and back, numbers beyond 64 bits and lone surrogates included."""
    sent = message(args=tuple(args), kwargs=kwargs, actor_name=actor)
    assert decode(record(encode(sent, "t").value), "q") == sent


def test_a_number_that_only_pythons_json_knows_arrives_too() -> None:
    """Dramatiq's encoder writes NaN and Infinity; strict JSON does not know them."""
    sent = message(args=(float("inf"), 1e308, -0.0))
    assert decode(record(sent.encode()), "q").args == (float("inf"), 1e308, -0.0)
    assert str(decode(record(message(args=(float("nan"),)).encode()), "q").args[0]) == "nan"


def test_the_queue_of_a_message_is_the_one_it_was_read_from() -> None:
    """A message that claims another queue would be acked on a queue that it never came from."""
    assert decode(record(message(queue_name="elsewhere").encode()), "q").queue_name == "q"


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"garbage",
        b"\xff\xfe\x00",
        b"null",
        b"17",
        b'"text"',
        b"[]",
        b"{}",
        b"[" * 100_000,
        json.dumps(body(args={})).encode(),
        json.dumps(body(args=None)).encode(),
        json.dumps(body(kwargs=[])).encode(),
        json.dumps(body(options=None)).encode(),
        json.dumps(body(actor_name=7)).encode(),
        json.dumps(body(actor_name=None)).encode(),
        json.dumps(body(queue_name=[])).encode(),
        json.dumps(body(message_id=1)).encode(),
        json.dumps(body(message_timestamp="now")).encode(),
        json.dumps(body(message_timestamp=1.5)).encode(),
        json.dumps({k: v for k, v in body().items() if k != "message_id"}).encode(),
        json.dumps(body())[:-1].encode(),
    ],
)
def test_what_is_no_message_is_undecodable(value: bytes | None) -> None:
    """Whatever lies on a topic, one error says so; what Dramatiq's own decoder lets through can end a worker."""
    with pytest.raises(Undecodable):
        decode(record(value), "q")


@few
@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(value: bytes) -> None:
    """The consumer knows one way for a record to be wrong."""
    with pytest.raises(Undecodable):
        decode(record(value), "q")


def test_a_broken_value_is_quoted_in_part() -> None:
    """An error that carries a megabyte helps nobody."""
    with pytest.raises(Undecodable) as caught:
        decode(record(b"x" * 1_000_000), "q")
    assert len(str(caught.value)) < 300


def test_headers_tell_what_a_search_wants_to_know() -> None:
    """Message id, actor and attempt can be read without decoding values."""
    sent = message(options={"retries": 2})
    assert encode(sent, "t").headers == {"message_id": sent.message_id.encode(), "actor": b"a", "attempt": b"3"}
    plain = encode(sent, "t", uniform=True)
    assert (plain.key, plain.headers) == (sent.message_id.encode(), {})
    with_key = encode(sent.copy(options={"key": "k"}), "t", uniform=True)
    assert (with_key.key, with_key.headers) == (b"k", {"message_id": sent.message_id.encode()})


@pytest.mark.parametrize(("key", "expected"), [("user-1", b"user-1"), (0, b"0"), ("", b""), (17, b"17")])
def test_the_option_key_is_the_records_key(key: object, expected: bytes) -> None:
    """Messages of one key share a partition; zero and the empty text are keys as well."""
    assert encode(message(options={"key": key}), "t").key == expected


def test_without_a_key_the_message_id_spreads_the_messages() -> None:
    """And a retry of the message stays on its partition."""
    sent = message()
    assert encode(sent, "t").key == sent.message_id.encode()


@pytest.mark.parametrize("key", [1.5, True, b"bytes", ["list"], {}])
def test_another_type_is_no_key(key: object) -> None:
    """Two spellings of one key would be two partitions."""
    with pytest.raises(WrongKey):
        encode(message(options={"key": key}), "t")


def test_a_pinned_message_has_no_option_that_moves_it() -> None:
    """Anybody may write to a topic; an ordered queue is not left because a message says so."""
    moving = {"eta": 1, "max_retries": 5, "retries": 1, "retry_when": None, "on_retry_exhausted": "x", "kept": 1}
    assert pinned(message(options=moving)).options == {"kept": 1}


def test_a_dead_letter_is_the_record_with_its_story() -> None:
    """Value and key stay as they were, so that it can be sent again; headers say where it was and why it is here."""
    broken = record(b"value", headers={"actor": b"a"})
    letter = dead_letter(broken, QUEUE, error="ValueError", reason="ValueError: five", traceback="Traceback ...")
    assert (letter.topic, letter.value, letter.key) == ("p-q.XQ", b"value", b"k")
    told = dict(letter.headers)
    assert told.pop("xq.worker")
    assert told == {
        "actor": b"a",
        "xq.topic": b"p-q",
        "xq.partition": b"3",
        "xq.offset": b"42",
        "xq.timestamp_ms": b"1000",
        "xq.group": b"g",
        "xq.attempts": b"1",
        "xq.error": b"ValueError",
        "xq.reason": b"ValueError: five",
        "xq.traceback": b"Traceback ...",
    }


@pytest.mark.parametrize(("attempt", "attempts"), [(b"4", b"4"), (b"x", b"1"), (b"0", b"1"), (b"9" * 50, b"1")])
def test_a_dead_letter_counts_all_attempts(attempt: bytes, attempts: bytes) -> None:
    """Each retry was a record of its own; anybody may have written the header."""
    letter = dead_letter(record(b"", headers={"attempt": attempt}), QUEUE, error="E", reason="r")
    assert letter.headers["xq.attempts"] == attempts
    crashed = dead_letter(record(b"", headers={"attempt": b"4"}), QUEUE, error="E", reason="r", tried=3, crashes=3)
    assert (crashed.headers["xq.attempts"], crashed.headers["xq.crashes"]) == (b"6", b"3")


def test_a_letter_that_is_bare_says_how_much_is_missing() -> None:
    """Or that what is missing was cut before."""
    letter = dead_letter(record(b"value"), QUEUE, error="E", reason="r")
    assert bare(letter).value is None
    assert bare(letter).headers["xq.cut"] == b"5 bytes"


def test_a_dead_letters_story_is_bounded_and_always_encodable() -> None:
    """The end of a traceback says more than its beginning; a lone surrogate keeps no message from being parked."""
    letter = dead_letter(record(b""), QUEUE, error="E", reason="\ud800" + "r" * 5000, traceback="t" * 9000 + "end")
    assert letter.headers["xq.reason"].startswith(b"\\ud800")
    assert len(letter.headers["xq.reason"]) < REASON_CHARS + 10
    assert letter.headers["xq.traceback"].endswith(b"end")
    assert len(letter.headers["xq.traceback"]) == TRACEBACK_CHARS
