"""The settings that every Kafka client of this package shares, and what a client has to say about its servers."""

from __future__ import annotations

import logging
import socket
import threading
import time
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from collections.abc import Mapping

    from confluent_kafka import KafkaError

#: Librdkafka says the same line several times a second while a server is away; once in this time is enough, in seconds.
LOG_EVERY_S = 10.0

logger = logging.getLogger("brokers.kafka")


class Health:
    """The last thing that a client said about its servers.

    A wrong password, a server that is down and an unknown host all look like a time-out to the call that fails; only
    the client's error callback knows which it was.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._text: str | None = None
        self._logged_at = 0.0

    def on_error(self, error: KafkaError) -> None:
        """The client's ``error_cb``: remembers, and logs now and then."""
        with self._lock:
            self._text = error.str()
            now = time.monotonic()
            if now - self._logged_at < LOG_EVERY_S:
                return
            self._logged_at = now
        logger.warning("kafka_client_error code=%s text=%s", error.name(), error.str())

    def why(self) -> str:
        """The last complaint, for the end of an error message; empty when there was none."""
        with self._lock:
            return f" ({self._text})" if self._text else ""


class _Quiet(logging.Filter):
    """Lets the same librdkafka facility through once in a while."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        facility = record.getMessage()[:24]
        now = time.monotonic()
        if now - self._seen.get(facility, -LOG_EVERY_S) < LOG_EVERY_S:
            return False
        self._seen[facility] = now
        return True


def client_logger() -> logging.Logger:
    """Where librdkafka's own lines go.

    By itself it would write to file descriptor 2, which belongs to somebody else in a worker process.
    """
    library = logging.getLogger("brokers.librdkafka")
    if not library.filters:
        library.addFilter(_Quiet())
    return library


def base_config(settings: Mapping[str, Any], health: Health) -> dict[str, Any]:
    """What every client of this package starts from."""
    return {
        "client.id": f"neo4j-kafka@{socket.gethostname()}",
        "error_cb": health.on_error,
        "log.connection.close": False,  # idle connections are closed by the server as a matter of course
        "socket.keepalive.enable": True,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 2000,  # a server that is back is used within two seconds
        **settings,
    }
