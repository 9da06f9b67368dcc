"""A million delayed messages: how fast they are taken, what they cost in memory, and how late they are fired.

``python -m benchmarks.delayed`` starts a Kafka of its own, or takes the one of ``BROKERS``, and prints one JSON object.

1. *far*: most of the messages are due within a month.  How fast are they enqueued, and what does a worker weigh that
   waits for them?
2. *spread*: 2,000 a second are due for a minute, more than the worker remembers, so that it reads its partitions again
   meanwhile.
3. *burst*: 10,000 more are due in the same millisecond.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import confluent_kafka
import dramatiq
import psutil

from brokers import KafkaBroker, delays, records
from brokers.replies import Place, TopicReader
from ops.stack import Stack
from settings import Settings


if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from brokers.records import Record

MONTH_S = 30 * 86_400
SPREAD_S = 60
SPREAD = 120_000
BURST = 10_000

#: Seconds until the first of them is due, in which they are enqueued and the worker starts and reads: some, and one
#: more for so many messages.  A slow machine needs them.
AHEAD_S = 60
READ_PER_S = 10_000

#: Seconds between two looks.
LOOK_S = 0.2

#: Messages on their way at once.
TOGETHER = 10_000


def make_broker(servers: str, prefix: str) -> KafkaBroker:
    """The broker that sender and worker share."""
    broker = KafkaBroker(servers, prefix=prefix, group_id=prefix, delivery_timeout_s=60)

    @dramatiq.actor(broker=broker)
    def work(number: int) -> None: ...

    return broker


def worker(servers: str, prefix: str) -> None:
    """Fire, and run nothing: what is fired is read from the queue's topic.  Prints each reading of a partition."""
    logger = logging.getLogger("brokers.timers")
    logger.setLevel(logging.DEBUG)
    handler = logging.StreamHandler(sys.stdout)
    handler.addFilter(lambda record: record.msg.startswith("kafka_timer_read"))
    logger.addHandler(handler)
    broker = make_broker(servers, prefix)
    broker._later.work_on(broker.get_queue("default"))  # noqa: SLF001 - a worker would run what is fired, and weigh more
    sys.stdin.read()  # until the other side ends
    broker.close()


@dataclass(frozen=True, slots=True)
class Lateness:
    """Milliseconds from when messages were due until the timer sent them, in a transaction that takes some more."""

    messages: int
    p50: float
    p99: float
    max: float

    @classmethod
    def of(cls, late_ms: Sequence[int]) -> Lateness:
        """Of many."""
        ordered = sorted(late_ms)
        at = [ordered[int(part * (len(ordered) - 1))] for part in (0.5, 0.99, 1.0)]
        return cls(len(ordered), *at)


