"""How fast queries are answered, beside the driver that asks the same server without any queue.

    python -m benchmarks.query --json

*idle*: one caller asks for one node, again and again.  *saturated*: eight caller processes do, each the next question
when it has its answer; *half*: the same eight, at half of that rate.  *rows*: one result of 100,000 rows, taken as it
streams.  Besides *queue* and *driver* the eight also ask *bare*: the least code on Kafka's client and Neo4j's driver,
which says how much of the driver's rate is to be had through Kafka on this machine.

The sides take turns, medians count, and only ratios of one run mean something.  A first round does not count: servers
just started mostly compile themselves.
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
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # public here, though not marked so

from benchmarks import bare
from benchmarks.measure import ROOT, median, note, quantile, versions
from ops.stack import Stack
from replica.driver import connect
from settings import Settings, environment_names
from tasks.app import App


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    #: Asks for a node by its id.
    Ask = Callable[[int], object]

CALLERS = 8
#: Nodes to ask for.
NODES = 10_000
#: Seconds of each measurement with many callers, and before it, in which they warm up.
LASTS_S, WARM_S = 8.0, 2.0
#: Questions of the idle caller, and before those that count.
ASKED, WARM = 500, 100
ROWS = 100_000

#: Seconds for a worker to begin, and for one answer.
LIMIT_S = 120.0

POINT = "MATCH (u:User {id: $id}) RETURN u.name AS name"
MANY = "UNWIND range(1, $count) AS n RETURN n, toString(n) AS text"

#: The least that each ratio should be, and the most milliseconds that the idle caller's should.
LEAST = {"queries8_vs_raw8": 0.5, "rows_vs_raw": 0.5}
P50_OVER_RAW_MS = 4.0


@contextmanager
def asking(side: str, environment: Mapping[str, str], number: int = 0) -> Iterator[Ask]:
    """How one side asks: ``queue``, ``driver`` or ``bare``."""
    values: dict[str, Any] = dict(environment)
    settings = Settings(**values)
    if side == "bare":
        with bare.asking(settings.brokers, "bare-requests", "bare-replies", number, POINT) as ask:
            yield ask
        return
    if side == "queue":
        app = App(settings)
        try:
            yield lambda number: app.run_query.send(POINT, id=number).get(LIMIT_S)[0]
        finally:
            app.close()
        return
    with (
        connect(settings.neo4j_uri, settings.neo4j_user, settings.neo4j_password) as driver,
        driver.session(database=settings.neo4j_database, default_access_mode="READ") as session,
    ):
        yield lambda number: session.run(POINT, id=number).single(strict=True)


def called(task: Mapping[str, Any]) -> list[float]:
    """One caller's part: milliseconds of each question; at *every_s*, or one after the other."""
    with asking(task["side"], task["environment"], task["number"]) as ask:
        ask(1)
        print("ready", flush=True)
        sys.stdin.readline()
        began = time.perf_counter()
        times: list[tuple[float, float]] = []
        number = task["first"]
        while (now := time.perf_counter() - began) < WARM_S + LASTS_S:
            if task["every_s"]:
                due = len(times) * task["every_s"]
                time.sleep(max(due - now, 0))
            number = number % NODES + 1
            asked = time.perf_counter()
            ask(number)
            times.append((asked - began, 1000 * (time.perf_counter() - asked)))
        return [took for at, took in times if at >= WARM_S]


