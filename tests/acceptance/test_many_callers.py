"""A thousand callers at once, in ten processes, two of which are killed: each gets its own answers, once.

What a killed caller must not leave behind, and what is looked at for it:

    queries that wait for ever     the request topic is read to its end, and no worker runs or holds anything
    queries that failed            nothing is parked among the dead letters
    groups of readers              Kafka has the same consumer groups as before
    anything at the workers        each has as many threads and open files as before
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tasks import answers
from tests.replicas import ROOT, Replicas, replicas_of
from tests.support import wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tasks.app import App
    from tests.conftest import Neo4jServer

PROCESSES, THREADS, QUERIES, KILLED = 10, 100, 4, 2


@pytest.fixture
def replicas(kafka: str, neo4j_servers: tuple[Neo4jServer, ...], tmp_path: Path) -> Iterator[Replicas]:
    """Two replicas, whose workers answer."""
    with replicas_of(kafka, neo4j_servers[:2], tmp_path) as found:
        found.app().run_command.send("MERGE (:Begin)").wait(applied=2, timeout=90)
        yield found


def start(replicas: Replicas, number: int) -> subprocess.Popen[str]:
    """A process of callers."""
    command = [sys.executable, "-m", "tests.acceptance.caller", str(number), str(THREADS), str(QUERIES)]
    with (replicas.logs / f"caller-{number}.log").open("w") as log:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **replicas.env(1 + number % 2)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )


def said(process: subprocess.Popen[str], what: str) -> dict[str, Any]:
    """The next thing of that kind that *process* says."""
    assert process.stdout is not None
    for line in process.stdout:
        found: dict[str, Any] = json.loads(line)
        if found["what"] == what:
            return found
    raise AssertionError(f"process {process.pid} ended without {what!r}")


def workers(replicas: Replicas) -> list[psutil.Process]:
    """All processes of the workers."""
    return [one for worker in replicas.workers.values() for one in _family(worker.pid)]


def _family(pid: int) -> list[psutil.Process]:
    first = psutil.Process(pid)
    return [first, *first.children(recursive=True)]


def held(replicas: Replicas) -> dict[int, tuple[int, int]]:
    """Threads and open files of each process of the workers."""
    return {one.pid: (one.num_threads(), one.num_fds()) for one in workers(replicas)}


def groups(app: App) -> set[str]:
    """The consumer groups that Kafka knows."""
    listed = app.broker._admin().list_consumer_groups(request_timeout=10).result()
    return {group.group_id for group in listed.valid}


@pytest.mark.timeout(280)
def test_a_thousand_callers_get_their_own_answers_and_dead_ones_leave_nothing(replicas: Replicas) -> None:
    """Distinct answers, none crossed, none twice; the dead are missed by nobody."""
    app = replicas.app()
    app.run_query.send("RETURN 1 AS n").get(30)
    callers = [start(replicas, number) for number in range(PROCESSES)]
    try:
        for caller in callers:
            said(caller, "ready")
        before, known = held(replicas), groups(app)
        for caller in callers:
            assert caller.stdin is not None
            caller.stdin.write("go\n")
            caller.stdin.flush()
        for caller in callers[:KILLED]:
            said(caller, "asked")  # it waits for a hundred more just now
            caller.send_signal(signal.SIGKILL)
        done = [said(caller, "done") for caller in callers[KILLED:]]
    finally:
        for caller in callers:
            caller.kill()
            caller.communicate()  # closes what it was spoken to by

    assert [one["errors"] for one in done] == [{}] * len(done)
    assert [one["wrong"] for one in done] == [[]] * len(done)
    assert [one["answered"] for one in done] == [THREADS * QUERIES] * len(done)
    assert [one["waiting"] for one in done] == [0] * len(done)

    app.broker.join("request", timeout=60_000)  # also what the dead have asked
    sent = Counter(answer.id for answer in map(_answer, replicas.read("response.callers")) if answer.end)
    ids = [message_id for one in done for message_id in one["ids"]]
    assert len(set(ids)) == len(ids) == (PROCESSES - KILLED) * THREADS * QUERIES
    assert {sent[message_id] for message_id in ids} == {1}
    assert replicas.read("request.XQ") == []
    assert groups(app) <= known
    for worker in app.broker.control.inspect(timeout_s=5).workers:
        assert (worker.running, sum(worker.waiting.values()), worker.blocked) == ([], 0, {})
    wait_until(lambda: all(_no_more(held(replicas)[pid], then) for pid, then in before.items()), 30, "workers at rest")


def _answer(record: Any) -> answers.Answer:
    found = answers.decode(record.value())
    assert found is not None
    return found


def _no_more(now: tuple[int, int], then: tuple[int, int]) -> bool:
    """A connection that is opened at need, and stays, is none for each caller."""
    return now[0] <= then[0] + 4 and now[1] <= then[1] + 8
