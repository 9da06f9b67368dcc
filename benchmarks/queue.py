"""How fast the broker carries messages, beside Dramatiq's other brokers and other task queues on the same servers.

    python -m benchmarks.queue --json

Every measurement runs in a process of its own; all peers take their turns, three times, and medians count.  Before that
ours runs once and is not counted: a Kafka that has just started spends more on compiling itself than on messages, and
one that serves does not start every minute.  Only ratios of one run mean something: absolute numbers belong to one
machine and one day.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from benchmarks import rabbitmq
from benchmarks.measure import alone, median, note, quantile, servers, versions


if TYPE_CHECKING:
    from collections.abc import Mapping

#: What is measured of whom, with how many messages: a few seconds each.
PLAN: dict[str, dict[str, int]] = {
    "enqueue": {
        "KafkaBroker": 4000,
        "StubBroker": 40_000,
        "RedisBroker": 8000,
        "RabbitmqBroker": 2000,
        "dramatiq-kafka": 2000,
        "Celery on Redis": 3000,
        "Celery on Kafka": 3000,
    },
    "enqueue8": {"KafkaBroker": 16_000, "StubBroker": 40_000, "RedisBroker": 16_000, "RabbitmqBroker": 4000},
    "bulk_enqueue": {"KafkaBroker": 100_000, "StubBroker": 100_000},
    "consume": {
        "KafkaBroker": 100_000,
        "StubBroker": 100_000,
        "RedisBroker": 10_000,
        "RabbitmqBroker": 10_000,
        "dramatiq-kafka": 1000,
        "Celery on Redis": 3000,
        "Celery on Kafka": 100,
    },
    "latency": {"KafkaBroker": 300, "StubBroker": 300, "RedisBroker": 300, "RabbitmqBroker": 300},
}

#: The round that does not count.
WARM = 0

#: Ratios of medians: what of whom over what of whom, and the least that it should be.
RATIOS = {
    "consume_vs_stub": ("consume", "KafkaBroker", "consume", "StubBroker", 0.9),
    "consume_vs_redis": ("consume", "KafkaBroker", "consume", "RedisBroker", 5),
    "bulk_enqueue_vs_stub": ("bulk_enqueue", "KafkaBroker", "bulk_enqueue", "StubBroker", 0.8),
    "enqueue8_vs_redis8": ("enqueue8", "KafkaBroker", "enqueue8", "RedisBroker", 1.2),
}

#: Most milliseconds from the call of send to the actor, at the median.
LATENCY_P50_MS = 2

PACKAGES = ("dramatiq", "confluent-kafka", "redis", "pika", "celery", "kombu", "dramatiq-kafka")


def measure(addresses: Mapping[str, str], rounds: int) -> tuple[dict[str, Any], dict[str, str]]:
    """All values of each measurement of each peer, and what failed."""
    found: dict[str, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    failed: dict[str, str] = {}
    for number in range(rounds + 1):
        for what, peers in PLAN.items():
            for peer, messages in peers.items():
                if peer not in addresses or f"{peer}: {what}" in failed or (number == WARM and peer != "KafkaBroker"):
                    continue
                task = {
                    "peer": peer,
                    "what": what,
                    "messages": messages,
                    "address": addresses[peer],
                    "run": f"{what}{number}",
                }
                began = time.monotonic()
                try:
                    value = alone("benchmarks.peers", task)
                except RuntimeError as error:
                    failed[f"{peer}: {what}"] = str(error).splitlines()[-1]
                else:
                    if number != WARM:
                        found[what][peer].append(value)
                note(f"{number}/{rounds}  {what:12}  {peer:16}  {time.monotonic() - began:5.1f} s")
    return found, failed


def results(found: Mapping[str, Mapping[str, list[Any]]]) -> dict[str, dict[str, Any]]:
    """Medians: messages a second, and milliseconds."""
    told: dict[str, dict[str, Any]] = {}
    for what, peers in found.items():
        for peer, values in peers.items():
            if what == "latency":
                told.setdefault("latency_ms", {})[peer] = {
                    name: median(1000 * quantile(times, share) for times in values)
                    for name, share in (("p50", 0.5), ("p99", 0.99))
                }
            else:
                told.setdefault(f"{what}_per_s", {})[peer] = median(values)
    return told


def ratios(told: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Every ratio that has both its sides, and the latency."""
    answer = {}
    for name, (what, peer, other_what, other, _) in RATIOS.items():
        ours, theirs = told.get(f"{what}_per_s", {}).get(peer), told.get(f"{other_what}_per_s", {}).get(other)
        if ours and theirs:
            answer[name] = float(f"{ours / theirs:.3g}")
    latency = told.get("latency_ms", {}).get("KafkaBroker")
    if latency:
        answer |= {"latency_p50_ms": latency["p50"], "latency_p99_ms": latency["p99"]}
    return answer


def missed(found: Mapping[str, float]) -> list[str]:
    """The ratios that are not what they should be."""
    short = [
        f"{name} {found[name]} < {least}" for name, (*_, least) in RATIOS.items() if found.get(name, least) < least
    ]
    late = found.get("latency_p50_ms", 0) > LATENCY_P50_MS
    return short + ([f"latency_p50_ms {found['latency_p50_ms']} > {LATENCY_P50_MS}"] if late else [])


def main() -> None:
    """Measure, and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured (default: 3)")
    parser.add_argument("--peers", help="only these, comma separated")
    arguments = parser.parse_args()
    with ExitStack() as running:
        local = running.enter_context(servers("kafka", "redis"))
        addresses = dict.fromkeys(("KafkaBroker", "dramatiq-kafka", "Celery on Kafka"), local["kafka"])
        addresses |= {"StubBroker": "", **dict.fromkeys(("RedisBroker", "Celery on Redis"), local["redis"])}
        if rabbitmq.installed():
            addresses["RabbitmqBroker"] = running.enter_context(rabbitmq.rabbitmq())
        if arguments.peers:
            addresses = {peer: addresses[peer] for peer in arguments.peers.split(",")}
        found, failed = measure(addresses, arguments.rounds)
    told = results(found)
    answer = {
        "versions": versions(PACKAGES),
        "results": told,
        "ratios": ratios(told),
        "missed": missed(ratios(told)),
        "failed": failed,
    }
    if arguments.json:
        print(json.dumps(answer))
    else:
        print(json.dumps(answer, indent=2))


if __name__ == "__main__":
    main()
