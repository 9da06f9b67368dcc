"""Many callers, and servers and workers that are killed or stand still: is what is read as fresh as promised?

Two minutes; ``TEST_CONSISTENCY_S`` says for how many seconds.  The history is left in ``TEST_CONSISTENCY_HISTORY``, or
in the test's folder, and judged by `tests.histories`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from dramatiq.errors import BrokerError

from tasks.errors import QueryFailed, StaleRead, WaitTimeout
from tests.acceptance.busy import Busy, finished
from tests.histories import Audit, Operation, Read, Write, save, violations
from tests.replicas import Replicas, replicas_of
from tests.support import wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator

    from ops.stack import Stack
    from tasks.app import App
    from tasks.sessions import Session
    from tests.conftest import Neo4jServer

SECONDS = float(os.environ.get("TEST_CONSISTENCY_S", "120"))
CALLERS, KEYS, ACCOUNTS, EACH = 6, 3, 5, 100

WRITE = "MERGE (r:Register {key: $key}) SET r.value = $value"
READ = "OPTIONAL MATCH (r:Register {key: $key}) RETURN r.value AS value"
TRANSFER = "MATCH (a:Account {id: $a}), (b:Account {id: $b}) SET a.balance = a.balance - $n, b.balance = b.balance + $n"
BALANCES = "MATCH (a:Account) RETURN a.balance AS balance"

#: What a caller may get instead of an answer while things are killed.
EXCUSED = (StaleRead, WaitTimeout, QueryFailed, BrokerError)


class Apart(Replicas):
    """Of each replica one worker applies (1, 2, 3), and another one answers queries (11, 12, 13)."""

    def env(self, number: int = 1) -> dict[str, str]:
        """That of the replica."""
        return super().env(number % 10)

    def begin(self, number: int) -> None:
        """Start a worker in its role."""
        self.start(number, "--queues", "request" if number > 10 else "command")


class Caller(Busy):
    """Writes and reads at random, one after the other, and notes it down."""

    def __init__(self, number: int, app: App, values: Iterator[int], until: float) -> None:
        super().__init__(f"caller-{number}", until)
        self.number = number
        self.history: list[Operation] = []
        self._app = app
        self._values = values
        self._random = random.Random(number)
        self._sessions = 0
        self._session: tuple[str, Session] = ("", app.session())
        self._last: int | None = None

    def step(self) -> None:
        """One operation, now and then in a new session."""
        if self._random.random() < 0.02 or not self._session[0]:
            self._sessions += 1
            self._session = f"{self.number}.{self._sessions}", self._app.session()
        work = self._random.choices((self._write, self._transfer, self._read, self._audit), (3, 2, 5, 2))[0]
        try:
            work()
            self.done[work.__name__] += 1
        except EXCUSED as exc:
            self.done[type(exc).__name__] += 1
        time.sleep(self._random.random() * 0.02)

    def _write(self) -> None:
        key, value, began = self._random.randrange(KEYS), next(self._values), time.monotonic()
        name, session = self._session
        inside = self._random.random() < 0.5
        unknown = Write(self.number, key, value, began)
        try:
            send = session.command if inside else self._app.run_command.send
            receipt = send(WRITE, key=key, value=value)
        except EXCUSED:
            self.history.append(unknown)
            raise
        self._last = receipt.position()
        where = name if inside else None
        self.history.append(Write(self.number, key, value, began, time.monotonic(), self._last, where))

    def _transfer(self) -> None:
        a, b = self._random.sample(range(ACCOUNTS), 2)
        self._app.run_command.send(TRANSFER, a=a, b=b, n=self._random.randrange(1, 20))

    def _read(self) -> None:
        key, began = self._random.randrange(KEYS), time.monotonic()
        promised: dict[str, Any] = {"snapshot": self._random.random() < 0.3}
        kind = self._random.choice(("any", "at_least", "linearizable", "session", "max_lag"))
        options: dict[str, Any] = dict(promised)
        name, session = self._session
        if kind == "at_least" and self._last is not None:
            promised["at_least"] = options["at_least"] = self._last
        elif kind == "linearizable":
            promised["linearizable"] = options["linearizable"] = True
        elif kind == "session":
            promised |= {"session": name, "at_least": session.position}
            options["at_least"] = session
        elif kind == "max_lag":
            options["max_lag_s"] = 5
        if options == {"snapshot": False}:
            options = {}
        elif kind != "any":
            options["wait"] = 3
        rows = self._app.run_query.send_with_options(args=(READ,), kwargs={"key": key}, **options).get(6)
        found = rows[0]["value"]
        self.history.append(Read(self.number, key, found, began, time.monotonic(), position=rows.position, **promised))

    def _audit(self) -> None:
        level = self._random.choice(("any", "linearizable"))
        options: dict[str, Any] = {"linearizable": True, "wait": 3} if level == "linearizable" else {}
        began = time.monotonic()
        rows = self._app.run_query.send_with_options(args=(BALANCES,), snapshot=True, **options).get(6)
        balances = tuple(row["balance"] for row in rows)
        self.history.append(Audit(self.number, balances, began, time.monotonic(), level, rows.position))


class Trouble(Busy):
    """Stops, kills and starts workers and databases, one after the other, until the time is up; then all run again."""

    def __init__(self, replicas: Apart, stack: Stack | None, until: float) -> None:
        super().__init__("trouble", until)
        self._replicas = replicas
        self._stack = stack
        self._random = random.Random(7)

    def step(self) -> None:
        """One of them, of one worker or its database."""
        time.sleep(self._random.uniform(0.5, 2.5))
        number = self._random.choice((1, 2, 3, 11, 12, 13))
        kinds = [self._stand_still, self._kill, *([self._kill_database] if self._stack else [])]
        trouble = self._random.choices(kinds, (6, 3, 1)[: len(kinds)])[0]
        trouble(number)
        self.done[trouble.__name__] += 1

    def _stand_still(self, number: int) -> None:
        os.killpg(self._replicas.workers[number].pid, signal.SIGSTOP)
        time.sleep(self._random.uniform(0.2, 8))  # some of them longer than Kafka waits for a member
        os.killpg(self._replicas.workers[number].pid, signal.SIGCONT)

    def _kill(self, number: int) -> None:
        self._replicas.kill(number)
        time.sleep(self._random.uniform(0, 2))
        self._replicas.begin(number)

    def _kill_database(self, number: int) -> None:
        assert self._stack is not None
        name = self._replicas.servers[number % 10 - 1].name
        self._stack.kill(name)
        self._stack.start(name)


@contextmanager
def running(kafka: str, servers: tuple[Neo4jServer, ...], logs: Path) -> Iterator[Apart]:
    """Three replicas on emptied databases."""
    with replicas_of(kafka, servers, logs, started=False) as plain:
        replicas = Apart(plain.kafka, plain.servers, plain.logs)
        try:
            for number in (1, 2, 3, 11, 12, 13):
                replicas.begin(number)
            yield replicas
        finally:
            replicas.close()


def log_of(replicas: Apart) -> Iterator[tuple[int, int, int]]:
    """The writes of registers, as any Kafka client reads them from the log."""
    for record in replicas.read("command"):
        fields = json.loads(record.value() or b"null")
        if fields["args"] == [WRITE]:
            yield record.offset() or 0, fields["kwargs"]["key"], fields["kwargs"]["value"]


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 300)
def test_no_read_is_older_than_promised(
    kafka: str, neo4j_servers: tuple[Neo4jServer, ...], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """No read at at_least or linearizable, none within a session; the bank's total is constant in every read."""
    stack = None if os.environ.get("TEST_NEO4J_URIS") else request.getfixturevalue("stack")
    with running(kafka, neo4j_servers, tmp_path) as replicas:
        app = replicas.app()
        for account in range(ACCOUNTS):
            receipt = app.run_command.send("CREATE (:Account {id: $id, balance: $n})", id=account, n=EACH)
        receipt.wait(applied=3, timeout=90)
        wait_until(lambda: len(app.broker.holders("request")) > 0, 60, "somebody to answer queries")
        values, until = iter(range(1, 10**9)), time.monotonic() + SECONDS
        callers = [Caller(number, app, values, until) for number in range(CALLERS)]
        trouble = Trouble(replicas, stack, until - min(SECONDS / 4, 20))
        finished([*callers, trouble])
        history = [one for caller in callers for one in caller.history]
        save(history, Path(os.environ.get("TEST_CONSISTENCY_HISTORY", tmp_path / "history.jsonl")))
        app.run_command.send("MERGE (:End)").wait(applied="all", timeout=90)
        found = violations(history, log_of(replicas), ACCOUNTS * EACH)

    told = sum((caller.done for caller in callers), Counter[str]())
    text = f"{len(history)} operations: {dict(told)}; trouble: {dict(trouble.done)}; violations: {len(found)}\n"
    sys.stdout.write(text)
    assert found == []
    assert told["_read"] > SECONDS, "too few reads to mean anything"
    assert told["_audit"] > SECONDS / 5
