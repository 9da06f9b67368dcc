"""The rows of one query on their way from the server: bounded, encoded, with what the server says of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self

from neo4j.exceptions import DriverError, Neo4jError

from replica import values
from replica.errors import QueryRejected, QueryUnavailable, ValueNotEncodable
from replica.outcomes import code_of, is_deterministic, message_of
from replica.summary import Summary, summary_of


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    import neo4j

    from replica.statement import Position
    from replica.together import Part

#: Codes that are the query's fault though not deterministic: it ran into a limit, or calls what is not there.
_CALLERS_FAULT: Final = frozenset(
    [
        "Neo.ClientError.Database.DatabaseNotFound",
        "Neo.ClientError.Procedure.ProcedureCallFailed",
        "Neo.ClientError.Procedure.ProcedureNotFound",
        "Neo.ClientError.Statement.AccessMode",
        "Neo.ClientError.Transaction.Terminated",  # somebody wants it ended, and not run on another replica
        "Neo.ClientError.Transaction.TransactionTimedOut",
        "Neo.ClientError.Transaction.TransactionTimedOutClientConfiguration",
        "Neo.ClientError.Transaction.LockClientStopped",
        "Neo.TransientError.General.MemoryPoolOutOfMemoryError",
        "Neo.DatabaseError.Transaction.TransactionStartFailed",
    ]
)


class Rows:
    """The result of one query: iterate for rows (lists of typed JSON values in the order of *columns*), then close.

    Use it in a `with` block, in one thread.  *position* is read before the rows, which are at least that new.
    *truncated* and *count* are final after the last row.
    """

    def __init__(
        self,
        session: neo4j.Session | Part,
        result: neo4j.Result | Part,
        position: Position | None,
        max_rows: int,
        max_bytes: int,
        look: Callable[[], Position | None],
        told: Callable[[Rows, Summary], object],
    ) -> None:
        self._session = session
        self._look = look
        self._told = told
        self._result = result
        self._max_rows = max_rows
        self._room = self._max_bytes = max_bytes
        self.position = position
        self.columns: tuple[str, ...] = tuple(result.keys())
        self.truncated = False
        self.count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connection back; what was not read is dropped at the server."""
        try:
            self._session.close()
        except (DriverError, Neo4jError, OSError):  # the rows are delivered; the pool drops the connection
            return

    def summary(self) -> Summary:
        """What the server says about the result, which ends with this call.

        Raises `QueryRejected` and `QueryUnavailable`: what is not read could still fail.
        """
        try:
            told = self._result.consume()
            summary = told if isinstance(told, Summary) else summary_of(told)
            self._told(self, summary)
            return summary
        except (DriverError, Neo4jError, OSError) as error:
            raise translated(error) from error

    def seen(self) -> Position | None:
        """The position after the rows, which end with this call: they show nothing of any later command.

        The session waits for all that was committed while it read, and a part of which it may have seen.
        Raises `QueryUnavailable`.
        """
        try:
            self._result.consume()
            return self._look()
        except (DriverError, Neo4jError, OSError) as error:
            raise translated(error) from error

    @property
    def size(self) -> int:
        """Bytes of the rows that were read, about."""
        return self._max_bytes - self._room

    def __iter__(self) -> Iterator[list[Any]]:
        """Rows until the result ends or a limit is reached.  Raises `QueryRejected` and `QueryUnavailable`."""
        try:
            for record in self._result:
                row = [values.encode(value, column) for column, value in zip(self.columns, record, strict=True)]
                self._room -= values.size(row)
                if self.count >= self._max_rows or self._room < 0:
                    self.truncated = True
                    return
                self.count += 1
                yield row
        except (DriverError, Neo4jError, OSError) as error:
            raise translated(error) from error
        except ValueNotEncodable as error:
            raise QueryRejected(type(error).__name__, str(error)) from error


def unheard(rows: Rows, summary: Summary) -> None:
    """Of most queries nothing is to be learnt."""


def translated(error: Exception) -> QueryRejected | QueryUnavailable:
    """What a driver has raised, as whose fault it is."""
    code = code_of(error)
    at_fault = is_deterministic(code) or code in _CALLERS_FAULT
    return (QueryRejected if at_fault else QueryUnavailable)(code, message_of(error))
