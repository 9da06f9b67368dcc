"""An ordinary actor beside the queries of a worker, for tests of a Kafka that asks who is there."""

from __future__ import annotations

import dramatiq

import tasks
from brokers.records import Outgoing
from brokers.waiter import CORRELATION


@dramatiq.actor(max_retries=1, min_backoff=100, max_backoff=100)
def echo(text: str, *, fail_first: bool = False) -> None:
    """Answer on the callers' topic, on every partition, under *text*; the first time perhaps not."""
    message = dramatiq.middleware.CurrentMessage.get_current_message()
    if fail_first and message is not None and not message.options.get("retries"):
        raise RuntimeError("the first time")
    spec = tasks.app.callers_topic
    for partition in range(tasks.broker.topics.ensure(spec)):
        tasks.broker.publish(Outgoing(spec.name, b"{}", None, {CORRELATION: text.encode()}, partition), spec)
