"""Messages that kill the process that runs them: they are parked, and everybody else is run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import dramatiq
import pytest
from confluent_kafka import TopicPartition
from dramatiq import Worker
from msgspec.structs import replace

from brokers import KafkaBroker
from brokers.clients import Consumer
from brokers.records import encode
from brokers.replies import Place, TopicReader
from tests.integration.broker_worker import Crew, make_broker
from tests.support import unique, wait_until


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from brokers.records import Record


@pytest.fixture
def prefix() -> str:
    """Topics and groups of this test alone."""
    return unique("killer-")


@pytest.fixture
def crew(kafka: str, prefix: str, tmp_path: Path) -> Iterator[Callable[[str], Crew]]:
    """Hires workers for a group protocol."""
    crews: list[Crew] = []

    def hire(protocol: str = "classic") -> Crew:
        crews.append(Crew(kafka, prefix, tmp_path / "log", protocol))
        return crews[-1]

    yield hire
    for one in crews:
        one.close()


@pytest.fixture
def broker(kafka: str, prefix: str) -> Iterator[KafkaBroker]:
    """The sender."""
    broker = make_broker(kafka, prefix)
    yield broker
    broker.close()


def parked(broker: KafkaBroker, queue: str) -> list[Record]:
    """All dead letters."""
    found: list[Record] = []
    spec = broker.get_queue(queue).dead_letters
    places = [Place(spec.name, number, from_start=True) for number in range(broker.topics.ensure(spec))]
    reader = TopicReader(broker.client_settings, places, found.append, timeout_s=10)
    assert reader.wait_caught_up(10)
    reader.close()
    return found


def args_of(letters: list[Record]) -> list[int]:
    """The first argument of each message."""
    return sorted(dramatiq.Message.decode(letter.value or b"").args[0] for letter in letters)


def keep_alive(workers: Crew, count: int) -> None:
    """Start another worker for each that has died."""
    for member in list(workers.members):
        if member.poll() is not None:
            workers.members.remove(member)
    while len(workers.members) < count:
        workers.start()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("protocol", "members", "killers"),
    [("classic", 1, 1), ("classic", 2, 2), ("consumer", 1, 1)],
)
@pytest.mark.timeout(400)
def test_killers_are_parked_and_everybody_else_runs(
    broker: KafkaBroker,
    crew: Callable[[str], Crew],
    record_property: Callable[[str, object], None],
    protocol: str,
    members: int,
    killers: int,
) -> None:
    """Workers are started again as they die; the killers have ended three processes each, and nobody else is parked."""
    workers = crew(protocol)
    good = 400
    with broker.batching():
        for number in range(good):
            broker.get_actor("work").send(number)
            if number % 150 == 75 and number // 150 < killers:
                broker.get_actor("work").send(-1 - number // 150)
    began = time.monotonic()

    def all_done() -> bool:
        keep_alive(workers, members)
        return len(workers.ended()) == good and broker._groups.left(broker.get_queue("work")) == 0

    wait_until(all_done, 350, "the good messages to run and the killers to be parked")
    record_property("seconds", round(time.monotonic() - began, 1))
    letters = parked(broker, "work")
    assert args_of(letters) == sorted(-1 - n for n in range(killers))
    assert {letter.headers["xq.error"] for letter in letters} == {b"Crashed"}
    assert {letter.headers["xq.crashes"] for letter in letters} == {b"3"}
    begun = [line.number for line in workers.lines() if line.what == "begin" and line.number < 0]
    record_property("crashes", len(begun))
    assert len(begun) <= 5 * killers


def commit(broker: KafkaBroker, group_id: str, topic: str, offset: int, metadata: str) -> None:
    """As the former owner of partition 0 did."""
    client = Consumer(broker.client_settings | {"group.id": group_id})
    client.commit(offsets=[TopicPartition(topic, 0, offset, metadata=metadata)], asynchronous=False)
    client.close()


def test_a_new_owner_believes_what_the_dead_one_has_announced(kafka: str, prefix: str) -> None:
    """Twice a process had ended, then a third one with record 1 alone; record 2 had begun once, and runs."""
    broker = KafkaBroker(kafka, prefix=prefix, group_id=prefix)
    broker.declare_queue("default")
    ran: list[int] = []

    @dramatiq.actor(broker=broker)
    def work(number: int) -> None:
        ran.append(number)

    topic = broker.get_queue("default").topic
    broker.topics.ensure(topic)
    for number in range(30):
        broker.publish(replace(encode(work.message(number), topic.name), partition=0), topic)
    commit(broker, prefix, topic.name, 0, "/o1!2,2!1")
    worker = Worker(broker, worker_timeout=100, worker_threads=4)
    worker.start()
    broker.join("default", timeout=30_000)
    worker.stop()
    broker.close()
    assert sorted(ran) == [number for number in range(30) if number != 1]
    [letter] = parked(broker, "default")
    assert args_of([letter]) == [1]
    assert letter.headers["xq.error"] == b"Crashed"
    assert letter.headers["xq.attempts"] == b"3"
    client = Consumer(broker.client_settings | {"group.id": prefix})
    [left] = client.committed([TopicPartition(topic.name, 0)], timeout=10)
    client.close()
    assert (left.offset, (left.metadata or "").rstrip("\0")) == (30, "/c")
