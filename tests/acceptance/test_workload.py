"""Commands of every kind, while everything is killed: each applied exactly once, and all graphs what the log says.

``TEST_WORKLOAD_S`` says for how many seconds; ``TEST_SEED`` chooses other commands and other kills.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from neo4j import GraphDatabase

from replica.checksum import checksum
from replica.driver import connect
from tasks import outcomes
from tasks.checkpoints import disagreements
from tests.acceptance.busy import finished
from tests.acceptance.trouble import SEED, SENDERS, CommandLine, Senders, Trouble, environment
from tests.conftest import Neo4jServer
from tests.replicas import ROOT, Replicas, replicas_of
from tests.support import empty, wait_until
from tests.workload import QUESTIONS, SETUP, ended, replayed


if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from ops.stack import Stack
    from tests.acceptance.trouble import Journal
    from tests.workload import Intent

SECONDS = float(os.environ.get("TEST_WORKLOAD_S", "60"))

#: A command in its record.
UID = re.compile(rb"uid\W+(\d+)")

#: Seconds for a replica to catch up, at the end.
CATCH_UP_S = 600.0


def neo4j_kafka(replicas: Replicas, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of a command."""
    command = [sys.executable, "cli.py", *arguments, "--json", "--state-dir", str(replicas.logs)]
    done = subprocess.run(command, cwd=ROOT, env=environment(replicas), capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@contextmanager
def one_more(stack: Stack) -> Iterator[Neo4jServer]:
    """A fourth database, empty."""
    stack.start("neo4j-4")
    uri = next(row.uri for row in stack.status() if row.name == "neo4j-4")
    server = Neo4jServer("neo4j-4", uri, *stack.login)
    try:
        with connect(server.uri, server.user, server.password) as driver:
            empty(driver)
        yield server
    finally:
        stack.kill("neo4j-4")


def log_of(replicas: Replicas, intents: Mapping[int, Intent]) -> dict[int, Intent]:
    """The commands of the workload that lie in the log, by offset."""
    found: dict[int, Intent] = {}
    for record in replicas.read("command"):
        match = UID.search(record.value() or b"")
        if match:
            found[record.offset() or 0] = intents[int(match[1])]
    return found


def rejected_of(replicas: Replicas) -> dict[str, dict[int, str]]:
    """The codes that each replica reported, by offset."""
    found: dict[str, dict[int, str]] = {}
    for message in replicas.read("outcomes"):
        report = outcomes.decode(message.value(), outcomes.Report)
        assert report is not None
        mine = found.setdefault(report.replica, {})
        for rejection in report.rejected:
            assert mine.setdefault(rejection.offset, rejection.code) == rejection.code, "told otherwise the second time"
    return found


def require_same(replicas: Replicas, server: Neo4jServer, facts: Mapping[str, Any]) -> None:
    """The graph is what the log has to make; what differs is told by kind."""
    with GraphDatabase.driver(server.uri, auth=(server.user, server.password)) as driver:
        for kind, text in QUESTIONS.items():
            rows = [tuple(record.values()) for record in driver.execute_query(text, database_="neo4j").records]
            missing, extra = set(facts[kind]) - set(rows), set(rows) - set(facts[kind])
            assert (len(rows), missing, extra) == (len(facts[kind]), set(), set()), f"{server.name}: {kind}"


def digest_of(server: Neo4jServer) -> tuple[int, int, str, int]:
    """Nodes, relationships, checksum and position."""
    with connect(server.uri, server.user, server.password) as driver:
        found = checksum(driver, "neo4j")
    assert found.position is not None
    return found.nodes, found.relationships, found.digest, found.position.offset


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 1500)
def test_every_command_is_applied_once_while_everything_is_killed(
    kafka: str, neo4j_servers: tuple[Neo4jServer, ...], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Confirmed means once in the log; the log says how each command ends and what the graphs are, also a new one."""
    if {"TEST_NEO4J_URIS", "TEST_BROKERS"} & os.environ.keys():
        pytest.skip("servers of yours are not killed")
    stack: Stack = request.getfixturevalue("stack")
    print(f"seed {SEED}, {SECONDS:.0f} s")  # noqa: T201 - what repeats it
    with replicas_of(kafka, neo4j_servers, tmp_path, APPLY_BATCH="50") as replicas:
        journals, done = run(replicas, stack, tmp_path)
        app = replicas.app()
        app.run_command.send("CREATE (:End)").wait(applied="all", timeout=CATCH_UP_S)

        intents, confirmed = merged(journals)
        log = log_of(replicas, intents)
        world, ends = replayed(log)
        require_once(log, confirmed)
        topic_id = app.broker.topics.identity(app.command_topic.name)
        wait_until(lambda: set(rejected_of(replicas)) >= names(replicas), 30, "every replica to report")
        print(text_of(log, intents, confirmed, ends, done))  # noqa: T201 - the figures
        for server in neo4j_servers:
            require_same(replicas, server, world.facts())
        assert len({digest_of(server) for server in neo4j_servers}) == 1
        assert disagreements(app.broker, app.checkpoints_topic, topic_id, timeout_s=30) == []
        assert app.decisions.look() == ()
        code, told = neo4j_kafka(replicas, "verify")
        assert (code, told["verdict"]) == (0, "same"), told

        with one_more(stack) as fourth:
            began = time.monotonic()
            name = f"{replicas.prefix}replica-4"
            code, told = neo4j_kafka(replicas, "replica", "add", "--neo4j-uri", fourth.uri, "--name", name)
            assert code == 0, told
            print(f"replayed from offset 0 in {time.monotonic() - began:.0f} s: {told}")  # noqa: T201 - the figures
            require_same(replicas, fourth, world.facts())
            assert digest_of(fourth) == digest_of(neo4j_servers[0])
        for replica, rejected in rejected_of(replicas).items():
            ours = {offset: ended(code) for offset, code in rejected.items() if offset in log}
            assert ours == ends, replica


def run(replicas: Replicas, stack: Stack, folder: Path) -> tuple[Sequence[Journal], Counter[str]]:
    """Send and kill, for as long as it says; what was sent, and what was killed."""
    for text in SETUP:
        replicas.app().run_command.send(text).wait(applied=3, timeout=90)
    until = time.monotonic() + SECONDS
    senders, line = Senders(replicas, folder), CommandLine(replicas, folder, until)
    trouble = Trouble(replicas, stack, senders, line, until)
    for number in SENDERS:
        senders.start(number)
    try:
        finished([line, trouble])
    finally:
        senders.stop()
    return (*senders.journals.values(), line.journal), trouble.done


def merged(journals: Sequence[Journal]) -> tuple[dict[int, Intent], dict[int, int | None]]:
    """All journals in one."""
    intents: dict[int, Intent] = {}
    confirmed: dict[int, int | None] = {}
    for journal in journals:
        some, sure = journal.read()
        intents |= some
        confirmed |= sure
    return intents, confirmed


def require_once(log: Mapping[int, Intent], confirmed: Mapping[int, int | None]) -> None:
    """No command twice in the log; each confirmed one there, where its sender was told."""
    times = Counter(intent.uid for intent in log.values())
    assert {uid: n for uid, n in times.items() if n > 1} == {}
    assert confirmed.keys() <= times.keys()
    places = {intent.uid: offset for offset, intent in log.items()}
    assert {uid: places[uid] for uid, offset in confirmed.items() if offset is not None} == {
        uid: offset for uid, offset in confirmed.items() if offset is not None
    }


def names(replicas: Replicas) -> set[str]:
    """Of the three."""
    return {replicas.env(number)["GROUP_ID"] for number in (1, 2, 3)}


def text_of(
    log: Mapping[int, Intent],
    intents: Mapping[int, Intent],
    confirmed: Mapping[int, int | None],
    ends: Mapping[int, str],
    done: Counter[str],
) -> str:
    """The figures of a run."""
    kinds = Counter(intent.kind for intent in log.values())
    lost = len(intents) - len(log)
    return (
        f"{len(log)} commands in the log, {len(confirmed)} of them confirmed; {lost} never got there;"
        f" not applied: {dict(Counter(ends.values()))}; killed: {dict(done)}; kinds: {dict(kinds)}"
    )
