from __future__ import annotations

import re
import sys
from dataclasses import replace
from typing import Any

import click
import msgspec
import pytest

from brokers.inspection import Halt, RunningMessage, WorkerState
from ops.replica_cli import print_replicas
from ops.replicas import Seen
from tasks.decisions import Decision, Kind
from tasks.outcomes import Registration
from tasks.registry import others_on


NOW_MS = 1_000_000


def worker(**changes: Any) -> WorkerState:
    """A worker that reads the log."""
    fields: dict[str, Any] = {
        "host": "h",
        "pid": 7,
        "version": "1",
        "since_ms": 1,
        "groups": {"r": "m"},
        "queues": ["command"],
        "partitions": ["command/0"],
        "running": [],
        "waiting": {},
        "blocked": {},
        "paused": {},
        "skipped": {},
    }
    return WorkerState(**fields | changes)


def decision(kind: Kind, *, applies: bool = False) -> Decision:
    """One about this replica."""
    return Decision(kind, "r", "t", "because", "ann", 900, applies)


SEEN = Seen(
    registration=Registration("r", "t", "bolt://h:1", 5),
    position=9,
    first=0,
    end=13,
    next_ms=NOW_MS - 4000,
    decisions={},
    worker=worker(),
    silent=False,
    place="command/0",
)
HELD = worker(blocked={"command/0": Halt("offset 10 is held: no memory", 500, 3)})


def test_a_narrow_terminal_cuts_neither_names_nor_reasons(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reason stands below the table, with since when and how often; a pipe has it all in one line."""
    row = replace(SEEN, worker=HELD).row(NOW_MS)
    print_replicas([row])
    assert len(capsys.readouterr().out.splitlines()) == 2

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_replicas([replace(row, name="a-replica-with-a-name")])
    lines = click.unstyle(capsys.readouterr().out).splitlines()
    assert all(len(line) <= 80 for line in lines[:-1])
    assert any(line.strip().startswith("a-replica-with-a-name ") for line in lines[:-1])
    assert "…" not in "".join(lines)
    assert re.fullmatch(
        r"a-replica-with-a-name is held since [\d: -]{19}, attempts: 3: offset 10 is held: no memory", lines[-1]
    )


@pytest.mark.parametrize(
    ("changes", "state", "why"),
    [
        ({}, "applying", ""),
        ({"worker": HELD}, "held", "offset 10 is held: no memory"),
        ({"worker": None}, "away", "no worker runs"),
        ({"worker": None, "silent": True}, "away", "no worker that answers reads its log"),
        ({"first": 11}, "behind the log's start", "the log begins at 11: `replica repair r` restores a snapshot"),
        ({"decisions": {"pause": decision("pause")}, "worker": HELD}, "paused", "because (ann)"),
        ({"decisions": {"pause": decision("pause")}, "worker": None}, "paused", "because (ann)"),
        (
            {"decisions": {"pause": decision("pause"), "quarantine": decision("quarantine")}},
            "quarantined",
            "because (ann)",
        ),
        (
            {"decisions": {"quarantine": decision("quarantine", applies=True)}},
            "quarantined",
            "because; it catches up (ann)",
        ),
    ],
)
def test_the_state_is_the_strongest_reason_not_to_go_on(changes: dict[str, Any], state: str, why: str) -> None:
    """What was decided goes before what a worker tells, and that before its absence."""
    row = replace(SEEN, **changes).row(NOW_MS)

    assert (row.state, row.why) == (state, why)


def test_lag_is_in_commands_and_in_the_age_of_the_next_one() -> None:
    """Without any lag there is no age, whatever the clock says."""
    row, none = SEEN.row(NOW_MS), replace(SEEN, position=12, next_ms=None).row(NOW_MS)

    assert (row.lag, row.lag_s, row.last_command) == (3, 4.0, "9")
    assert (none.lag, none.lag_s) == (0, 0.0)
    assert replace(SEEN, next_ms=NOW_MS + 50).row(NOW_MS).lag_s == 0, "clocks differ"
    assert replace(SEEN, position=-1).row(NOW_MS).last_command == "none yet"


def test_attempts_and_since_are_those_of_the_hold() -> None:
    """As its worker tells them."""
    row = replace(SEEN, worker=HELD).row(NOW_MS)

    assert (row.since_ms, row.attempts, row.worker) == (500, 3, "h:7")


def test_a_replica_stands_when_nothing_runs_and_nothing_can_begin() -> None:
    """A job that runs, or a command that may begin any moment, is work."""
    running = [RunningMessage("m", "run_command", "command", "command/0/10", 1)]
    stands = {
        "busy": replace(SEEN, worker=worker(running=running)),
        "about to": SEEN,
        "blocked": replace(SEEN, worker=HELD),
        "idle": replace(SEEN, position=12),
        "no worker": replace(SEEN, worker=None),
        "silent": replace(SEEN, worker=None, silent=True),
    }

    assert {name for name, seen in stands.items() if seen.row(NOW_MS).stands} == {"blocked", "idle", "no worker"}


def test_replicas_with_one_database_are_told_apart_from_those_that_differ(capsys: pytest.CaptureFixture[str]) -> None:
    """By the address that they were registered with, in one log."""
    one, two = SEEN.registration, msgspec.structs.replace(SEEN.registration, replica="s")
    other = msgspec.structs.replace(one, replica="o", topic_id="former")
    registered = {found.replica: found for found in (one, two, other)}
    assert others_on("bolt://h:1", "r", "t", registered) == ["s"]
    assert others_on("bolt://h:2", "r", "t", registered) == []

    print_replicas([replace(SEEN, shares=("s",)).row(NOW_MS)])
    assert capsys.readouterr().err == "r shares its database, bolt://h:1, with s\n"


def test_a_wrong_clock_is_told_from_an_answer_that_took_its_time(capsys: pytest.CaptureFixture[str]) -> None:
    """By how much at least; nothing is said of a worker that does not tell its time, or of half a second."""
    told = {now_ms: worker(now_ms=now_ms).ahead_s(10_000, 12_000) for now_ms in (0, 9_000, 10_000, 12_000, 13_500)}
    assert told == {0: 0, 9_000: -1, 10_000: 0, 12_000: 0, 13_500: 1.5}

    print_replicas([replace(SEEN, ahead_s=ahead_s).row(NOW_MS) for ahead_s in (-86_400.2, 0.5, 90)])
    assert capsys.readouterr().err.splitlines() == [
        "the clock of r's worker is 86,400 s behind this machine's",
        "the clock of r's worker is 90 s ahead of this machine's",
    ]
