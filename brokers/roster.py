"""The periodic actors of a cluster: who is declared, what was fired last, what is due.  Pure: time is an argument.

Two kinds of records lie on the delayed topic's first partition, under keys of their own, beside the delayed messages:

* a *declaration* says that a worker has an actor with a schedule.  Workers write it when they start and then once a
  minute; they read nothing.  Each text of a schedule has a declaration of its own.
* the *state* says up to which time an actor's schedule is settled.  Only the partition's timer writes it, in the
  transaction that puts the message on its queue: so each time is fired once, whoever is killed meanwhile.

So nobody has to be asked, and no two write one key.  Of several schedules of one actor that of the process that was
started last counts, as in a deployment.  What nobody declares any more is not fired.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import dramatiq
import msgspec

from brokers import records
from brokers.errors import WrongSchedule
from brokers.periodic import missed, schedule_of
from brokers.records import Outgoing


if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from brokers.periodic import Schedule
    from brokers.records import Record

    #: Makes the record of a message for a topic.
    Encode = Callable[[dramatiq.Message[Any], str], Outgoing]

    #: Topic and actor.
    Name = tuple[str, str]

logger = logging.getLogger("brokers.timers")

#: The header that tells such records from delayed messages, and its values.
KIND = "delayed.periodic"
DECLARED, SETTLED = b"declared", b"settled"

#: The partition of all of them: were it to follow from the key, a topic that gets more partitions would fire twice.
PARTITION = 0

#: Seconds between two declarations of a worker; and after which a schedule that nobody declares is not fired.
RENEW_S = 60.0
LEASE_S = 180.0

#: The option of a fired message that says, in ISO 8601, for which time it was.
SCHEDULED_AT = "scheduled_at"


class Declaration(msgspec.Struct, frozen=True):
    """A worker has an actor with a schedule.  *since_ms* is when its process first said so."""

    topic: str
    queue: str
    actor: str
    schedule: str
    grace_s: float
    since_ms: int

    @property
    def name(self) -> Name:
        """Whose schedule it is."""
        return self.topic, self.actor

    def record(self, topic: str) -> Outgoing:
        """To be put on the delayed topic, called *topic*."""
        key = f"periodic/{self.topic}/{self.actor}/{self.schedule}"
        return Outgoing(topic, msgspec.json.encode(self), key.encode(), {KIND: DECLARED}, PARTITION)


class State(msgspec.Struct, frozen=True):
    """All times up to *last_ms* are settled: fired, skipped, or before there was a schedule."""

    topic: str
    actor: str
    schedule: str
    since_ms: int
    last_ms: int

    @property
    def name(self) -> Name:
        """Whose state it is."""
        return self.topic, self.actor

    def record(self, topic: str) -> Outgoing:
        """To be put on the delayed topic, called *topic*."""
        key = f"periodic-state/{self.topic}/{self.actor}"
        return Outgoing(topic, msgspec.json.encode(self), key.encode(), {KIND: SETTLED}, PARTITION)


@dataclass(frozen=True, slots=True)
class Step:
    """What to write in one transaction: a state, and with *fires* the message of that time."""

    declared: Declaration
    state: State
    fires: bool

    def message(self, now_ms: int, encode: Encode = records.encode) -> Outgoing:
        """The record of the message for the queue.  Its id follows from actor and time: a second one would be seen."""
        at = datetime.fromtimestamp(self.state.last_ms / 1000, UTC)
        message: dramatiq.Message[None] = dramatiq.Message(
            queue_name=self.declared.queue,
            actor_name=self.declared.actor,
            args=(),
            kwargs={},
            options={SCHEDULED_AT: at.isoformat()},
            message_id=f"{self.declared.actor}@{at:%Y-%m-%dT%H:%M:%SZ}",
            message_timestamp=now_ms,
        )
        return encode(message, self.declared.topic)


@dataclass(frozen=True, slots=True)
class Periodic:
    """A periodic actor as the cluster knows it, and when it is due next."""

    topic: str
    queue: str
    actor: str
    schedule: str
    next_ms: int | None
    last_ms: int | None


@dataclass(slots=True)
class _Leased:
    declared: Declaration
    schedule: Schedule
    renewed_ms: int


@dataclass(slots=True)
class _Actor:
    """What is known of one periodic actor."""

    declared: dict[str, _Leased] = field(default_factory=dict)  # by text
    state: State | None = None
    next_ms: int | None = None  # unknown until it is worked out
    idle: bool = False  # told that nobody declares it

    def current(self, now_ms: int) -> _Leased | None:
        """The schedule that counts.

        One that counts already is replaced by a younger one only: an old worker that goes on declaring its own does
        not bring it back.
        """
        leased = [one for one in self.declared.values() if now_ms - one.renewed_ms <= LEASE_S * 1000]
        if not leased:
            return None
        youngest = max(leased, key=lambda one: one.declared.since_ms)
        if self.state is None or youngest.declared.since_ms > self.state.since_ms:
            return youngest
        return next((one for one in leased if one.declared.schedule == self.state.schedule), youngest)


class Roster:
    """The periodic actors, from the records of the delayed topic."""

    def __init__(self) -> None:
        self._actors: dict[Name, _Actor] = {}
        self._seen = 0  # one above the highest offset taken
        self._settled = False

    def take(self, record: Record, now_ms: int | None = None) -> bool:
        """A record of the partition, in its order, some of them again and again; whether it belongs here.

        With *now_ms*, the clocks of workers need not be right: what they declare is as old as it is here.
        """
        kind = record.headers.get(KIND)
        if kind is None:
            return False
        if record.value is not None and record.offset >= self._seen:
            self._seen = record.offset + 1
            if kind == DECLARED:
                self._declare(record.value, now_ms if now_ms and self._settled else record.timestamp_ms)
            elif kind == SETTLED and not self._settled:
                self._settle(record.value)
        return True

    @property
    def settled(self) -> bool:
        """Whether all has been read once."""
        return self._settled

    def all_is_read(self) -> None:
        """States come from here from now on: what is read of them is an echo, perhaps of an older one."""
        self._settled = True

    def _declare(self, value: bytes, renewed_ms: int) -> None:
        declared = _decoded(value, Declaration)
        if declared is None:
            return
        actor = self._actors.setdefault(declared.name, _Actor())
        known = actor.declared.get(declared.schedule)
        if known is not None and known.declared.since_ms > declared.since_ms:
            known.renewed_ms = max(known.renewed_ms, renewed_ms)
            return
        try:
            schedule = schedule_of(declared.schedule, declared.grace_s)
        except WrongSchedule as exc:
            logger.error("kafka_periodic_refused actor=%s topic=%s reason=%s", declared.actor, declared.topic, exc)
            return
        if known is None or known.schedule != schedule:
            actor.next_ms = None
        actor.declared[declared.schedule] = _Leased(declared, schedule, renewed_ms)

    def _settle(self, value: bytes) -> None:
        state = _decoded(value, State)
        if state is not None:
            self._actors.setdefault(state.name, _Actor()).state = state

    def due(self, now_ms: int) -> list[Step]:
        """What has to be written now; `written` says that it is.  Nothing before all is read."""
        if not self._settled:
            return []
        steps = (self._step(name, actor, now_ms) for name, actor in self._actors.items())
        return [step for step in steps if step is not None]

    def written(self, steps: list[Step]) -> None:
        """They are in the log."""
        for step in steps:
            actor = self._actors[step.state.name]
            actor.state, actor.next_ms = step.state, None

    def _step(self, name: Name, actor: _Actor, now_ms: int) -> Step | None:
        current = actor.current(now_ms)
        if current is None:
            if not actor.idle:
                logger.info("kafka_periodic_ended actor=%s topic=%s reason=no worker declares it", name[1], name[0])
                actor.idle = True
            return None
        actor.idle = False
        state = adopted(actor.state, current.declared)
        if state != actor.state:
            return Step(current.declared, state, fires=False)
        return self._occurrence(actor, current, state, now_ms)

    def _occurrence(self, actor: _Actor, current: _Leased, state: State, now_ms: int) -> Step | None:
        if actor.next_ms is None:
            actor.next_ms = current.schedule.after(state.last_ms)
        if actor.next_ms is None or actor.next_ms > now_ms:
            return None
        at = missed(current.schedule, state.last_ms, now_ms)
        if at != actor.next_ms:
            logger.warning("kafka_periodic_skipped actor=%s since_ms=%d", state.actor, actor.next_ms)
        if at is None:
            actor.next_ms = current.schedule.after(now_ms)
            return None
        return Step(current.declared, msgspec.structs.replace(state, last_ms=at), fires=True)

    def next_ms(self) -> int | None:
        """When the next one is due, as far as that is worked out; none when none is known."""
        return min((a.next_ms for a in self._actors.values() if a.next_ms is not None and not a.idle), default=None)

    def periodic(self, now_ms: int) -> list[Periodic]:
        """Those that are declared, by their next times."""
        rows = [self._row(actor, now_ms) for actor in self._actors.values()]
        return sorted((row for row in rows if row is not None), key=lambda row: (row.next_ms or 0, row.actor))

    def _row(self, actor: _Actor, now_ms: int) -> Periodic | None:
        current = actor.current(now_ms)
        if current is None:
            return None
        declared, state = current.declared, adopted(actor.state, current.declared)
        at = missed(current.schedule, state.last_ms, now_ms) or current.schedule.after(max(state.last_ms, now_ms))
        last_ms = actor.state.last_ms if actor.state is not None else None
        return Periodic(declared.topic, declared.queue, declared.actor, declared.schedule, at, last_ms)


def adopted(state: State | None, declared: Declaration) -> State:
    """The state under the schedule that counts: a new schedule begins when it is declared, and makes up for nothing."""
    if state is None:
        return State(declared.topic, declared.actor, declared.schedule, declared.since_ms, declared.since_ms)
    if state.schedule == declared.schedule:
        return msgspec.structs.replace(state, since_ms=max(state.since_ms, declared.since_ms))
    last_ms = max(state.last_ms, declared.since_ms)
    return msgspec.structs.replace(state, schedule=declared.schedule, since_ms=declared.since_ms, last_ms=last_ms)


S = TypeVar("S", Declaration, State)


def _decoded(value: bytes, kind: type[S]) -> S | None:
    try:
        return msgspec.json.decode(value, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        logger.error("kafka_periodic_unreadable reason=%s value=%r", exc, value[: records.QUOTED])
        return None
