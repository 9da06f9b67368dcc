"""A process that asks all the time who reads a queue, and says each time that it was told: a line, with the names.

``python -m tests.integration.group_asker SERVERS PREFIX QUEUE``
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from typing import NoReturn

import dramatiq

from brokers import KafkaBroker
from brokers.errors import Unreachable


def ask(broker: KafkaBroker, queue: str) -> NoReturn:
    """For ever."""
    while True:
        with contextlib.suppress(Unreachable):
            sys.stdout.write(" ".join(sorted(broker.holders(queue))) + "\n")
            sys.stdout.flush()
        time.sleep(0.05)


def main(servers: str, prefix: str, queue: str) -> NoReturn:
    """See above."""
    broker = KafkaBroker(servers, prefix=prefix, group_id=prefix, delivery_timeout_s=2)

    @dramatiq.actor(broker=broker, queue_name=queue)
    def nothing() -> None: ...

    for _ in range(3):
        threading.Thread(target=ask, args=(broker, queue), daemon=True).start()
    ask(broker, queue)


if __name__ == "__main__":
    main(*sys.argv[1:])
