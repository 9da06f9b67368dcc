"""The server's own EXPLAIN of a command, as a second opinion before it is sent.

It compiles the text and runs nothing, so it finds what a text alone does not show: wrong syntax, unknown variables,
functions and procedures, types that cannot be; and a plan with an operator that the first verdict does not know of
says that the text was misread.  It is the opinion of one server at its present position: what earlier commands of the
log will change, it cannot know.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import neo4j
from neo4j.exceptions import DriverError, Neo4jError

from replica import compiling, cypher
from replica.errors import Unavailable
from replica.outcomes import NOT_ENCODABLE, code_of, is_authentication, is_deterministic, message_of, pause_s
from replica.transactions import ENCODING_ERRORS, Database


if TYPE_CHECKING:
    from collections.abc import Iterator

    from replica.statement import Statement

#: Query types as the server names them.
READS: Final = "r"
SCHEMA: Final = "s"

#: Operators that no command may have, by a part of their name in lower case, and what each of them says.
_FORBIDDEN: Final = (
    ("loadcsv", "reads a file or an address"),
    ("administrationcommand", "administers the server"),
    ("terminatetransactions", "administers the server"),
    ("fulltext", "asks a full-text index, whose answers may differ between replicas"),
    ("vector", "asks a vector index, whose answers may differ between replicas"),
)
_OWN_TRANSACTIONS: Final = ("transactionapply", "transactionforeach")
#: Codes that say that the server lacks something; every replica that lacks it would hold the command.
_LACKING: Final = frozenset(
    ["Neo.ClientError.Procedure.ProcedureNotFound", "Neo.ClientError.Database.DatabaseNotFound"]
)


@dataclass(frozen=True, slots=True)
class Opinion:
    """What the server says.

    *query_type* is `r`, `rw`, `w` or `s`, None where it does not compile: then *code* and *message* say why, and
    *held* whether a replica would hold the command rather than reject it.  *operators* are those of its plan, in the
    order of the plan.  *contradictions* say what speaks against sending the statement; none means that nothing does.
    """

    query_type: str | None = None
    operators: tuple[str, ...] = ()
    code: str | None = None
    message: str | None = None
    held: bool = False
    contradictions: tuple[str, ...] = ()
    #: What a person may want to know; no reason against sending it.
    remarks: tuple[str, ...] = ()


def ask(database: Database, statement: Statement, *, condition: bool = False) -> Opinion:
    """Let the server compile *statement*, or the *condition* of one.

    Costs one round trip (1 ms for a text that the server knows).  Raises `Unavailable` where the server's answer is
    about itself.
    """
    try:
        with database.session(read=True) as session:
            query = neo4j.Query(compiling.explained(statement.text), timeout=database.timeout_s)
            summary = session.run(query, dict(statement.parameters)).consume()
    except ENCODING_ERRORS as error:
        return _refused(NOT_ENCODABLE, str(error), held=False)
    except Neo4jError as error:
        code = code_of(error)
        if is_authentication(error) or not (is_deterministic(code) or code in _LACKING):
            raise Unavailable(code, message_of(error), retry_after_s=pause_s(error)) from error
        return _refused(code, compiling.as_written(message_of(error)), held=code in _LACKING)
    except (DriverError, OSError) as error:
        raise Unavailable(code_of(error), message_of(error), retry_after_s=pause_s(error)) from error
    operators = tuple(_operators(summary.plan))
    kind = str(summary.query_type)
    against = tuple(_contradictions(statement.text, kind, operators, own_transactions=statement.idempotent))
    if condition:
        against += () if kind == READS else ("the server does not take the condition for a query",)
        return Opinion(kind, operators, contradictions=against)
    remarks = ("it writes nothing: a query does the same, and costs the log nothing",) if kind == READS else ()
    return Opinion(kind, operators, contradictions=against, remarks=() if against else remarks)


def _refused(code: str, message: str, *, held: bool) -> Opinion:
    said = message.partition("\n")[0]  # the lines below it quote the text
    against = f"a replica would {'hold' if held else 'reject'} it: {said} [{code}]"
    return Opinion(code=code, message=message, held=held, contradictions=(against,))


def _operators(plan: Any) -> Iterator[str]:
    """The names of the plan's operators, without the database that the server writes behind them."""
    if plan:
        yield str(plan["operatorType"]).partition("@")[0]
        for child in plan.get("children", ()):
            yield from _operators(child)


def _contradictions(text: str, kind: str, operators: tuple[str, ...], *, own_transactions: bool) -> Iterator[str]:
    """What the plan shows and the text, as it was read, does not."""
    seen = {operator.lower(): operator for operator in operators}
    if kind == SCHEMA and not cypher.is_schema(text):
        yield "the server takes it for a change of the schema or for administration"
    if kind != SCHEMA and cypher.is_schema(text):
        yield f"it was read as a change of the schema, and the server says {kind!r}"
    for part, what in _FORBIDDEN:
        # An index is named in the operator that creates or drops it, too.
        if kind != SCHEMA and any(part in name for name in seen):
            yield f"it {what}"
    if not own_transactions and any(name in seen for name in _OWN_TRANSACTIONS):
        yield "it commits in transactions of its own"
    if "procedurecall" in seen and not cypher.procedures(text):
        yield "it calls a procedure that was not found in the text"
