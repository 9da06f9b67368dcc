from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import dramatiq
import pytest

from replica.errors import ValueNotEncodable
from replica.statement import Command, Statement
from settings import Settings
from tasks import wire
from tasks.app import App
from tasks.commands import CommandGuard
from tasks.errors import CommandRefused, OptionUnknown


if TYPE_CHECKING:
    from collections.abc import Callable

UNREACHABLE: dict[str, Any] = {"BROKERS": "127.0.0.1:1", "NEO4J_URI": "bolt://127.0.0.1:1"}


@pytest.fixture
def app() -> App:
    """An app whose servers do not exist."""
    return App(Settings(**UNREACHABLE))


def test_keyword_arguments_are_parameters_and_nothing_else(app: App) -> None:
    """Also the names that Python or Dramatiq use themselves."""
    message = app.run_command.message("RETURN $self, $text, $args, $delay", self=1, text=2, args=3, delay=4)

    assert message.args == ("RETURN $self, $text, $args, $delay",)
    assert message.kwargs == {"self": 1, "text": 2, "args": 3, "delay": 4}


def test_a_command_function_is_evaluated_where_it_is_sent_from(app: App) -> None:
    """Its message carries the statement, and the function's name for people who search the log."""

    @app.command
    def follow(who: str, whom: str) -> Statement:
        return Statement("MATCH (a {n: $a}), (b {n: $b}) MERGE (a)-[:FOLLOWS]->(b)", {"a": who, "b": whom})

    message = follow.message("x", whom="y")

    assert message.actor_name == "run_command"
    assert message.queue_name == "command"
    assert message.kwargs == {"a": "x", "b": "y"}
    assert message.options == {"command": "follow"}
    assert follow("x", "y") == Statement(
        "MATCH (a {n: $a}), (b {n: $b}) MERGE (a)-[:FOLLOWS]->(b)", {"a": "x", "b": "y"}
    )


IN_TRANSACTIONS = "UNWIND $rows AS r CALL (r) { MERGE (:X {k: r}) } IN TRANSACTIONS OF 10 ROWS"


def test_a_command_that_commits_in_pieces_has_to_be_declared_and_says_so_in_the_log(app: App) -> None:
    """A replica reads the declaration out of the message, and takes none for granted."""
    with pytest.raises(CommandRefused, match="idempotent=True"):
        app.run_command.message(IN_TRANSACTIONS, rows=[1])
    with pytest.raises(CommandRefused, match="any other command is applied once"):
        app.run_command.message_with_options(args=("CREATE (:X)",), idempotent=True)
    with pytest.raises(CommandRefused, match="among the options"):
        app.run_command.message(Statement(IN_TRANSACTIONS, {"rows": [1]}, idempotent=True))

    message = app.run_command.message_with_options(args=(IN_TRANSACTIONS,), kwargs={"rows": [1]}, idempotent=True)

    assert message.options == {"idempotent": True}
    assert wire.command_of(message, 7) == Command(7, (Statement(IN_TRANSACTIONS, {"rows": [1]}, idempotent=True),))
    undeclared = message.copy(options={"idempotent": "yes"})
    assert "commits in pieces" in str(wire.command_of(undeclared, 7).refused)


WHEN = "MATCH (a:A {id: $id}) RETURN a.n > 0"


def test_a_condition_travels_as_it_was_written_where_it_has_its_commands_parameters(app: App) -> None:
    """So that it can be read in the log; the replica gets it with those of them that it uses."""
    message = app.run_command.message_with_options(args=("CREATE (:X {n: $n})",), kwargs={"id": 1, "n": 2}, when=WHEN)

    assert message.options == {"when": WHEN}
    assert message.kwargs == {"id": 1, "n": 2}
    assert wire.command_of(message, 7) == Command(
        7, (Statement("CREATE (:X {n: $n})", {"id": 1, "n": 2}),), when=Statement(WHEN, {"id": 1})
    )


