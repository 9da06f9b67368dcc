"""Kafka as a Dramatiq broker: this package carries, and knows nothing of what is carried.

``KafkaBroker`` is all that an application needs, with ``cron`` and ``every`` for periodic actors; the other modules are
named after the one idea that each holds.
"""

from __future__ import annotations

from brokers.async_sending import send_async, send_with_options_async
from brokers.batches import BatchFailed
from brokers.kafka import KafkaBroker
from brokers.periodic import cron, every


__all__ = ["BatchFailed", "KafkaBroker", "cron", "every", "send_async", "send_with_options_async"]
