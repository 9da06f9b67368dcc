"""How many queries run at a time."""

from __future__ import annotations

import pytest

from replica.errors import QueryUnavailable
from tasks.slots import Slots


def slots(most: int | None) -> tuple[Slots, list[str]]:
    """Room for *most*, and what was told when there is room again."""
    told: list[str] = []
    found = Slots(lambda: told.append("freed"))
    found.most = most
    return found, told


def test_without_a_limit_there_is_always_room() -> None:
    """Nothing is counted, nobody is told."""
    found, told = slots(None)
    found.let_go("a")
    with found.taken("a"), found.taken("b"):
        assert found.full("x") is None
    assert told == []


def test_what_was_let_go_counts_before_it_begins() -> None:
    """Else all that wait would be let go while the first one is on its way to a thread."""
    found, told = slots(1)
    assert found.full("x") is None
    found.let_go("a")
    assert found.full("x") is not None
    assert found.full("a") is None  # it is asked about again on its way out
    with found.taken("a"):
        assert found.full("x") is not None
        assert told == []
    assert told == ["freed"]
    assert found.full("x") is None


def test_what_will_not_begin_makes_room() -> None:
    """It was cancelled, or its partition has moved."""
    found, told = slots(1)
    found.let_go("a")
    assert found.full("x") is not None
    found.forget("a")
    assert (found.full("x"), told) == (None, ["freed"])


def test_what_comes_without_room_is_refused() -> None:
    """Too many were held back; another replica may have room."""
    found, _ = slots(1)
    with found.taken("a"), pytest.raises(QueryUnavailable, match="QUERY_AT_ONCE"), found.taken("b"):
        pytest.fail("there was no room")
    with found.taken("b"):
        assert found.full("x") is not None