def test_a_condition_may_have_parameters_of_its_own(app: App) -> None:
    """With several statements it has to; also where a value only looks the same."""
    two = [Statement("CREATE (:X)"), Statement("CREATE (:Y)")]
    for args, when in ((two, Statement(WHEN, {"id": 5})), ("CREATE (:X {n: $id})", Statement(WHEN, {"id": True}))):
        kwargs = {"id": 1} if isinstance(args, str) else {}
        message = app.run_command.message_with_options(args=(args,), kwargs=kwargs, when=when)
        assert message.options == {"when": {"text": WHEN, "parameters": dict(when.parameters)}}
        assert wire.command_of(message, 7).when == when

    with pytest.raises(CommandRefused, match="make it a Statement"):
        app.run_command.message_with_options(args=(two,), when=WHEN)
    assert app.run_command.message_with_options(args=(two,), when="RETURN true").options == {"when": "RETURN true"}


def test_the_clock_of_a_condition_is_that_of_its_command(app: App) -> None:
    """One instant; a value drawn by chance is another one in each text."""
    message = app.run_command.message_with_options(
        args=("CREATE (:X {at: datetime(), r: rand()})",), when="RETURN datetime() IS NOT NULL AND rand() < 2"
    )
    found = wire.command_of(message, 7)

    assert found.refused is None
    assert found.when is not None
    assert found.when.parameters["__now_datetime"] == found.statements[0].parameters["__now_datetime"]
    assert found.when.parameters["__rand_1"] != found.statements[0].parameters["__rand_1"]


@pytest.mark.parametrize(
    ("text", "when", "said"),
    [
        ("CREATE (:X)", "CREATE (:Y) RETURN true", "it only reads"),
        ("CREATE (:X)", "MATCH (n:X) RETURN n.x LIMIT 1", "without ORDER BY"),
        ("CREATE INDEX i FOR (n:X) ON (n.a)", "RETURN true", "a schema change has no condition"),
        ("CREATE (:X)", 5, "a text or a Statement"),
    ],
)
def test_a_condition_that_no_replica_would_look_at_is_not_sent(app: App, text: str, when: Any, said: str) -> None:
    """With the reason; also where somebody made the message by hand."""
    with pytest.raises(CommandRefused, match=said):
        app.run_command.message_with_options(args=(text,), when=when)
    by_hand = app.run_command.message(text).copy(options={"when": when})
    with pytest.raises(CommandRefused):
        CommandGuard("command").before_enqueue(app.broker, by_hand, None)


def test_a_command_function_may_have_a_condition(app: App) -> None:
    """It has the parameters of the function's statement."""

    @app.command
    def make(name: str) -> Statement:
        return Statement("CREATE (:X {id: $id})", {"id": name})

    message = make.message_with_options(args=("a",), when=WHEN)

    assert message.options == {"when": WHEN, "command": "make"}
    assert wire.command_of(message, 1).when == Statement(WHEN, {"id": "a"})


def test_an_id_travels_with_its_command_and_is_a_text(app: App) -> None:
    """Without one nothing does."""
    message = app.run_command.message_with_options(args=("CREATE (:X)",), id="order-4711")

    assert message.options == {"id": "order-4711"}
    assert wire.command_of(message, 7).id == "order-4711"
    assert app.run_command.message_with_options(args=("CREATE (:X)",), id=None).options == {}
    for wrong in ("", 5, "x" * 257, "half a \ud83d"):
        with pytest.raises(CommandRefused, match="an id is a text"):
            app.run_command.message_with_options(args=("CREATE (:X)",), id=wrong)
        by_hand = message.copy(options={"id": wrong})
        with pytest.raises(CommandRefused, match="an id is a text"):
            CommandGuard("command").before_enqueue(app.broker, by_hand, None)


def test_clock_and_randomness_are_values_before_the_log(app: App) -> None:
    """One instant for all statements of a command; the text that replicas get has no clock left."""
    message = app.run_command.message(
        [Statement("CREATE (:A {at: datetime(), id: randomUUID()})"), Statement("CREATE (:B {at: datetime()})")]
    )

    first, second = message.args[0]
    assert "datetime()" not in first["text"] + second["text"]
    assert first["parameters"]["__now_datetime"] == second["parameters"]["__now_datetime"]
    assert len({value for name, value in first["parameters"].items() if name.startswith("__uuid")}) == 1


