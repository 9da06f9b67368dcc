"""Query actors as their authors declare them and as callers use them; nothing is sent."""

from __future__ import annotations

import uuid
from types import SimpleNamespace
from typing import Any, cast

import dramatiq
import pytest

from settings import Settings
from tasks import levels, options
from tasks.app import App
from tasks.errors import (
    AnnotationRefused,
    ArgumentRefused,
    LevelRefused,
    OptionRefused,
    OptionUnknown,
    StoreMissing,
)


@pytest.fixture
def app() -> App:
    """An app that nobody listens to: whatever is sent would raise something else."""
    return App(Settings(BROKERS="localhost:1", REDIS_URL=None))


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"colour": 1}, OptionUnknown, "no option colour; they have linearizable, max_lag"),
        ({"key": "k"}, OptionUnknown, "no option key"),
        ({"at_least": 3}, OptionUnknown, "no option at_least"),
        ({"timeout": 0}, OptionRefused, "seconds above zero, not 0"),
        ({"timeout": float("inf")}, OptionRefused, "seconds above zero"),
        ({"max_rows": 1.5}, OptionRefused, "number of rows from 1"),
        ({"max_rows": True}, OptionRefused, "not True"),
        ({"linearizable": True, "max_lag": 3}, LevelRefused, "as fresh as max_lag can be"),
        ({"max_lag": -1}, LevelRefused, "from 0"),
        ({"max_lag_s": "5s"}, LevelRefused, "max_lag_s is a number"),
        ({"snapshot": 1}, LevelRefused, "True or False"),
        ({"wait": 3}, LevelRefused, "name a level"),
        ({"store": "disk"}, OptionRefused, 'store is "redis", or left out'),
        ({"ttl": 5}, OptionRefused, "say store="),
        ({"store": "redis", "ttl": 0}, OptionRefused, "seconds above zero, at most 604,800"),
        ({"wait": 3, "max_lag": 1, "timeout": 2}, LevelRefused, "longer than the query may take"),
    ],
)
def test_options_that_no_call_could_have_are_refused_at_decoration(
    app: App, given: dict[str, Any], error: type[Exception], text: str
) -> None:
    """Whoever writes the function hears of it, and not whoever calls it."""
    with pytest.raises(error, match=text):
        app.query(**given)


def test_an_annotation_that_means_nothing_is_refused_at_decoration(app: App) -> None:
    """By the decorator itself."""
    with pytest.raises(AnnotationRefused, match="say list"):

        @app.query
        def fn(tx: object, names: set[str]) -> None: ...


def test_wrong_arguments_are_refused_before_anything_is_sent(app: App) -> None:
    """Kafka is not even asked: here there is none."""

    @app.query
    def fn(tx: object, n: int) -> None: ...

    for send in (fn.send, fn.message, lambda *args: fn.send_with_options(args=args)):
        with pytest.raises(ArgumentRefused, match="fn: the argument 'n' is int"):
            send("1")
    with pytest.raises(ArgumentRefused, match=r"missing a required argument: 'n'; it takes \(n: int\)"):
        fn.send()
    with pytest.raises(ArgumentRefused, match="run_query: the argument 'text' is str"):
        app.run_query.send(5)
    with pytest.raises(ArgumentRefused, match=r"run_query: missing .*'text'; it takes \(text: str, \*\*parameters\)"):
        app.run_query.send()


@pytest.mark.parametrize("name", ["text", "tx", "self", "args", "kwargs", "parameters", "options"])
def test_a_parameter_of_a_text_may_have_any_name(app: App, name: str) -> None:
    """Also one that Python uses on the way."""
    assert app.run_query.message(f"RETURN ${name}", **{name: 1}).kwargs == {name: 1}


@pytest.mark.parametrize(
    ("declared", "given", "asked"),
    [
        ({"timeout": 5}, {}, {"timeout": 5}),
        ({"timeout": 5}, {"timeout": 9}, {"timeout": 9}),
        ({"timeout": 5}, {"timeout": None}, {}),
        ({"max_rows": 5}, {"timeout": 1}, {"max_rows": 5, "timeout": 1}),
        ({"linearizable": True}, {"max_lag": 3}, {"max_lag": 3}),
        ({"linearizable": True}, {"linearizable": False}, {}),
        ({"max_lag": 3, "max_lag_s": 1}, {"max_lag": 5}, {"max_lag": 5}),
        ({"max_lag": 3, "snapshot": True}, {"at_least": 0}, {"at_least": 0, "snapshot": True}),
        ({"max_lag": 3, "wait": 4}, {"max_lag": None}, {}),
        ({"max_lag": 3, "wait": 4}, {"timeout": 2}, {"max_lag": 3, "timeout": 2}),
        ({"store": "redis", "ttl": 9}, {"ttl": 5}, {"store": "redis", "ttl": 5}),
        ({"store": "redis", "ttl": 9}, {"store": None}, {}),
        ({"max_lag": 3, "wait": 4}, {"linearizable": True}, {"linearizable": True, "wait": 4}),
    ],
)
def test_a_call_overrides_what_was_declared(
    declared: dict[str, Any], given: dict[str, Any], asked: dict[str, Any]
) -> None:
    """One level replaces another, None takes an option back, and a wait goes with the level that it was for."""
    assert options.of_call(options.declared(declared), given) == asked


