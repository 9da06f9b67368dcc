"""One transaction each: lock the marker, compare, run commands, move the marker, commit.

Nothing here decides about a command; a failure says which commands of the transaction it concerns.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

import neo4j
from neo4j.exceptions import Neo4jError

from replica import conditions, cypher, plan
from replica.advance import prepared
from replica.alike import identified
from replica.chains import Chain, Sequences, members
from replica.flights import Flight, in_thread
from replica.ids import Ids
from replica.outcomes import is_authentication
from replica.proofs import Proofs


if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from replica.advance import Advance, Ended
    from replica.chains import Item
    from replica.marker import Key, Marker
    from replica.statement import Command, Outcome

T = TypeVar("T")

#: What the driver raises for a parameter that has no place on the wire; the server has seen nothing then.
ENCODING_ERRORS: Final = (ValueError, OverflowError, TypeError)

#: Rows fetched at a time.  A command's rows are read to the end and dropped, so that an error in the last of them
#: counts on every replica alike.
_FETCH_SIZE: Final = 1000

_COUNTERS: Final = (
    "nodes_created",
    "nodes_deleted",
    "relationships_created",
    "relationships_deleted",
    "properties_set",
    "labels_added",
    "labels_removed",
    "indexes_added",
    "indexes_removed",
    "constraints_added",
    "constraints_removed",
)


class Moved(Exception):
    """The marker is not where it was: somebody else applied, or the graph was replaced."""


class Failed(Exception):
    """The commands from *start* up to *end* made the transaction fail; it is rolled back.

    *as_written* is False where they ran in a rewritten form, whose errors prove nothing.
    """

    def __init__(self, error: Exception, start: int, end: int, *, as_written: bool) -> None:
        super().__init__(str(error))
        self.error = error
        self.start = start
        self.end = end
        self.as_written = as_written


@dataclass(frozen=True, slots=True)
class Database:
    """Where to write, and how long a transaction may take."""

    driver: neo4j.Driver
    name: str
    timeout_s: float

    def session(self, *, read: bool = False) -> neo4j.Session:
        """A new session; it costs nothing measurable."""
        mode = neo4j.READ_ACCESS if read else neo4j.WRITE_ACCESS
        return self.driver.session(database=self.name, default_access_mode=mode, fetch_size=_FETCH_SIZE)


class Writer:
    """Apply commands in one transaction.  One thread at a time."""

    def __init__(self, database: Database, key: Key, topic_id: str) -> None:
        self._database = database
        self._key = key
        self._topic_id = topic_id
        self._proofs = Proofs(database.session)
        self._sequences = Sequences()
        self._ids = Ids()
        self.server = ""  # as it calls itself
        self.counters: Counter[str] = Counter()
        self.transactions = 0
        #: What the caller has to do while the server works, once a transaction; it must not raise.
        self.meanwhile: Callable[[], None] | None = None
        self._to_do: Callable[[], None] | None = None

    def write(
        self,
        commands: Sequence[Command],
        marker: Marker,
        *,
        published: int,
        verdicts: Mapping[int, Outcome],
        groups: Sequence[plan.Group | Command] = (),
    ) -> Marker:
        """Apply *commands* after *marker* in whatever form is fastest; *verdicts* are rejected without being run.

        *groups* is what `plan.groups` makes of all of them, where that is known.
        Raises `Failed`, `Moved` and whatever the driver raises about the connection.
        """
        verdicts = {**self.duplicates(commands, marker), **verdicts}
        self._to_do = self.meanwhile
        with self._database.session() as session:
            found = groups if groups and not verdicts else plan.groups(commands, apart=verdicts)
            items = self._items(self._sequences.joined(found, apart=verdicts))
            short = len(items) == 1 and len(self.change(commands)) <= 1
            if short and (rewritten := self._rewritten(items[0], verdicts)):
                advance = self._advance(*rewritten, commands, marker, published)
                return self.landed(advance, marker, self._run_advance(session, advance, self._work_meanwhile))
            return self._explicit(session, items, marker, published, verdicts, as_written=False)

    def take_off(self, group: plan.Group, marker: Marker, *, published: int, flying: Sequence[Flight]) -> Flight | None:
        """Apply *group* behind *flying*, which are under way, or behind *marker*; None where it has to wait for them.

        It waits in the server for the position, and does nothing if that is not moved to where it begins.
        """
        if identified(group.commands):
            return None
        if not self._proofs.groupable(group.commands[0].statements[0]):
            return None
        for flight in flying:
            marker = flight.advance.expected(marker, self.server)
        advance = self._advance(group.rewritten, group.parameters, group.commands, marker, published)
        begun, front = threading.Event(), tuple(flying)
        return Flight(advance, begun, in_thread(lambda: self._fly(advance, begun, front)))

    def _fly(self, advance: Advance, begun: threading.Event, front: Sequence[Flight]) -> Ended:
        """Behind those in *front* of it, when all but the last have ended: of two that wait, either may come first."""
        for flight in front[:-1]:
            flight.wait()
        for flight in front[-1:]:
            flight.begun.wait()
        try:
            with self._database.session() as session:
                return self._run_advance(session, advance, begun.set)
        finally:
            begun.set()

    def duplicates(self, commands: Sequence[Command], marker: Marker) -> dict[int, Outcome]:
        """The outcomes of those that were applied before under their id; costs nothing where none has one.

        Raises as `write`.
        """
        if not identified(commands):
            return {}
        self._know_ids(marker)
        return self._ids.duplicates(commands)

    def change(self, applied: Sequence[Command]) -> dict[str, bytes | None]:
        """What the transaction that applies these commands has to write of their ids."""
        return self._ids.change(identified(applied))

    def moved(self, before: Marker, after: Marker, applied: Sequence[Command]) -> None:
        """A transaction with *applied* in it is committed."""
        self._ids.moved(before.offset, after.offset, identified(applied))

    def forget(self) -> None:
        """The graph may be another one at the same offset."""
        self._ids.forget()

    def _know_ids(self, marker: Marker) -> None:
        """Read them once; from then on this process knows what it writes.

        Under the lock: a position that somebody else has moved can be seen before the rest of its commit is.
        """
        if self._ids.known_at(marker.offset):
            return
        with self._database.session() as session, session.begin_transaction(timeout=self._database.timeout_s) as tx:
            self._locked(tx, marker)
            self._ids.load(marker.offset, self._key.all(tx))
            tx.rollback()

    def write_as_written(
        self, command: Command, marker: Marker, *, published: int, verdicts: Mapping[int, Outcome]
    ) -> Marker:
        """Apply one command as written, in a transaction of its own; the only form whose errors are a verdict."""
        self._know_ids(marker)  # the node is written anew, in case the command has seen it
        verdicts = {**self.duplicates([command], marker), **verdicts}
        self._to_do = self.meanwhile
        with self._database.session() as session:
            return self._explicit(session, [command], marker, published, verdicts, as_written=True)

    def _items(self, found: Iterable[Item]) -> list[Item]:
        """What is *found* to go together, where the server takes it so."""
        items: list[Item] = []
        for item in found:
            items += [item] if self._compiles(item) else members(item)
        return items

    def _compiles(self, item: Item) -> bool:
        if isinstance(item, Chain):
            return self._proofs.chainable(item)
        return not isinstance(item, plan.Group) or self._proofs.groupable(item.commands[0].statements[0])

    def _rewritten(self, item: Item, verdicts: Mapping[int, Outcome]) -> tuple[str, Mapping[str, Any]] | None:
        """The text and parameters that do *item* in one round trip, where there are such."""
        if isinstance(item, (plan.Group, Chain)):
            return item.rewritten, item.parameters
        if item.offset in verdicts or len(item.statements) != 1 or item.when is not None:
            return None
        statement = item.statements[0]
        text = cypher.analyse(statement.text)
        if not text.wrappable or text.alone or not text.parameters <= statement.parameters.keys():
            return None
        if not self._proofs.repeated(statement.text) or not self._proofs.wrappable(statement):
            return None
        return plan.wrapped(statement.text), statement.parameters

    def _advance(
        self, text: str, parameters: Mapping[str, Any], commands: Sequence[Command], marker: Marker, published: int
    ) -> Advance:
        return prepared(
            text,
            parameters,
            commands,
            marker,
            published=published,
            key=self._key,
            server=self.server,
            ids=self.change(commands),
            timeout_s=self._database.timeout_s,
        )

    def _run_advance(self, session: neo4j.Session, advance: Advance, meanwhile: Callable[[], None]) -> Ended:
        def run() -> Ended:
            result = session.run(advance.query, dict(advance.parameters))
            meanwhile()
            record = result.single()
            return None if record is None else (record["counted"] or []), result.consume()

        return self._judged(run, (0, len(advance.commands)), as_written=False)

    def landed(self, advance: Advance, marker: Marker, ended: Ended) -> Marker:
        """The marker after *advance*, which began at *marker* and has ended so.  Raises `Moved`."""
        counted, summary = ended
        self.transactions += 1
        self.server = summary.server.agent or ""
        if counted is None or summary.counters.properties_set < advance.own:
            raise Moved
        counters = _counted(summary)
        counters["properties_set"] -= advance.own
        self.counters += counters
        after = advance.expected(marker, self.server)
        if advance.counts:
            after = after.counted(*counted)
        self.moved(marker, after, advance.commands)
        return replace(after, tally=after.tally.plus(after.offset, counters, ()))

    def _explicit(
        self,
        session: neo4j.Session,
        items: Sequence[Item],
        marker: Marker,
        published: int,
        verdicts: Mapping[int, Outcome],
        *,
        as_written: bool,
    ) -> Marker:
        counted: Counter[str] = Counter()
        rejected: list[Outcome] = []
        applied: list[Command] = []
        index = 0
        with session.begin_transaction(timeout=self._database.timeout_s) as tx:
            found = self.lock(tx, marker, members(items[0])[0].offset)
            for item in items:
                if isinstance(item, (plan.Group, Chain)):
                    counted += self._together(tx, item, index)
                    applied += item.commands
                    index += len(item.commands)
                else:
                    outcome = verdicts.get(item.offset) or plan.verdict(item) or self._condition(tx, item, index)
                    if outcome is None:
                        counted += self._statements(tx, item, index)
                        applied.append(item)
                    else:
                        rejected.append(outcome)
                    index += 1
            new = found.moved(members(items[-1])[-1].offset, rejected, published=published, counted=counted)
            self._move(tx, new, applied, as_written=as_written)
            self._judged(tx.commit, (0, index), as_written=True)
        self.transactions += 1
        self.counters += counted
        self.moved(marker, new, applied)
        return new

    def _move(self, tx: neo4j.Transaction, marker: Marker, applied: Sequence[Command], *, as_written: bool) -> None:
        """Write *marker*, and the ids of what is *applied*; anew where a command as written may have seen the node."""
        change = self.change(applied)
        if as_written:
            self._key.renew(tx, marker, self._ids.everything(change))
        else:
            self._key.move(tx, marker, change)

    def lock(self, tx: neo4j.Transaction, marker: Marker, offset: int) -> Marker:
        """Lock the marker and check that it still is where *marker* says; *offset* is that of the next command.

        Its checkpoint is made where one is due, and is written with the marker.
        """
        found = self._locked(tx, marker)
        # What the graph says of its counters is older than what is known here, see `replica.digest`.
        return self._key.close(tx, replace(found, tally=marker.tally), offset)

    def _locked(self, tx: neo4j.Transaction, marker: Marker) -> Marker:
        found = self._key.lock(tx)
        if found is None or found.offset != marker.offset or found.topic_id != self._topic_id:
            raise Moved
        return found

    def _together(self, tx: neo4j.Transaction, item: plan.Group | Chain, index: int) -> Counter[str]:
        span = (index, index + len(item.commands))
        return _counted(self._run(tx, f"{item.rewritten} RETURN __done", item.parameters, span, as_written=False))

    def _statements(self, tx: neo4j.Transaction, command: Command, index: int) -> Counter[str]:
        counted: Counter[str] = Counter()
        for statement in command.statements:
            summary = self._run(tx, statement.text, statement.parameters, (index, index + 1), as_written=True)
            counted += _counted(summary)
        return counted

    def _condition(self, tx: neo4j.Transaction, command: Command, index: int) -> Outcome | None:
        """How *command* ends because of its condition; None where it has none, or it is met."""
        if (when := command.when) is None:
            return None

        def ask() -> Outcome | None:
            result = tx.run(when.text, dict(when.parameters))
            outcome = conditions.judged(command, result.keys(), (record.values() for record in result))
            summary = result.consume()
            if summary.query_type != conditions.READS or summary.counters.contains_updates:
                raise conditions.ConditionWrote(f"the condition: the server does not take it for a query: {when.text}")
            return outcome

        return self._judged(ask, (index, index + 1), as_written=True)

    def _run(
        self,
        tx: neo4j.Transaction,
        text: str,
        parameters: Mapping[str, Any],
        span: tuple[int, int],
        *,
        as_written: bool,
    ) -> neo4j.ResultSummary:
        def run() -> neo4j.ResultSummary:
            return self._drained(tx.run(text, dict(parameters)))

        return self._judged(run, span, as_written=as_written)

    def _drained(self, result: neo4j.Result) -> neo4j.ResultSummary:
        """The rows are read to the end; before that the server works, and nobody else needs this thread."""
        self._work_meanwhile()
        for _ in result:
            pass
        return result.consume()

    def _work_meanwhile(self) -> None:
        meanwhile, self._to_do = self._to_do, None
        if meanwhile is not None:
            meanwhile()

    @staticmethod
    def _judged(act: Callable[[], T], span: tuple[int, int], *, as_written: bool) -> T:
        """Do *act*; an error that is about commands becomes `Failed`, one about the connection stays what it is."""
        try:
            return act()
        except (*ENCODING_ERRORS, conditions.ConditionWrote) as error:
            raise Failed(error, *span, as_written=as_written) from error
        except Neo4jError as error:
            if is_authentication(error):
                raise
            raise Failed(error, *span, as_written=as_written) from error


def _counted(summary: neo4j.ResultSummary) -> Counter[str]:
    counters = summary.counters
    return Counter({name: count for name in _COUNTERS if (count := getattr(counters, name))})
