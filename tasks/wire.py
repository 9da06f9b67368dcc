"""Commands and queries as they lie in the log: packing and reading them.  Pure.

Two forms are read.  Dramatiq's, written by this package::

    {"actor_name": "run_command", "args": ["MERGE (u:User {name: $name})"], "kwargs": {"name": "user_1"}, ...}
    {"actor_name": "run_command", "args": [[{"text": "...", "parameters": {...}}, ...]], "kwargs": {}, ...}

and a plain body from any Kafka client::

    {"with_key": "command_key", "command": "MERGE ...", "params": {...}, "when": "MATCH ... RETURN true", "id": "..."}
    {"to": "response", "with_key": "query_key", "command": "MATCH ...", "params": {...}}

A command's condition is its option `when`: a text, which has the parameters of the command's only statement, or
`{"text": "...", "parameters": {...}}`.  Its id is the option `id`.

Parameters are typed JSON (see `replica.values`); plain JSON is valid typed JSON.
"""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING, Any

import dramatiq
import msgspec
from msgspec.structs import replace

from brokers import records
from brokers.errors import Undecodable
from replica import cypher, plan, values
from replica.determinism import check
from replica.errors import NotDeterministic, ValueNotDecodable
from replica.statement import Command, Statement


if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from brokers.records import Record

logger = logging.getLogger("tasks.wire")

COMMAND_ACTOR = "run_command"
QUERY_ACTOR = "run_query"

#: Why a record on the command topic is no command; it becomes a rejected outcome, the same on every replica.
REFUSED = "refused"

#: The option of a command that may be run again after a part of it.
IDEMPOTENT = "idempotent"

#: The option that holds a command's condition.
WHEN = "when"

#: The option that holds a command's id: of several with one id, one is applied.
ID = "id"

#: Where a message that was read keeps its command: reading and judging it takes longer than all else, and is done once.
_JUDGED = "judged_command"

#: Where a query's message keeps its statement.
_STATEMENT = "only_statement"

#: Characters of an id; only its hash is remembered, but all of it lies in the log.
ID_LENGTH = 256


class _Body(msgspec.Struct):
    command: str
    with_key: str | None = None
    to: str | None = None
    params: dict[str, Any] = {}
    when: str | dict[str, Any] | None = None
    id: Any = None  # a command's; what a query's writer means by it is not ours to judge


class _Text(msgspec.Struct):
    text: str
    parameters: dict[str, Any] = {}


