"""One way to open a driver, with time-outs that suit a worker: fail soon, try again later."""

from __future__ import annotations

import logging
from typing import Final

import neo4j


#: Seconds to open a socket.  A replica's database is near; a dead host must not stall its worker for the default 30.
CONNECTION_TIMEOUT_S: Final = 5.0
#: Seconds to get a connection from the pool, the opening of a socket included.
ACQUISITION_TIMEOUT_S: Final = 5.0
#: One applier and a few query threads; more threads do not speed up reads in one process.
POOL_SIZE: Final = 32

# What a server has to say about a text is for whoever sent it, and travels in the answer; not for a worker's log.
logging.getLogger("neo4j.notifications").setLevel(logging.CRITICAL)


def connect(uri: str, user: str, password: str) -> neo4j.Driver:
    """Give a driver that connects on first use, not now.  Threads may share it; close it at the end.

    An empty *password* means that the server asks for none.
    """
    return neo4j.GraphDatabase.driver(
        uri,
        auth=(user, password) if password else None,
        connection_timeout=CONNECTION_TIMEOUT_S,
        connection_acquisition_timeout=ACQUISITION_TIMEOUT_S,
        max_connection_pool_size=POOL_SIZE,
        user_agent="neo4j-kafka",
        notifications_min_severity=neo4j.NotificationMinimumSeverity.OFF,
        telemetry_disabled=True,
    )
