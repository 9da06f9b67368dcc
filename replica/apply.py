"""Apply the command log to one graph: exactly once, in order, as fast as the commands allow."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NoReturn

from neo4j.exceptions import DriverError, Neo4jError

from replica import cypher, plan, recovery, skipping
from replica.conditions import ConditionWrote
from replica.errors import Held, PositionMoved, Unavailable, WrongCredentials
from replica.flights import IN_FLIGHT, Ahead
from replica.marker import Key, Marker
from replica.outcomes import NOT_ENCODABLE, code_of, is_authentication, is_deterministic, message_of, pause_s
from replica.pieces import Pieces
from replica.schema import SchemaChange
from replica.statement import Applied, Outcome, Position
from replica.transactions import ENCODING_ERRORS, Database, Failed, Moved, Writer
from replica.waiting import for_whom


if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import neo4j

    from replica.digest import Checkpoint
    from replica.flights import Flight
    from replica.statement import Command

_logger = logging.getLogger(__name__)

#: Commands in one transaction: those between two checkpoints, so that none of them is cut short there.
BATCH: Final = 1024
#: Seconds; a command that takes longer is held.
TIMEOUT_S: Final = 60.0
#: Transactions that are told of together while others are under way behind them, and seconds that a word waits for
#: those: each word is a request to Kafka, as dear as seventy commands.
TOGETHER: Final = 4
WAITS_S: Final = 0.05
#: Seconds for a schema change: filling the index of a large graph takes minutes.
SCHEMA_TIMEOUT_S: Final = 3600.0


class Applier:
    """The writer of one graph.  Threads may share it; they take turns.

    Several appliers may run against one graph (a zombie beside its successor): the marker's lock lets each command
    through once.
    """

    def __init__(
        self,
        driver: neo4j.Driver,
        *,
        database: str,
        topic: str,
        topic_id: str,
        partition: int = 0,
        batch: int = BATCH,
        timeout_s: float = TIMEOUT_S,
        schema_timeout_s: float = SCHEMA_TIMEOUT_S,
    ) -> None:
        self._database = Database(driver, database, timeout_s)
        self._schema_database = Database(driver, database, schema_timeout_s)
        self._key = Key(topic, partition)
        self._topic_id = topic_id
        self._batch = batch
        self._writer = Writer(self._database, self._key, topic_id)
        self._lock = threading.Lock()
        self._marker: Marker | None = None  # None until recovered
        self._stale = False  # somebody or something may have moved the marker since
        self._returned = -1  # up to here the caller has been told
        self._published = -1  # up to here it has published what it was told
        self._untold: list[tuple[float, Marker]] = []  # when what landed of which the caller was not told yet
        self._began = 0.0  # with what the caller is told of next
        self._planned: tuple[Sequence[Command], Sequence[plan.Unit]] = ((), ())  # what comes next, probably

    @property
    def position(self) -> Position | None:
        """The last position seen; None before `recover` and after `PositionMoved`."""
        marker = self._marker
        if marker is None:
            return None
        return Position(self._key.topic, marker.topic_id, self._key.partition, marker.offset)

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """The last ones that the graph itself keeps; empty before `recover`."""
        return self._marker.checkpoints if self._marker is not None else ()

    def recover(self, log_start: int, log_end: int | None = None) -> Applied | None:
        """Read the position from the graph, or create it on an empty one; call it first and after `PositionMoved`.

        *log_start* is the first offset that the log still has, *log_end* the one after its last.  Returns what was
        committed but perhaps never published, or None; publish it before the next `apply`.
        Raises the `Halted` family, `Unavailable` and `WrongCredentials`.
        """
        with self._lock:
            self._marker = None
            try:
                self._writer.server = self._database.driver.get_server_info().agent
                marker = recovery.recover(self._database, self._key, self._topic_id, log_start, log_end)
            except (DriverError, Neo4jError, OSError) as error:
                raise _unavailable(error) from error
            self._marker, self._stale = marker, False
            self._returned = marker.published
            self._writer.counters.clear()
            self._untold.clear()
            self._writer.forget()
            report = self._report(marker)
            return report if report.first <= report.last else None

    def apply(self, commands: Sequence[Command], *, published: int | None = None) -> Applied:
        """Apply consecutive commands of the log, in offset order; those already applied are skipped.

        Returns everything since the last report, so the outcomes of a redelivered batch are in it again.  *published*
        is the offset up to which the caller has published what it was told; without it, it has published all of it.
        Raises `Held`, after committing everything before the held command: call again with the same commands.
        Raises `PositionMoved`: call `recover` and seek.
        """
        with self._lock:
            return self._apply(commands, published)

    def apply_all(
        self,
        parts: Iterable[Sequence[Command]],
        tell: Callable[[Applied], None],
        *,
        before: Callable[[], None],
        published: Callable[[], int],
    ) -> None:
        """Apply each of *parts*, in order, as `apply` does, and *tell* what it returns, of up to `TOGETHER` at once.

        The next part is asked for while the server works on the one before; where one round trip does all of it, it is
        sent then, too, and waits in the server for the position.  *before* is called before each is begun.
        What comes instead of a part, out of *before* or *tell*, is raised when all that is applied is told.
        Raises as `apply` does.
        """
        with self._lock:
            ahead, flying = Ahead(self._looked_at(parts)), deque[_Flown]()
            try:
                while (commands := ahead.take()) is not None:
                    self._land(flying, IN_FLIGHT - 1, tell, published)
                    try:
                        before()
                    except Exception:
                        self._land(flying, 0, tell, published)
                        raise
                    if (flown := self._take_off(commands, published(), flying)) is not None:
                        flying.append(flown)
                        continue
                    self._land(flying, 0, tell, published)
                    tell(self._apply(commands, published(), meanwhile=ahead.pull))
                self._land(flying, 0, tell, published)
            finally:
                self._await(flying)
        ahead.check()

    def _await(self, flying: Iterable[_Flown]) -> None:
        """Until they have ended; what came of them is asked of the graph."""
        for one in flying:
            one.flight.wait()
            self._stale = True

    def _land(
        self, flying: deque[_Flown], most: int, tell: Callable[[Applied], None], published: Callable[[], int]
    ) -> None:
        """Until at most so many are under way; those behind one that went wrong are applied as `apply` does."""
        while len(flying) > most:
            one = flying.popleft()
            self._begin(one.commands, published(), one.started)
            if self._untold and one.flight.lasts(max(self._untold[0][0] + WAITS_S - time.monotonic(), 0)):
                tell(self._told(self._untold[-1][1]))
            try:
                marker = self._writer.landed(one.flight.advance, self._current(), one.flight.ended())
            except (Failed, Moved, DriverError, Neo4jError, OSError) as error:
                self._await(flying)
                behind = [other.commands for other in flying]
                flying.clear()
                failure = error if isinstance(error, Failed) else None
                self._stale = self._stale or failure is None
                if self._untold:  # what comes now may be held for long
                    tell(self._told(self._untold[-1][1]))
                tell(self._apply(one.commands, published(), failure=failure))
                for commands in behind:
                    tell(self._apply(commands, published()))
            else:
                self._marker = marker
                self._untold.append((time.monotonic(), marker))
                if not flying or len(self._untold) >= TOGETHER:
                    tell(self._told(marker))

    def _apply(
        self,
        commands: Sequence[Command],
        published: int | None,
        *,
        failure: Failed | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> Applied:
        """*failure*: of *commands* as a whole, just now."""
        self._begin(commands, published, time.monotonic())
        self._writer.meanwhile = meanwhile
        marker = self._settled(commands, failure)
        self._writer.meanwhile = None
        return self._told(marker)

    def _begin(self, commands: Sequence[Command], published: int | None, started: float) -> None:
        if not self._untold:
            self._writer.counters.clear()
            self._writer.transactions = 0
            self._began = started
        if commands:
            self._returned = min(self._returned, commands[0].offset - 1)
        self._published = self._returned if published is None else min(published, self._returned)

    def _told(self, marker: Marker) -> Applied:
        self._untold.clear()
        report = self._report(marker)
        _logger.debug(
            "applied first=%d last=%d transactions=%d rejected=%d seconds=%.3f",
            *(report.first, report.last, self._writer.transactions, len(report.rejected)),
            time.monotonic() - self._began,
        )
        return report

    def _take_off(self, commands: Sequence[Command], published: int, flying: Sequence[_Flown]) -> _Flown | None:
        """Send *commands* behind what is *flying*; None where they are to be applied when that has ended."""
        marker = self._marker
        if marker is None or self._stale or len(commands) < self._batch // 2:
            return None
        if commands[0].offset <= (flying[-1].commands[-1].offset if flying else marker.offset):
            return None
        started = time.monotonic()
        units = tuple(self._units(commands))
        groups = units[0].groups if len(units) == 1 else ()
        if len(groups) != 1 or not isinstance(groups[0], plan.Group):
            return None
        ours = [one.flight for one in flying]
        try:
            flight = self._writer.take_off(groups[0], marker, published=min(published, self._returned), flying=ours)
        except (DriverError, Neo4jError, OSError):
            return None  # it happens again in its turn
        return None if flight is None else _Flown(commands, flight, started)

    def _looked_at(self, parts: Iterable[Sequence[Command]]) -> Iterator[Sequence[Command]]:
        """Each of *parts*; how it is applied is planned when it is asked for, which is while the server works."""
        for commands in parts:
            try:
                self._planned = commands, tuple(plan.units(commands, batch=self._batch))
            except Exception:  # what is wrong with them is told in their turn
                _logger.debug("commands_not_planned", exc_info=True)
            yield commands

    def _units(self, commands: Sequence[Command]) -> Iterable[plan.Unit]:
        planned, units = self._planned
        return units if planned is commands else plan.units(commands, batch=self._batch)

    def objection(self, command: Command) -> str | None:
        """Why *command*, the next one, may not be skipped in this graph any more; None where nothing is against it.

        Raises `Unavailable` and `WrongCredentials`.
        """
        with self._lock:
            self._stale = True
            try:
                return skipping.objection(self._database, self._key, command)
            except (DriverError, Neo4jError, OSError) as error:
                raise _unavailable(error) from error

    def _report(self, marker: Marker) -> Applied:
        """Everything up to *marker* that the caller was not told yet; from here on it counts as told."""
        first, self._returned = max(marker.published, self._returned) + 1, marker.offset
        rejected = tuple(outcome for outcome in marker.rejections if outcome.offset >= first)
        checkpoints = tuple(one for one in marker.checkpoints if one.before >= first)
        return Applied(first, marker.offset, rejected, dict(+self._writer.counters), checkpoints)

    def _settled(self, commands: Sequence[Command], failure: Failed | None) -> Marker:
        """Drive *commands* until all are applied; a lost connection is settled by reading the marker again, once."""
        lost_at: int | None = None
        while True:
            try:
                marker = self._current()
                if failure is not None:
                    failed, failure = failure, None
                    self._apply_parts(commands, failed)
                    continue
                todo = _behind(commands, marker.offset)
                if not todo:
                    return marker
                self._drive(todo)
            except Moved:
                self._stale = True  # ahead: the other one did it; behind: `_current` says so
            except (DriverError, OSError) as error:
                self._stale = True
                offset = self._next(commands)
                if lost_at == offset or not self._reachable():
                    self._hold(offset, error)
                lost_at = offset
            except Neo4jError as error:
                self._stale = True
                self._hold(self._next(commands), error)
            except Unavailable as error:
                if isinstance(error, Held):
                    raise
                offset = self._next(commands)
                raise Held(offset, error.code, error.message, retry_after_s=error.retry_after_s) from error

    def _reachable(self) -> bool:
        """Tell whether the marker can be read again; what it says is looked at in the next turn."""
        try:
            with self._database.session(read=True) as session:
                self._key.read(session)
        except (DriverError, OSError):
            return False
        return True

    def _current(self) -> Marker:
        """The marker, read again where it may have moved."""
        if self._marker is None:
            raise PositionMoved("the position is not known: call recover() first")
        if self._stale:
            with self._database.session(read=True) as session:
                found = self._key.read(session)
            if found is None or found.topic_id != self._topic_id or found.offset < self._marker.offset:
                known, self._marker = self._marker.offset, None
                where = "gone" if found is None else f"at {found.offset} of topic id {found.topic_id}"
                raise PositionMoved(f"the graph was at offset {known}, and its position is now {where}")
            if found.offset == self._marker.offset:
                found = replace(found, tally=self._marker.tally)  # counted, and only not written yet
            self._marker, self._stale = found, False
        return self._marker

    def _next(self, commands: Sequence[Command]) -> int:
        known = self._marker.offset if self._marker else -1
        return next((command.offset for command in commands if command.offset > known), known + 1)

    def _drive(self, commands: Sequence[Command]) -> None:
        for unit in self._units(commands):
            if unit.kind is plan.Kind.BATCH:
                self._apply_batch(unit.commands, unit.groups)
            elif unit.kind is plan.Kind.ALONE:
                self._apply_alone(unit.commands[0])
            elif repeated := self._writer.duplicates(unit.commands, self._current()):
                self._marker = self._writer.write(
                    unit.commands, self._current(), published=self._published, verdicts=repeated
                )
            else:
                steps = SchemaChange if unit.kind is plan.Kind.SCHEMA else Pieces
                change = steps(self._schema_database, self._key, self._writer, unit.commands[0])
                self._marker = change.apply(self._current(), published=self._published)

    def _apply_batch(self, commands: Sequence[Command], groups: Sequence[plan.Group | Command]) -> None:
        """One transaction; where it fails, smaller ones around the culprits."""
        try:
            self._marker = self._writer.write(
                commands, self._current(), published=self._published, verdicts={}, groups=groups
            )
        except Failed as failure:
            if len(commands) > 1:
                self._apply_parts(commands, failure)
            elif failure.as_written:
                self._judge(commands[0], failure.error)
            else:
                self._apply_alone(commands[0])

    def _apply_parts(self, commands: Sequence[Command], failure: Failed) -> None:
        for part in _parts(commands, failure):
            self._apply_batch(part, plan.groups(part))

    def _apply_alone(self, command: Command) -> None:
        try:
            self._marker = self._writer.write_as_written(
                command, self._current(), published=self._published, verdicts={}
            )
        except Failed as failure:
            self._judge(command, failure.error)

    def _judge(self, command: Command, error: Exception) -> None:
        """Reject *command* if every replica would fail like this, else hold it."""
        if isinstance(error, ENCODING_ERRORS):
            outcome = Outcome(command.offset, applied=False, code=NOT_ENCODABLE, message=message_of(error))
        elif isinstance(error, ConditionWrote):
            outcome = Outcome(command.offset, applied=False, code=plan.UNSUPPORTED, message=message_of(error))
        else:
            built_in = all(cypher.analyse(statement.text).built_in_only for statement in command.statements)
            if not is_deterministic(code_of(error), built_in_only=built_in, message=message_of(error)):
                self._hold(command.offset, error)
            outcome = Outcome(command.offset, applied=False, code=code_of(error), message=message_of(error))
        self._marker = self._writer.write(
            [command], self._current(), published=self._published, verdicts={command.offset: outcome}
        )

    def _hold(self, offset: int, error: Exception) -> NoReturn:
        reason = message_of(error) + for_whom(self._database, code_of(error))
        raise Held(offset, code_of(error), reason, retry_after_s=pause_s(error)) from error


@dataclass(frozen=True, slots=True)
class _Flown:
    """Commands under way."""

    commands: Sequence[Command]
    flight: Flight
    started: float


def _behind(commands: Sequence[Command], offset: int) -> Sequence[Command]:
    """Those above *offset*: mostly all, and then it is the same object."""
    if not commands or commands[0].offset > offset:
        return commands
    return [command for command in commands if command.offset > offset]


def _parts(commands: Sequence[Command], failure: Failed) -> Iterator[Sequence[Command]]:
    """Cut around the commands that failed, and through their middle, so that one culprit costs O(log n)."""
    middle = (failure.start + failure.end) // 2
    cuts = sorted({0, failure.start, middle, failure.end, len(commands)})
    yield from (commands[a:b] for a, b in pairwise(cuts))


def _unavailable(error: Exception) -> Unavailable:
    kind = WrongCredentials if is_authentication(error) else Unavailable
    return kind(code_of(error), message_of(error), retry_after_s=pause_s(error))