def pack(statements: Sequence[Statement]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a message that carries *statements*.

    Raises:
      ValueNotEncodable: names the parameter.
    """
    if len(statements) == 1:
        return (statements[0].text,), encode_parameters(statements[0].parameters)
    together = [{"text": s.text, "parameters": encode_parameters(s.parameters)} for s in statements]
    return (together,), {}


def encode_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as typed JSON."""
    return {name: values.encode(value, f"parameters.{name}") for name, value in parameters.items()}


def encode_argument(index: int, value: Any) -> Any:
    """One positional argument as typed JSON."""
    return values.encode(value, f"arguments.{index}")


def decode_arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments back from typed JSON.

    Raises:
      Undecodable: names the argument.
    """
    try:
        positional = tuple(values.decode(value, f"arguments.{index}") for index, value in enumerate(args))
        return positional, {name: values.decode(value, f"arguments.{name}") for name, value in kwargs.items()}
    except ValueNotDecodable as exc:
        raise Undecodable(str(exc)) from exc


def statements_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Statement, ...]:
    """The statements that a message's arguments carry.

    Raises:
      Undecodable: with the reason.
    """
    if len(args) != 1:
        raise Undecodable(f"one text, or one list of statements, is expected; got {len(args)} arguments")
    if isinstance(args[0], str):
        return (_statement(args[0], kwargs),)
    if kwargs:
        raise Undecodable("a list of statements carries its parameters itself")
    try:
        texts = msgspec.convert(args[0], list[_Text])
    except msgspec.ValidationError as exc:
        raise Undecodable(f"neither a text nor a list of statements: {exc}") from exc
    return tuple(_statement(text.text, text.parameters) for text in texts)


def statement_of(message: dramatiq.Message[Any] | dramatiq.MessageProxy) -> Statement | None:
    """The only statement of a query's message; none where it has several, or not any.  It is read once.

    Raises:
      Undecodable: with the reason.
    """
    known = vars(message)
    if _STATEMENT not in known:
        statements = statements_of(message.args, message.kwargs)
        known[_STATEMENT] = statements[0] if len(statements) == 1 else None
    found: Statement | None = known[_STATEMENT]
    return found


def statements_in(message: dramatiq.Message[Any] | dramatiq.MessageProxy) -> tuple[Statement, ...]:
    """The statements of a command's message, with what its options say about them.

    Raises:
      Undecodable: with the reason.
    """
    found = statements_of(message.args, message.kwargs)
    idempotent = message.options.get(IDEMPOTENT) is True
    return tuple(replace(statement, idempotent=True) for statement in found) if idempotent else found


def pack_condition(when: Statement, statements: Sequence[Statement]) -> str | dict[str, Any]:
    """The option that carries the condition of a command: its text alone where the command has its parameters.

    Raises:
      ValueNotEncodable: names the parameter.
    """
    shared = condition(when.text, statements[0].parameters if len(statements) == 1 else {}).parameters
    # By identity: of equal values one may be of another type, as 1, 1.0 and true are.
    same = shared.keys() == when.parameters.keys() and all(shared[name] is when.parameters[name] for name in shared)
    if same and (len(statements) == 1 or not cypher.parameter_names(when.text)):
        return when.text
    return {"text": when.text, "parameters": encode_parameters(when.parameters)}


def condition(text: str, parameters: Mapping[str, Any]) -> Statement:
    """The condition of a text that has a command's *parameters*: those that it uses."""
    used = cypher.parameter_names(text)
    return Statement(text, {name: value for name, value in parameters.items() if name in used})


def condition_in(message: dramatiq.Message[Any] | dramatiq.MessageProxy) -> Statement | None:
    """The condition in a command's message, if there is one.

    Raises:
      Undecodable: with the reason.
    """
    found = message.options.get(WHEN)
    if found is None:
        return None
    if not isinstance(found, str):
        try:
            text = msgspec.convert(found, _Text)
        except msgspec.ValidationError as exc:
            raise Undecodable(f"a condition is a text, or one with parameters: {exc}") from exc
        return _statement(text.text, text.parameters)
    statements = statements_of(message.args, message.kwargs)
    if len(statements) == 1:
        return condition(found, statements[0].parameters)
    if cypher.parameter_names(found):
        raise Undecodable("of a list of statements a condition cannot have the parameters: it has its own")
    return Statement(found)


def command_in(message: dramatiq.Message[Any] | dramatiq.MessageProxy, offset: int = -1) -> Command:
    """The command of a message, as it is written, before anybody has judged it.

    Raises:
      Undecodable: with the reason.
    """
    return Command(offset, statements_in(message), when=condition_in(message), id=id_in(message))


def id_in(message: dramatiq.Message[Any] | dramatiq.MessageProxy) -> str | None:
    """The id in a command's message, if there is one.

    Raises:
      Undecodable: with the reason.
    """
    found = message.options.get(ID)
    if found is None:
        return None
    if (
        isinstance(found, str)
        and 0 < len(found) <= ID_LENGTH
        and not any("\ud800" <= each <= "\udfff" for each in found)
    ):
        return found
    raise Undecodable(f"an id is a text of 1 to {ID_LENGTH} characters, not {found!r}"[: 2 * ID_LENGTH])


def _statement(text: str, parameters: Mapping[str, Any]) -> Statement:
    if plan.SCALARS.issuperset(map(type, parameters.values())):  # typed JSON is the same as itself for them
        return Statement(text, dict(parameters))
    try:
        return Statement(text, {name: values.decode(value, f"parameters.{name}") for name, value in parameters.items()})
    except ValueNotDecodable as exc:
        raise Undecodable(str(exc)) from exc


def read_command(record: Record, queue_name: str) -> dramatiq.Message[Any]:
    """The message of a record on the command topic.  Never raises: what cannot be read is a command that is refused."""
    try:
        message = _read(record, queue_name, COMMAND_ACTOR)
        if message.actor_name != COMMAND_ACTOR:
            raise Undecodable(f"{message.actor_name!r} is no command; only {COMMAND_ACTOR!r} is")
        command = command_in(message, record.offset)
    except Undecodable as exc:
        return refused_command(record, queue_name, str(exc))
    message.options.pop(REFUSED, None)  # ours to say
    try:
        vars(message)[_JUDGED] = _judged(command)
    except Exception:
        logger.warning("command_not_judged record=%s", record, exc_info=True)
    return message


def refused_command(record: Record, queue_name: str, reason: str) -> dramatiq.Message[Any]:
    """The command that stands for *record* on every replica and is rejected for *reason*."""
    return dramatiq.Message(
        queue_name=queue_name,
        actor_name=COMMAND_ACTOR,
        args=(),
        kwargs={},
        options={REFUSED: reason},
        message_id=_id_of(record),
        message_timestamp=record.timestamp_ms,
    )


def read_request(record: Record, queue_name: str, reply_topics: Mapping[str, str]) -> dramatiq.Message[Any]:
    """The message of a record on the request topic; *reply_topics* maps the names that may be asked for to topics.

    Raises:
      Undecodable: with the reason.
    """
    message = _read(record, queue_name, QUERY_ACTOR)
    wanted = message.options.get("reply_to")
    if wanted is not None:
        topic = reply_topics.get(wanted) if isinstance(wanted, str) else None
        if topic is None:
            allowed = ", ".join(sorted(set(reply_topics.values())))
            raise Undecodable(f"answers may go to {allowed}; not to {wanted!r} (REPLY_TOPICS names further topics)")
        message.options["reply_to"] = topic
    if message.actor_name == QUERY_ACTOR:
        statement_of(message)
    if wanted is None and "with_key" in message.options:  # a plain body; one of ours has none where it keeps its answer
        raise Undecodable('not a request: it does not say in "to" where its answer goes')
    return message


def _read(record: Record, queue_name: str, actor_name: str) -> dramatiq.Message[Any]:
    if record.value is not None and b'"actor_name"' in record.value:  # nearly always Dramatiq's form: read it once
        try:
            return records.decode(record, queue_name)
        except Undecodable:
            pass  # a body may have the word in it
    body = _json(record)
    if isinstance(body, dict) and "actor_name" not in body:
        if "command" in body:
            return _from_body(record, body, queue_name, actor_name)
        if actor_name == QUERY_ACTOR:  # of a command the reason is part of its outcome, which no update may change
            raise Undecodable('not a Dramatiq message, and not a plain body either: that has a "command"')
    return records.decode(record, queue_name)


def _json(record: Record) -> Any:
    if record.value is None:
        raise Undecodable("the record has no value")
    try:
        return msgspec.json.decode(record.value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None  # the message decoder says what is wrong


def _from_body(record: Record, body: Any, queue_name: str, actor_name: str) -> dramatiq.Message[Any]:
    try:
        fields = msgspec.convert(body, _Body)
    except msgspec.ValidationError as exc:
        raise Undecodable(f"not a request: {exc}") from exc
    key = fields.with_key if fields.with_key is not None else (record.key or b"").decode(errors="replace")
    asks = actor_name == QUERY_ACTOR or fields.to is not None
    options: dict[str, Any] = {"reply_to": fields.to, "with_key": key} if asks else {}
    if actor_name == COMMAND_ACTOR and fields.when is not None:
        options[WHEN] = fields.when
    if actor_name == COMMAND_ACTOR and fields.id is not None:
        options[ID] = fields.id
    return dramatiq.Message(
        queue_name=queue_name,
        actor_name=actor_name,
        args=(fields.command,),
        kwargs=fields.params,
        options=options,
        message_id=_id_of(record),
        message_timestamp=record.timestamp_ms,
    )


def _id_of(record: Record) -> str:
    """The same on every replica, for a record whose writer gave it no id."""
    place = f"{record.topic}/{record.partition}/{record.offset}/{record.timestamp_ms}"
    return hashlib.blake2b(place.encode(), digest_size=16).hexdigest()


def command_of(message: dramatiq.Message[Any] | dramatiq.MessageProxy, offset: int) -> Command:
    """What the replica applies for a message that `read_command` made."""
    refused = message.options.get(REFUSED)
    if refused is not None:
        return Command(offset, (), refused=refused)
    command: Command | None = vars(message).get(_JUDGED)
    if command is None or command.offset != offset:
        command = _judged(command_in(message, offset))
    return command


def _judged(command: Command) -> Command:
    try:  # anyone may write to the log: the sender may not have looked
        check_all(command)
    except NotDeterministic as exc:
        return Command(command.offset, (), refused=str(exc))
    return command


def check_all(command: Command) -> None:
    """Raise `NotDeterministic` for what a sender should have refused or frozen in *command*."""
    for statement in command.statements:
        check(statement)
    if command.when is not None:
        check(command.when, condition=True)
