"""What may be asked of a read's freshness, what travels, and how a replica judges it."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, cast

import dramatiq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokers.delays import now_ms
from replica.statement import Position
from settings import Settings
from tasks import levels, lookout, sessions
from tasks.app import App
from tasks.errors import LevelRefused, OptionUnknown
from tasks.freshness import Freshness, NotFresh, Torn, steady, untorn
from tasks.levels import Asking, Level
from tasks.lookout import Sight
from tasks.sessions import Session


class Log:
    """A log that ends at 10."""

    name = "command"

    def end(self) -> int:
        return 10

    def topic_id(self) -> str:
        return "log"


def asked(**options: Any) -> Level | None:
    """The level that *options* make, as it arrives at a worker."""
    return levels.of(message(travelling(**options)))


def travelling(**options: Any) -> dict[str, Any]:
    """What of *options* is sent."""
    return Asking(cast("Any", Log()), 10.0).sent_now(options)


def message(options: dict[str, Any]) -> dramatiq.Message[Any]:
    """A query's message."""
    return dramatiq.Message("request", "run_query", ("RETURN 1",), {}, options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"linearizable": True, "at_least": 3}, "linearizable is at least as fresh as at_least"),
        ({"linearizable": True, "max_lag": 3, "max_lag_s": 1}, "max_lag and max_lag_s"),
        ({"linearizable": "yes"}, "True or False"),
        ({"snapshot": 1}, "True or False"),
        ({"wait": 3}, "name a level"),
        ({"at_least": -1}, "offsets from 0, a receipt, a session"),
        ({"at_least": True}, "not True"),
        ({"at_least": "newest"}, "not the token of a session"),
        ({"at_least": 2.0}, "not 2.0"),
        ({"max_lag": "5s"}, "max_lag is a number of offsets"),
        ({"max_lag_s": 0}, "seconds above zero"),
        ({"max_lag_s": float("nan")}, "not nan"),
        ({"max_lag_s": float("inf")}, "not inf"),
        ({"at_least": 1, "wait": 4000}, "at most 3600"),
        ({"at_least": 1, "wait": 5, "timeout": 4}, "longer than the query may take at all: timeout=4"),
    ],
)
def test_what_makes_no_level_is_refused_before_anything_is_sent(options: dict[str, Any], text: str) -> None:
    """With the name of the option and what it takes."""
    with pytest.raises(LevelRefused, match=text):
        asked(**options)


def test_without_a_level_nothing_travels() -> None:
    """Nor with options that are left out on purpose; other options stay."""
    assert Asking(cast("Any", Log()), 10.0).sent_now({"key": "k", "at_least": None, "linearizable": False}) == {
        "key": "k"
    }


def test_linearizable_is_the_last_offset_of_the_log() -> None:
    """Of the log as Kafka ends it when the query is sent."""
    level = asked(linearizable=True)

    assert level is not None
    assert (level.at_least, level.topic_id, level.name) == (9, "log", "linearizable")
    assert level.wanted == "linearizable (9)"


def test_a_level_goes_with_the_time_until_which_it_may_be_waited_for() -> None:
    """Half of it here, half of the rest with the next replica, all of a rest that is short."""
    level = asked(at_least=0, max_lag=0, max_lag_s=2, wait=4)

    assert level is not None
    assert (level.at_least, level.max_lag, level.max_lag_s) == (0, 0, 2.0)
    assert level.until_ms - level.sent_ms == 4000
    assert level.pass_ms - level.sent_ms == 2000
    assert level.passed_on(level.pass_ms).pass_ms == level.pass_ms + 1000
    assert level.passed_on(level.until_ms - 400).pass_ms == level.until_ms
    assert level.wanted == "at_least=0 and max_lag=0 and max_lag_s=2"
    steady_ones = asked(snapshot=True), asked(snapshot=True, max_lag=3)
    assert [found and found.wanted for found in steady_ones] == ["snapshot", "max_lag=3 and snapshot"]


@pytest.mark.parametrize(("timeout", "wait_ms"), [(None, 10_000), (30, 10_000), (5, 4000)])
def test_a_caller_with_little_time_hears_why_before_it_is_over(timeout: float | None, wait_ms: int) -> None:
    """Whatever the setting says."""
    level = asked(at_least=1, timeout=timeout)

    assert level is not None
    assert level.until_ms - level.sent_ms == wait_ms


