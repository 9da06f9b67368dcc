from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from replica.apply import Applier
from replica.driver import connect
from tests.integration.proxy import Proxy


if TYPE_CHECKING:
    from collections.abc import Iterator

    from neo4j import Driver

    from tests.conftest import Neo4jServer


@pytest.fixture
def proxy(neo4j: Neo4jServer) -> Iterator[Proxy]:
    """A proxy in front of the first server."""
    proxy = Proxy(neo4j.uri)
    yield proxy
    proxy.close()


@pytest.fixture
def replica(driver: Driver, proxy: Proxy, neo4j: Neo4jServer) -> Iterator[Applier]:
    """An applier behind the proxy, on an empty database."""
    with connect(proxy.uri, neo4j.user, neo4j.password) as behind:
        applier = Applier(behind, database="neo4j", topic="command", topic_id="id")
        applier.recover(0)
        yield applier
