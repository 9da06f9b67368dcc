"""A worker process for the tests of control: its actors take as long as they are told to."""

from __future__ import annotations

import os
import signal
import sys
import time

import dramatiq

from brokers import KafkaBroker
from tests.integration import broker_worker


#: Queues of the actor ``nap``, one for each test that the workers serve.
NAPS = ("first", "second", "third")


def make_broker(servers: str, prefix: str, protocol: str = "classic") -> KafkaBroker:
    """The broker that callers and workers share: an actor ``nap.<queue>`` for each queue, and the ordered ``step``."""
    broker = KafkaBroker(servers, prefix=prefix, group_id=f"{prefix}workers", group_protocol=protocol)
    out = os.open(os.environ["WORKER_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND) if "WORKER_LOG" in os.environ else 2

    def note(what: str, number: int) -> None:
        os.write(out, f"{what} {number} {os.getpid()}\n".encode())

    def nap(number: int, seconds: float = 0) -> None:
        note("begin", number)
        deadline = time.monotonic() + seconds
        try:
            while time.monotonic() < deadline:
                time.sleep(0.01)
        except BaseException:
            note("interrupted", number)
            raise
        note("end", number)

    for queue in NAPS:
        dramatiq.actor(broker=broker, queue_name=queue, actor_name=f"nap.{queue}")(nap)

    @dramatiq.actor(broker=broker, queue_name="steps", ordered=True)
    def step(number: int) -> None:
        nap(number)

    return broker


class Crew(broker_worker.Crew):
    """Processes of this module."""

    module = "tests.integration.control_worker"


def main() -> None:
    """Work until SIGTERM."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # in all threads to come; only `sigwait` takes it
    broker_worker.serve(make_broker(*sys.argv[1:]))


if __name__ == "__main__":
    main()