@pytest.mark.parametrize("option", sorted(levels.OPTIONS))
def test_a_message_for_later_has_no_level(option: str) -> None:
    """It would be settled when the message is made, and be wrong when it is sent."""
    app, given = App(Settings(REDIS_URL=None)), cast("dict[str, Any]", {option: 1})
    with pytest.raises(LevelRefused, match=f"{option}: .*use send_with_options"):
        app.run_query.message_with_options(args=("RETURN 1",), **given)


def test_the_option_that_travels_is_nobodys_to_set() -> None:
    """It is made of the others."""
    app = App(Settings(REDIS_URL=None))
    with pytest.raises(OptionUnknown, match="queries have no option level; they have at_least, deadline, key"):
        app.run_query.send_with_options(args=("RETURN 1",), level={})


def test_garbage_in_the_option_is_no_level() -> None:
    """Anybody may write to the topic."""
    assert levels.of(message({"level": {"until_ms": "soon"}})) is None
    assert levels.of(message({"level": 5})) is None


# Sessions.


def test_a_session_moves_forward_alone() -> None:
    """Its token says how far it is, and another session goes on there."""
    app = cast("Any", type("A", (), {"log": Log()})())
    first = Session(app)
    assert first.token == ""
    first.saw(5)
    first.saw(3)
    first.saw(None)
    assert first.token == "nk1:log:5"

    second = Session(app, first.token, "nk1:log:7", "")
    assert (second.position, second.topic_id) == (7, "log")
    with pytest.raises(LevelRefused, match="of log log, and this is of log other"):
        second.join("nk1:other:1")


@given(st.integers(0, 2**63 - 1))
def test_a_token_is_read_as_it_was_written(position: int) -> None:
    """Kafka's ids are base 64, and its characters depend on who writes them."""
    assert sessions.read_token(sessions.token_of("I66n9pR0QZaq-_+/9jglWbQ", position)) == (
        position,
        "I66n9pR0QZaq-_+/9jglWbQ",
    )


def test_a_session_asks_for_its_position_and_to_be_told_of_the_next() -> None:
    """Also when it has to do with no command yet."""
    app = cast("Any", type("A", (), {"log": Log()})())
    fresh = asked(at_least=Session(app))
    later = asked(at_least=Session(app, "nk1:log:4"))

    assert fresh is not None
    assert later is not None
    assert (fresh.at_least, fresh.seen) == (None, True)
    assert (later.at_least, later.seen, later.topic_id) == (4, True, "log")


# The replica's side.


class Out:
    """A lookout that has seen what it was given."""

    def __init__(self, sight: Sight | None) -> None:
        self.sight = sight
        self.moved_at = time.monotonic()
        self.asked: list[bool] = []

    def want(self, *, log: bool) -> None:
        self.asked.append(log)

    def forget(self) -> None:
        self.sight = None


def seen(position: int, **fields: Any) -> Sight:
    """A sight; its times count from the moment at which `fresh` gets it."""
    given: dict[str, Any] = {"at": 0.0, "position": position, "topic_id": "log", "covered": position}
    return Sight(**given | fields)


def fresh(sight: Sight | None) -> tuple[Freshness, Out]:
    """A replica that was seen so."""
    now = time.monotonic()
    if sight is not None:
        oldest_ms = None if sight.oldest_ms is None else now_ms() + sight.oldest_ms
        sight = replace(sight, at=now + sight.at, end_at=now + sight.at, oldest_ms=oldest_ms)
    out = Out(sight)
    return Freshness("r1", cast("Any", out)), out


@pytest.mark.parametrize(
    ("options", "sight", "may"),
    [
        ({"at_least": 5}, None, False),
        ({"at_least": 5}, seen(4), False),
        ({"at_least": 5}, seen(5), True),
        ({"at_least": 5}, seen(4, covered=6), True),  # 5 and 6 are no commands
        ({"at_least": 5}, seen(9, topic_id="other"), False),
        ({"linearizable": True}, seen(8), False),
        ({"linearizable": True}, seen(9), True),
        ({"max_lag": 3}, seen(5, end=9, at=1.0), True),
        ({"max_lag": 3}, seen(5, end=10), False),
        ({"max_lag": 3}, seen(5), False),
        ({"max_lag": 3}, seen(5, end=6, at=-0.001), False),  # before the query came
        ({"max_lag_s": 60}, seen(5, end=6, at=-1.0), True),
        ({"max_lag_s": 60}, seen(5, end=9, oldest_ms=-70_000), False),
        ({"max_lag_s": 60}, seen(5, end=9, oldest_ms=-5_000), True),
        ({"max_lag_s": 60}, seen(5, end=9), False),
        ({"at_least": 5, "max_lag": 3}, seen(5, end=20), False),
        ({"snapshot": True}, None, True),
        ({}, None, True),
    ],
)
def test_a_query_waits_until_its_replica_was_seen_to_be_there(
    options: dict[str, Any], sight: Sight | None, may: bool
) -> None:
    """And asks for another look as long as it waits."""
    freshness, out = fresh(sight)

    answer = freshness.ready(message(travelling(**options)))

    assert (answer is None) is may
    assert bool(out.asked) is not may


