"""What it costs, or saves, to forward and ack in one Kafka transaction.

``python -m benchmarks.forward`` starts a Kafka of its own, or takes the one of ``BROKERS``; ``--json`` prints one JSON
object.

No-op actors, whose every message leads to another one: the next step of a pipeline, or one retry.  A broker that waits
for the confirmation of what it forwards, and one that forwards in transactions, do the same in turn, with one worker of
eight threads.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import tempfile
import time
import uuid
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dramatiq
from dramatiq.errors import Retry
from dramatiq.middleware import CurrentMessage, Pipelines, Retries

from brokers import KafkaBroker
from ops.stack import Stack
from settings import Settings


if TYPE_CHECKING:
    from collections.abc import Iterator

THREADS = 8
QUEUES = ("first", "second", "again")

#: Longest wait for one round, in milliseconds.
PATIENCE_MS = 120_000


@contextmanager
def kafka() -> Iterator[str]:
    """The Kafka of ``BROKERS``, or one of our own for as long as it is needed."""
    settings = Settings()
    if "brokers" in settings.model_fields_set:
        yield settings.brokers
        return
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder), short_lived=True)
        try:
            stack.start("kafka")
            yield next(row.uri for row in stack.status() if row.name == "kafka")
        finally:
            stack.down()


def make_broker(servers: str, *, transactional: bool) -> KafkaBroker:
    """A broker with topics of its own, which are there."""
    prefix = f"forward-{uuid.uuid4().hex[:8]}-"
    middleware = [Pipelines(), Retries()]
    broker = KafkaBroker(servers, prefix=prefix, group_id=prefix, middleware=middleware, transactional=transactional)

    @dramatiq.actor(broker=broker, queue_name="first")
    def first() -> None: ...

    @dramatiq.actor(broker=broker, queue_name="second")
    def second(_: object) -> None: ...

    @dramatiq.actor(broker=broker, queue_name="again", max_retries=1)
    def again(number: int) -> None:
        message = CurrentMessage.get_current_message()
        if message is not None and not message.options.get("retries"):
            raise Retry(str(number), delay=0)

    broker.add_middleware(CurrentMessage())
    for name in QUEUES:
        broker.topics.ensure(broker.get_queue(name).topic)
    return broker


def send(broker: KafkaBroker, kind: str, count: int) -> None:
    """*count* messages, each of which leads to another one."""
    first, second, again = (broker.get_actor(name) for name in QUEUES)
    with broker.batching():
        for number in range(count):
            if kind == "retry":
                again.send(number)
            else:
                pipeline: Any = dramatiq.pipeline([first.message(), second.message()], broker=broker)
                pipeline.run()


def measure(servers: str, kind: str, count: int, *, transactional: bool) -> float:
    """Messages that have run, those that were forwarded included, per second."""
    broker = make_broker(servers, transactional=transactional)
    worker = dramatiq.Worker(broker, worker_threads=THREADS, worker_timeout=100)
    send(broker, kind, 1)
    worker.start()  # and joins its group, before the clock runs
    for name in QUEUES:
        broker.join(name, timeout=PATIENCE_MS)
    began = time.monotonic()
    send(broker, kind, count)
    for name in QUEUES:
        broker.join(name, timeout=PATIENCE_MS)
    took = time.monotonic() - began
    worker.stop()
    broker.close()
    return 2 * count / took


def compare(servers: str, count: int, rounds: int) -> dict[str, Any]:
    """Each kind both ways, in turn, so that a slow moment of the machine meets both; the best of the rounds."""
    rates: dict[str, float] = {}
    for _ in range(rounds):
        for kind in ("pipeline", "retry"):
            for transactional in (False, True):
                name = f"{kind}, {'transactional' if transactional else 'confirmed'}"
                rate = measure(servers, kind, count, transactional=transactional)
                rates[name] = max(rates.get(name, 0), round(rate))
    return {
        "messages_per_second": rates,
        "messages": 2 * count,
        "rounds": rounds,
        "threads": THREADS,
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "confluent_kafka": version("confluent-kafka"),
    }


def main() -> None:
    """Measure, and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--count", type=int, default=3000, help="messages that are sent for each rate")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    with kafka() as servers:
        told = compare(servers, options.count, options.rounds)
    if options.json:
        print(json.dumps(told))
    else:
        for name, rate in told["messages_per_second"].items():
            print(f"{name:24} {rate:8,} messages/s")


if __name__ == "__main__":
    main()
