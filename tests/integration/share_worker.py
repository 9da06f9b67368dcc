"""A worker process of a share queue; the message ``die`` kills it."""

from __future__ import annotations

import os
import signal
import sys

import dramatiq

from brokers import KafkaBroker, share
from tests.integration.broker_worker import serve


def make_broker(servers: str, prefix: str, lock_s: str = "15") -> KafkaBroker:
    """The broker that caller and workers share, with one actor, ``note``."""
    lock = float(lock_s)
    share.GROUP_CONFIG["share.record.lock.duration.ms"] = str(int(lock * 1000))
    share.BEGIN_S, share.RUN_S = lock / 5, lock / 2
    broker = KafkaBroker(servers, prefix=prefix, group_id=prefix)
    out = os.open(os.environ["WORKER_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND) if "WORKER_LOG" in os.environ else 2

    @dramatiq.actor(broker=broker, queue_name="notes", share=True, max_retries=0)
    def note(number: int) -> None:
        os.write(out, f"begin {number} {os.getpid()}\n".encode())
        if number < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        os.write(out, f"end {number} {os.getpid()}\n".encode())

    return broker


def main() -> None:
    """Work until SIGTERM."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # in all threads to come; only `sigwait` takes it
    serve(make_broker(*sys.argv[1:]))


if __name__ == "__main__":
    main()
