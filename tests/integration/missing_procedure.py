"""Imported by a worker: its server seems to lack a procedure, and a function, that the others have."""

from __future__ import annotations

from typing import Any

from neo4j import Transaction
from neo4j.exceptions import ClientError


#: What a text has to contain, and what the server says of it then.
CODES = {
    "missing_procedure": "Neo.ClientError.Procedure.ProcedureNotFound",
    "missing_function": "Neo.ClientError.Statement.SyntaxError",
}

_run = Transaction.run


def _without(self: Transaction, query: Any, parameters: Any = None, **kwparameters: Any) -> Any:
    for name, code in CODES.items():
        if name in str(query):
            error = ClientError(f"There is no such thing as `{name}` on this server")
            error._neo4j_code = code
            raise error
    return _run(self, query, parameters, **kwparameters)


Transaction.run = _without  # type: ignore[method-assign, assignment]  # that is what this module is for
