"""What makes replicas differ, as data: the rules, and the functions and procedures that are known.  Pure.

A command is executed by every replica by itself, so it must mean the same on each of them, now and in a year.
Whatever is not listed here is taken for something that differs.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final


class Verdict(enum.Enum):
    """What becomes of a statement to which a rule applies."""

    FREEZE = "freeze"  # the value is taken once, at the sender, and travels as a parameter
    REFUSE = "refuse"  # replicas would differ, or whether they do cannot be judged
    WARN = "warn"  # replicas agree as long as the data makes the result unique
    CONFIGURATION = "configuration"  # replicas agree if they are configured alike


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table: *reason* says what differs between replicas, *rewrite* how to write it instead."""

    name: str
    verdict: Verdict
    reason: str
    rewrite: str = ""

    @property
    def severity(self) -> str:
        """`freeze`, `refuse`, `warn` or `configuration`."""
        return self.verdict.value


def _rules(verdict: Verdict, *rows: tuple[str, str, str]) -> dict[str, Rule]:
    return {name: Rule(name, verdict, reason, rewrite) for name, reason, rewrite in rows}


RULES: Final[dict[str, Rule]] = {
    **_rules(
        Verdict.FREEZE,
        ("clock", "each replica executes it at a time of its own", "one instant, taken at the sender"),
        ("random", "each replica would draw another value", "one value, drawn at the sender"),
        ("generated-name", "generated names differ between versions of Neo4j", "a name made from the statement"),
    ),
    **_rules(
        Verdict.REFUSE,
        (
            "random-rows",
            "a value is drawn for each row, and each replica would draw others",
            "draw the values at the sender and pass them: UNWIND $rows AS row ... row.value",
        ),
        (
            "realtime-rows",
            "the clock is read again for each row, on each replica at a time of its own",
            "use datetime() (one instant for the statement), or pass the times as a parameter",
        ),
        (
            "clock-hidden",
            "whether the clock is read depends on a value that cannot be judged here",
            "pass the time as a parameter, or write toString(...) around what is a string",
        ),
        ("ids", "ids belong to one store and are used again", "match by a property with a uniqueness constraint"),
        (
            "unordered-limit",
            "without ORDER BY each replica may keep other rows",
            "put ORDER BY with a unique key in front of SKIP and LIMIT, in the same WITH",
        ),
        (
            "unordered-list",
            "the order of the list differs between replicas",
            "sort first: WITH x ORDER BY x.key WITH collect(x) AS xs; for the extremes use min() and max()",
        ),
        (
            "unordered-names",
            "labels and keys come in the order of their ids in one store",
            "test with IN or size(), or sort: COLLECT { UNWIND labels(n) AS l RETURN l ORDER BY l }",
        ),
        ("function", "it is not known to be deterministic", "compute the value at the sender and pass it"),
        (
            "function-outside",
            "its result comes from outside the graph, by chance or by the clock",
            "compute the value at the sender and pass it as a parameter",
        ),
        ("procedure", "it is not known to be deterministic", "write it in Cypher, or compute at the sender"),
        (
            "procedure-hidden",
            "it hides another statement or transaction, which cannot be judged",
            "send the inner statement as a command of its own",
        ),
        (
            "local-facts",
            "it tells about one server, or acts on it",
            "run it on each server; what a write needs pass as a parameter",
        ),
        (
            "approximate-index",
            "a full-text or vector index may answer differently on each replica",
            "query a replica first, then send the keys that it found as a parameter",
        ),
        (
            "definition",
            "a local function or procedure may be named like a built-in one",
            "write its body where it is called",
        ),
        ("load-csv", "files and addresses may differ between replicas", "send the rows: UNWIND $rows AS row"),
        (
            "own-transactions",
            "it commits in pieces, which cannot be repeated exactly",
            "send batches as commands, or say idempotent=True if it may be run again after a part of it",
        ),
        (
            "unordered-batches",
            "where it fails half-way, other batches stay on each replica",
            "put UNWIND of a list, or WITH ... ORDER BY a unique key, in front of CALL (x) { ... } IN TRANSACTIONS",
        ),
        ("other-graph", "a replica has one database", "leave USE out"),
        ("explain", "EXPLAIN and PROFILE are for a person at one server", "leave the word out"),
        ("administration", "administration of a server is not replicated", "run it on each server"),
        (
            "unnamed-schema",
            "what is made or dropped must be known beforehand",
            "write its name, or a text as parameter",
        ),
        ("enterprise-constraint", "Neo4j Community has uniqueness constraints only", "use IS UNIQUE"),
        (
            "reserved-parameter",
            "names that begin with two underscores are ours inside a rewritten text",
            "give the parameter another name",
        ),
        (
            "condition",
            "a condition may be looked at by any replica, and changes none",
            "ask with MATCH ... RETURN true, and write in the command",
        ),
        ("unreadable", "what the text means cannot be told with certainty", "write one complete statement"),
        (
            "reserved-label",
            "it is the label of the node that holds the replica's position",
            "give the label another name",
        ),
        (
            "prefixed-schema",
            "a CYPHER prefix hides that the schema changes",
            "leave the prefix out in front of CREATE and DROP of indexes and constraints",
        ),
        ("escape", "where \\u escapes are resolved differs between versions of Cypher", "write the character itself"),
        ("too-complex", "a server may never answer", "pass data as parameters"),
    ),
    **_rules(
        Verdict.WARN,
        ("limit-in-result", "without ORDER BY each replica may return other rows", "add ORDER BY"),
        ("ties", "rows with equal keys come in any order", "end ORDER BY with a unique key"),
        ("list-order", "the order of the stored list may differ", "WITH ... ORDER BY before collect()"),
        ("float-sum", "the last digits of a sum of floats depend on the order of rows", "sum integers"),
        ("shortest-path", "one of several equally short paths is taken", "match a path that is unique"),
        ("last-row-wins", "of several rows that set one property, the last wins", "aggregate first"),
        ("index-hint", "it fails where the index is not online yet", "leave the hint out"),
    ),
    **_rules(
        Verdict.CONFIGURATION,
        ("time-zone", "the default time zone and the zone data are each server's own", "write the offset"),
    ),
}

