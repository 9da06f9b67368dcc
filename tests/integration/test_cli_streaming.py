"""Answers of `enqueue-query` as they come: printed at once, in bounded memory, and ended when nobody wants more."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.replicas import ROOT, Replicas, replicas_of, value
from tests.support import wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Neo4jServer

RUNNING = "SHOW TRANSACTIONS YIELD metaData WHERE metaData.kafka_query IS NOT NULL RETURN count(*)"

#: A million rows, of which a few hundred come in a second.
SLOW = "UNWIND range(1, 1000000) AS i RETURN i, reduce(x = 0, j IN range(1, 20000) | x + j) AS slow"

#: Gives nothing for a minute.
SILENT = "UNWIND range(1, 400000000) AS i RETURN sum(i % 7) AS s"


@pytest.fixture(scope="module")
def replicas(kafka: str, neo4j: Neo4jServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    """One replica that gives long answers."""
    with replicas_of(
        kafka,
        (neo4j,),
        tmp_path_factory.mktemp("streaming"),
        QUERY_MAX_ROWS="2000000",
        QUERY_MAX_BYTES="1000000000",
        QUERY_TIMEOUT_S="60",
    ) as found:
        found.app().run_command.send("CREATE (:Ready)").wait(applied=1, timeout=60)
        found.app().run_query.send("RETURN 1 AS n").get(30)
        yield found


def ask(replicas: Replicas, *arguments: str) -> subprocess.Popen[str]:
    """`enqueue-query` as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "cli.py", "enqueue-query", "--timeout", "60", *arguments],
        cwd=ROOT,
        env={**os.environ, **replicas.env()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def running(replicas: Replicas) -> bool:
    """Whether a query is at work on the server."""
    return int(value(replicas.servers[0], RUNNING)) > 0


def ended(replicas: Replicas) -> None:
    """Wait until none is; by itself none would end so soon."""
    wait_until(lambda: not running(replicas), 10, "the query to end on the server")


@pytest.mark.parametrize(
    ("form", "first"),
    [
        ("table", "i\tslow\n"),
        ("json", '[{"i":1,"slow":200010000},\n'),
        ("jsonl", '{"i":1,"slow":200010000}\n'),
        ("csv", "i,slow\n"),
    ],
)
def test_rows_are_printed_while_others_are_not_there_yet(replicas: Replicas, form: str, first: str) -> None:
    """And Ctrl-C ends the query on the server."""
    with ask(replicas, SLOW, "--format", form) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == first
        assert running(replicas)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)

    assert (process.returncode, said) == (
        130,
        f"Interrupted: the query was cancelled on {replicas.env()['GROUP_ID']}.\n",
    )
    ended(replicas)


@pytest.mark.parametrize(
    ("number", "options"), [(signal.SIGINT, []), (signal.SIGTERM, []), (signal.SIGINT, ["--json"])]
)
def test_a_query_without_rows_so_far_is_ended_as_well(replicas: Replicas, number: int, options: list[str]) -> None:
    """By Ctrl-C, or by whoever ends the process; for programs it is an error like any other."""
    with ask(replicas, SILENT, *options) as process:
        wait_until(lambda: running(replicas), 20, "the query to run")
        process.send_signal(number)
        rows, said = process.communicate(timeout=20)

    told = f"Interrupted: the query was cancelled on {replicas.env()['GROUP_ID']}."
    assert process.returncode == 130
    if options:
        assert json.loads(rows)["error"] == {"type": "KeyboardInterrupt", "message": told, "exit_code": 130}
    else:
        assert (rows, said) == ("", told + "\n")
    ended(replicas)


def test_a_query_that_takes_too_long_is_ended_by_its_server(replicas: Replicas) -> None:
    """Which says so itself: that is no silence of a worker."""
    with ask(replicas, SILENT, "--timeout", "1") as process:
        rows, said = process.communicate(timeout=30)
    assert (process.returncode, rows) == (1, "")
    assert "TransactionTimedOut" in said
    ended(replicas)


@pytest.mark.parametrize("form", ["table", "json", "jsonl", "csv"])
def test_a_reader_that_leaves_ends_the_query(replicas: Replicas, form: str) -> None:
    """As `head` does; without a traceback, and with the exit code of programs that end so."""
    with ask(replicas, SLOW, "--format", form) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        said = process.stderr.read()
        process.wait(20)

    assert (process.returncode, said) == (141, "")
    ended(replicas)


def test_a_long_answer_takes_little_memory(replicas: Replicas) -> None:
    """However many rows it has, and whoever reads them."""
    text = "UNWIND range(1, $rows) AS i RETURN i, $pad AS pad"
    peaks_kb = []
    for rows in (1_000, 300_000):
        with ask(replicas, text, "-p", f"rows={rows}", "-p", f"pad={'x' * 200}", "--format", "jsonl") as process:
            assert process.stdout is not None
            found = sum(1 for _ in process.stdout)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        assert (process.returncode, found) == (0, rows)
        peaks_kb.append(usage.ru_maxrss)
    assert peaks_kb[1] - peaks_kb[0] < 40_000, peaks_kb  # the rows themselves would be some 150,000
