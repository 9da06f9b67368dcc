"""Answer queries from one replica's graph: read only, bounded, streamed, with the position they saw at least."""

from __future__ import annotations

import hashlib
import logging
import math
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, LiteralString

import neo4j
from neo4j.exceptions import DriverError, Neo4jError, ResultError, TransactionError

from replica import compiling, guard, together, values
from replica.errors import QueryRejected, QueryUnavailable, ValueNotEncodable
from replica.marker import RESTORING
from replica.outcomes import code_of, message_of
from replica.patience import Patience
from replica.rows import Rows, translated, unheard
from replica.statement import Position
from replica.summary import summary_of
from replica.together import Kinds


if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from replica.summary import Summary
    from replica.together import Asked, Part, Shared

logger = logging.getLogger("replica.query")

#: Seconds, rows and bytes (of JSON, about) of one result.
TIMEOUT_S: Final = 30.0
MAX_ROWS: Final = 10_000
MAX_BYTES: Final = 16_000_000
#: Rows in memory at a time.
_FETCH_SIZE: Final = 1000
#: Texts whose verdict is remembered, and the characters up to which that is by the text itself.
_REMEMBERED: Final = 2048
_SHORT: Final = 1000

#: Our own codes.
FORBIDDEN: Final = "Replica.QueryForbidden"
NOT_READ_ONLY: Final = "Replica.QueryNotReadOnly"

# position -- Where this graph is; read before the rows, so that they are at least as new.
_POSITION: Final[LiteralString] = """
MATCH (m:_KafkaPosition)
WHERE $topic IS NULL OR (m.topic = $topic AND m.partition = $partition)
RETURN m.topic AS topic, m.topic_id AS topic_id, m.partition AS partition, m.offset AS offset
ORDER BY topic, partition LIMIT 1
"""

#: Under which the transaction of a query says which one it is.
TAG: Final = "kafka_query"

# running -- The transactions of one query, of which there is at most one.
_RUNNING: Final[LiteralString] = (
    "SHOW TRANSACTIONS YIELD transactionId, metaData WHERE $tag IN split(metaData.kafka_query, ' ') "
    "RETURN transactionId AS id"
)
# end -- Ask the server to end them; it does so at its next look.
_END: Final[LiteralString] = "TERMINATE TRANSACTIONS $ids"


@dataclass(frozen=True, slots=True)
class Read:
    """What a query function returned, encoded, and the position of the graph just before it ran.

    *seen*, where it was asked for: the position afterwards; it has seen nothing of any later command.
    """

    value: Any
    position: Position | None
    seen: Position | None = None


@dataclass(frozen=True, slots=True)
class _Verdict:
    """Why a text must not run as a query."""

    code: str
    reason: str


#: In place of a verdict: there is none.
_UNREAD: Final = _Verdict("", "")


@dataclass(frozen=True, slots=True)
class _Known:
    """A position, and when it was asked for, in monotonic seconds.

    *bookmarks* of the session that has read it: it may be visible before all of its commit is, and a session with these
    waits for that.
    """

    at: float
    position: Position | None
    bookmarks: neo4j.Bookmarks | None = None


