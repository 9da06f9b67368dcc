"""How fast a share group takes messages, beside a consumer group.

``python -m benchmarks.share`` starts a Kafka of its own, or takes the one of ``BROKERS``; ``--json`` prints one JSON
object.  One worker of eight threads, a no-op actor, messages that were sent one by one and messages that were sent
together; the clock runs from the first message that is run to the last.
"""

from __future__ import annotations

import argparse
import json
import logging
import threading
import time
import uuid
from contextlib import nullcontext

import dramatiq

from benchmarks.forward import THREADS, kafka
from brokers import KafkaBroker


#: Longest wait for one rate, in seconds.
PATIENCE_S = 120.0


def measure(servers: str, count: int, *, share: bool, together: bool) -> float:
    """Messages that have run per second."""
    prefix = f"share-{uuid.uuid4().hex[:8]}-"
    broker = KafkaBroker(servers, prefix=prefix, group_id=prefix)
    times: list[float] = []
    ended = threading.Event()

    @dramatiq.actor(broker=broker, share=share)
    def note() -> None:
        times.append(time.monotonic())
        if len(times) >= count:
            ended.set()

    with broker.batching() if together else nullcontext():
        for _ in range(count):
            note.send()
    worker = dramatiq.Worker(broker, worker_threads=THREADS, worker_timeout=100)
    worker.start()
    if not ended.wait(PATIENCE_S):
        raise TimeoutError(f"{len(times)} of {count} messages have run in {PATIENCE_S:g} s")
    worker.stop()
    broker.close()
    return count / (times[-1] - times[0])


def main() -> None:
    """Measure, and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--count", type=int, default=3000, help="messages for each rate")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    rates = {}
    with kafka() as servers:
        for together in (False, True):
            for share in (False, True):
                name = f"{'share' if share else 'consumer'} group, sent {'together' if together else 'one by one'}"
                rates[name] = round(measure(servers, options.count, share=share, together=together))
    if options.json:
        print(json.dumps({"messages_per_second": rates, "messages": options.count, "threads": THREADS}))
    else:
        for name, rate in rates.items():
            print(f"{name:36} {rate:8,} messages/s")


if __name__ == "__main__":
    main()
