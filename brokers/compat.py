"""For applications that were written for dramatiq-kafka: they change one import, and nothing else.

    from dramatiq_kafka import KafkaBroker  →  from brokers.compat import KafkaBroker

Topics, groups and messages are the same, so that either reads what the other has written; a group goes on where
the other one's commits end.  Members of both in one group at a time are refused by Kafka, whose protocols they do not
share: stop the old workers first.

What is different is what was wrong there: every declared queue is read, not only *topic*; an ack is for its own
message; a delay is in milliseconds, and nobody sleeps through it; what fails for good is parked also without
*dead_letter_topic*; a group without commits begins at the start of the log, not at its end; two constructions make two
brokers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from brokers.errors import WrongSetting
from brokers.kafka import KafkaBroker as _KafkaBroker


if TYPE_CHECKING:
    from collections.abc import Sequence

    from dramatiq.middleware import Middleware


class KafkaBroker(_KafkaBroker):
    """`brokers.KafkaBroker`, made with dramatiq-kafka's parameters.

    Parameters:
      bootstrap_servers: ``host:port,host:port``, or a list of such.
      topic: a queue that workers read besides those of their actors.
      dead_letter_topic: where every queue parks its messages; without it each on ``<queue>.XQ``.
      group_id: the consumer group.
      middleware: as in Dramatiq.
      partitions: not supported.
      settings: any other parameter of `brokers.KafkaBroker`.

    Raises:
      WrongSetting: *partitions* was asked for; gevent has replaced Python's threads.
    """

    def __init__(
        self,
        *,
        bootstrap_servers: str | Sequence[str] | None = None,
        topic: str = "default",
        dead_letter_topic: str | None = None,
        group_id: str = "default",
        middleware: Sequence[Middleware] | None = None,
        partitions: Sequence[int] | None = None,
        **settings: Any,
    ) -> None:
        if partitions:
            raise WrongSetting(
                f"partitions={list(partitions)} would make every process run the same messages: leave it out, and the"
                f" members of group {group_id!r} share the partitions of {topic!r}"
            )
        servers = bootstrap_servers or "localhost:9092"
        self._parked_on = dead_letter_topic
        super().__init__(
            servers if isinstance(servers, str) else ",".join(servers),
            group_id=group_id,
            middleware=middleware,
            **settings,
        )
        self.declare_queue(topic)

    def declare_queue(self, queue_name: str, **options: Any) -> None:
        """As in `brokers.KafkaBroker`; its messages are parked on *dead_letter_topic*, if there is one."""
        super().declare_queue(queue_name, **options)
        self.queues[queue_name] = replace(self.queues[queue_name], parked_on=self._parked_on)
