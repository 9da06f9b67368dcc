"""A worker process on a transactional broker: pipelines of three steps, and messages that fail once."""

from __future__ import annotations

import signal
import sys

import dramatiq
from dramatiq.middleware import AgeLimit, Callbacks, Pipelines, Retries, TimeLimit

from brokers import KafkaBroker
from tests.integration.broker_worker import serve


def make_broker(servers: str, prefix: str, transactional: str = "yes") -> KafkaBroker:
    """The broker that caller and workers share: ``first``, ``second`` and ``last``, each on a queue of its own."""
    middleware = [AgeLimit(), TimeLimit(), Callbacks(), Pipelines(), Retries(min_backoff=1, max_backoff=2)]
    broker = KafkaBroker(
        servers,
        prefix=prefix,
        group_id=f"{prefix}workers",
        middleware=middleware,
        transactional=transactional == "yes",
    )

    @dramatiq.actor(broker=broker, queue_name="first")
    def first(number: int) -> int:
        return number

    @dramatiq.actor(broker=broker, queue_name="second")
    def second(number: int) -> int:
        return number

    @dramatiq.actor(broker=broker, queue_name="last")
    def last(number: int) -> None: ...

    return broker


def main() -> None:
    """Work until SIGTERM."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # in all threads to come; only `sigwait` takes it
    serve(make_broker(*sys.argv[1:]))


if __name__ == "__main__":
    main()
