"""Servers for the tests: yours, or ours.

``TEST_BROKERS``, ``TEST_NEO4J_URIS`` (comma separated) with ``TEST_NEO4J_PASS``, and ``TEST_REDIS_URL`` name running
servers.  What is not named is started from jars when the first test needs it, in ``.stack-tests``, and stopped at the
end; ``TEST_KEEP_STACK=1`` leaves it running for the next run.  Where servers cannot be had, tests skip; with
``CI=true`` they fail.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from ops.errors import JarsUnavailable, PackageMissing
from ops.stack import Stack
from tests.support import empty


if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import TextIOWrapper

    from neo4j import Driver

ROOT = Path(__file__).resolve().parent.parent

# A shell that starts us in the background has Ctrl-C ignored, and programs that tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A time limit from outside (`timeout`, CI) ends a run as Ctrl-C does: servers and workers that tests have started would
# go on otherwise, and write into the databases of the next run.
signal.signal(signal.SIGTERM, signal.default_int_handler)


@dataclass(frozen=True, slots=True)
class Neo4jServer:
    name: str
    uri: str
    user: str
    password: str


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The stack of this test run.  Nothing runs in it until a fixture, or a test, starts it."""
    lock, stack = _claim_stack()
    with lock:
        yield stack
        if os.environ.get("TEST_KEEP_STACK") != "1":
            stack.down()


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest) -> str:
    """Bootstrap servers of a Kafka cluster."""
    if brokers := os.environ.get("TEST_BROKERS"):
        return brokers
    return _start(request, "kafka")["kafka"]


@pytest.fixture(scope="session")
def neo4j_servers(request: pytest.FixtureRequest) -> tuple[Neo4jServer, ...]:
    """Three Neo4j Community servers, or those of ``TEST_NEO4J_URIS``, with whatever other tests left in them."""
    if uris := os.environ.get("TEST_NEO4J_URIS"):
        password = os.environ.get("TEST_NEO4J_PASS", "")
        return tuple(Neo4jServer(f"neo4j-{n}", uri, "neo4j", password) for n, uri in enumerate(uris.split(","), 1))
    uris_by_name = _start(request, "neo4j-1", "neo4j-2", "neo4j-3")
    return tuple(_server(request, name, uris_by_name[name]) for name in ("neo4j-1", "neo4j-2", "neo4j-3"))


@pytest.fixture(scope="session")
def neo4j(request: pytest.FixtureRequest) -> Neo4jServer:
    """The first Neo4j server; a test that needs no other does not start the others."""
    if os.environ.get("TEST_NEO4J_URIS"):
        first: Neo4jServer = request.getfixturevalue("neo4j_servers")[0]
        return first
    return _server(request, "neo4j-1", _start(request, "neo4j-1")["neo4j-1"])


@pytest.fixture
def driver(neo4j: Neo4jServer) -> Iterator[Driver]:
    """A driver on the first server, whose database is empty: no data, no constraints, no indexes."""
    from neo4j import GraphDatabase

    with GraphDatabase.driver(neo4j.uri, auth=(neo4j.user, neo4j.password)) as driver:
        empty(driver)
        yield driver


@pytest.fixture(scope="session")
def redis_url(request: pytest.FixtureRequest) -> str:
    """URL of a Redis-compatible server."""
    return os.environ.get("TEST_REDIS_URL") or _start(request, "redis")["redis"]


def _claim_stack() -> tuple[TextIOWrapper, Stack]:
    """Take the first state directory that no other test run uses, so that two of them never share servers."""
    for number in itertools.count(1):
        folder = ROOT / (".stack-tests" if number == 1 else f".stack-tests-{number}")
        folder.mkdir(exist_ok=True)
        lock = (folder / "test-run").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        return lock, Stack(folder, short_lived=True)
    raise AssertionError("unreachable: the loop is endless")


def _start(request: pytest.FixtureRequest, *names: str) -> dict[str, str]:
    """Start servers of the stack; return name → where they answer."""
    stack: Stack = request.getfixturevalue("stack")
    try:
        stack.start(*names)
    except (JarsUnavailable, PackageMissing) as error:
        give_up(error)
    return {row.name: row.uri for row in stack.status()}


def _server(request: pytest.FixtureRequest, name: str, uri: str) -> Neo4jServer:
    stack: Stack = request.getfixturevalue("stack")
    return Neo4jServer(name, uri, *stack.login)


def give_up(error: Exception) -> NoReturn:
    """Skip because servers cannot be had here, or fail where they must be had."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must have servers: {error}")
    pytest.skip(f"no servers here: {error}")
