"""What a query must not contain, whatever the server's own guards say.  Pure.

READ mode lets file access and `dbms.killConnection` through, and EXPLAIN calls TERMINATE and LOAD CSV reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from replica import cypher


if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Procedures that a query may call: they read this database and nothing else, and hold nothing up.
PROCEDURES: Final[frozenset[str]] = frozenset(
    [
        "db.index.fulltext.listavailableanalyzers",
        "db.index.fulltext.querynodes",
        "db.index.fulltext.queryrelationships",
        "db.index.vector.querynodes",
        "db.index.vector.queryrelationships",
        "db.labels",
        "db.ping",
        "db.propertykeys",
        "db.relationshiptypes",
        "db.schema.nodetypeproperties",
        "db.schema.reltypeproperties",
        "db.schema.visualization",
    ]
)
#: Namespaces of functions that come with Neo4j and only compute.  What else is installed may run any text, or load any
#: address, from within an expression; `genai` calls services.  A function without a namespace is always Neo4j's own.
FUNCTIONS: Final[frozenset[str]] = frozenset(
    [
        "coll",
        "date",
        "datetime",
        "db",
        "duration",
        "graph",
        "localdatetime",
        "localtime",
        "point",
        "string",
        "time",
        "vector",
    ]
)

#: What SHOW may be about, what may stand before that, and what it is about else, wherever it stands.
_SHOWN: Final = frozenset(["INDEX", "INDEXES", "CONSTRAINT", "CONSTRAINTS", "PROCEDURE", "PROCEDURES"]) | frozenset(
    ["FUNCTION", "FUNCTIONS"]
)
_KINDS: Final = frozenset(
    [
        "ALL",
        "BUILT",
        "DEFINED",
        "EXIST",
        "EXISTENCE",
        "FULLTEXT",
        "IN",
        "KEY",
        "LOOKUP",
        "NODE",
        "POINT",
        "PROPERTY",
        "RANGE",
        "REL",
        "RELATIONSHIP",
        "TEXT",
        "TYPE",
        "UNIQUE",
        "UNIQUENESS",
        "USER",
        "VECTOR",
    ]
)
_SERVERS: Final = frozenset(
    [
        "ALIAS",
        "ALIASES",
        "AUTH",
        "CURRENT",
        "DATABASE",
        "DATABASES",
        "DEFAULT",
        "HOME",
        "POPULATED",
        "PRIVILEGE",
        "PRIVILEGES",
        "ROLE",
        "ROLES",
        "SERVER",
        "SERVERS",
        "SETTING",
        "SETTINGS",
        "SUPPORTED",
        "TRANSACTION",
        "TRANSACTIONS",
        "USERS",
    ]
)

#: With one of these in front, any SHOW may begin a statement.
_FIRST: Final = frozenset(["CYPHER", "EXPLAIN", "PROFILE", "SHOW", "TERMINATE", "USE"])


@dataclass(frozen=True, slots=True)
class Allowed:
    """Procedures and functions that an operator trusts: *names*, and *prefixes*, which end in a dot; in lower case."""

    names: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()

    @classmethod
    def read(cls, text: str) -> Allowed:
        """The ones in *text*: names, and namespaces with ``.*`` behind them, between commas."""
        found = [name.strip().lower() for name in text.split(",") if name.strip()]
        prefixes = tuple(name.removesuffix("*") for name in found if name.endswith(".*"))
        return cls(frozenset(found), prefixes)

    def __contains__(self, name: str) -> bool:
        """Whether *name*, in whichever case, is one of them."""
        return name.lower() in self.names or name.lower().startswith(self.prefixes)


NOTHING_ELSE: Final = Allowed()


def refusal(text: str, allowed: Allowed = NOTHING_ELSE) -> str | None:
    """Why *text* must not run as a query, or None; it may call what is *allowed* besides what comes with Neo4j."""
    if cypher.nesting_depth(text) > cypher.MAX_NESTING:
        return f"nested deeper than {cypher.MAX_NESTING} levels"
    if cypher.chain_length(text) > cypher.MAX_CHAIN:
        return f"more than {cypher.MAX_CHAIN} operators in one expression"
    forms = {text, cypher.unescape(text)} if cypher.has_unicode_escape(text) else {text}
    return next((reason for form in forms if (reason := _refusal(form, allowed))), None)


def _refusal(text: str, allowed: Allowed) -> str | None:
    found = cypher.significant(text)
    seen = cypher.words(found)
    if cypher.loads_csv(seen):
        return "LOAD CSV reads files and addresses outside the database"
    if any(pair in {("TERMINATE", "TRANSACTION"), ("TERMINATE", "TRANSACTIONS")} for pair in pairwise(seen)):
        return "TERMINATE ends the work of others"
    if reason := _shows(seen):
        return reason
    for name in cypher.procedures(text):
        if name.lower() not in PROCEDURES and name not in allowed:
            return f"the procedure {name} is not on the list of those that only read (QUERY_ALLOWED adds to it)"
    for name in _functions(found):
        if name.partition(".")[0].lower() not in FUNCTIONS and name not in allowed:
            return f"the function {name} does not come with Neo4j, and may do more than read (QUERY_ALLOWED lets it)"
    return None


def _functions(found: Sequence[cypher.Token]) -> Iterator[str]:
    """Whatever is called with a namespace in front, as written, with dots; procedures are among them."""
    seen = cypher.words(found)
    for index in range(2, len(found) - 1):
        if seen[index + 1] != "(" or seen[index - 1] != ".":
            continue
        first = index
        while first >= 2 and seen[first - 1] == ".":  # noqa: PLR2004 - a name, and a dot behind it
            first -= 2
        yield ".".join(found[at].name for at in range(first, index + 1, 2))


def _shows(seen: Sequence[str]) -> str | None:
    """SHOW of anything but schema, procedures and functions."""
    for index, word in enumerate(seen):
        if word != "SHOW":
            continue
        begins = index == 0 or seen[index - 1] in {";", "{", "}"} or seen[0] in _FIRST
        about = next((word for word in seen[index + 1 :] if word not in _KINDS), "")
        if about in _SERVERS or (begins and about not in _SHOWN):
            return f"SHOW {' '.join(seen[index + 1 : index + 2])} tells about the server, not about the graph"
    return None
