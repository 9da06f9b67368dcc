"""``neo4j-kafka dead``: what a person, or a script, does with parked messages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dramatiq
import pytest
from click.testing import CliRunner, Result

import cli
from brokers import KafkaBroker
from brokers.dead_letters import dead_letter
from brokers.records import Record, encode
from brokers.replies import Place, TopicReader
from settings import environment_names
from tests.support import unique, wait_until


if TYPE_CHECKING:
    from collections.abc import Callable

    from brokers.letterbox import DeadLetters

ROOT = Path(__file__).parents[2]

#: Nothing of the machine's own settings.
CLEAN: dict[str, str | None] = dict.fromkeys(environment_names())


@pytest.fixture
def prefix() -> str:
    """Topics of this test alone."""
    return unique("dead-")


@pytest.fixture
def run(kafka: str, prefix: str) -> Callable[..., Result]:
    """Runs ``neo4j-kafka dead ...`` in this process."""

    def call(*arguments: str) -> Result:
        environment = {**CLEAN, "BROKERS": kafka, "B_TOPIC_PREFIX": prefix}
        return CliRunner().invoke(cli.main, ["dead", *arguments], env=environment)

    return call


def park(kafka: str, prefix: str) -> list[str]:
    """Three letters of a queue that no program here declares, one of a command; the ids of their messages."""
    broker = KafkaBroker(kafka, prefix=prefix)
    broker.declare_queue("mail")
    broker.declare_queue("command", ordered=True)
    ids = []
    for number, queue_name in enumerate(("mail", "mail", "mail", "command")):
        queue = broker.get_queue(queue_name)
        broker.topics.ensure(queue.topic)
        message: dramatiq.Message[Any] = dramatiq.Message(queue_name, "send_mail", (number,), {}, {})
        sent = encode(message, queue.topic.name)
        record = Record(queue.topic.name, 3, number, 0, sent.key, sent.value, sent.headers)
        error = "SMTPError" if number < 2 else "Crashed"
        letter = dead_letter(record, queue, error=error, reason="a\nlong [story]", traceback="in send_mail")
        broker.publish(letter, queue.dead_letters)
        ids.append(message.message_id)
    broker.close()
    return ids


def test_letters_are_listed_shown_put_back_and_thrown_away(kafka: str, prefix: str, run: Callable[..., Result]) -> None:
    """With numbers, texts and exit codes that a script can trust."""
    ids = park(kafka, prefix)
    assert run("list").stdout == "queue\tletters\ncommand\t1\nmail\t3\n"
    listed = json.loads(run("list", "mail", "--error", "SMTPError", "--json").stdout)["letters"]
    assert [(one["message_id"], one["attempts"], one["replayed"]) for one in listed] == [(i, 1, 0) for i in ids[:2]]
    assert "a long [story]" in run("list", "mail", "--actor", "send_mail", "--since", "1h").stdout
    shown = json.loads(run("show", "mail", ids[1], "--json").stdout)
    assert (shown["body"]["args"], shown["source"], shown["traceback"]) == ([1], f"{prefix}mail/3@1", "in send_mail")
    assert "in send_mail" in run("show", "mail", shown["id"]).stdout
    assert run("replay", "mail", "--all", "--dry-run").stdout == "3 letters would be put back.\n"
    assert run("replay", "mail", ids[0], "--rate", "100").stdout == "1 letter put back.\n"
    missing = run("replay", "mail", ids[0])
    assert (missing.exit_code, missing.stderr) == (2, f"no letter of queue 'mail' waits under {ids[0]}\n")
    refused = run("replay", "command", "--all", "--json")
    assert refused.exit_code == 4
    assert "is ordered" in json.loads(refused.stdout)["refused"][0]["refused"]
    assert run("purge", "mail", "--error", "Crashed").stdout == "1 letter thrown away.\n"
    assert json.loads(run("list", "--json").stdout)["queues"] == [
        {"queue": "command", "letters": 1},
        {"queue": "mail", "letters": 1},
    ]
    unknown = run("list", "nothing")
    assert unknown.exit_code == 1
    assert "there is no queue 'nothing'" in unknown.stderr


def less_than(letters: DeadLetters, count: int) -> bool:
    """Whether fewer letters than that wait."""
    return len(letters.list()) < count


@pytest.mark.slow
def test_a_replay_that_is_killed_and_run_again_puts_each_letter_back_once(kafka: str, prefix: str) -> None:
    """Killed five times at any moment; what it has done shows up no more, and what it has not does."""
    broker = KafkaBroker(kafka, prefix=prefix)
    broker.declare_queue("mail")
    queue = broker.get_queue("mail")
    broker.topics.ensure(queue.topic)
    broker.topics.ensure(queue.dead_letters)
    count = 2000
    letters = []
    for number in range(count):
        message: dramatiq.Message[Any] = dramatiq.Message("mail", "send_mail", (number,), {}, {})
        sent = encode(message, queue.topic.name)
        record = Record(queue.topic.name, 0, number, 0, sent.key, sent.value, sent.headers)
        letters.append(dead_letter(record, queue, error="E", reason="r"))
    broker.producer.send_all(letters)
    waiting = broker.dead_letters("mail")
    command = [sys.executable, str(ROOT / "cli.py"), "dead", "replay", "mail", "--all"]
    environment = {**os.environ, "BROKERS": kafka, "B_TOPIC_PREFIX": prefix}
    for _ in range(5):
        before = len(waiting.list())
        replay = subprocess.Popen([*command, "--rate", "300"], env=environment)
        wait_until(partial(less_than, waiting, before), 30, "the replay to begin")
        replay.kill()
        replay.wait()
    subprocess.run(command, env=environment, check=True, timeout=60)
    assert waiting.list() == []
    found: list[Record] = []
    places = [Place(queue.topic.name, number, from_start=True) for number in range(queue.topic.partitions)]
    reader = TopicReader(broker.client_settings, places, found.append, timeout_s=10)
    assert reader.wait_caught_up(10)
    reader.close()
    broker.close()
    assert sorted(dramatiq.Message.decode(one.value or b"").args[0] for one in found) == list(range(count))