def run_pipeline(first: dramatiq.Message[Any], then: dramatiq.Message[Any], app: App) -> None:
    """Run a pipeline on the app's broker, not on the global one."""
    dramatiq.pipeline([first, then], broker=app.broker).run()  # type: ignore[no-untyped-call]  # Dramatiq's gap


refused: dict[str, tuple[Callable[[App], object], type[Exception], str]] = {
    "no text": (lambda app: app.run_command.send_with_options(), CommandRefused, "one text"),
    "two texts": (
        lambda app: app.run_command.send_with_options(args=("RETURN 1", "RETURN 2")),
        CommandRefused,
        "one text",
    ),
    "a number": (lambda app: app.run_command.send([5]), CommandRefused, "list of Statements"),  # type: ignore[list-item]
    "no statement": (lambda app: app.run_command.send([]), CommandRefused, "list of Statements"),
    "parameters beside statements": (
        lambda app: app.run_command.send([Statement("RETURN 1")], x=1),
        CommandRefused,
        "carry their own parameters",
    ),
    "an empty text": (lambda app: app.run_command.send("  "), CommandRefused, "empty"),
    "deep nesting": (lambda app: app.run_command.send("RETURN " + "(" * 200 + "1" + ")" * 200), CommandRefused, "nest"),
    "the position's own node": (
        lambda app: app.run_command.send("MATCH (n:_KafkaPosition) DELETE n"),
        CommandRefused,
        "_KafkaPosition",
    ),
    "an id": (lambda app: app.run_command.send("MATCH (n:A) WHERE id(n) = 1 SET n.x = 1"), CommandRefused, "instead"),
    "a row of randomness": (
        lambda app: app.run_command.send("UNWIND [1, 2] AS i CREATE (:A {r: rand()})"),
        CommandRefused,
        "instead",
    ),
    "any five": (
        lambda app: app.run_command.send("MATCH (n:A) WITH n LIMIT 5 SET n.x = 1"),
        CommandRefused,
        "ORDER BY",
    ),
    "a value without a form": (
        lambda app: app.run_command.send("RETURN $x", x=object()),
        ValueNotEncodable,
        r"parameters\.x",
    ),
    "a number too large": (lambda app: app.run_command.send("RETURN $x", x=2**63), ValueNotEncodable, r"parameters\.x"),
    "a delay": (lambda app: app.run_command.send_with_options(args=("RETURN 1",), delay=5), OptionUnknown, "delayed"),
    "an unknown option": (
        lambda app: app.run_command.send_with_options(args=("RETURN 1",), wehn="x"),
        OptionUnknown,
        "no option wehn",
    ),
    "an unknown query option": (
        lambda app: app.run_query.send_with_options(args=("RETURN 1",), at_leest=1),
        OptionUnknown,
        "no option at_leest",
    ),
    "a follow-up": (
        lambda app: run_pipeline(app.run_command.message("RETURN 1"), app.run_query.message("RETURN 1"), app),
        CommandRefused,
        "nothing can follow a command",
    ),
}


@pytest.mark.parametrize(("call", "error", "text"), refused.values(), ids=refused.keys())
def test_what_no_replica_could_apply_is_refused_before_anything_is_sent(
    app: App, monkeypatch: pytest.MonkeyPatch, call: Callable[[App], object], error: type[Exception], text: str
) -> None:
    """No server is there: what reached Kafka would raise another error, after a while."""
    monkeypatch.setattr(app.broker.topics, "ensure", lambda _spec: 1)

    with pytest.raises(error, match=text):
        call(app)


def test_importing_tasks_connects_to_nothing() -> None:
    """No thread, no socket, no error, with servers that do not exist."""
    script = (
        "import os, threading, tasks\n"
        "paths = [f'/proc/self/fd/{fd}' for fd in os.listdir('/proc/self/fd')]\n"
        "links = [os.readlink(path) for path in paths if os.path.exists(path)]\n"
        "print(threading.active_count(), [link for link in links if link.startswith('socket:')])\n"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=UNREACHABLE, check=True)

    assert done.stdout == "1 []\n"
    assert done.stderr == ""
