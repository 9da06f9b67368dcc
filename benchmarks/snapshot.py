"""How fast a snapshot is taken, verified and restored, beside the driver that reads or writes the same and no more.

    python -m benchmarks.snapshot --json
    python -m benchmarks.snapshot --json --elements 100000

A million nodes and a million relationships unless told otherwise.  Each measurement runs in a process of its own, whose
largest memory is told; two fresh Neo4j servers, one that is filled with plain UNWIND and read, one that is restored
into.  Only ratios of one run mean something.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import ROOT, note, versions
from ops.stack import Stack
from replica import checksum as checksums
from replica import snapshot, snapshot_restore
from replica.driver import connect
from replica.marker import Key, Marker
from replica.recovery import constrain
from replica.snapshot_format import Source
from replica.transactions import Database


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import neo4j

KEY = Key("benchmark", 0)
#: Rows in one transaction of the plain writer; as many as a block of a snapshot has.
BATCH = 5000
#: Elements that are read before anything is measured: a server is slow in its first seconds.
WARM = 50_000
#: Most memory of our process, in MB.
MEMORY_MB = 300

#: Ratios: what over what, and the least that it should be.
RATIOS = {
    "create_vs_read": ("create", "raw_read", 0.5),
    "restore_vs_write": ("restore", "raw_write", 0.7),
    "verify_vs_read": ("verify", "raw_read", 1.0),
}

WRITE_NODES = "UNWIND $rows AS row CREATE (n:User:Person) SET n = row"
WRITE_RELATIONSHIPS = """
CYPHER 5 UNWIND $rows AS row MATCH (a) WHERE id(a) = row[0] MATCH (b) WHERE id(b) = row[1]
CREATE (a)-[r:KNOWS]->(b) SET r = row[2]
"""
READ_NODES = "CYPHER 5 MATCH (n:User) RETURN id(n), labels(n), properties(n)"
READ_RELATIONSHIPS = "CYPHER 5 MATCH (a)-[r]->(b) RETURN type(r), id(a), id(b), properties(r)"


def node(number: int) -> dict[str, Any]:
    """What a node of a small business holds."""
    return {"id": number, "name": f"user {number}", "score": number * 0.5, "tags": ["a", "b"], "active": True}


def batches(count: int) -> Iterator[range]:
    """The numbers up to *count*, some at a time."""
    return (range(first, min(first + BATCH, count)) for first in range(0, count, BATCH))


def raw_write(driver: neo4j.Driver, count: int, file: str) -> float:
    """Fill the database; ids are asked for between the two measured halves, as no driver gives them for nothing."""
    with driver.session() as session:
        began = time.perf_counter()
        for numbers in batches(count):
            session.run(WRITE_NODES, rows=[node(number) for number in numbers]).consume()
            progress("raw write: nodes", numbers.stop, count)
        seconds = time.perf_counter() - began
        ids = [record[0] for record in session.run("CYPHER 5 MATCH (n:User) RETURN id(n)")]
        began = time.perf_counter()
        for numbers in batches(count):
            rows = [[ids[number], ids[number * 7 % count], {"since": number, "weight": 0.25}] for number in numbers]
            session.run(WRITE_RELATIONSHIPS, rows=rows).consume()
            progress("raw write: relationships", numbers.stop, count)
        seconds += time.perf_counter() - began
    database = Database(driver, "neo4j", 60)
    constrain(database)
    with database.session() as session, session.begin_transaction() as tx:
        KEY.begin(tx, Marker("topic-id", offset=41, published=41))
        tx.commit()
    return seconds


def raw_read(driver: neo4j.Driver, count: int, file: str) -> float:
    """Read everything and drop it."""
    with driver.session() as session:
        for _ in session.run(f"{READ_NODES} LIMIT {WARM}"):
            pass
        began = time.perf_counter()
        for statement in (READ_NODES, READ_RELATIONSHIPS):
            for number, _ in enumerate(session.run(statement)):
                if number % 20_000 == 0:
                    progress("raw read", number, count)
        return time.perf_counter() - began


def create(driver: neo4j.Driver, count: int, file: str) -> float:
    """Take a snapshot."""
    began = time.perf_counter()
    with Path(file).open("wb") as target:
        snapshot.create(driver, "neo4j", KEY, target, progress)
    return time.perf_counter() - began


def verify(driver: neo4j.Driver, count: int, file: str) -> float:
    """Read it to its end."""
    began = time.perf_counter()
    with Path(file).open("rb") as source:
        snapshot.verify(source, file, progress)
    return time.perf_counter() - began


def checksum(driver: neo4j.Driver, count: int, file: str) -> float:
    """Read the graph as `neo4j-kafka verify` has each replica do."""
    began = time.perf_counter()
    checksums.checksum(driver, "neo4j")
    return time.perf_counter() - began


def restore(driver: neo4j.Driver, count: int, file: str) -> float:
    """Restore it into an empty database."""
    began = time.perf_counter()
    with Path(file).open("rb") as source:
        snapshot_restore.restore(driver, "neo4j", Source(source, file), progress)
    return time.perf_counter() - began


MEASUREMENTS: dict[str, Callable[[neo4j.Driver, int, str], float]] = {
    "raw_write": raw_write,
    "raw_read": raw_read,
    "create": create,
    "verify": verify,
    "checksum": checksum,
    "restore": restore,
}


def progress(text: str, done: int, total: int) -> None:
    """Tell now and then on stderr."""
    step = f"{text} {done // 100_000}"
    if step != _told[0] and sys.stderr.isatty():
        _told[0] = step
        note(f"  {text}: {done:,} of {total:,}")


#: What `progress` said last.
_told = [""]


def alone(what: str, uri: str, login: tuple[str, str], count: int, file: str) -> dict[str, float]:
    """Seconds and megabytes of one measurement in a process of its own."""
    note(what)
    task = json.dumps({"what": what, "uri": uri, "login": login, "count": count, "file": file})
    command = [sys.executable, "-m", "benchmarks.snapshot", "--task"]
    ended = subprocess.run(command, cwd=ROOT, input=task, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603 - our own module
    found: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    note(f"{what}: {2 * count / found['seconds']:,.0f} elements a second, {found['memory_mb']:,.0f} MB")
    return found


def one(task: Mapping[str, Any]) -> None:
    """In that process."""
    with connect(task["uri"], *task["login"]) as driver:
        seconds = MEASUREMENTS[task["what"]](driver, task["count"], task["file"])
    print(json.dumps({"seconds": seconds, "memory_mb": round(most_memory_mb(), 1)}))


def most_memory_mb() -> float:
    """The largest memory that this process has had.

    Linux says it of this program; what `getrusage` says there begins with the memory of the process that forked it.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        largest = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM:")), None)
        if largest is not None:
            return int(largest.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 * 1024 if sys.platform == "darwin" else 1024)


