"""One measurement of one task queue, in a process of its own; `queue` asks for them in turn.

    python -m benchmarks.peers '{"peer": "KafkaBroker", "what": "consume", "messages": 20000, "address": "host:port"}'

All peers run the same: an actor that does nothing but count, eight worker threads in one process, no results.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Protocol

from benchmarks.measure import ROOT


if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

THREADS = 8

#: Seconds between two sends on an idle system.
PAUSE_S = 0.02

#: Sends before the first that counts: connections, topics, producer ids.
WARM = 50

#: Seconds without any message after which a peer counts as stuck.
STUCK_S = 15.0


class Counter:
    """What the actor does: count, and note when the first and the last one ran."""

    def __init__(self) -> None:
        self._count = itertools.count(1)
        self._goal = -1
        self.began = self.ended = 0.0
        self.done = threading.Event()
        self.last = 0

    def expect(self, goal: int) -> None:
        """Count to *goal* from now on."""
        self._count, self._goal = itertools.count(1), goal
        self.done.clear()

    def __call__(self) -> None:
        """One more."""
        number = next(self._count)
        self.last = number
        if number == 1:
            self.began = time.perf_counter()
        elif number == self._goal:
            self.ended = time.perf_counter()
            self.done.set()

    def rate(self) -> float:
        """Messages a second, from the first body to the last; of a peer that stops half-way up to there."""
        seen = -1
        while not self.done.wait(STUCK_S):
            if self.last == seen:
                raise RuntimeError(f"stuck after {seen} of {self._goal}")
            seen = self.last
        return (self._goal - 1) / (self.ended - self.began)


count = Counter()
entered: list[float] = []


def run() -> None:
    """The actor that does nothing but count."""
    count()


def enter(sent: float) -> None:
    """The actor that notes how long its message took."""
    entered.append(time.monotonic() - sent)


class Peer(Protocol):
    """A task queue."""

    def send(self) -> None:
        """Enqueue one message for `count`; returns as the peer's own call does."""

    def send_time(self) -> None:
        """Enqueue one that carries the time, for `entered`."""

    def together(self) -> AbstractContextManager[Any]:
        """Enqueue many at once within, where the peer has a way."""

    def work(self) -> None:
        """Start the worker; returns."""


class Dramatiq:
    """Any broker of Dramatiq's."""

    def __init__(self, broker: Any) -> None:
        import dramatiq  # noqa: PLC0415 - a peer's packages are for its own process

        dramatiq.set_broker(broker)
        self._broker = broker
        self._run: Any = dramatiq.actor(queue_name="bench")(run)
        self._enter: Any = dramatiq.actor(queue_name="bench")(enter)

    def send(self) -> None:
        """See `Peer`."""
        self._run.send()

    def send_time(self) -> None:
        """See `Peer`."""
        self._enter.send(time.monotonic())

    def together(self) -> AbstractContextManager[Any]:
        """See `Peer`."""
        return getattr(self._broker, "batching", nullcontext)()

    def work(self) -> None:
        """See `Peer`."""
        import dramatiq  # noqa: PLC0415 - as above

        dramatiq.Worker(self._broker, worker_threads=THREADS).start()


class Celery:
    """Celery, on the transport of the URL."""

    def __init__(self, url: str, **options: Any) -> None:
        import celery  # noqa: PLC0415 - as above

        self._app = celery.Celery("bench", broker=url)
        self._app.conf.update(
            task_ignore_result=True, task_default_queue="bench", broker_connection_retry_on_startup=True, **options
        )

        self._run = self._app.task(run, name="run")
        self._enter = self._app.task(enter, name="enter")

    def send(self) -> None:
        """See `Peer`."""
        self._run.delay()

    def send_time(self) -> None:
        """See `Peer`."""
        self._enter.delay(time.monotonic())

    def together(self) -> AbstractContextManager[Any]:
        """See `Peer`."""
        return nullcontext()

    def work(self) -> None:
        """See `Peer`."""
        options = {"pool": "threads", "concurrency": THREADS, "loglevel": "ERROR", "without_gossip": True}
        worker = self._app.Worker(**options, without_mingle=True, without_heartbeat=True)
        threading.Thread(target=worker.start, daemon=True).start()


def kafka_broker(address: str) -> Peer:
    """Ours."""
    from brokers import KafkaBroker  # noqa: PLC0415 - as above

    run = f"bench-{os.environ['BENCH_RUN']}"
    return Dramatiq(KafkaBroker(address, prefix=f"{run}-", group_id=run))  # no member of another run's group is missed


def stub_broker(address: str) -> Peer:
    """Dramatiq's own loop, without any server."""
    from dramatiq.brokers.stub import StubBroker  # noqa: PLC0415 - as above

    return Dramatiq(StubBroker())


def redis_broker(address: str) -> Peer:
    """Dramatiq on Redis."""
    from dramatiq.brokers.redis import RedisBroker  # noqa: PLC0415 - as above

    broker = RedisBroker(url=address, namespace=f"bench-{os.environ['BENCH_RUN']}")  # type: ignore[no-untyped-call]  # not annotated
    return Dramatiq(broker)


def rabbitmq_broker(address: str) -> Peer:
    """Dramatiq on RabbitMQ, each send confirmed."""
    from dramatiq.brokers.rabbitmq import RabbitmqBroker  # noqa: PLC0415 - as above

    return Dramatiq(RabbitmqBroker(url=address, confirm_delivery=True))


