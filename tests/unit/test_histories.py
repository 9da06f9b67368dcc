"""The checker of histories, on good ones and on bad ones: one that finds nothing would find nothing on servers, too."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.histories import Audit, Operation, Read, Write, load, save, violations


if TYPE_CHECKING:
    from pathlib import Path

#: Register 1 is 10 from offset 0 on, 11 from offset 2 on; register 2 is 20 from offset 1 on.
LOG = [(0, 1, 10), (1, 2, 20), (2, 1, 11)]
FIRST = Write(0, 1, 10, 0.0, 1.0, 0)
OTHER = Write(0, 2, 20, 1.0, 2.0, 1)
SECOND = Write(0, 1, 11, 2.0, 3.0, 2)
WRITES: list[Operation] = [FIRST, OTHER, SECOND]
NEW = Read(1, 1, 11, 4.0, 5.0, position=2)
OLD = replace(NEW, value=10, position=1)


@pytest.mark.parametrize(
    "history",
    [
        [NEW],
        [OLD],  # nothing was promised
        [replace(OLD, value=None, position=-1)],
        [replace(NEW, linearizable=True, at_least=2, snapshot=True, session="s")],
        [replace(OLD, began=2.5, linearizable=True)],  # beside the second write
        [replace(NEW, began=2.5, ended=2.7)],
        [replace(NEW, position=1)],  # rows may be newer than the position before them
        [replace(OLD, at_least=1), replace(NEW, linearizable=True)],
        [replace(OLD, session="a"), replace(NEW, session="a"), replace(OLD, session="b")],
        [Audit(0, (100, 50, 150), 0.0, 1.0, "any")],
        [Write(0, 1, 99, 3.0)],  # nobody knows, and the log does not have it
    ],
)
def test_a_history_that_keeps_its_promises_is_in_order(history: list[Operation]) -> None:
    """Old reads are, where nothing else was promised."""
    assert violations([*WRITES, *history], LOG, 300) == []


@pytest.mark.parametrize(
    ("history", "text"),
    [
        ([replace(NEW, value=12)], "nobody has written that"),
        ([replace(NEW, began=0.0, ended=1.5)], "read before it was written"),
        ([replace(FIRST, offset=1)], "confirmed, and at 0 in the log"),
        ([Write(0, 1, 99, 3.0, 4.0, 3)], "confirmed, and at None in the log"),
        ([replace(OLD, at_least=2, position=2)], "older than at_least: saw 0, and 2 was due"),
        ([replace(NEW, at_least=3)], "the replica was not there"),
        ([replace(NEW, at_least=2, position=None)], "the replica was not there"),
        ([replace(OLD, position=2)], "older than the position that it was told with"),
        ([replace(NEW, position=1, snapshot=True)], "not of one position"),
        ([replace(OLD, linearizable=True)], "not linearizable: saw 0, and 2 was there before"),
        ([replace(OLD, value=None, position=-1, linearizable=True)], "not linearizable: saw -1, and 2"),
        (
            [
                replace(NEW, began=2.1, ended=2.2, linearizable=True),
                replace(OLD, began=2.3, ended=2.4, linearizable=True),
            ],
            "not linearizable: saw 0, and 2",
        ),
        ([replace(NEW, session="s"), replace(OLD, session="s")], "back from 2 to 0 in a session"),
        ([Audit(0, (100, 50, 151), 0.0, 1.0, "any")], "the total is 301, not 300"),
    ],
)
def test_a_promise_that_was_not_kept_is_found(history: list[Operation], text: str) -> None:
    """Each kind, by its name."""
    kept = [one for one in WRITES if not any(isinstance(new, Write) and new.value == one.value for new in history)]  # type: ignore[union-attr]
    found = violations([*kept, *history], LOG, 300)

    assert any(text in one for one in found), found


def test_a_session_sees_what_it_wrote() -> None:
    """Not what somebody else did."""
    own = replace(SECOND, session="s")
    assert violations([FIRST, OTHER, own, replace(OLD, session="t")], LOG, 300) == []
    [found] = violations([FIRST, OTHER, own, replace(OLD, session="s")], LOG, 300)
    assert "back from 2 to 0" in found


@st.composite
def run(draw: st.DrawFn) -> tuple[list[Operation], list[tuple[int, int, int]]]:
    """A history of one perfect replica: every read sees the whole log of its moment."""
    history: list[Operation] = []
    log: list[tuple[int, int, int]] = []
    state: dict[int, int] = {}
    for step in range(draw(st.integers(1, 30))):
        key, now, session = draw(st.integers(1, 2)), float(step), draw(st.sampled_from([None, "a", "b"]))
        if draw(st.booleans()):
            offset = len(log)
            log.append((offset, key, step))
            state[key] = step
            history.append(Write(0, key, step, now, now + 0.5, offset, session))
        else:
            last = len(log) - 1
            history.append(Read(0, key, state.get(key), now, now + 0.5, last, True, True, last, session))
    return history, log


@given(run())
def test_a_perfect_replica_keeps_every_promise(made: tuple[list[Operation], list[tuple[int, int, int]]]) -> None:
    """All of them at once."""
    history, log = made
    assert violations(history, log, 0) == []


@given(run(), st.data())
def test_a_read_that_is_put_back_by_one_version_is_found(
    made: tuple[list[Operation], list[tuple[int, int, int]]], data: st.DataObject
) -> None:
    """Whichever it is."""
    history, log = made
    reads = [n for n, one in enumerate(history) if isinstance(one, Read) and one.value is not None]
    if not reads:
        return
    chosen = data.draw(st.sampled_from(reads))
    read = history[chosen]
    assert isinstance(read, Read)
    earlier = [value for _, key, value in log if key == read.key and value < (read.value or 0)]
    history[chosen] = replace(read, value=earlier[-1] if earlier else None)
    assert violations(history, log, 0)


def test_a_history_is_written_down_and_read_again(tmp_path: Path) -> None:
    """Line by line."""
    history = [*WRITES, NEW, Audit(0, (1, 2), 0.0, 1.0, "any", 4)]
    save(history, tmp_path / "history.jsonl")
    assert load(tmp_path / "history.jsonl") == history
