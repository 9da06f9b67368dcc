"""``neo4j-kafka delayed`` on real Kafka."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import dramatiq
import pytest
from click.testing import CliRunner

import cli
from brokers import KafkaBroker, cron
from settings import environment_names
from tests.support import unique


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Run = Callable[..., tuple[int, dict[str, Any]]]

DAY_MS = 86_400_000


@pytest.fixture
def broker(kafka: str) -> Iterator[KafkaBroker]:
    """A sender with a prefix of its own."""
    broker = KafkaBroker(kafka, prefix=unique("cli") + "-")
    yield broker
    broker.close()


@pytest.fixture
def run(kafka: str, broker: KafkaBroker) -> Run:
    """Run ``neo4j-kafka delayed ...``; exit code, and what it printed."""
    clean: dict[str, str | None] = dict.fromkeys(environment_names())

    def run(*arguments: str) -> tuple[int, dict[str, Any]]:
        environment = {**clean, "BROKERS": kafka, "B_TOPIC_PREFIX": broker.prefix}
        result = CliRunner().invoke(cli.main, ["delayed", *arguments, "--json"], env=environment)
        return result.exit_code, json.loads(result.stdout)

    return run


def test_what_waits_is_listed_shown_and_cancelled(broker: KafkaBroker, run: Run) -> None:
    """Soonest first, with numbers for each queue; exit code 1 where nothing matches."""
    assert run("list") == (0, {"messages": [], "periodic": [], "by_queue": {}, "total": 0})

    @dramatiq.actor(broker=broker, queue_name="mail")
    def send_mail(address: str) -> None: ...

    @dramatiq.actor(broker=broker)
    def work() -> None: ...

    with broker.batching():
        later, soon = (send_mail.send_with_options(args=("a@b",), delay=days * DAY_MS) for days in (2, 1))
        for _ in range(3):
            work.send_with_options(delay=3 * DAY_MS)

    code, found = run("list", "--limit", "2")
    assert code == 0
    assert [row["message_id"] for row in found["messages"]] == [soon.message_id, later.message_id]
    first = found["messages"][0]
    assert (first["queue"], first["actor"], first["attempt"]) == ("mail", "send_mail", 1)
    assert 86_000 < first["in_s"] <= 86_400
    assert (found["total"], found["by_queue"]) == (5, {"mail": 2, "default": 3})

    code, shown = run("show", soon.message_id)
    assert code == 0
    assert [message["args"] for message in shown["messages"]] == [["a@b"]]
    code, error = run("show", "unknown")
    assert (code, error["error"]["type"]) == (1, "NotDelayed")

    assert run("cancel", "unknown") == (1, {"cancelled": 0, "dry_run": False})
    assert run("cancel", soon.message_id, later.message_id, "--dry-run") == (0, {"cancelled": 2, "dry_run": True})
    assert run("cancel", soon.message_id) == (0, {"cancelled": 1, "dry_run": False})
    assert run("cancel", "--actor", "work") == (0, {"cancelled": 3, "dry_run": False})
    assert run("list")[1]["by_queue"] == {"mail": 1}
    assert run("cancel", "--queue", "mail") == (0, {"cancelled": 1, "dry_run": False})
    assert run("list")[1]["total"] == 0


def test_periodic_actors_are_listed(broker: KafkaBroker, run: Run) -> None:
    """With their next time and their schedule, as soon as a worker has declared them."""

    @dramatiq.actor(broker=broker, periodic=cron("0 3 * * *", tz="Europe/Berlin"))
    def report() -> None: ...

    broker.topics.ensure(broker.delayed_topic)
    broker._later.declarations.work_on("default")
    broker._later.declarations.renew()
    broker.producer.close()

    [row] = run("list")[1]["periodic"]
    assert (row["queue"], row["actor"], row["schedule"]) == ("default", "report", "cron 0 3 * * * Europe/Berlin")
    assert row["next"].endswith((":00:00Z",))
    assert run("list", "--actor", "other")[1]["periodic"] == []
