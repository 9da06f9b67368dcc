"""Who answers queries: leaving, coming back, and never all of them gone."""

from __future__ import annotations

import random
import time
from typing import Any, cast

import pytest

from brokers.assignment import Blocked
from replica.errors import QueryUnavailable
from tasks.lookout import Sight
from tasks.serving import Behind, Reason, Serving, client_id, decide, held, others_of


OLD = Reason("old")


@pytest.mark.parametrize(
    ("serving", "reasons", "others", "does"),
    [
        (True, [], 0, None),
        (False, [], 2, "return"),
        (True, [OLD], 1, "leave"),
        (True, [OLD], 0, None),
        (True, [OLD], None, None),
        (False, [OLD], 1, None),
        (False, [OLD], 0, "return"),
        (False, [OLD], None, None),
    ],
)
def test_a_replica_leaves_when_others_are_there_and_returns_when_nobody_is(
    serving: bool, reasons: list[Reason], others: int | None, does: str | None
) -> None:
    """Without a reason it serves; where Kafka does not say who does, nothing changes."""
    assert decide(serving=serving, reasons=reasons, others=lambda: others) == does


class Member:
    """A replica in a group that is simulated."""

    def __init__(self, group: set[str], name: str) -> None:
        self.name = name
        self.sick = False
        self.serving = Serving(
            leave=lambda: group.discard(name),
            come_back=lambda: group.add(name),
            others=lambda: len(group - {name}),
        )
        self.serving.feed("test", lambda: OLD if self.sick else None)
        group.add(name)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_falls_sick_when_somebody_serves_in_the_end_and_of_the_sick_only_the_last(seed: int) -> None:
    """Looks come in any order; once health stops changing, so do the members."""
    chance, group = random.Random(seed), set[str]()
    members = [Member(group, name) for name in "abc"]
    for _ in range(60):
        chance.choice(members).sick = chance.random() < 0.5
        chance.choice(members).serving.look()
    for _ in range(6):
        for member in chance.sample(members, 3):
            member.serving.look()
    settled = set(group)
    for member in members:
        member.serving.look()

    healthy = {member.name for member in members if not member.sick}
    assert group == settled
    assert group == healthy if healthy else len(group) == 1


def test_a_graph_that_is_unfit_gives_no_rows_even_as_the_last_one() -> None:
    """An old one does."""
    serving = Serving(leave=lambda: None, come_back=lambda: None, others=lambda: 0)
    serving.feed("lag", lambda: OLD)
    serving.look()
    serving.refuse_unfit()

    serving.feed("quarantine", lambda: Reason("it differs from the others", unfit=True))
    serving.look()
    with pytest.raises(QueryUnavailable, match="quarantine: it differs") as failure:
        serving.refuse_unfit()

    assert failure.value.code == "Replica.NotServing"
    assert serving.reasons().keys() == {"lag", "quarantine"}


def test_a_feed_that_fails_counts_as_it_last_did_or_against_serving() -> None:
    """Fail closed: what cannot be told may be a quarantine."""
    answers: list[Any] = [OLD, ValueError("broken"), None]

    def feed() -> Reason | None:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return cast("Reason | None", answer)

    serving = Serving(leave=lambda: None, come_back=lambda: None, others=lambda: 1)
    serving.feed("f", feed)
    serving.look()
    serving.look()
    assert serving.reasons() == {"f": OLD}
    serving.look()
    assert serving.reasons() == {}


def test_lag_is_a_reason_from_its_limit_on_and_none_any_more_at_half_of_it() -> None:
    """Until the first look it is one, too; of a database that is away a moment is forgiven."""
    out: Any = type("Out", (), {"sight": None, "want": lambda _self, **_log: None})()
    behind = Behind(out, 60.0)

    def at(lag_s: float) -> bool:
        out.sight = Sight(
            time.monotonic(), end=10, end_at=time.monotonic(), oldest_ms=int((time.time() - lag_s) * 1000)
        )
        return behind() is not None

    assert behind() is not None
    assert [at(50), at(20), at(50), at(70), at(50), at(20)] == [True, False, False, True, True, False]
    out.sight = Sight(time.monotonic(), problem="gone")
    assert behind() is None
    behind._seen_at -= 6
    assert behind() == Reason("gone")


def test_a_command_that_is_held_for_seconds_is_a_reason() -> None:
    """A moment is none, nor is a queue that somebody has paused."""
    blocked: dict[str, Blocked] = {}
    ask = held(lambda: blocked, "command")
    assert ask() is None
    blocked["command/0"] = Blocked(time.time(), "a deadlock", 1)
    assert ask() is None
    blocked["command/0"] = Blocked(time.time() - 9, "paused", 0)
    assert ask() is None
    blocked["command/0"] = Blocked(time.time() - 9, "out of memory", 4)
    assert ask() == Reason("a command is held: out of memory")


def test_replicas_know_each_other_by_their_client_ids() -> None:
    """Processes of one replica count as one, and not as others of themselves."""
    ids = {client_id("r@1"), client_id("r2"), "r2@elsewhere"}
    assert others_of("r@1", lambda: ids) == 1
    assert others_of("r3", lambda: ids) == 2
    assert others_of("r@1", lambda: {client_id("r@1")}) == 0
