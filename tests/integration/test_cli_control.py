"""``neo4j-kafka control``, as a person and as a program use it."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any

import dramatiq
import pytest
from click.testing import CliRunner, Result
from dramatiq import Worker

import cli
from brokers import KafkaBroker
from settings import environment_names
from tests.support import unique


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def broker(kafka: str) -> Iterator[KafkaBroker]:
    """A broker with topics and groups of its own."""
    prefix = unique("cli") + "-"
    broker = KafkaBroker(kafka, prefix=prefix, group_id=prefix + "workers")
    yield broker
    broker.close()


@pytest.fixture
def control(kafka: str, broker: KafkaBroker) -> Callable[..., Result]:
    """Runs a command of the group in this process."""
    environment: dict[str, str | None] = {
        **dict.fromkeys(environment_names()),
        "BROKERS": kafka,
        "B_TOPIC_PREFIX": broker.prefix,
        "GROUP_ID": broker.prefix + "replica",
        "QUERY_GROUP_ID": broker.group_id,
    }
    return lambda *arguments: CliRunner().invoke(cli.main, ["control", *arguments], env=environment)


def answer(result: Result) -> dict[str, Any]:
    """The one object of a command that succeeded."""
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_a_message_is_seen_aborted_and_a_queue_paused(broker: KafkaBroker, control: Callable[..., Result]) -> None:
    """Every command once: as JSON, and as tables where a person looks."""
    began, aborted = threading.Event(), threading.Event()

    @dramatiq.actor(broker=broker)
    def work() -> None:
        deadline = time.monotonic() + 30
        began.set()
        try:
            while time.monotonic() < deadline:
                time.sleep(0.01)
        except BaseException:
            aborted.set()
            raise

    message = work.send()
    worker = Worker(broker, worker_timeout=100, worker_threads=1)
    worker.start()
    try:
        assert began.wait(30)
        [found] = answer(control("inspect", "--json", "--timeout", "0.5"))["workers"]
        assert [one["message_id"] for one in found["running"]] == [message.message_id]
        shown = control("inspect", "--timeout", "0.5").stdout
        assert message.message_id in shown
        assert f"{broker.prefix}default" not in shown  # nothing is blocked
        assert answer(control("abort", message.message_id, "--json")) == {"revoked": message.message_id, "cancelled": 0}
        assert aborted.wait(10)
        assert answer(control("pause", "default", "--reason", "night", "--json")) == {"paused": "default"}
        listed = answer(control("list", "--json"))
        assert [(one["queue"], one["reason"]) for one in listed["pauses"]] == [("default", "night")]
        assert [(one["name"], one["abort"]) for one in listed["revocations"]] == [(message.message_id, True)]
        assert answer(control("resume", "default", "--json")) == {"queue": "default", "was_paused": True}
        assert control("unrevoke", message.message_id).stdout == "Ended revocations: 1.\n"
    finally:
        worker.stop()


def test_exit_codes_tell_silence_and_refusal(control: Callable[..., Result]) -> None:
    """Nobody answers: 3.  What makes no sense: 4, with a reason and without a traceback."""
    assert control("ping", "--timeout", "0.2").exit_code == 3
    refused = control("revoke", "--queue", "command")
    assert refused.exit_code == 4
    assert "is ordered" in refused.stderr
    refused = control("pause", "nowhere", "--json")
    assert refused.exit_code == 4
    assert json.loads(refused.stdout)["error"]["type"] == "ControlRefused"
    assert answer(control("pause", "command", "--json")) == {"paused": "command"}
    assert answer(control("revoke", "--actor", "work", "--days", "0.5", "--json")) == {
        "revoked": "work",
        "cancelled": 0,
    }