def together(side: str, environments: Sequence[Mapping[str, str]], every_s: float = 0.0) -> list[float]:
    """Milliseconds of all questions of eight callers, who begin at once; the driver's spread over the replicas."""
    tasks = [
        {
            "side": side,
            "environment": dict(environments[number % len(environments)]),
            "every_s": every_s,
            "first": number * NODES // CALLERS,
            "number": number,
        }
        for number in range(CALLERS)
    ]
    clean = {name: value for name, value in os.environ.items() if name not in environment_names()}
    command = [sys.executable, "-m", "benchmarks.query", "--caller"]
    callers = [
        subprocess.Popen(  # noqa: S603 - this module
            [*command, json.dumps(task)],
            cwd=ROOT,
            env=clean,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for task in tasks
    ]
    try:
        for caller in callers:
            if caller.stdout is None or caller.stdout.readline().strip() != "ready":
                raise SystemExit("a caller has ended before it began")
        for caller in callers:
            if caller.stdin is not None:
                caller.stdin.write("\n")
                caller.stdin.flush()
        return [took for caller in callers for took in json.loads(caller.communicate(timeout=LIMIT_S)[0])]
    finally:
        for caller in callers:
            caller.kill()
            caller.wait()


@contextmanager
def worker(environment: Mapping[str, str], processes: int) -> Iterator[None]:
    """The worker of one replica."""
    command = [sys.executable, "-m", "dramatiq", "tasks", "--processes", str(processes)]
    clean = {name: value for name, value in os.environ.items() if name not in environment_names()}
    with subprocess.Popen(  # noqa: S603 - our own module
        command, cwd=ROOT, env=clean | dict(environment), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield
        finally:
            process.terminate()


def idle(environment: Mapping[str, str]) -> dict[str, list[float]]:
    """Milliseconds of each question of one caller, by side; the sides take turns."""
    found: dict[str, list[float]] = defaultdict(list)
    with asking("queue", environment) as queue, asking("driver", environment) as driver:
        for number in range(WARM + ASKED):
            for side, ask in (("queue", queue), ("driver", driver)):
                began = time.perf_counter()
                ask(number % NODES + 1)
                if number >= WARM:
                    found[side].append(1000 * (time.perf_counter() - began))
    return found


def rows_per_s(environment: Mapping[str, str]) -> dict[str, float]:
    """Rows a second of one large result, by side."""
    values: dict[str, Any] = dict(environment)
    settings = Settings(**values)
    app = App(settings)
    found = {}
    try:
        with (
            connect(settings.neo4j_uri, settings.neo4j_user, settings.neo4j_password) as driver,
            driver.session(database=settings.neo4j_database, default_access_mode="READ", fetch_size=1000) as session,
        ):
            began = time.perf_counter()
            count = sum(1 for _ in app.run_query.send(MANY, count=ROWS).stream(LIMIT_S))
            found["queue"] = count / (time.perf_counter() - began)
            began = time.perf_counter()
            count = sum(1 for _ in session.run(MANY, count=ROWS))
            found["driver"] = count / (time.perf_counter() - began)
    finally:
        app.close()
    return found


def measure(environments: Sequence[Mapping[str, str]], rounds: int, processes: int) -> dict[str, list[float]]:
    """All values, by what and whom."""
    found: dict[str, list[float]] = defaultdict(list)
    with ExitStack() as running:
        for environment in environments:
            running.enter_context(worker(environment, processes))
        _fill(environments)
        for number in range(-1, rounds):
            for side, times in idle(environments[0]).items():
                found[f"idle p50: {side}"].append(quantile(times, 0.5))
                found[f"idle p99: {side}"].append(quantile(times, 0.99))
            for side in ("driver", "queue"):
                found[f"saturated: {side}"].append(len(together(side, environments)) / LASTS_S)
            with ExitStack() as barely:
                for environment in environments:
                    barely.enter_context(_bare_worker(environment))
                found["saturated: bare"].append(len(together("bare", environments)) / LASTS_S)
            every_s = CALLERS / (found["saturated: queue"][-1] / 2)
            for side in ("driver", "queue"):
                times = together(side, environments, every_s)
                found[f"half p50: {side}"].append(quantile(times, 0.5))
                found[f"half p99: {side}"].append(quantile(times, 0.99))
            for side, rate in rows_per_s(environments[0]).items():
                found[f"rows: {side}"].append(rate)
            note(f"{number + 1}/{rounds}  " + ", ".join(f"{name} {values[-1]:,.2f}" for name, values in found.items()))
            if number < 0:
                found.clear()
    return found


def _bare_worker(environment: Mapping[str, str]) -> AbstractContextManager[None]:
    values: dict[str, Any] = dict(environment)
    settings = Settings(**values)
    admin = AdminClient({"bootstrap.servers": settings.brokers})
    for topic, partitions in (("bare-requests", 3), ("bare-replies", CALLERS)):
        with suppress(KafkaException):  # another replica has made it
            admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result(LIMIT_S)
    return bare.worker("query", settings, group="bare", requests="bare-requests", replies="bare-replies")


def _fill(environments: Sequence[Mapping[str, str]]) -> None:
    values: dict[str, Any] = dict(environments[0])
    app = App(Settings(**values))
    try:
        app.run_command.send("CREATE CONSTRAINT user_id IF NOT EXISTS FOR (u:User) REQUIRE u.id IS UNIQUE")
        text = "UNWIND range(1, $count) AS n CREATE (:User {id: n, name: 'user ' + toString(n)})"
        app.run_command.send(text, count=NODES).wait(applied=len(environments), timeout=LIMIT_S)
        app.run_query.send(POINT, id=1).get(LIMIT_S)
    finally:
        app.close()


def _environments(stack: Stack, replicas: int) -> list[dict[str, str]]:
    uris = {row.name: row.uri for row in stack.status()}
    common = {**stack.environment(), "QUERY_MAX_ROWS": str(ROWS), "QUERY_MAX_BYTES": "100000000"}
    return [
        {**common, "NEO4J_URI": uris[f"neo4j-{number}"], "GROUP_ID": f"replica-{number}"}
        for number in range(1, replicas + 1)
    ]


def _ratios(told: Mapping[str, float]) -> dict[str, float]:
    return {
        "p50_over_raw_ms": round(told["idle p50: queue"] - told["idle p50: driver"], 2),
        "p99_over_raw_ms": round(told["idle p99: queue"] - told["idle p99: driver"], 2),
        "half_p50_over_raw_ms": round(told["half p50: queue"] - told["half p50: driver"], 2),
        "queries8_vs_raw8": float(f"{told['saturated: queue'] / told['saturated: driver']:.3g}"),
        "bare8_vs_raw8": float(f"{told['saturated: bare'] / told['saturated: driver']:.3g}"),
        "queries8_vs_bare8": float(f"{told['saturated: queue'] / told['saturated: bare']:.3g}"),
        "rows_vs_raw": float(f"{told['rows: queue'] / told['rows: driver']:.3g}"),
    }


def main() -> None:
    """Measure, and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, on one line")
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured (default: 3)")
    parser.add_argument("--replicas", type=int, default=1, choices=(1, 2, 3), help="how many answer (default: 1)")
    parser.add_argument("--processes", type=int, default=1, help="worker processes of each replica (default: 1)")
    parser.add_argument("--caller", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.caller:
        print(json.dumps(called(json.loads(arguments.caller))))
        return
    folder = Path(tempfile.mkdtemp(prefix="benchmark-"))
    stack = Stack(folder)
    try:
        stack.start("kafka", *(f"neo4j-{number}" for number in range(1, arguments.replicas + 1)))
        found = measure(_environments(stack, arguments.replicas), arguments.rounds, arguments.processes)
    finally:
        stack.down()
        shutil.rmtree(folder, ignore_errors=True)
    told = {what: median(values) for what, values in found.items()}
    ratios = _ratios(told)
    missed = [f"{name} {ratios[name]} < {least}" for name, least in LEAST.items() if ratios[name] < least]
    if ratios["p50_over_raw_ms"] > P50_OVER_RAW_MS:
        missed.append(f"p50_over_raw_ms {ratios['p50_over_raw_ms']} > {P50_OVER_RAW_MS}")
    answer = {
        "versions": versions(("neo4j", "neo4j-rust-ext", "confluent-kafka", "dramatiq")),
        "replicas": arguments.replicas,
        "results": told,
        "ratios": ratios,
        "missed": missed,
    }
    print(json.dumps(answer, indent=None if arguments.json else 2))


if __name__ == "__main__":
    main()