def measure(count: int) -> tuple[dict[str, dict[str, float]], int]:
    """Every measurement, in an order in which each finds what it needs; and the size of the snapshot."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        file = Path(folder) / "graph.snapshot"
        stack = Stack(Path(folder))
        try:
            stack.start("neo4j-1", "neo4j-2")
            uris = {row.name: row.uri for row in stack.status()}
            found = {
                what: alone(what, uris["neo4j-2" if what == "restore" else "neo4j-1"], stack.login, count, str(file))
                for what in MEASUREMENTS
            }
        finally:
            stack.down()
        return found, file.stat().st_size


def main() -> None:
    """Measure, and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--elements", type=int, default=1_000_000, help="nodes, and as many relationships")
    parser.add_argument("--task", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task:
        one(json.load(sys.stdin))
        return
    count = arguments.elements
    found, size = measure(count)
    rates = {what: round(2 * count / one["seconds"]) for what, one in found.items()}
    ratios = {name: float(f"{rates[ours] / rates[theirs]:.3g}") for name, (ours, theirs, _) in RATIOS.items()}
    memory = {what: found[what]["memory_mb"] for what in ("create", "verify", "checksum", "restore")}
    missed = [f"{name} {ratios[name]} < {least}" for name, (_, _, least) in RATIOS.items() if ratios[name] < least]
    missed += [f"{what} {used} MB > {MEMORY_MB} MB" for what, used in memory.items() if used > MEMORY_MB]
    answer = {
        "versions": versions(("neo4j", "neo4j-rust-ext")),
        "results": {
            "nodes": count,
            "relationships": count,
            "elements_per_s": rates,
            "memory_mb": memory,
            "bytes_per_element": round(size / (2 * count), 1),
        },
        "ratios": ratios,
        "missed": missed,
    }
    print(json.dumps(answer, indent=None if arguments.json else 2))


if __name__ == "__main__":
    main()
