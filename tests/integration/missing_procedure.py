"""Imported by a worker: its server seems to lack one procedure that the others have."""

from __future__ import annotations

from typing import Any

from neo4j.exceptions import ClientError

from replica.transactions import Writer


MISSING = "db.labels"

_run = Writer._run


def _without(self: Writer, tx: Any, text: str, parameters: Any, span: tuple[int, int], *, as_written: bool) -> Any:
    if MISSING in text:
        error = ClientError(f"There is no procedure with the name `{MISSING}` registered for this database instance")
        error._neo4j_code = "Neo.ClientError.Procedure.ProcedureNotFound"

        def fail() -> None:
            raise error

        self._judged(fail, span, as_written=True)
    return _run(self, tx, text, parameters, span, as_written=as_written)


Writer._run = _without  # type: ignore[method-assign]  # that is what this module is for
