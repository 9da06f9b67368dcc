"""An application for dramatiq-kafka, or with one import changed for ours: it sends, or works until SIGTERM.

``python -m tests.integration.peer_worker MODULE SERVERS NAME send|work [FIRST COUNT]``
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time

import dramatiq
from dramatiq.middleware import AgeLimit, Callbacks, Pipelines, Retries, TimeLimit


#: Numbers whose actor fails.
BROKEN = frozenset({13})


def main(module: str, servers: str, name: str, what: str, *numbers: str) -> None:
    """Send a range of numbers, or write each one down that has run."""
    broker = importlib.import_module(module).KafkaBroker(
        bootstrap_servers=servers,
        topic=name,
        dead_letter_topic=f"{name}-dead",
        group_id=name,
        middleware=[AgeLimit(), TimeLimit(), Callbacks(), Pipelines(), Retries(max_retries=0)],
    )
    dramatiq.set_broker(broker)

    @dramatiq.actor(queue_name=name)
    def note(number: int) -> None:
        time.sleep(0.005)
        if number in BROKEN:
            raise ValueError(number)
        os.write(1, f"{number}\n".encode())  # one write: lines of several threads stay whole

    if what == "send":
        first, count = map(int, numbers)
        for number in range(first, first + count):
            note.send(number)
    else:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        worker = dramatiq.Worker(broker, worker_threads=2, worker_timeout=100)
        worker.start()
        signal.sigwait({signal.SIGTERM})
        worker.stop()
    broker.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