#: The functions whose value with no argument is the clock's.
CLOCKS: Final = frozenset(["date", "time", "localtime", "datetime", "localdatetime"])
CLOCK_FORMS: Final = frozenset(["statement", "transaction", "realtime"])
RANDOM: Final = frozenset(["rand", "randomuuid", "uuid"])
IDS: Final = frozenset(["id", "elementid", "db.namefromelementid", "graph.byelementid"])
FLOAT_SUMS: Final = frozenset(["sum", "avg", "stdev", "stdevp"])
SHORTEST: Final = frozenset(["shortestpath", "allshortestpaths"])
#: Functions that depend on the order of a list.
ORDERED_USES: Final = frozenset(
    ["head", "last", "tail", "reduce", "allreduce", "reverse", "coll.indexof", "coll.insert", "coll.remove"]
)

#: Built-in functions of Cypher 5 and 25 with the same value everywhere, in lower case.
FUNCTIONS: Final = frozenset(
    [
        *("all", "any", "none", "single", "exists", "isempty", "allreduce"),
        *("coalesce", "nullif", "head", "last", "tail", "length", "size", "properties", "type", "valuetype"),
        *("startnode", "endnode", "nodes", "relationships", "labels", "keys", "range", "reduce", "reverse"),
        *("char_length", "character_length", "toboolean", "tobooleanornull", "tobooleanlist", "tofloat"),
        *("tofloatornull", "tofloatlist", "tointeger", "tointegerornull", "tointegerlist"),
        *("tostring", "tostringornull", "tostringlist"),
        *("avg", "sum", "count", "collect", "max", "min", "percentilecont", "percentiledisc", "stdev", "stdevp"),
        *("abs", "ceil", "ceiling", "floor", "round", "sign", "isnan", "e", "exp", "log", "log10", "ln", "sqrt", "pi"),
        *("acos", "asin", "atan", "atan2", "cos", "cosh", "cot", "coth", "sin", "sinh", "tan", "tanh", "haversin"),
        *("degrees", "radians", "left", "right", "lower", "upper", "tolower", "toupper", "trim", "btrim", "ltrim"),
        *("rtrim", "normalize", "replace", "split", "substring"),
        *("coll.distinct", "coll.flatten", "coll.indexof", "coll.insert", "coll.max", "coll.min", "coll.remove"),
        *("coll.sort", "duration", "duration.between", "duration.indays", "duration.inmonths", "duration.inseconds"),
        *("datetime.fromepoch", "datetime.fromepochmillis", "point", "point.distance", "point.withinbbox"),
        *("vector", "vector_dimension_count", "vector_distance", "vector_norm"),
        *("vector.similarity.cosine", "vector.similarity.euclidean", "shortestpath", "allshortestpaths"),
    ]
)

