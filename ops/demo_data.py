"""What the demo loads: the airports of the United States and the flights between them, as commands.

Every command also raises one counter in the graph.  So each graph can say by itself how many commands it has applied,
which must be the number of its airports and routes: less means a lost effect, more a repeated one.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from neo4j.spatial import WGS84Point

from ops.errors import PackageMissing
from replica.statement import Statement


if TYPE_CHECKING:
    from collections.abc import Iterator

ROUTES = Path(__file__).parent / "data" / "flights-airport.csv"

CONSTRAINT = "CREATE CONSTRAINT airport_iata IF NOT EXISTS FOR (a:Airport) REQUIRE a.iata IS UNIQUE"

_COUNT = "MERGE (c:Counter {id: 0}) SET c.n = coalesce(c.n, 0) + 1"

_AIRPORT = (
    _COUNT + " WITH c MERGE (a:Airport {iata: $iata}) "
    "SET a.name = $name, a.city = $city, a.state = $state, a.country = $country, a.location = $location"
)

# CREATE on purpose: a route that is applied twice is there twice.  No WITH before (a)-[...]->(b): behind one their
# labels are out of sight, and a command that may touch any node shares no transaction with its neighbours.
_ROUTE = (
    "MATCH (a:Airport {iata: $origin}), (b:Airport {iata: $destination}) "
    "CREATE (a)-[:FLIES_TO {flights: $flights}]->(b) " + _COUNT
)


@dataclass(frozen=True, slots=True)
class Airport:
    """One airport; what is not known is none."""

    iata: str
    name: str
    city: str | None
    state: str | None
    country: str
    location: WGS84Point


@dataclass(frozen=True, slots=True)
class Route:
    """How many flights there were from one airport to another."""

    origin: str
    destination: str
    flights: int


def airports() -> list[Airport]:
    """3,376 airports.

    Raises:
      PackageMissing: the `demo` extra is not installed.
    """
    return [_airport(row) for row in _rows(_package() / "_data" / "airports.csv")]


def routes() -> list[Route]:
    """5,366 routes between them."""
    return [Route(row["origin"], row["destination"], int(row["count"])) for row in _rows(ROUTES)]


def add_airport(airport: Airport) -> Statement:
    """The command that adds an airport."""
    return Statement(_AIRPORT, {name: getattr(airport, name) for name in Airport.__slots__})


def add_route(route: Route) -> Statement:
    """The command that adds a route between two airports."""
    return Statement(_ROUTE, {name: getattr(route, name) for name in Route.__slots__})


def _airport(row: dict[str, str]) -> Airport:
    location = WGS84Point((float(row["longitude"]), float(row["latitude"])))
    return Airport(row["iata"], row["name"], _known(row["city"]), _known(row["state"]), row["country"], location)


def _known(text: str) -> str | None:
    return None if text == "NA" else text


def _package() -> Path:
    # Its folder, not its code: importing it needs pandas.
    spec = find_spec("vega_datasets")
    if spec is None or not spec.submodule_search_locations:
        raise PackageMissing("the demo's airports are missing: install its extra, `pip install -e '.[demo,stack]'`")
    return Path(spec.submodule_search_locations[0])


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)
