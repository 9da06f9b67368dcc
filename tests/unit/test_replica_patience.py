"""Ending what takes long, without a server."""

from __future__ import annotations

from queue import SimpleQueue

from replica.patience import Patience
from tests.support import wait_until


def test_what_takes_long_is_ended_until_it_is_over() -> None:
    """More than once, since what has not begun on the server when it is looked for may begin just after."""
    ended: SimpleQueue[str] = SimpleQueue()
    patience = Patience(ended.put, patience_s=0.01)
    with patience.watched("slow"):
        assert [ended.get(timeout=20.0) for _ in range(3)] == ["slow"] * 3
    with patience.watched("slow, too"):
        wait_until(lambda: ended.get(timeout=20.0) == "slow, too")


def test_nobody_looks_when_nothing_was_under_way_for_a_while() -> None:
    """And again as soon as something is."""
    ended: SimpleQueue[str] = SimpleQueue()
    patience = Patience(ended.put, patience_s=0.01, quiet_s=0.05)
    with patience.watched("one"):
        assert ended.get(timeout=20.0) == "one"
    wait_until(lambda: not patience.looking)
    with patience.watched("two"):
        wait_until(lambda: not ended.empty() and ended.get() == "two")
