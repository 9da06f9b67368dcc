"""Dead letters are looked at, put back and thrown away, one by one."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import dramatiq
import pytest
from dramatiq import Worker

from brokers import KafkaBroker
from brokers.dead_letters import dead_letter
from brokers.delays import now_ms
from brokers.errors import LettersBusy, LetterUnknown, WrongTopic
from brokers.letterbox import overview
from brokers.letters import MAX_REPLAYS, Where
from brokers.records import Record, encode
from brokers.replies import Place, TopicReader
from brokers.settling import Settling
from tests.support import unique


if TYPE_CHECKING:
    from collections.abc import Iterator

    from brokers.letterbox import DeadLetters


@pytest.fixture
def broker(kafka: str) -> Iterator[KafkaBroker]:
    """A broker with topics of its own."""
    prefix = unique("letters-")
    broker = KafkaBroker(kafka, prefix=prefix, group_id=prefix)
    yield broker
    broker.close()


def park(broker: KafkaBroker, queue_name: str, *numbers: int, error: str = "ValueError", **headers: bytes) -> None:
    """Put letters on a queue's dead-letter topic, as a worker does."""
    queue = broker.get_queue(queue_name)
    broker.topics.ensure(queue.topic)
    for number in numbers:
        message: dramatiq.Message[Any] = dramatiq.Message(queue_name, "work", (number,), {}, {})
        sent = encode(message, queue.topic.name)
        record = Record(queue.topic.name, 0, number, 0, sent.key, sent.value, {**sent.headers, **headers})
        broker.publish(dead_letter(record, queue, error=error, reason=f"{error}: {number}"), queue.dead_letters)
        at_ms = now_ms()
        while now_ms() == at_ms:  # letters are listed in order of time, and those of one millisecond by their partition
            time.sleep(0.0002)


def numbers(letters: DeadLetters, where: Where | None = None) -> list[int]:
    """The messages that wait."""
    found = letters.list(where or Where())
    return sorted(int(letter.text("xq.offset")) for letter in found)


def put_back(broker: KafkaBroker) -> list[int]:
    """The arguments of the messages that lie on the queue."""
    topic = broker.get_queue("q").topic
    found: list[Record] = []
    places = [Place(topic.name, number, from_start=True) for number in range(topic.partitions)]
    reader = TopicReader(broker.client_settings, places, found.append, timeout_s=10)
    assert reader.wait_caught_up(10)
    reader.close()
    assert all(not name.startswith("xq.") for record in found for name in record.headers)
    return sorted(dramatiq.Message.decode(record.value or b"").args[0] for record in found)


def test_a_message_that_fails_again_comes_back_with_its_history(broker: KafkaBroker) -> None:
    """Its own retries included; and after three replays it takes force."""
    ran: list[bytes] = []
    broken = True

    @dramatiq.actor(broker=broker, max_retries=1, min_backoff=1, max_backoff=1)
    def fragile(number: int) -> None:
        ran.append(b"x")
        if broken:
            raise ValueError(f"run {len(ran)}")

    worker = Worker(broker, worker_timeout=100, worker_threads=2)
    worker.start()
    sent = fragile.send(1)
    broker.join("default", timeout=20_000)
    letters = broker.dead_letters("default")
    for replays in range(MAX_REPLAYS):
        letter = letters.get(sent.message_id)
        assert (letter.replayed, letter.error) == (replays, "ValueError")
        assert letter.attempts == 2
        assert letters.replay().settled == 1
        broker.join("default", timeout=20_000)
    letter = letters.get(sent.message_id)
    history = json.loads(letter.headers["replay.history"])
    assert [entry["reason"] for entry in history] == [f"ValueError: run {n}" for n in (2, 3, 4)]
    [(_, reason)] = letters.replay().refused
    assert "replayed 3 times" in reason
    broken = False
    assert letters.replay(force=True).settled == 1
    broker.join("default", timeout=20_000)
    assert letters.list() == []
    assert len(ran) == 6
    worker.stop()


def test_letters_are_dealt_with_one_by_one(broker: KafkaBroker) -> None:
    """By place, message, error or time; what is dealt with shows up no more, what was parked meanwhile does."""
    broker.declare_queue("q")
    park(broker, "q", *range(6))
    park(broker, "q", 6, 7, error="Crashed")
    letters = broker.dead_letters("q")
    third, fourth = letters.list()[2:4]
    assert letters.replay(Where(frozenset({third.id, fourth.message_id}))).settled == 2
    assert numbers(letters) == [0, 1, 4, 5, 6, 7]
    assert letters.purge(Where(error="Crashed")).settled == 2
    assert letters.replay(Where(actor="nobody")).settled == 0
    assert letters.replay(Where(before_ms=1)).settled == 0
    assert letters.replay(limit=1, rate=1000).settled == 1
    park(broker, "q", 8)
    assert numbers(letters) == [1, 4, 5, 8]
    assert overview(broker) == {"q": 4}
    with pytest.raises(LetterUnknown, match=third.id):
        letters.replay(Where(frozenset({third.id})))
    assert letters.purge().settled == 4
    assert overview(broker) == {"q": 0}
    assert put_back(broker) == [0, 2, 3]


def test_a_purge_frees_the_log_below_what_waits(broker: KafkaBroker) -> None:
    """What is thrown away is gone from the disk as well."""
    broker.declare_queue("q")
    park(broker, "q", *range(20))
    letters = broker.dead_letters("q")
    *older, newest = sorted(letters.list(), key=lambda letter: letter.offset)
    letters.purge(Where(frozenset(letter.id for letter in older)))
    place = (letters.topic, newest.partition)
    assert broker._bounds([place])[place][0] == newest.offset
    letters.purge()
    assert broker._bounds([place])[place][0] > newest.offset


def test_who_comes_later_fences_who_was_first(broker: KafkaBroker) -> None:
    """So a letter is never put back twice, however many replay at once."""
    broker.declare_queue("q")
    park(broker, "q", 1)
    letters = broker.dead_letters("q")
    [letter] = letters.list()
    with Settling(broker.client_settings, letters.topic) as early:
        assert letters.replay().settled == 1
        with pytest.raises(LettersBusy):
            early.commit([letter.again()])
    assert put_back(broker) == [1]


def test_what_cannot_be_put_back_says_why(broker: KafkaBroker) -> None:
    """Order would break, or bytes are missing, or there is no queue."""
    broker.declare_queue("steps", ordered=True)
    broker.declare_queue("q")
    park(broker, "steps", 1)
    park(broker, "q", 1, error="Huge")
    [(_, ordered)] = broker.dead_letters("steps").replay().refused
    assert "is ordered" in ordered
    outside = KafkaBroker(broker.client_settings["bootstrap.servers"], prefix=broker.prefix)
    [(_, ordered)] = outside.dead_letters("steps").replay().refused
    assert "is ordered" in ordered
    assert outside.dead_letters("q").replay().settled == 1
    with pytest.raises(WrongTopic, match="no queue 'nothing'"):
        outside.dead_letters("nothing")
    outside.close()