class Bench:
    """One run."""

    def __init__(self, servers: str, messages: int) -> None:
        self.servers = servers
        self.messages = messages
        self.prefix = f"bench{os.getpid()}-"
        self.broker = make_broker(servers, self.prefix)
        self.queue = self.broker.get_queue("default")
        self.fired: dict[bytes, list[int]] = {}  # by kind of message: how late, in milliseconds
        self.broker.topics.ensure(self.queue.topic)
        self.broker.topics.ensure(self.broker.delayed_topic)

    def run(self) -> dict[str, Any]:
        """All of it."""
        found: dict[str, Any] = {"enqueued_per_s": round(self.messages / self.post(self.far(), self.messages))}
        say(f"enqueued {self.messages:,}: {found['enqueued_per_s']:,} a second")
        ahead_s = AHEAD_S + self.messages / READ_PER_S
        self.post(self.kind("spread", SPREAD, SPREAD_S, in_s=ahead_s), SPREAD)
        self.post(self.kind("first", 1, 0, in_s=0), 1)
        reader = TopicReader(self.broker.client_settings, self.places(), self.take, timeout_s=30)
        process = self.start()
        try:
            found |= self.measure(psutil.Process(process.pid))
        finally:
            said, _ = process.communicate()
            reader.close()
            self.broker.close()
        return found | readings(said)

    def start(self) -> subprocess.Popen[str]:
        """A worker of its own, so that its memory can be told from ours."""
        command = [sys.executable, "-m", "benchmarks.delayed", "--worker", self.servers, self.prefix]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603 - ourselves

    def places(self) -> list[Place]:
        """The queue's partitions."""
        return [Place(self.queue.topic.name, n) for n in range(self.queue.topic.partitions)]

    def take(self, record: Record) -> None:
        """A message that was fired."""
        kind, _, eta = record.headers["message_id"].partition(b"@")
        self.fired.setdefault(kind, []).append(record.timestamp_ms - int(eta.partition(b"/")[0]))

    def measure(self, process: psutil.Process) -> dict[str, Any]:
        """With a worker that has just been started."""
        began = time.monotonic()
        self.wait("first", 1)
        takeover_s, takeover_cpu_s = time.monotonic() - began, cpu_s(process)
        rss_mb = process.memory_info().rss / 2**20
        say(f"all read {takeover_s:.1f} s after the start; the worker has {rss_mb:.0f} MB")
        self.post(self.kind("burst", BURST, 0, in_s=AHEAD_S / 2), BURST)
        most = self.wait("spread", SPREAD, process)
        self.wait("burst", BURST)
        fired_cpu_s, waiting_s = cpu_s(process), time.monotonic()
        found = self.broker.delayed(20)
        waiting_s = time.monotonic() - waiting_s
        return {
            "takeover_s": round(takeover_s, 1),
            "takeover_cpu_s": round(takeover_cpu_s, 1),
            "firing_cpu_s": round(fired_cpu_s - takeover_cpu_s, 1),
            "worker_rss_mb": round(rss_mb),
            "worker_rss_mb_while_firing": round(most),
            "late_ms": {kind: asdict(Lateness.of(self.fired[kind.encode()])) for kind in ("spread", "burst")},
            "listed_s": round(waiting_s, 1),
            "still_waiting": found.total,
        }

    def far(self) -> Iterator[tuple[str, int]]:
        """Due within a month, later than this takes."""
        now = delays.now_ms()
        for number in range(self.messages):
            eta = now + 3_600_000 + number * MONTH_S * 1000 // self.messages
            yield f"far@{eta}/{number}", eta

    def kind(self, name: str, count: int, over_s: float, in_s: float) -> Iterator[tuple[str, int]]:
        """Due from some seconds on, spread over a time."""
        now = delays.now_ms()
        for number in range(count):
            eta = now + int(1000 * (in_s + over_s * number / count))
            yield f"{name}@{eta}/{number}", eta

    def post(self, messages: Iterator[tuple[str, int]], count: int) -> float:
        """Put them on the delayed topic, confirmed; how many seconds it took."""
        began = time.monotonic()
        spec, producer = self.broker.delayed_topic, self.broker.producer
        batch = []
        for message_id, eta_ms in messages:
            message = self.broker.get_actor("work").message(1).copy(message_id=message_id)
            record = records.encode(message, self.queue.topic.name)
            batch.append(producer.post(delays.delayed(record, eta_ms, spec)))
            if len(batch) == TOGETHER:
                for pending in batch:
                    producer.confirm(pending)
                batch = []
        for pending in batch:
            producer.confirm(pending)
        return time.monotonic() - began

    def wait(self, kind: str, count: int, process: psutil.Process | None = None) -> float:
        """Until so many of that kind are fired; the most memory that the worker had meanwhile, in MB."""
        deadline, most = time.monotonic() + 300, 0.0
        while len(self.fired.get(kind.encode(), ())) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(self.fired.get(kind.encode(), ()))} of {count} {kind} fired")
            if process is not None:
                most = max(most, process.memory_info().rss / 2**20)
            time.sleep(LOOK_S)
        return most


def readings(said: str) -> dict[str, Any]:
    """What the worker says about its readings: of the first ones, which go on together, how fast they were."""
    found = [(int(end), float(seconds)) for end, seconds in re.findall(r"end=(\d+) seconds=([\d.]+)", said)]
    first = found[: delays.PARTITIONS]
    slowest_s = max(seconds for _, seconds in first)
    return {
        "readings": len(found),
        "first_reading_s": slowest_s,
        "read_per_s": round(sum(e for e, _ in first) / slowest_s),
    }


def cpu_s(process: psutil.Process) -> float:
    """Seconds of CPU that it has used: other programs on the machine do not count."""
    times = process.cpu_times()
    return float(times.user + times.system)


def say(text: str) -> None:
    """For whoever waits."""
    print(text, file=sys.stderr, flush=True)


def versions() -> dict[str, Any]:
    """What was measured, and on what."""
    return {
        "python": platform.python_version(),
        "dramatiq": version("dramatiq"),
        "confluent-kafka": confluent_kafka.__version__,
        "librdkafka": confluent_kafka.libversion()[0],
        "machine": f"{os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GB",
    }


def main() -> None:
    """Run, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--messages", type=int, default=1_000_000, help="how many wait")
    parser.add_argument("--json", action="store_true", help="accepted for uniformity; it always is")
    parser.add_argument("--worker", nargs=2, metavar=("SERVERS", "PREFIX"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(*options.worker)
        return
    settings = Settings()
    if "brokers" in settings.model_fields_set:
        report(settings.brokers, options.messages)
        return
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder))
        stack.start("kafka")
        try:
            report(next(row.uri for row in stack.status() if row.name == "kafka"), options.messages)
        finally:
            stack.down()


def report(servers: str, messages: int) -> None:
    """Measure and print."""
    print(json.dumps({"benchmark": "delayed", "messages": messages, **versions(), **Bench(servers, messages).run()}))


if __name__ == "__main__":
    main()