def test_a_query_does_not_wait_where_that_makes_no_sense() -> None:
    """It goes to a worker, which passes it on: when its time here is up, and when the database is away."""
    in_time = travelling(at_least=5)
    late = {"level": in_time["level"] | {"pass_ms": now_ms()}}

    assert fresh(seen(4))[0].ready(message(late)) is None
    assert fresh(Sight(0.0, problem="gone"))[0].ready(message(in_time)) is None
    with pytest.raises(NotFresh, match=r"at_least=5: replica r1 is at 4, 1 behind, 0\.\d s after the query was sent"):
        fresh(seen(4))[0].admitted(dramatiq.MessageProxy(message(in_time)))


def test_what_was_let_go_is_not_judged_again_and_what_was_not_is() -> None:
    """The log has grown since, and that was not asked for."""
    asks = message(travelling(max_lag=0))
    freshness, out = fresh(seen(5, end=6, at=1.0))
    assert freshness.ready(asks) is None
    out.sight = replace(out.sight or seen(5), end=9)

    assert freshness.admitted(dramatiq.MessageProxy(asks)) is not None
    with pytest.raises(NotFresh, match="offsets behind"):
        freshness.admitted(dramatiq.MessageProxy(asks))


def test_the_position_of_the_rows_decides_whatever_was_seen_before() -> None:
    """A graph that was seeded anew is behind what was seen, and that is forgotten."""
    freshness, out = fresh(seen(9))
    level = freshness.admitted(
        dramatiq.MessageProxy(message(Asking(cast("Any", Log()), 10.0).sent_now({"at_least": 5})))
    )

    freshness.check(level, Position("command", "log", 0, 5))
    with pytest.raises(NotFresh, match="at 4, 1 behind"):
        freshness.check(level, Position("command", "log", 0, 4))
    with pytest.raises(NotFresh, match="at 8 of another log"):
        freshness.check(level, Position("command", "older", 0, 8))
    with pytest.raises(NotFresh, match="at -1"):
        freshness.check(level, None)
    assert out.sight is None


def test_offsets_that_are_no_commands_count_where_the_position_is_still_the_one_that_was_seen() -> None:
    """Behind a transaction's marker there is nothing to wait for; elsewhere that is not known."""
    freshness, _ = fresh(seen(4, covered=6))
    level = asked(at_least=6)

    freshness.check(level, Position("command", "log", 0, 4))
    with pytest.raises(NotFresh):
        freshness.check(level, Position("command", "log", 0, 3))


def test_a_look_that_asked_for_less_keeps_what_is_known_of_the_log() -> None:
    """What is missing after a move is no older than before; of another log, or a graph that went back, nothing is."""
    before = seen(4, covered=6, end=7, oldest_ms=99)

    still, moved = lookout.beyond(before, seen(4)), lookout.beyond(before, seen(5))
    assert (still.covered, still.end, still.oldest_ms) == (6, 7, 99)
    assert (moved.covered, moved.end, moved.oldest_ms) == (5, 7, 99)
    assert lookout.beyond(before, seen(4, topic_id="other")) == seen(4, topic_id="other")
    assert lookout.beyond(before, seen(3)) == seen(3)


def test_a_snapshot_is_tried_again_until_nothing_comes_in_between() -> None:
    """In its time."""
    level = asked(snapshot=True)
    positions = iter([(1, 2), (2, 3), (3, 3)])

    def attempt() -> int:
        before, after = (Position("c", "log", 0, offset) for offset in next(positions))
        untorn(level, before, after)
        return before.offset

    assert steady(level, attempt) == 3
    positions = iter([(1, 2)])
    assert level is not None
    with pytest.raises(Torn):
        steady(Level(0, 0, 0, snapshot=True), attempt)
