from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import dramatiq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokers.errors import Undecodable
from brokers.records import Record
from replica import values
from replica.statement import Command, Statement
from tasks import wire


REPLY_TOPICS = {"response": "p-response", "p-response": "p-response"}

#: Bodies that are neither a message nor a request, and a word of the reason.
BAD_BODIES = {
    "garbage bytes": (b"\x00\xff\xfe garbage", "not a Dramatiq message"),
    "broken UTF-8": (b'{"command": "\xc3\x28"}', "not a Dramatiq message"),
    "a list": (b"[1, 2]", "not a Dramatiq message"),
    "a number": (b"5", "not a Dramatiq message"),
    "nothing": (None, "no value"),
    "empty": (b"", "not a Dramatiq message"),
    "a command that is a number": (b'{"command": 5}', "command"),
    "params that are a list": (b'{"command": "RETURN 1", "params": [1]}', "params"),
    "an object that says nothing": (b'{"hello": 1}', "not a Dramatiq message"),
    "a bad typed value": (
        b'{"command": "RETURN $d", "params": {"d": {"$type": "Date", "_value": "soon"}}}',
        "parameters.d",
    ),
    "deep nesting": (b"[" * 100_000, "not a Dramatiq message"),
}


def record(value: bytes | None, **fields: Any) -> Record:
    """A record on the command topic."""
    usual: dict[str, Any] = {"topic": "p-command", "partition": 0, "offset": 7, "timestamp_ms": 1, "key": b"k"}
    return Record(**usual | {"value": value} | fields)


def message(
    actor_name: str, *args: Any, kwargs: dict[str, Any] | None = None, options: dict[str, Any] | None = None
) -> bytes:
    """A message as Dramatiq writes it."""
    fields = {"queue_name": "elsewhere", "actor_name": actor_name, "args": list(args), "kwargs": kwargs or {}}
    return json.dumps(fields | {"options": options or {}, "message_id": "m", "message_timestamp": 1}).encode()


@pytest.mark.parametrize("when", ["RETURN $n = 1", {"text": "RETURN $n = 1", "parameters": {"n": 1}}])
def test_a_plain_command_body_may_have_a_condition(when: Any) -> None:
    """With the parameters of the command, or its own."""
    body = {"command": "CREATE (:X {n: $n, m: $m})", "params": {"n": 1, "m": 2}, "when": when}

    found = wire.command_of(wire.read_command(record(json.dumps(body).encode()), "command"), 7)

    assert found.when == Statement("RETURN $n = 1", {"n": 1})
    assert found.statements == (Statement("CREATE (:X {n: $n, m: $m})", {"n": 1, "m": 2}),)


@pytest.mark.parametrize(
    ("when", "said"),
    [
        (5, "when"),
        ({"parameters": {}}, "text"),
        ({"text": "RETURN $d", "parameters": {"d": {"$type": "Date", "_value": "soon"}}}, "parameters.d"),
        ("CREATE (:X) RETURN true", "only reads"),
        ("RETURN rand() < 0.5", "freeze the statement"),
    ],
)
def test_a_bad_condition_refuses_its_command_on_every_replica(when: Any, said: str) -> None:
    """It is never passed over: without it the command would mean something else."""
    body = {"command": "CREATE (:X)", "when": when}

    found = wire.command_of(wire.read_command(record(json.dumps(body).encode()), "command"), 7)

    assert found.statements == ()
    assert said in (found.refused or "")


def test_a_list_of_statements_shares_no_parameters_with_its_condition() -> None:
    """Which of them it would mean, nobody can tell."""
    statements = [{"text": "RETURN $n", "parameters": {"n": 1}}, {"text": "RETURN 1"}]
    for when, refused in (("RETURN $n = 1", True), ("RETURN true", False)):
        raw = message("run_command", statements, options={"when": when})
        found = wire.command_of(wire.read_command(record(raw), "command"), 7)
        assert (found.refused is not None) is refused


def test_a_plain_command_body_may_have_an_id() -> None:
    """A wrong one refuses the command: without it, it might be applied twice."""
    for id_, refused in (("order-1", False), ("", True), (5, True), ({"a": 1}, True)):
        body = json.dumps({"command": "CREATE (:X)", "id": id_}).encode()
        found = wire.command_of(wire.read_command(record(body), "command"), 7)
        assert (found.refused is not None, found.id) == (refused, None if refused else id_)


def test_the_id_of_a_plain_query_is_its_writers_own() -> None:
    """It always was passed over."""
    body = json.dumps({"to": "response", "with_key": "k", "command": "RETURN 1", "id": 5}).encode()
    assert wire.read_request(record(body), "request", REPLY_TOPICS).options == {
        "reply_to": "p-response",
        "with_key": "k",
    }


