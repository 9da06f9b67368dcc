"""Reading a topic from its beginning to its end, as a reader of committed records sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from confluent_kafka import Consumer, TopicPartition

from brokers.received import received
from tests.support import unique


if TYPE_CHECKING:
    from brokers import KafkaBroker
    from brokers.records import Record
    from brokers.topics import TopicSpec


def records_of(broker: KafkaBroker, spec: TopicSpec) -> list[Record]:
    """All that has been committed to the topic; waits for transactions that are open."""
    partitions = broker.topics.ensure(spec)
    client = Consumer(broker.client_settings | {"group.id": unique(), "enable.partition.eof": True})
    client.assign([TopicPartition(spec.name, number, 0) for number in range(partitions)])
    found, ends = [], 0
    while ends < partitions:
        message = client.poll(30)
        assert message is not None, f"nothing more to read of {spec.name}, and no end"
        if message.error():
            ends += 1
        else:
            found.append(received(message))
    client.close()
    return found
