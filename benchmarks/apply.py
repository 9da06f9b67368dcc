"""How fast a replica applies commands, beside the driver that writes the same without any queue.

    python -m benchmarks.apply --json

Commands go through Kafka to one worker process; the driver writes the same texts to the same server, as many in one
transaction, its parameters ready in memory.  Equal texts stand against one ``UNWIND $rows``: *equal* is the least that
a command can do, a node without an index, *merge* two people and who follows whom, under a constraint.  Other texts
stand against statements in one explicit transaction.  *bare* is the least code on Kafka's client and Neo4j's driver
that applies the same log of equal texts: how much of the driver's rate is to be had through Kafka.

The driver writes before and after each of our runs, since a machine's own speed drifts, and its mean stands against
them: the median of the rounds' ratios counts, and only ratios of one run mean something.  A first round does not count:
servers just started mostly compile themselves.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import bare
from benchmarks.measure import ROOT, median, note, quantile, versions
from ops.stack import Stack
from replica.driver import connect
from replica.marker import Key
from settings import Settings, environment_names
from tasks.app import App


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import neo4j

#: So many that a run lasts for seconds: of a shorter one much is a worker's beginning.
COMMANDS = 200_000
#: Commands of each kind, as a share of all: texts that Neo4j has to plan take it a hundred times as long.
SHARES = {"equal": 1.0, "merge": 0.5, "mixed": 0.05, "distinct": 0.02}
#: Texts that alternate.
TEXTS = 50
#: Commands that are waited for one by one.
SINGLE = 500
#: The part of a run that is measured: a worker and a server are slow in the beginning, and its end is not seen at once.
WARM, DONE = 0.1, 0.9

#: Seconds between two looks at the position, each of which takes both of two cores a while; and for the longest run.
LOOK_S = 0.1
LIMIT_S = 120.0

#: Ratios, and the least that each should be.
RATIOS = {
    "equal_vs_unwind": ("equal", 0.8),
    "merge_vs_unwind": ("merge", 0.8),
    "mixed_vs_tx": ("mixed", 0.8),
    "distinct_vs_tx": ("distinct", 0.8),
}
#: Most milliseconds that a single command takes longer than a plain write, at the median.
SINGLE_OVER_RAW_MS = 3.0

CONSTRAINT = "CREATE CONSTRAINT person_id FOR (p:Person) REQUIRE p.id IS UNIQUE"
NO_CONSTRAINT = "DROP CONSTRAINT person_id IF EXISTS"
MERGE = """
MERGE (a:Person {id: $a}) MERGE (b:Person {id: $b}) MERGE (a)-[f:FOLLOWS]->(b) SET f.since = $since, a.name = $name
"""
#: Equal texts at their best: all rows of a transaction in one statement.
UNWIND = {
    "equal": "UNWIND $rows AS row CREATE (:User {id: row.id, name: row.name})",
    "merge": """