#: Procedures that do the same everywhere, in lower case.
PROCEDURES: Final = frozenset(
    [
        *("db.createlabel", "db.createproperty", "db.createrelationshiptype"),
        *("db.create.setnodevectorproperty", "db.create.setrelationshipvectorproperty", "db.create.setvectorproperty"),
    ]
)

#: The rule for a name that begins so; the first that fits.  Functions and procedures alike, in lower case.
PREFIXES: Final[tuple[tuple[str, str], ...]] = (
    ("db.index.fulltext.", "approximate-index"),
    ("db.index.vector.", "approximate-index"),
    ("dbms.", "local-facts"),
    ("db.", "local-facts"),
    ("tx.", "local-facts"),
    ("graph.", "other-graph"),
    ("file", "load-csv"),
    ("linenumber", "load-csv"),
    ("genai.", "function-outside"),
    ("ai.", "function-outside"),
    ("apoc.load.", "function-outside"),
    ("apoc.import.", "function-outside"),
    ("apoc.export.", "function-outside"),
    ("apoc.create.uuid", "function-outside"),
    ("apoc.text.random", "function-outside"),
    ("apoc.coll.shuffle", "function-outside"),
    ("apoc.coll.randomitem", "function-outside"),
    ("apoc.date.currenttimestamp", "function-outside"),
    ("apoc.util.sleep", "function-outside"),
    ("apoc.log.", "local-facts"),
    ("apoc.node.id", "ids"),
    ("apoc.rel.id", "ids"),
    ("apoc.nodes.get", "ids"),
    ("apoc.periodic.", "procedure-hidden"),
    ("apoc.trigger.", "procedure-hidden"),
    ("apoc.cypher.", "procedure-hidden"),
    ("apoc.do.", "procedure-hidden"),
    ("apoc.when", "procedure-hidden"),
    ("apoc.case", "procedure-hidden"),
    ("apoc.lock.", "procedure-hidden"),
    ("apoc.atomic.", "procedure-hidden"),
)

#: Words after which a bracket opens no call.
BEFORE_BRACKET: Final = frozenset(
    [
        *("MATCH", "CREATE", "MERGE", "INSERT", "WHERE", "AND", "OR", "XOR", "NOT", "IN", "RETURN", "WITH", "EXISTS"),
        *("THEN", "ELSE", "WHEN", "CASE", "ON", "BY", "SET", "DELETE", "DISTINCT", "AS", "UNWIND", "FOR", "LET"),
        *("ANY", "ALL", "SHORTEST", "PATH", "PATHS", "GROUP", "GROUPS", "WALK", "TRAIL", "SIMPLE", "ACYCLIC"),
        *("ELEMENTS", "ELEMENT", "RELATIONSHIPS", "RELATIONSHIP", "NODES", "NODE", "EDGES", "EDGE", "FILTER"),
        *("CALL", "FOREACH", "LIMIT", "SKIP", "OFFSET", "IS", "CONTAINS", "REMOVE", "REQUIRE", "FROM", "BOTH"),
        *("LEADING", "TRAILING", "YIELD", "OPTIONAL"),
    ]
)

#: Words that begin a clause.
CLAUSES: Final = frozenset(
    [
        *("MATCH", "OPTIONAL", "CREATE", "INSERT", "MERGE", "SET", "REMOVE", "DELETE", "DETACH", "NODETACH", "FOREACH"),
        *(
            "CALL",
            "YIELD",
            "UNWIND",
            "FOR",
            "WITH",
            "RETURN",
            "UNION",
            "NEXT",
            "LET",
            "FILTER",
            "FINISH",
            "LOAD",
            "USE",
        ),
    ]
)
WRITES: Final = frozenset(["CREATE", "INSERT", "MERGE", "SET", "REMOVE", "DELETE", "FOREACH"])
#: Words that make more than one row of one; MERGE does so only for what follows it.
ROWS: Final = frozenset(["MATCH", "UNWIND", "FOR", "FOREACH", "LOAD", "CALL", "YIELD", "SEARCH"])
LIMITS: Final = frozenset(["LIMIT", "SKIP", "OFFSET"])
