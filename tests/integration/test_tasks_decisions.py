"""Decisions on a real topic: made in one process, heard in another."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from brokers.records import Outgoing
from settings import Settings
from tasks.app import App
from tests.support import unique, wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def apps(kafka: str) -> Iterator[tuple[App, App]]:
    """Two processes' views of the same replicas."""
    prefix = unique("it") + "-"
    made = tuple(App(Settings(BROKERS=kafka, B_TOPIC_PREFIX=prefix)) for _ in range(2))
    made[0].broker.topics.ensure(made[0].command_topic)
    yield made[0], made[1]
    for app in made:
        app.close()


def test_a_decision_is_heard_at_once_and_by_whoever_comes_later(apps: tuple[App, App]) -> None:
    """A watcher is called, a newcomer knows it before it is asked, and what was withdrawn holds no more."""
    person, worker = apps
    assert worker.decisions.look() == ()
    heard = threading.Event()
    worker.decisions.follow()
    worker.decisions.watch(heard.set)

    made = person.decisions.decide("pause", "replica-1", reason="a disk is changed", by="ann")

    assert heard.wait(10)
    assert worker.decisions.is_paused("replica-1")
    assert worker.decisions.of("pause") == {"replica-1": made}
    assert (made.by, made.topic_id) == ("ann", worker.broker.topics.identity(worker.command_topic.name))
    assert person.decisions.look() == (made,)

    worker.decisions.follow(anew=True)
    assert worker.decisions.of("pause") == {"replica-1": made}
    worker.decisions.close()
    assert worker.decisions.is_paused("replica-1"), "a later question follows again"
    person.decisions.withdraw("pause", "replica-1")
    wait_until(lambda: not worker.decisions.is_paused("replica-1"), 10, "the withdrawal to be heard")
    assert person.decisions.look() == ()


def test_a_watcher_that_fails_and_a_foreign_record_change_nothing(apps: tuple[App, App]) -> None:
    """The next decision is heard all the same."""
    person, worker = apps
    worker.decisions.watch(lambda: 1 / 0)
    worker.decisions.follow()

    foreign = Outgoing(person.decisions_topic.name, b"{", b"none/of/ours", partition=0)
    person.broker.publish(foreign, person.decisions_topic)
    person.decisions.decide("quarantine", "replica-2", reason="its digest differs")

    wait_until(lambda: worker.decisions.is_quarantined("replica-2"), 10, "the decision to be heard")
    assert not worker.decisions.is_paused("replica-2")
    assert worker.decisions.caught_up
