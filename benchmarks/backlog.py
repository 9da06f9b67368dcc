"""A million messages wait: how soon does a worker begin, how fast does it go, and does its memory stay flat?

    python -m benchmarks.backlog --json

One worker process with eight threads reads a full queue; the actor does nothing.  The beginning is counted from the
start of the process, imports included.  Memory is what the process has resident, looked at each tenth of the way; the
first tenth is what a worker weighs that is at work.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import threading
import time
from typing import Any

import psutil

from benchmarks.measure import ROOT, note, servers, versions


MESSAGES = 1_000_000
THREADS = 8
TENTHS = 10

#: Most seconds from the start of the process to the first message, and most of the first tenth's memory at the end.
STARTS_IN_S = 5
GROWS_BY = 1.1

#: Longest run, in seconds.
LIMIT_S = 900


def make_broker(address: str, work: Any) -> Any:
    """The broker that both sides share."""
    import dramatiq  # noqa: PLC0415 - the worker's start is measured

    from brokers import KafkaBroker  # noqa: PLC0415 - as above

    broker = KafkaBroker(address, prefix="backlog-")
    dramatiq.actor(broker=broker, actor_name="work", queue_name="backlog")(work)
    return broker


def fill(address: str, messages: int) -> float:
    """Messages a second that are enqueued."""
    broker = make_broker(address, print)
    actor = broker.get_actor("work")
    actor.send()
    began = time.perf_counter()
    with broker.batching():
        for _ in range(messages - 1):
            actor.send()
    rate = messages / (time.perf_counter() - began)
    broker.close()
    return rate


def work(address: str, messages: int) -> None:
    """The worker's process: prints a line of JSON at the first message and at each tenth."""
    logging.disable(logging.CRITICAL)
    process, done = psutil.Process(), threading.Event()
    lock, seen = threading.Lock(), 0

    def one() -> None:
        nonlocal seen
        with lock:
            seen += 1
            number = seen
        if number == 1 or number % (messages // TENTHS) == 0:
            told = {"done": number, "at_s": time.time(), "rss_mb": process.memory_info().rss / 2**20}
            print(json.dumps(told), flush=True)
        if number == messages:
            done.set()

    broker = make_broker(address, one)
    import dramatiq  # noqa: PLC0415 - as above

    worker = dramatiq.Worker(broker, worker_threads=THREADS)
    worker.start()
    done.wait(LIMIT_S)
    worker.stop()
    broker.close()


def measure(address: str, messages: int) -> dict[str, Any]:
    """Fill the queue, and watch a worker empty it."""
    enqueued = fill(address, messages)
    note(f"{messages:,} messages wait, {enqueued:,.0f}/s")
    began = time.time()
    command = [sys.executable, "-m", "benchmarks.backlog", "--work", address, "--messages", str(messages)]
    told: list[dict[str, float]] = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as worker:  # noqa: S603 - this module
        for line in worker.stdout or ():
            told.append(json.loads(line))
            note(f"{told[-1]['done']:>9,.0f} done, {told[-1]['rss_mb']:.0f} MB")
    if not told or told[-1]["done"] != messages:
        raise SystemExit(f"the worker ended after {told[-1]['done'] if told else 0:,.0f} of {messages:,} messages")
    first, *tenths = told
    return {
        "enqueue_per_s": round(enqueued),
        "consume_per_s": round((messages - 1) / (tenths[-1]["at_s"] - first["at_s"])),
        "starts_in_s": round(first["at_s"] - began, 2),
        "rss_mb": [round(one["rss_mb"], 1) for one in tenths],
    }


def main() -> None:
    """Measure, and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, on one line")
    parser.add_argument("--messages", type=int, default=MESSAGES, help=f"default: {MESSAGES:,}")
    parser.add_argument("--work", metavar="ADDRESS", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work, arguments.messages)
        return
    with servers("kafka") as local:
        found = measure(local["kafka"], arguments.messages)
    ratios = {
        "starts_in_s": found["starts_in_s"],
        "memory_growth": round(found["rss_mb"][-1] / found["rss_mb"][0], 3),
    }
    missed = [
        f"{name} {ratios[name]} > {most}"
        for name, most in (("starts_in_s", STARTS_IN_S), ("memory_growth", GROWS_BY))
        if ratios[name] > most
    ]
    answer = {
        "versions": versions(("dramatiq", "confluent-kafka")),
        "results": found,
        "ratios": ratios,
        "missed": missed,
    }
    print(json.dumps(answer, indent=None if arguments.json else 2))


if __name__ == "__main__":
    main()
