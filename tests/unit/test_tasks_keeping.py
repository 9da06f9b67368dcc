"""What a worker collects of the answers that it gives, and how much of them."""

from __future__ import annotations

import msgspec
import pytest

from tasks import answers, keeping
from tasks.answers import Answer
from tasks.errors import QueryFailed
from tasks.keeping import LONGEST, Collected
from tasks.results import Rows, opened


def part(seq: int, *, end: bool = False, run: str = "run", text: str = "x") -> Answer:
    """One part of an answer of one column."""
    return Answer("id", run, seq, end, "replica-1", position=7, columns=("a",), rows=([text],))


def collected(*parts: Answer) -> list[Answer]:
    """What is kept of *parts*."""
    found = Collected()
    for one in parts:
        found.take("id", one, answers.encode(one))
    return [msgspec.json.decode(one, type=Answer) for one in found.of("id")]


def test_all_parts_of_an_answer_are_kept_in_order() -> None:
    """And opened as rows, with what an answer says of itself."""
    rows = opened(collected(part(0), part(1), part(2, end=True, text="y")))

    assert isinstance(rows, Rows)
    assert [row["a"] for row in rows] == ["x", "x", "y"]
    assert (rows.columns, rows.replica, rows.position) == (("a",), "replica-1", 7)


def test_an_answer_that_begins_again_leaves_nothing_of_the_first() -> None:
    """A query that was passed on, or whose worker tries again."""
    assert [one.run for one in collected(part(0), part(1), part(0, run="next", end=True))] == ["next"]


def test_an_answer_that_is_too_large_is_kept_as_an_error_that_says_so() -> None:
    """And its parts are dropped on the way, not at its end."""
    large = "x" * (LONGEST // 3)
    assert collected(*(part(n, text=large) for n in range(4))) == []
    whole = collected(*(part(n, text=large) for n in range(4)), part(4, end=True))

    with pytest.raises(QueryFailed, match=r"has 5,333,.* bytes, and 4,000,000 are kept at most") as failure:
        opened(whole)
    assert failure.value.code == keeping.TOO_LARGE


def test_nothing_is_collected_for_whom_nobody_waits_any_more() -> None:
    """Of one query; others stay."""
    found = Collected()
    for name in ("a", "b"):
        found.take(name, part(0, end=True), b"{}")
    found.drop("a")
    found.drop("a")

    assert (found.of("a"), found.of("b")) == ([], [b"{}"])
