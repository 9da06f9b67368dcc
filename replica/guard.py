"""What a query must not contain, whatever the server's own guards say.  Pure.

READ mode lets file access and `dbms.killConnection` through, and EXPLAIN calls TERMINATE and LOAD CSV reads.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

from replica import cypher


if TYPE_CHECKING:
    from collections.abc import Sequence

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
_SHOWN: Final = frozenset(["INDEX", "INDEXES", "CONSTRAINT", "CONSTRAINTS", "PROCEDURES", "FUNCTIONS"])
_SHOW_WORDS: Final = 5


def refusal(text: str, allowed: frozenset[str] = PROCEDURES) -> str | None:
    """Why *text* must not run as a query, or None; *allowed* holds procedures in lower case."""
    if cypher.nesting_depth(text) > cypher.MAX_NESTING:
        return f"nested deeper than {cypher.MAX_NESTING} levels"
    if cypher.chain_length(text) > cypher.MAX_CHAIN:
        return f"more than {cypher.MAX_CHAIN} operators in one expression"
    forms = {text, cypher.unescape(text)} if cypher.has_unicode_escape(text) else {text}
    return next((reason for form in forms if (reason := _refusal(form, allowed))), None)


def _refusal(text: str, allowed: frozenset[str]) -> str | None:
    found = cypher.significant(text)
    seen = cypher.words(found)
    if cypher.loads_csv(seen):
        return "LOAD CSV reads files and addresses outside the database"
    if any(pair in {("TERMINATE", "TRANSACTION"), ("TERMINATE", "TRANSACTIONS")} for pair in pairwise(seen)):
        return "TERMINATE ends the work of others"
    if reason := _shows(seen):
        return reason
    for name in cypher.procedures(text):
        if name.lower() not in allowed:
            return f"the procedure {name} is not on the list of those that only read"
    return None


def _shows(seen: Sequence[str]) -> str | None:
    """SHOW of anything but schema, procedures and functions."""
    for index, word in enumerate(seen):
        begins = index == 0 or seen[index - 1] in {";", "}"} or seen[0] in {"SHOW", "TERMINATE", "CYPHER", "EXPLAIN"}
        if word == "SHOW" and begins and not _SHOWN & set(seen[index + 1 : index + _SHOW_WORDS]):
            return f"SHOW {' '.join(seen[index + 1 : index + 2])} tells about the server, not about the graph"
    return None