class Queries:
    """The reader of one graph.  Any thread may call it."""

    def __init__(
        self,
        driver: neo4j.Driver,
        *,
        database: str,
        topic: str | None = None,
        partition: int = 0,
        timeout_s: float = TIMEOUT_S,
        max_rows: int = MAX_ROWS,
        max_bytes: int = MAX_BYTES,
        allowed: guard.Allowed = guard.NOTHING_ELSE,
    ) -> None:
        self._driver = driver
        self._database = database
        self._log = {"topic": topic, "partition": partition}
        self._timeout_s = timeout_s
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._allowed = allowed
        self._known = _Known(-math.inf, None)
        self._verdicts: OrderedDict[str | bytes, _Verdict | None] = OrderedDict()
        self._lock = threading.Lock()
        self._kinds = Kinds()
        self._patience = Patience(self._give_up)

    def run(
        self,
        text: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        timeout_s: float | None = None,
        max_rows: int | None = None,
        known_s: float = 0.0,
        tag: str = "",
    ) -> Rows:
        """Start a query and give its rows, to be read in a `with` block; *parameters* are decoded values.

        *timeout_s* and *max_rows* are bounded by those of all queries.  *known_s*: the position may have been read so
        many seconds ago; without it a round trip tells it anew.  *tag* is for `terminate`.

        Raises `QueryRejected` where the query is at fault and `QueryUnavailable` where the server is.
        """
        judged, given = self._refuse(text), dict(parameters or {})
        limits = self._bounded(timeout_s), self._row_limit(max_rows)
        key = together.shared(text, given) if judged and known_s else None
        known = self._known_since(known_s)
        session = self._session(known)
        try:
            if not judged:
                self._refuse_writes(session, text, given)
            position = self._read_position(session) if known is None else known.position
            query = neo4j.Query(text, metadata={TAG: tag}, timeout=limits[0])
            result = session.run(query, given)
            told = unheard if key is None else partial(self._learn, key, given)
            return Rows(session, result, position, limits[1], self._max_bytes, lambda: self._position(session), told)
        except (DriverError, Neo4jError, OSError) as error:
            session.close()
            raise translated(error) from error
        except (ValueError, OverflowError, TypeError) as error:
            session.close()
            raise QueryRejected("Replica.ParameterNotEncodable", str(error)) from error
        except BaseException:
            session.close()
            raise

    def _learn(self, key: Shared, parameters: Mapping[str, Any], rows: Rows, summary: Summary) -> None:
        kind = self._kinds.heard(key, rows.columns, rows.count, rows.size, summary)
        if kind is None:
            return
        try:  # compiled here, so that nobody waits for that
            with self._session() as session:
                explained = neo4j.Query(compiling.explained(kind.text))
                given = {"__rows": [{**parameters, "__n": 0}]}
                apart = bool(summary_of(session.run(explained, given).consume()).notifications)
        except (DriverError, Neo4jError, OSError):  # most likely it is no subquery
            apart = True
        self._kinds.keep_apart(key) if apart else self._kinds.learn(key, kind)

    def kind_of(self, text: str, parameters: Mapping[str, Any]) -> Shared | None:
        """What a query has in common with those that it may go together with; from memory."""
        key = together.shared(text, parameters)
        if key is None or self._kinds.of(key) is None:
            return None
        with self._lock:
            return key if self._verdicts.get(_key(text), _UNREAD) is None else None

    def keep_apart(self, kind: Shared) -> None:
        """Queries of that kind go alone for a while."""
        self._kinds.keep_apart(kind)

    def run_together(self, kind: Shared, asked: Sequence[Asked]) -> Sequence[Rows] | None:
        """The rows of several queries of one kind, in order; none where each has to be run alone.

        That is so, and for a while, where anything goes wrong, or takes long.
        """
        parts = self._parts(kind, asked)
        if parts is None:
            self.keep_apart(kind)
            return None
        limits = (self._row_limit(each.max_rows) for each in asked)
        return [
            Rows(part, part, part.position, most, self._max_bytes, self.position, unheard)
            for part, most in zip(parts, limits, strict=True)
        ]

    def _parts(self, key: Shared, asked: Sequence[Asked]) -> Sequence[Part] | None:
        kind = self._kinds.of(key)
        if kind is None:
            return None
        known = self._known_since(min(each.known_s for each in asked))
        tags = " ".join(each.tag for each in asked)
        timeout_s = min(self._bounded(each.timeout_s) for each in asked)
        query = neo4j.Query(kind.text, metadata={TAG: tags}, timeout=timeout_s)
        rows = [{**each.parameters, "__n": number} for number, each in enumerate(asked)]
        try:
            with self._patience.watched(asked[0].tag), self._session(known) as session:
                position = self._read_position(session) if known is None else known.position
                found = together.parted(session.run(query, {"__rows": rows}), len(asked), kind.columns, position)
        except Exception as error:  # noqa: BLE001 - whose fault it is shows when each is asked alone
            logger.info("queries_kept_apart text=%r reason=%s", key[0], error)
            return None
        if found is None:
            return None
        parts, told = found
        return parts if self._kinds.heard_together(key, kind, len(asked), told) else None

    def read(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        timeout_s: float | None = None,
        seen: bool = False,
        known_s: float = 0.0,
        tag: str = "",
    ) -> Read:
        """Run `function(tx, *args, **kwargs)` in a READ transaction, once; what it returns comes back encoded.

        The server refuses writes by the access mode alone: the function is the operator's own code.  *seen*: ask for
        the position afterwards, too.  *known_s* is as in `run`.

        Raises `QueryRejected`, `QueryUnavailable`, and whatever *function* raises of its own.
        """
        known = self._known_since(known_s)
        try:
            with self._session(known) as session:
                # Before the transaction, which then waits for all that belongs to it.
                position = self._read_position(session) if known is None else known.position
                with session.begin_transaction(metadata={TAG: tag}, timeout=self._bounded(timeout_s)) as tx:
                    value = values.encode(function(tx, *args, **(kwargs or {})))
                    if not tx.closed():
                        tx.commit()  # as above, for the position that follows
                return Read(value, position, self._position(session) if seen else None)
        except (ResultError, TransactionError):
            raise  # a mistake in the function
        except (DriverError, Neo4jError, OSError) as error:
            raise translated(error) from error
        except ValueNotEncodable as error:
            raise QueryRejected(type(error).__name__, str(error)) from error

    def terminate(self, tag: str) -> bool:
        """End the query of that *tag* on the server; false where none runs just now.  Raises `QueryUnavailable`.

        The thread that reads its rows gets an error of the server.
        """
        try:
            with self._driver.session(database=self._database) as session:
                ids = [record["id"] for record in session.run(_RUNNING, {"tag": tag})]
                if ids:
                    session.run(_END, {"ids": ids}).consume()
                return bool(ids)
        except (DriverError, Neo4jError, OSError) as error:
            raise QueryUnavailable(code_of(error), message_of(error)) from error

    def _give_up(self, tag: str) -> None:
        with suppress(QueryUnavailable):  # then whoever waits for it hears of that, too
            self.terminate(tag)

    def position(self) -> Position | None:
        """Where the graph is now; None where no log was applied to it.  Raises `QueryUnavailable`."""
        try:
            with self._session() as session:
                return self._position(session)
        except (DriverError, Neo4jError, OSError) as error:
            raise QueryUnavailable(code_of(error), message_of(error)) from error

    def _bounded(self, timeout_s: float | None) -> float:
        return min(timeout_s, self._timeout_s) if timeout_s else self._timeout_s  # 0 would mean for ever

    def _row_limit(self, max_rows: int | None) -> int:
        return self._max_rows if max_rows is None else min(max_rows, self._max_rows)

    def _session(self, known: _Known | None = None) -> neo4j.Session:
        return self._driver.session(
            database=self._database,
            bookmarks=None if known is None else known.bookmarks,
            default_access_mode=neo4j.READ_ACCESS,
            fetch_size=_FETCH_SIZE,
            notifications_min_severity=neo4j.NotificationMinimumSeverity.WARNING,  # the caller is told
        )

    def _known_since(self, known_s: float) -> _Known | None:
        """A position of at most *known_s* seconds ago, if there is one: the graph is there still, or further."""
        known = self._known
        return known if time.monotonic() - known.at < known_s else None

    def _read_position(self, session: neo4j.Session) -> Position | None:
        """The position, which is known from now on."""
        now, position = time.monotonic(), self._position(session)
        self._known = _Known(now, position, session.last_bookmarks())
        return position

    def _position(self, runner: neo4j.Session | neo4j.Transaction) -> Position | None:
        record = runner.run(_POSITION, self._log).single()
        if record is None:
            return None
        if record["topic_id"].startswith(RESTORING):
            raise QueryUnavailable("Replica.HalfRestored", "a snapshot is being restored into this database")
        return Position(record["topic"], record["topic_id"], record["partition"], record["offset"])

    def _refuse(self, text: str) -> bool:
        """Refuse *text* for its words, or for what the server has said of it; false where that is to be asked yet.

        Once per text: to read one takes longer than all else that a small query needs here.
        """
        key = _key(text)
        with self._lock:
            judged = key in self._verdicts
            verdict = self._verdicts.get(key)
        if not judged and (reason := guard.refusal(text, self._allowed)):
            verdict = self._remember(text, _Verdict(FORBIDDEN, reason))
        if verdict is not None:
            raise QueryRejected(verdict.code, verdict.reason)
        return judged

    def _refuse_writes(self, session: neo4j.Session, text: str, parameters: dict[str, Any]) -> None:
        """Ask the server what kind of statement *text* is; its parameters do not change that."""
        kind = self._kind(session, text, parameters)
        if kind == "r":
            self._remember(text, None)
            return
        reason = f"a query only reads, and this statement's type is {kind!r}: send a command"
        self._remember(text, _Verdict(NOT_READ_ONLY, reason))
        raise QueryRejected(NOT_READ_ONLY, reason)

    def _kind(self, session: neo4j.Session, text: str, parameters: dict[str, Any]) -> str | None:
        try:
            return session.run(neo4j.Query(compiling.explained(text)), parameters).consume().query_type
        except Neo4jError as error:
            found = translated(error)
            raise type(found)(found.code, compiling.as_written(found.message)) from error

    def _remember(self, text: str, verdict: _Verdict | None) -> _Verdict | None:
        with self._lock:
            self._verdicts[_key(text)] = verdict
            if len(self._verdicts) > _REMEMBERED:
                self._verdicts.popitem(last=False)
        return verdict


def _key(text: str) -> str | bytes:
    """Under what the verdict on *text* is remembered: a long one by its hash, so that memory has a bound."""
    if len(text) <= _SHORT:
        return text
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=32).digest()
