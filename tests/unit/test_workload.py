"""The oracle of the workload: what it expects of a log, and that it would see what is lost, repeated or exchanged."""

from __future__ import annotations

import random

from tests.workload import FAILED, KINDS, QUESTIONS, REPEATED, SETUP, TEXTS, UNMET, Intent, draw, replayed


def log(*commands: tuple[str, int, int, int]) -> dict[int, Intent]:
    """Kind, k, other and n of each; its uid is its place."""
    return {place: Intent(place, *command) for place, command in enumerate(commands)}


def test_each_ending_has_its_command() -> None:
    """In the order of the log."""
    _, ends = replayed(
        log(
            ("order", 1, 0, 0),
            ("broken order", 2, 0, 0),
            ("order", 2, 0, 0),  # a failed one has not used up its id
            ("order", 1, 0, 0),
            ("broken order", 1, 0, 0),
            ("pay", 0, 0, 60),
            ("pay", 0, 0, 60),
            ("transfer", 3, 3, 5),
            ("user", 7, 0, 0),
            ("user", 7, 0, 0),
            ("index", 0, 0, 0),
            ("index", 0, 0, 0),
            ("drop unique", 0, 0, 0),
        )
    )
    assert ends == {
        1: FAILED,
        3: REPEATED,
        4: REPEATED,
        6: UNMET,
        7: FAILED,
        9: FAILED,
        11: FAILED,
        12: FAILED,
    }


def test_what_hangs_on_a_node_keeps_it() -> None:
    """DELETE fails then, DETACH DELETE takes its relationships along."""
    item, link = ("merge", 1, 0, 0), ("link", 1, 1, 0)
    world, ends = replayed(log(item, link, ("delete alone", 1, 0, 0)))
    assert (ends, world.facts()["links"], len(world.items)) == ({2: FAILED}, [(1, 1, 1)], 1)
    world, ends = replayed(log(item, link, ("delete", 1, 0, 0)))
    assert (ends, world.links, world.items) == ({}, {}, {})
    world, ends = replayed(log(item, link, ("unlink", 1, 0, 0), ("delete alone", 1, 0, 0)))
    assert (ends, world.links, world.items) == ({}, {}, {})


def test_a_constraint_counts_from_where_it_stands() -> None:
    """It cannot be made over what violates it, and lets nothing in afterwards."""
    extra, unique = ("extra", 1, 0, 0), ("unique", 0, 0, 0)
    assert replayed(log(extra, extra, unique))[1] == {2: FAILED}
    assert replayed(log(extra, unique, extra))[1] == {2: FAILED}
    assert replayed(log(extra, unique, ("drop unique", 0, 0, 0), extra))[1] == {}
    assert replayed(log(extra, extra, ("forget extras", 0, 0, 0), unique))[1] == {}


def test_a_command_that_is_lost_repeated_or_exchanged_is_seen() -> None:
    """Where it had an effect, and none that a later one took back."""
    random_ = random.Random(1)
    whole = {uid: draw(random_, uid, uid) for uid in range(400)}
    facts = replayed(whole)[0].facts()
    seen = dict.fromkeys(KINDS, 0)
    for uid, one in whole.items():
        lost = {place: other for place, other in whole.items() if place != uid}
        seen[one.kind] += replayed(lost)[0].facts() != facts
        if one.kind in {"mark", "stamp", "merge"}:
            assert replayed(lost)[0].facts() != facts
        if one.kind in {"merge", "deposit"}:
            assert replayed({**whole, 400: one})[0].facts() != facts
    assert sum(seen.values()) > 250


def test_every_kind_can_be_said_and_every_fact_asked_for() -> None:
    """No kind without its text, no text without its kind."""
    for kind in KINDS:
        if kind != "foreign":
            text, parameters, options = Intent(5, kind, 1, 2, 3).arguments()
            assert text
            assert "5" in str((text, parameters)), "its uid is in the record"
            assert options.keys() <= {"when", "id", "idempotent"}
    assert TEXTS.keys() == KINDS.keys() - {"foreign", "transfer"}
    assert replayed({})[0].facts().keys() == QUESTIONS.keys()
    assert len(SETUP) == 2