def test_a_plain_command_body_becomes_a_command() -> None:
    """Any Kafka client may write the body of the original interface, with parameters beside it."""
    body = {"with_key": "command_key", "command": "MERGE (u:User {name: $name})", "params": {"name": "user_1"}}

    found = wire.read_command(record(json.dumps(body).encode()), "command")

    expected = Command(7, (Statement("MERGE (u:User {name: $name})", {"name": "user_1"}),))
    assert wire.command_of(found, 7) == expected


def test_a_plain_query_body_becomes_a_query_that_is_answered_where_it_asks() -> None:
    """``to`` names a topic with or without the prefix; the answer goes under ``with_key``."""
    for to in REPLY_TOPICS:
        body = {"to": to, "with_key": "query_key", "command": "MATCH (u:User) RETURN u"}

        found = wire.read_request(record(json.dumps(body).encode()), "request", REPLY_TOPICS)

        assert found.actor_name == "run_query"
        assert found.args == ("MATCH (u:User) RETURN u",)
        assert found.options == {"reply_to": "p-response", "with_key": "query_key"}


@pytest.mark.parametrize(("value", "reason"), BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_what_is_no_command_is_a_refused_command(value: bytes | None, reason: str) -> None:
    """A record on the command topic cannot be parked by one replica: it is the same refused command on all of them."""
    found = wire.read_command(record(value), "command")

    command = wire.command_of(found, 7)
    assert command.statements == ()
    assert reason in str(command.refused)
    assert found == wire.read_command(record(value), "command")


@pytest.mark.parametrize(("value", "reason"), BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_what_is_no_request_is_undecodable(value: bytes | None, reason: str) -> None:
    """A record on the request topic is parked with its reason."""
    with pytest.raises(Undecodable, match=reason):
        wire.read_request(record(value), "request", REPLY_TOPICS)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"with_key": "k", "command": "RETURN 1"}, 'does not say in "to"'),
        ({"to": "response", "with_key": "k"}, 'plain body either: that has a "command"'),
    ],
)
def test_a_query_body_that_lacks_something_is_parked_and_says_what(body: dict[str, str], reason: str) -> None:
    """It is not run for nobody; of a command, which answers to nobody, only the text is needed."""
    with pytest.raises(Undecodable, match=reason):
        wire.read_request(record(json.dumps(body).encode()), "request", REPLY_TOPICS)
    assert wire.command_of(wire.read_command(record(b'{"command": "RETURN 1"}'), "command"), 7).refused is None


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode) | st.from_type(dict).map(repr).map(str.encode))
def test_nothing_on_the_command_topic_raises(value: bytes) -> None:
    """Whatever lies there, the replica gets a command."""
    assert wire.command_of(wire.read_command(record(value), "command"), 7).offset == 7


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["command", "to", "with_key", "params", "actor_name", "args"]), json_values))
def test_no_json_object_on_either_topic_raises_anything_else(body: dict[str, Any]) -> None:
    """Shapes of bodies with wrong types are refused or undecodable, never an exception that ends a thread."""
    value = json.dumps(body).encode()

    wire.command_of(wire.read_command(record(value), "command"), 7)
    with suppress(Undecodable):
        wire.read_request(record(value), "request", REPLY_TOPICS)


def test_another_actor_on_the_command_topic_is_refused() -> None:
    """Only commands are applied; the reason names the actor."""
    found = wire.read_command(record(message("nonsense", "x")), "command")

    assert found.actor_name == "run_command"
    assert "'nonsense' is no command" in str(wire.command_of(found, 7).refused)


def test_a_writer_cannot_make_a_good_command_refused() -> None:
    """The mark of a refusal is ours: in a message from outside it means nothing."""
    found = wire.read_command(record(message("run_command", "RETURN 1", options={"refused": "ha"})), "command")

    assert wire.command_of(found, 7) == Command(7, (Statement("RETURN 1", {}),))


def test_answers_go_only_to_topics_that_are_allowed() -> None:
    """A request cannot make a worker write to the command topic, in either form."""
    bodies = [
        json.dumps({"to": "command", "with_key": "k", "command": "RETURN 1"}).encode(),
        message("run_query", "RETURN 1", options={"reply_to": "p-command"}),
        message("run_query", "RETURN 1", options={"reply_to": ["p-response"]}),
    ]

    for value in bodies:
        with pytest.raises(Undecodable, match="answers may go to p-response"):
            wire.read_request(record(value), "request", REPLY_TOPICS)