UNWIND $rows AS row MERGE (a:Person {id: row.a}) MERGE (b:Person {id: row.b})
MERGE (a)-[f:FOLLOWS]->(b) SET f.since = row.since, a.name = row.name
""",
}
#: People who follow each other.
PEOPLE = 10_007


def text(kind: str, run: str, number: int) -> str:
    """The text of a command; no two runs share one of those that are to be planned."""
    if kind == "merge":
        return MERGE
    different = {"equal": "u", "mixed": f"u{number % TEXTS}", "distinct": f"u_{run}_{number}"}[kind]
    return f"CREATE ({different}:User {{id: $id, name: $name}})"


def parameters(kind: str, number: int) -> dict[str, Any]:
    """What a command carries."""
    name = f"user {number}"
    if kind == "merge":  # everybody follows another one every round
        return {"a": number % PEOPLE, "b": number * 7919 % PEOPLE, "since": number, "name": name}
    return {"id": number, "name": name}


class Replica:
    """A log of its own and one worker, on an empty graph."""

    def __init__(self, environment: Mapping[str, str], name: str) -> None:
        self.environment = {
            **environment,
            "B_TOPIC_PREFIX": f"{name}-",
            "GROUP_ID": name,
            "QUERY_GROUP_ID": f"{name}-q",
        }
        values: dict[str, Any] = self.environment
        self.app = App(Settings(**values))
        self.key = Key(self.app.command_topic.name, 0)

    @contextmanager
    def worker(self) -> Iterator[None]:
        """A worker process that applies commands."""
        command = [
            sys.executable,
            "-m",
            "dramatiq",
            "tasks",
            "--queues",
            "command",
            "--processes",
            "1",
            "--threads",
            "4",
        ]
        clean = {name: value for name, value in os.environ.items() if name not in environment_names()}
        with subprocess.Popen(  # noqa: S603 - our own module
            command, cwd=ROOT, env=clean | self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as worker:
            try:
                yield
            finally:
                worker.terminate()

    def offset(self, session: neo4j.Session) -> int:
        """How far it is; -1 for nothing yet."""
        marker = self.key.read(session)
        return -1 if marker is None else marker.offset


def through_kafka(environment: Mapping[str, str], driver: neo4j.Driver, kind: str, run: str, commands: int) -> float:
    """Commands a second that a worker applies of a log that lies ready."""
    replica = Replica(environment, f"{kind}-{run}")
    try:
        with replica.app.broker.batching():
            if kind == "merge":
                replica.app.run_command.send(CONSTRAINT)
            for number in range(commands):
                receipt = replica.app.run_command.send(text(kind, run, number), **parameters(kind, number))
        last = receipt.position()
        with replica.worker(), driver.session(default_access_mode="READ") as session:
            began, first = _reached(replica, session, int(last * WARM))
            ended, reached = _reached(replica, session, int(last * DONE))
        return (reached - first) / (ended - began)
    finally:
        replica.app.close()


def barely(environment: Mapping[str, str], driver: neo4j.Driver, kind: str, run: str, commands: int) -> float:
    """Commands a second that the least code applies of the log that `through_kafka` has left."""
    replica = Replica(environment, f"{kind}-{run}")
    values: dict[str, Any] = replica.environment
    settings = Settings(**values)
    topic = replica.app.command_topic.name
    replica.app.close()
    task = {"group": topic, "commands": topic, "unwind": UNWIND[kind], "batch": settings.apply_batch}
    with driver.session() as session:
        if kind == "merge":
            session.run(CONSTRAINT).consume()
        last = commands - 1 + (kind == "merge")
        with bare.worker("apply", settings, **task):
            began, first = _passed(lambda: _bare_offset(session, topic), int(last * WARM))
            ended, reached = _passed(lambda: _bare_offset(session, topic), int(last * DONE))
    return (reached - first) / (ended - began)


def _bare_offset(session: neo4j.Session, group: str) -> int:
    record = session.run("MATCH (m:Bare {group: $group}) RETURN m.offset", group=group).single()
    return -1 if record is None else int(record[0])


def _reached(replica: Replica, session: neo4j.Session, wanted: int) -> tuple[float, int]:
    """When the replica was seen at *wanted*, or behind it, and where."""
    return _passed(lambda: replica.offset(session), wanted)


def _passed(look: Callable[[], int], wanted: int) -> tuple[float, int]:
    deadline = time.perf_counter() + LIMIT_S
    while (offset := look()) < wanted:
        if time.perf_counter() > deadline:
            raise SystemExit(f"offset {offset} of {wanted} after {LIMIT_S:g} s")
        time.sleep(LOOK_S)
    return time.perf_counter(), offset


def raw(driver: neo4j.Driver, kind: str, run: str, commands: int, batch: int) -> float:
    """Commands a second that the driver writes."""
    work = [(text(kind, f"raw{run}", number), parameters(kind, number)) for number in range(commands)]
    warm = int(commands * WARM)
    began = time.perf_counter()
    with driver.session() as session:
        if kind == "merge":
            session.run(CONSTRAINT).consume()
        for start in range(0, commands, batch):
            if start >= warm > 0:
                began, warm, counted = time.perf_counter(), 0, commands - start
            part = work[start : start + batch]
            if kind in UNWIND:
                session.run(UNWIND[kind], rows=[row for _, row in part]).consume()
                continue
            with session.begin_transaction() as tx:
                for one, row in part:
                    tx.run(one, row).consume()
                tx.commit()
    return counted / (time.perf_counter() - began)


def single(environment: Mapping[str, str], driver: neo4j.Driver, run: str) -> tuple[float, float]:
    """Milliseconds at the median: a command that is sent and waited for, and a plain write."""
    replica = Replica(environment, f"single-{run}")
    ours, theirs = [], []
    try:
        with replica.worker(), driver.session() as session:
            for number in range(SINGLE + SINGLE // 4):
                began = time.perf_counter()
                replica.app.run_command.send(text("equal", run, 0), **parameters("equal", number)).wait(timeout=LIMIT_S)
                applied = time.perf_counter()
                session.run(text("equal", run, 0), parameters("equal", number)).consume()
                if number >= SINGLE // 4:
                    ours.append(1000 * (applied - began))
                    theirs.append(1000 * (time.perf_counter() - applied))
    finally:
        replica.app.close()
    return quantile(ours, 0.5), quantile(theirs, 0.5)


def empty(driver: neo4j.Driver) -> None:
    """Leave no node."""
    with driver.session() as session:
        session.run("MATCH (n) CALL (n) { DETACH DELETE n } IN TRANSACTIONS OF 10000 ROWS").consume()
        session.run(NO_CONSTRAINT).consume()


def measure(environment: Mapping[str, str], commands: int, rounds: int) -> dict[str, list[float]]:
    """All values, by what and whom."""
    found: dict[str, list[float]] = defaultdict(list)
    values: dict[str, Any] = dict(environment)
    settings = Settings(**values)
    with connect(settings.neo4j_uri, settings.neo4j_user, settings.neo4j_password) as driver:

        def measure_kind(kind: str, run: int) -> None:
            count = max(int(commands * SHARES[kind]), 1)
            empty(driver)
            before = raw(driver, kind, f"{run}a", count, settings.apply_batch)
            empty(driver)
            found[kind].append(through_kafka(environment, driver, kind, str(run), count))
            empty(driver)
            after = raw(driver, kind, f"{run}b", count, settings.apply_batch)
            found[f"{kind}: driver"].append((before + after) / 2)
            if kind in UNWIND:
                empty(driver)
                found[f"{kind}: bare"].append(barely(environment, driver, kind, str(run), count))
            told = ", ".join(f"{who} {values[-1]:,.0f}/s" for who, values in found.items() if who.startswith(kind))
            note(f"{run}/{rounds}  {told}")

        def measure_single(run: int) -> None:
            empty(driver)
            ours, theirs = single(environment, driver, str(run))
            found["single"].append(ours)
            found["single: driver"].append(theirs)
            note(f"{run}/{rounds}  single    {ours:8.2f} ms {theirs:8.2f} ms")

        for number in range(rounds + 1):
            measure_kind("equal", number)
            measure_kind("merge", number)
            measure_single(number)  # before the server has planned thousands of texts, which it collects for a while
            measure_kind("mixed", number)
            measure_kind("distinct", number)
            if not number:
                found.clear()
    return found


def main() -> None:
    """Measure, and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, on one line")
    parser.add_argument("--commands", type=int, default=COMMANDS, help=f"of equal texts (default: {COMMANDS:,})")
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured (default: 3)")
    arguments = parser.parse_args()
    if arguments.commands < COMMANDS // 2:
        parser.error(f"--commands: at least {COMMANDS // 2}, or there is nothing to measure of the distinct texts")
    folder = Path(tempfile.mkdtemp(prefix="benchmark-"))
    stack = Stack(folder)
    try:
        stack.start("kafka", "neo4j-1")
        found = measure(stack.environment(), arguments.commands, arguments.rounds)
    finally:
        stack.down()
        shutil.rmtree(folder, ignore_errors=True)
    told = {what: median(values) for what, values in found.items()}

    def ratio(ours: str, theirs: str) -> float:
        return float(f"{median([a / b for a, b in zip(found[ours], found[theirs], strict=True)]):.3g}")

    ratios = {name: ratio(kind, f"{kind}: driver") for name, (kind, _) in RATIOS.items()}
    for kind in UNWIND:
        ratios[f"{kind}_bare_vs_unwind"] = ratio(f"{kind}: bare", f"{kind}: driver")
        ratios[f"{kind}_vs_bare"] = ratio(kind, f"{kind}: bare")
    missed = [f"{name} {ratios[name]} < {least}" for name, (_, least) in RATIOS.items() if ratios[name] < least]
    ratios["single_p50_over_raw_ms"] = over = round(told["single"] - told["single: driver"], 2)
    if over > SINGLE_OVER_RAW_MS:
        missed.append(f"single_p50_over_raw_ms {over} > {SINGLE_OVER_RAW_MS}")
    answer = {
        "versions": versions(("neo4j", "neo4j-rust-ext", "confluent-kafka", "dramatiq")),
        "results": {
            "commands_per_s": {what: value for what, value in told.items() if not what.startswith("single")},
            "single_p50_ms": {what: value for what, value in told.items() if what.startswith("single")},
        },
        "ratios": ratios,
        "missed": missed,
    }
    print(json.dumps(answer, indent=None if arguments.json else 2))


if __name__ == "__main__":
    main()
