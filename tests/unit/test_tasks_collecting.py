"""What a worker has imported is not looked through again by Python's collector."""

from __future__ import annotations

import gc

import pytest
from dramatiq.brokers.stub import StubBroker

from tasks.collecting import YOUNGEST, LongLived


@pytest.fixture(autouse=True)
def _unfrozen() -> object:
    """The process of the tests goes on as it was."""
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


def test_what_a_worker_boots_with_is_out_of_the_collectors_sight() -> None:
    """All of it, and nothing of what comes later."""
    broker = StubBroker(middleware=[LongLived()])
    before = gc.get_freeze_count()
    broker.emit_after("process_boot")
    assert gc.get_freeze_count() - before > 1000
    assert gc.get_threshold()[0] == YOUNGEST
    later: list[list[int]] = [[] for _ in range(10)]
    assert all(any(one is seen for seen in gc.get_objects()) for one in later)