texts = st.sampled_from(
    ["RETURN 1", "CREATE (:A {é: $x}) // ünd", "MATCH (a:A) SET a.x = $y", "MERGE (b:`B b` {n: $n});"]
)
parameters = st.dictionaries(st.text(st.characters(exclude_characters="_"), max_size=5), st.integers(-99, 99))
statements = st.builds(Statement, texts, parameters)


@given(st.lists(statements, min_size=1, max_size=4))
def test_statements_survive_the_way_through_the_log(together: list[Statement]) -> None:
    """What was packed at the sender is what every replica reads."""
    args, kwargs = wire.pack(together)

    found = wire.read_command(record(message("run_command", *args, kwargs=kwargs)), "command")

    assert wire.command_of(found, 7) == Command(7, tuple(together))


def test_what_differs_between_replicas_is_refused_whoever_wrote_it() -> None:
    """A sender of ours would have frozen the clock; another client's command is rejected, the same on every replica."""
    found = wire.read_command(record(message("run_command", "CREATE (:A {at: datetime()})")), "command")

    command = wire.command_of(found, 7)
    assert command.statements == ()
    assert "datetime" in str(command.refused)


def test_a_record_that_may_not_be_read_is_a_refused_command() -> None:
    """Its place in the log is kept, its id is the same on every replica, and nothing of it is looked at."""
    unsigned = record(message("run_command", "RETURN 1"))
    found = wire.refused_command(unsigned, "command", "Unsigned: no signature")
    assert found == wire.refused_command(unsigned, "command", "Unsigned: no signature")
    command = wire.command_of(found, 7)
    assert (command.refused, command.statements) == ("Unsigned: no signature", ())


#: Parameters that are what they look like, and such that typed JSON means something else by.
PARAMETERS = st.dictionaries(
    st.sampled_from(["a", "b", "actor_name", "__now_date"]),
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.just([1, [2]])
    | st.just({"x": {"$type": "Date", "_value": "2024-02-29"}})
    | st.just({"$type": "Integer", "_value": "9007199254740993"})
    | st.just({"$type": "Date", "_value": "soon"}),
)
TEXTS = st.sampled_from(
    ["CREATE (:X {n: $a})", "CREATE (:X {n: rand()})", "CREATE (:X {n: date($a)})", "CREATE (:X {n: $__now_date})", "("]
)


@given(
    TEXTS, PARAMETERS, st.booleans(), st.sampled_from([{}, {"when": "RETURN $a"}, {"id": "i"}, {"idempotent": True}])
)
def test_a_command_is_the_same_whether_it_was_judged_when_it_was_read_or_is_judged_now(
    text: str, parameters: dict[str, Any], plain: bool, options: dict[str, Any]
) -> None:
    """Typed values, refused texts and refused values among them."""
    body = json.dumps({"command": text, "params": parameters, **options}).encode()
    value = body if plain else message(wire.COMMAND_ACTOR, text, kwargs=parameters, options=options)
    read = wire.read_command(record(value), "command")

    found = wire.command_of(read, 7)

    assert found == wire.command_of(read.copy(), 7)  # a copy has its fields alone
    assert repr(found) == repr(wire.command_of(read.copy(), 7))  # 1, 1.0 and true are equal
    if found.refused is None:
        decoded = {name: values.decode(one) for name, one in parameters.items()}
        assert repr(found.statements[0].parameters) == repr(decoded)


def test_a_command_that_was_read_at_another_offset_is_judged_for_the_one_that_is_asked_for() -> None:
    """What was judged names its offset."""
    read = wire.read_command(record(message(wire.COMMAND_ACTOR, "CREATE (:X)")), "command")

    assert wire.command_of(read, 8).offset == 8


def test_a_plain_body_may_name_an_actor_among_its_parameters() -> None:
    """It is no message of Dramatiq's for that."""
    value = b'{"command": "CREATE (:X {n: $actor_name})", "params": {"actor_name": "run_query"}}'

    found = wire.command_of(wire.read_command(record(value), "command"), 7)

    assert found == Command(7, (Statement("CREATE (:X {n: $actor_name})", {"actor_name": "run_query"}),))


@pytest.mark.parametrize(("args", "found"), [(("RETURN 1",), 1), (([],), 0), (([{"text": "A"}, {"text": "B"}],), 2)])
def test_the_only_statement_of_a_query_is_read_once(args: tuple[Any, ...], found: int) -> None:
    """None where there are several, or not any; what a message keeps of it is no part of what it is."""
    message: dramatiq.Message[Any] = dramatiq.Message("request", wire.QUERY_ACTOR, args, {}, {})
    before = message.encode()
    statement = wire.statement_of(message)
    assert (statement is None) == (found != 1)
    assert wire.statement_of(message) is statement
    assert message.encode() == before