def dramatiq_kafka(address: str) -> Peer:
    """The other Dramatiq broker on Kafka."""
    from confluent_kafka import TopicPartition  # noqa: PLC0415 - as above
    from dramatiq_kafka import KafkaBroker  # noqa: PLC0415 - as above

    make_topic(address, "bench", 1)
    _start_at_the_beginning(address, TopicPartition("bench", 0, 0))
    return Dramatiq(KafkaBroker(bootstrap_servers=address))


def _start_at_the_beginning(address: str, place: Any) -> None:
    """It reads only what is sent after its first worker came, unless its group has an offset."""
    from confluent_kafka import Consumer  # noqa: PLC0415 - as above

    consumer = Consumer({"bootstrap.servers": address, "group.id": "dramatiq"})
    consumer.commit(offsets=[place], asynchronous=False)
    consumer.close()


def make_topic(address: str, name: str, partitions: int) -> None:
    """Make a topic for peers that do not."""
    from confluent_kafka.admin import (  # type: ignore[attr-defined]  # noqa: PLC0415 - public, though not marked so
        AdminClient,
        NewTopic,
    )

    admin = AdminClient({"bootstrap.servers": address})
    for future in admin.create_topics([NewTopic(name, partitions, 1)]).values():
        future.exception(10)  # it may be there already


def celery_redis(address: str) -> Peer:
    """Celery on Redis."""
    return Celery(address)


def celery_kafka(address: str) -> Peer:
    """Celery on Kafka."""
    make_topic(address, "bench", 1)
    return Celery(f"confluentkafka://{address}")


PEERS: dict[str, Callable[[str], Peer]] = {
    "KafkaBroker": kafka_broker,
    "StubBroker": stub_broker,
    "RedisBroker": redis_broker,
    "RabbitmqBroker": rabbitmq_broker,
    "dramatiq-kafka": dramatiq_kafka,
    "Celery on Redis": celery_redis,
    "Celery on Kafka": celery_kafka,
}


def enqueue(peer: Peer, messages: int) -> float:
    """Sends a second of one caller, one after the other."""
    _warm(peer)
    began = time.perf_counter()
    for _ in range(messages):
        peer.send()
    return messages / (time.perf_counter() - began)


def enqueue8(peer: Peer, messages: int) -> float:
    """The same of eight threads."""
    _warm(peer)
    share = messages // THREADS

    def sends(_: int) -> None:
        for _ in range(share):
            peer.send()

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda _: peer.send(), range(THREADS)))  # each thread's own connection
        began = time.perf_counter()
        list(pool.map(sends, range(THREADS)))
        return share * THREADS / (time.perf_counter() - began)


def bulk(peer: Peer, messages: int) -> float:
    """Sends a second when many are sent together."""
    _warm(peer)
    began = time.perf_counter()
    with peer.together():
        for _ in range(messages):
            peer.send()
    return messages / (time.perf_counter() - began)


def consume(peer: Peer, messages: int) -> float:
    """Messages a second of a queue that is full when the worker starts."""
    with peer.together():
        for _ in range(messages):
            peer.send()
    count.expect(messages)
    peer.work()
    return count.rate()


def _warm(peer: Peer) -> None:
    for _ in range(WARM):
        peer.send()


def latency(peer: Peer, messages: int, task: dict[str, Any]) -> list[float]:
    """Seconds from the call of send to the actor, in another process where the peer has one."""
    if task["peer"] == "StubBroker":
        peer.work()
        _send_now_and_then(peer, messages)
        return entered[WARM:]
    command = [sys.executable, "-m", "benchmarks.peers", json.dumps({**task, "what": "serve"})]
    worker = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)  # noqa: S603 - this module
    try:
        _send_now_and_then(peer, messages)
        out, _ = worker.communicate(timeout=STUCK_S)
    finally:
        worker.kill()
    times: list[float] = json.loads(out.splitlines()[-1])
    return times[-messages:]


def _send_now_and_then(peer: Peer, messages: int) -> None:
    for _ in range(WARM):
        peer.send_time()
        time.sleep(PAUSE_S)
    time.sleep(STUCK_S / 5)  # the worker has joined, and done what waited
    for _ in range(messages):
        peer.send_time()
        time.sleep(PAUSE_S)


def serve(peer: Peer, messages: int) -> list[float]:
    """The worker's side of `latency`."""
    peer.work()
    deadline = time.monotonic() + STUCK_S + (messages + WARM) * PAUSE_S * 3
    while len(entered) < messages + WARM and time.monotonic() < deadline:
        time.sleep(PAUSE_S)
    return entered


MEASURES: dict[str, Callable[[Peer, int], Any]] = {
    "enqueue": enqueue,
    "enqueue8": enqueue8,
    "bulk_enqueue": bulk,
    "consume": consume,
    "serve": serve,
}


def main() -> None:
    """Do what the first argument says and print the result."""
    logging.disable(logging.CRITICAL)
    result_file = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a peer prints is no result
    task = json.loads(sys.argv[1])
    os.environ.setdefault("BENCH_RUN", task["run"])  # sender and worker of one measurement meet on one queue
    peer = PEERS[task["peer"]](task["address"])
    if task["what"] == "latency":
        result: Any = latency(peer, task["messages"], task)
    else:
        result = MEASURES[task["what"]](peer, task["messages"])
    print(json.dumps(result), file=result_file, flush=True)
    os._exit(0)  # what a peer still does in its threads is no part of this


if __name__ == "__main__":
    main()
