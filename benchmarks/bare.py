"""The least code that does what a worker or a caller does, on the same clients: what is above it cannot be reached.

No order that survives a crash, no confirmed sends, no levels, no limits, no guard: nothing but Kafka's client, JSON and
Neo4j's driver.
"""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
from confluent_kafka import Consumer, Producer, TopicPartition

from benchmarks.measure import ROOT
from replica.driver import connect


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import neo4j

    from settings import Settings

    #: Asks for a node by its id.
    Ask = Callable[[int], object]

#: Queries that run at a time.
THREADS = 8
#: Seconds of a poll.
POLL_S = 1.0


def _consumer(servers: str, group: str) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "fetch.queue.backoff.ms": 10,
        }
    )


def _producer(servers: str) -> Producer:
    return Producer({"bootstrap.servers": servers, "linger.ms": 0, "acks": "all", "enable.idempotence": True})


@contextmanager
def asking(servers: str, requests: str, replies: str, partition: int, text: str) -> Iterator[Ask]:
    """A caller who is answered on a partition of its own."""
    producer, consumer = _producer(servers), _consumer(servers, f"bare-{uuid.uuid4()}")
    end = consumer.get_watermark_offsets(TopicPartition(replies, partition))[1]
    consumer.assign([TopicPartition(replies, partition, end)])

    def ask(number: int) -> object:
        question = {"text": text, "parameters": {"id": number}, "partition": partition}
        producer.produce(requests, msgspec.json.encode(question))
        producer.poll(0)
        while True:
            message = consumer.poll(POLL_S)
            if message is not None and message.error() is None:
                return msgspec.json.decode(message.value() or b"")

    try:
        yield ask
    finally:
        consumer.close()


def answer(driver: neo4j.Driver, settings: Mapping[str, Any]) -> None:
    """Take queries of a topic, run them, and send the rows to the partition that each names."""
    producer, consumer = _producer(settings["servers"]), _consumer(settings["servers"], settings["group"])
    consumer.subscribe([settings["requests"]])

    def run(value: bytes) -> None:
        asked = msgspec.json.decode(value)
        with driver.session(default_access_mode="READ") as session:
            rows = session.run(asked["text"], asked["parameters"]).data()
        producer.produce(settings["replies"], msgspec.json.encode(rows), partition=asked["partition"])

    with ThreadPoolExecutor(THREADS) as threads:
        while True:
            message = consumer.poll(POLL_S)
            producer.poll(0)
            if message is not None and message.error() is None:
                threads.submit(run, message.value() or b"")


def apply(driver: neo4j.Driver, settings: Mapping[str, Any]) -> None:
    """Take commands of a topic, all of one text, and write each batch with its offset in one transaction."""
    consumer = _consumer(settings["servers"], settings["group"])
    consumer.assign([TopicPartition(settings["commands"], 0, 0)])
    text = f"{settings['unwind']} WITH count(*) AS n MERGE (m:Bare {{group: $group}}) SET m.offset = $offset"
    with driver.session() as session:
        while True:
            messages = [one for one in consumer.consume(settings["batch"], 0.01) if one.error() is None]
            rows = [row for one in messages if (row := msgspec.json.decode(one.value() or b"")["kwargs"])]
            if rows:
                session.run(text, rows=rows, group=settings["group"], offset=messages[-1].offset()).consume()


@contextmanager
def worker(kind: str, settings: Settings, **task: Any) -> Iterator[None]:
    """One in a process of its own: what `answer` or `apply` is to do, on the servers of *settings*."""
    login = {"uri": settings.neo4j_uri, "user": settings.neo4j_user, "password": settings.neo4j_password}
    command = [sys.executable, "-m", "benchmarks.bare", kind]
    with subprocess.Popen(  # noqa: S603 - this module
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True
    ) as process:
        if process.stdin is not None:
            process.stdin.write(json.dumps({"servers": settings.brokers, **login, **task}) + "\n")
            process.stdin.flush()
        try:
            yield
        finally:
            process.kill()


def main() -> None:
    """One worker."""
    settings = json.loads(sys.stdin.readline())
    with connect(settings["uri"], settings["user"], settings["password"]) as driver:
        {"query": answer, "apply": apply}[sys.argv[1]](driver, settings)


if __name__ == "__main__":
    main()
