"""Which member of its group a consumer is just now, for Kafka to compare in a transaction."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from brokers.errors import KafkaError


if TYPE_CHECKING:
    from confluent_kafka import Consumer as Client

#: What the client's description of its membership begins with; after it the generation, -1 for none.
MEMBER = b"CGMDv2:"


class NoMember(KafkaError):
    """The consumer is not in its group just now."""


def member_of(client: Client) -> bytes:
    """The consumer's member and generation, for Kafka to compare.

    Raises:
      NoMember: it has none just now, and Kafka would compare nothing.
    """
    told: bytes = client.consumer_group_metadata()  # said to be opaque, and is bytes
    begin = len(MEMBER)
    if not told.startswith(MEMBER) or int.from_bytes(told[begin : begin + 4], sys.byteorder, signed=True) < 0:
        raise NoMember(f"the consumer is not a member of its group just now: {told[:64]!r}")
    return told
