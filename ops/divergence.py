"""Where replicas disagree, for `status`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ops.connection import connected
from tasks.checkpoints import disagreements


if TYPE_CHECKING:
    from settings import Settings

#: Seconds for the checkpoints to be read.
READ_S = 8.0


def told(settings: Settings) -> list[str]:
    """What each replica that differs from another has against it, one line each.  Makes no topic.

    Raises:
      KafkaAway: no Kafka server answers.
    """
    with connected(settings) as app:
        if app.broker.topics.partitions(app.command_topic.name) is None:
            return []
        topic_id = app.broker.topics.identity(app.command_topic.name)
        return [str(one) for one in disagreements(app.broker, app.checkpoints_topic, topic_id, timeout_s=READ_S)]