def test_a_message_of_a_function_that_declares_a_level_says_that_it_cannot_have_one(app: App) -> None:
    """In a group it would lose it without a word; who can do without says so."""

    @app.query(linearizable=True, timeout=3)
    def fn(tx: object) -> None: ...

    with pytest.raises(LevelRefused, match=r"fn is declared with linearizable, .* say linearizable=None"):
        fn.message()
    assert fn.message_with_options(linearizable=None).options == {"timeout": 3}


def test_a_query_is_a_message_like_any_other(app: App) -> None:
    """With an id of its own."""
    ours = app.run_query.message("RETURN $n AS n", n=1)
    same: dramatiq.Message[Any] = dramatiq.Message(
        "request", "run_query", ("RETURN $n AS n",), {"n": 1}, {}, ours.message_id
    )
    assert ours.asdict() | {"message_timestamp": 0} == same.asdict() | {"message_timestamp": 0}
    assert abs(ours.message_timestamp - same.message_timestamp) < 10_000
    assert str(uuid.UUID(ours.message_id, version=4)) == ours.message_id
    assert ours.message_id != app.run_query.message("RETURN 1 AS n").message_id


def test_queries_that_may_go_together_are_told_by_what_they_ask_and_by_their_options(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has a level, or something that follows from it, or nobody who waits, goes alone."""
    told = SimpleNamespace(kind_of=lambda text, parameters: (text, *parameters))
    monkeypatch.setattr(app._answering, "_queries", lambda: told)

    def kind(*args: Any, actor: str = "run_query", **options: Any) -> object:
        return app._answering.kind_of(dramatiq.Message("request", actor, args, {"n": 1}, options))

    here: dict[str, Any] = {"reply_to": "callers", "reply_partition": 1, "timeout": 3, "max_rows": 4}
    assert kind("RETURN $n AS n", **here) == ("RETURN $n AS n", "n")
    assert kind("RETURN $n AS n") is None
    assert kind("RETURN $n AS n", actor="friends_of", **here) is None
    for alone in ("level", "pipe_target", "on_success", "group_completion_uuid", "store"):
        assert kind("RETURN $n AS n", **here, **{alone: "x"}) is None
    several: dramatiq.Message[Any] = dramatiq.Message("request", "run_query", ([{"text": "RETURN 1"}] * 2,), {}, here)
    assert app._answering.kind_of(several) is None


def test_options_are_checked_where_they_are_given(app: App) -> None:
    """By name, before anything is sent."""
    ask = cast("Any", app.run_query.send_with_options)
    with pytest.raises(OptionRefused, match="timeout is a number of seconds"):
        ask(args=("RETURN 1",), timeout="5")
    with pytest.raises(OptionRefused, match="key is a text"):
        ask(args=("RETURN 1",), key=5)
    with pytest.raises(OptionUnknown, match="queries have no option pipe_ignore"):
        ask(args=("RETURN 1",), pipe_ignore=True)


def test_every_level_can_be_declared_but_one_that_belongs_to_a_call() -> None:
    """So that a new level is not forgotten."""
    with pytest.raises(OptionUnknown) as failure:
        options.declared({"?": 1})
    assert all(level in str(failure.value) for level in levels.OPTIONS - {"at_least"})


def test_an_answer_is_kept_only_where_there_is_a_place_for_it(app: App) -> None:
    """Who asks for it without a setting hears which one, before anything is sent."""
    for make in (app.run_query.send_with_options, app.run_query.message_with_options):
        with pytest.raises(StoreMissing, match="needs REDIS_URL"):
            make(args=("RETURN 1",), store="redis")
    with pytest.raises(StoreMissing, match="set REDIS_URL"):
        app.fetch_result("id")


def test_how_long_an_answer_is_kept_travels_with_the_query() -> None:
    """An hour, unless it is said; the worker takes no nonsense from the topic."""
    app = App(Settings(BROKERS="localhost:1", REDIS_URL="redis://localhost:1/0"))

    assert app.run_query.message_with_options(args=("RETURN 1",), store="redis").options == {
        "store": "redis",
        "ttl": 3600.0,
    }
    assert options.ttl_of({"ttl": 5}) == 5.0
    assert options.ttl_of({"ttl": "for ever"}) == options.ttl_of({"ttl": 10**9}) == 3600.0
