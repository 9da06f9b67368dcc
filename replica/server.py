"""What two Neo4j servers have to have in common, so that the same commands do the same on both."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, LiteralString

import neo4j
from neo4j.exceptions import DriverError, Neo4jError

from replica.errors import Unavailable
from replica.outcomes import code_of, message_of


_VERSION: Final[LiteralString] = """
CALL dbms.components() YIELD name, versions, edition WHERE name = 'Neo4j Kernel'
RETURN versions[0] AS version, edition
"""
_PROCEDURES: Final[LiteralString] = "SHOW PROCEDURES YIELD name RETURN name ORDER BY name"
_FUNCTIONS: Final[LiteralString] = "SHOW FUNCTIONS YIELD name, isBuiltIn WHERE NOT isBuiltIn RETURN name ORDER BY name"
_SETTINGS: Final[LiteralString] = (
    "SHOW SETTINGS YIELD name, value WHERE name IN $names OR name STARTS WITH 'db.index.fulltext.default' "
    "RETURN name, value ORDER BY name"
)

#: Settings that change what a statement does, or whether it fails, and not just how fast it is.
SETTINGS: Final = (
    "db.index.fulltext.eventually_consistent",
    "db.query.default_language",
    "db.temporal.timezone",
    "dbms.cypher.forbid_exhaustive_shortestpath",
    "dbms.cypher.forbid_shortestpath_common_nodes",
    "dbms.cypher.hints_error",
    "dbms.cypher.lenient_create_relationship",
)

#: Names that one difference spells out.
_NAMED: Final = 5


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """One server.  *called*: the procedures, and the functions that are not Neo4j's own, that it offers."""

    version: str
    edition: str
    settings: dict[str, str] = field(default_factory=dict)
    called: tuple[str, ...] = ()

    def differences(self, other: ServerFacts) -> list[str]:
        """What is otherwise on *other*, in words: ``version: 5.26.12, there 2026.04.0``."""
        mine, theirs = self._values(), other._values()
        found = [
            f"{name}: {mine.get(name, 'unknown')}, there {theirs.get(name, 'unknown')}"
            for name in sorted(mine.keys() | theirs.keys())
            if mine.get(name) != theirs.get(name)
        ]
        if self.version == other.version:  # else it is plain that these differ, and uninteresting how
            found += _missing("only here", self.called, other.called) + _missing(
                "only there", other.called, self.called
            )
        return found

    def _values(self) -> dict[str, str]:
        return {"version": self.version, "edition": self.edition, **self.settings}


def _missing(where: str, some: tuple[str, ...], others: tuple[str, ...]) -> list[str]:
    names = sorted(set(some) - set(others))
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return [f"procedures {where}: {', '.join(names[:_NAMED])}{more}"] if names else []


def server_facts(driver: neo4j.Driver, database: str) -> ServerFacts:
    """Ask the server.

    Raises:
      Unavailable: it does not answer, or does not tell.
    """
    try:
        with driver.session(database=database, default_access_mode=neo4j.READ_ACCESS) as session:
            [kernel] = session.run(_VERSION)
            settings = {record["name"]: str(record["value"]) for record in session.run(_SETTINGS, names=SETTINGS)}
            called = [record["name"] for text in (_PROCEDURES, _FUNCTIONS) for record in session.run(text)]
            settings |= _language(session, database)
    except (DriverError, Neo4jError, OSError) as error:
        raise Unavailable(code_of(error), message_of(error)) from error
    return ServerFacts(kernel["version"], kernel["edition"], settings, tuple(sorted(called)))


def _language(session: neo4j.Session, database: str) -> dict[str, str]:
    """The database's own default, where the server knows such: it goes before the server's."""
    [found] = session.run("SHOW DATABASES YIELD * WHERE name = $name RETURN *", name=database)
    values: dict[str, Any] = found.data()
    language = values.get("defaultLanguage")
    return {} if language is None else {"db.query.default_language": str(language).replace(" ", "_").upper()}
