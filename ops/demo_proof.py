"""Is every command in every graph, once, and are the graphs the same?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, LiteralString

from replica.checksum import checksum
from replica.driver import connect


if TYPE_CHECKING:
    from collections.abc import Mapping

    import neo4j
    from rich.table import Table

# evidence -- What a graph says about what was done to it, read straight from the database.
_EVIDENCE: Final[LiteralString] = """
CALL () { MATCH (a:Airport) RETURN count(a) AS airports }
CALL () { MATCH (a)-[r:FLIES_TO]->(b) RETURN count(r) AS drawn, count(DISTINCT [a.iata, b.iata]) AS routes }
CALL () { OPTIONAL MATCH (c:Counter {id: 0}) RETURN coalesce(c.n, 0) AS counted }
RETURN airports, routes, drawn, counted
"""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one replica's graph shows."""

    replica: str
    position: int
    airports: int
    routes: int
    drawn: int  #: relationships; more than *routes* where one was created twice
    counted: int  #: commands that raised the counter
    digest: str

    @property
    def effects(self) -> int:
        """Different commands whose effect is there."""
        return self.airports + self.routes

    @property
    def applied_twice(self) -> int:
        """Applications beyond the first of each."""
        return max(self.counted - self.effects, self.drawn - self.routes, 0)


@dataclass(frozen=True, slots=True)
class Killed:
    """A server that was killed, and the last command that its replica had reported by then."""

    name: str
    replica: str
    at: int


@dataclass(frozen=True, slots=True)
class Proof:
    """What the demo found out."""

    commands: int
    last: int  #: offset of the last command
    killed: tuple[Killed, ...]
    evidence: tuple[Evidence, ...]
    apply_per_s: float  #: of a replica that nobody disturbed
    wall_s: float

    @property
    def lost(self) -> int:
        """Effects that are missing, over all replicas."""
        return sum(self.commands - found.effects for found in self.evidence)

    @property
    def applied_twice(self) -> int:
        """Effects that are there more than once, over all replicas."""
        return sum(found.applied_twice for found in self.evidence)

    @property
    def same(self) -> bool:
        """Whether all graphs are equal, at the end of the log."""
        return len({found.digest for found in self.evidence}) == 1 and all(
            found.position == self.last for found in self.evidence
        )

    @property
    def holds(self) -> bool:
        """Whether everything is as promised."""
        return self.same and self.lost == 0 and self.applied_twice == 0

    def as_table(self) -> Table:
        """For people."""
        from rich import box  # noqa: PLC0415  # only for people
        from rich.table import Table  # noqa: PLC0415  # as above

        table = Table(box=box.SIMPLE_HEAD)
        table.add_column("")
        for title in ("last command", "airports", "routes", "counter"):
            table.add_column(title, justify="right")
        table.add_column("checksum of the whole graph")
        for found in self.evidence:
            numbers = (found.position, found.airports, found.routes, found.counted)
            table.add_row(found.replica, *map(str, numbers), found.digest)
        return table

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "commands": self.commands,
            "replicas": len(self.evidence),
            "killed": [{"name": k.name, "replica": k.replica, "at": k.at} for k in self.killed],
            "lost": self.lost,
            "applied_twice": self.applied_twice,
            "digests": [found.digest for found in self.evidence],
            "positions": [found.position for found in self.evidence],
            "counters": [found.counted for found in self.evidence],
            "same": self.same,
            "proven": self.holds,
            "apply_per_s": round(self.apply_per_s),
            "wall_s": round(self.wall_s, 1),
        }


def examine(replica: str, environment: Mapping[str, str], database: str = "neo4j") -> Evidence:
    """Look at one replica's graph, directly in its database."""
    login = (environment["NEO4J_URI"], environment["NEO4J_USER"], environment["NEO4J_PASS"])
    with connect(*login) as driver:
        found = _record(driver, database)
        whole = checksum(driver, database)
    position = -1 if whole.position is None else whole.position.offset
    return Evidence(replica, position, digest=whole.digest, **found)


def _record(driver: neo4j.Driver, database: str) -> dict[str, int]:
    [record] = driver.execute_query(_EVIDENCE, database_=database, routing_="r").records
    return dict(record)
