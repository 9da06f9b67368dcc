"""What a person would ask about airports; every question goes to whichever replica is free."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from neo4j.spatial import WGS84Point


if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Question:
    """A question in words and in Cypher."""

    words: str
    text: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


QUESTIONS = (
    Question(
        "Which airports are the busiest?",
        """
        MATCH (a:Airport)-[r:FLIES_TO]-()
        RETURN a.iata AS code, a.name AS airport, a.state AS state, sum(r.flights) AS flights
        ORDER BY flights DESC, code LIMIT 5
        """,
    ),
    Question(
        "Which airports can be reached directly from most others?",
        """
        MATCH (a:Airport)<-[:FLIES_TO]-(b)
        RETURN a.iata AS code, a.name AS airport, count(DISTINCT b) AS airports ORDER BY airports DESC, code LIMIT 3
        """,
    ),
    Question(
        "From Pueblo, Colorado, to Yakutat, Alaska: how often does one have to fly, and over which airports?",
        """
        MATCH p = allShortestPaths((:Airport {iata: $from})-[:FLIES_TO*..10]->(:Airport {iata: $to}))
        RETURN length(p) AS flights, [a IN nodes(p) | a.iata] AS via, [a IN nodes(p) | a.city] AS cities
        ORDER BY reduce(n = 0, r IN relationships(p) | n + r.flights) DESC, via LIMIT 1
        """,
        {"from": "PUB", "to": "YAK"},
    ),
    Question(
        "Which airports are nearest to the Grand Canyon?",
        """
        MATCH (a:Airport) WITH a, point.distance(a.location, $here) / 1000 AS km ORDER BY km LIMIT 4
        RETURN a.iata AS code, a.name AS airport, a.state AS state, toInteger(round(km)) AS km
        """,
        {"here": WGS84Point((-112.1129, 36.1069))},
    ),
    Question(
        "Which states have most routes to other states?",
        """
        MATCH (a:Airport)-[:FLIES_TO]->(b) WHERE a.state <> b.state
        RETURN a.state AS state, count(*) AS routes, count(DISTINCT b.state) AS `other states`
        ORDER BY routes DESC, state LIMIT 5
        """,
    ),
)
