"""Looking at single records of a log, without a group."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaException, TopicPartition

from brokers import clients, codes
from brokers.clients import Health, base_config
from brokers.errors import Unreachable
from brokers.received import received
from brokers.replies import reader_config


if TYPE_CHECKING:
    from collections.abc import Mapping


class Peek:
    """The partition 0 of *topic*, one record at a time.  One thread; a connection for as long as it is open."""

    def __init__(self, settings: Mapping[str, Any], topic: str, *, timeout_s: float) -> None:
        config = reader_config() | {"enable.partition.eof": True, "queued.min.messages": 1}
        self._client = clients.opened(clients.Consumer, base_config(settings, Health()) | config)
        self._topic = topic
        self._timeout_s = timeout_s

    def first_from(self, offset: int) -> tuple[int, int | None]:
        """Offset and time (ms) of the first record at or after *offset* that readers get.

        Where there is none just now: how far the log can be read, and no time.  What lies between *offset* and that are
        markers of transactions, and records of failed ones: nobody will ever get them.

        Raises:
          Unreachable: nobody answers in time.
        """
        deadline = time.monotonic() + self._timeout_s
        try:
            self._client.assign([TopicPartition(self._topic, 0, offset)])
            while (left := deadline - time.monotonic()) > 0:
                message = self._client.poll(left)
                if message is None or (message.offset() or 0) < offset:
                    continue
                error = message.error()
                if error is None:
                    record = received(message)
                    return record.offset, record.timestamp_ms
                if error.code() == codes.PARTITION_EOF:
                    return message.offset() or 0, None
            raise Unreachable(f"topic {self._topic!r} could not be read within {self._timeout_s:g} s")
        except KafkaException as exc:
            raise Unreachable(f"topic {self._topic!r} could not be read: {exc.args[0].str()}") from exc
        finally:
            self._client.unassign()

    def close(self) -> None:
        """Give the connection back."""
        self._client.close()
