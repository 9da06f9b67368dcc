"""The replicas that the log knows: where each of them is, and what keeps it there.

Three sources, none of which a replica has to be asked for: what was registered and decided lies on topics, how far
everybody is in the reports, and what does not go on is told by the workers that are alive.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from brokers.bounds import bounds
from brokers.clients import AdminClient, opened
from brokers.errors import Unreachable
from brokers.peek import Peek
from ops.connection import connected
from tasks import registry
from tasks.app import COMMANDS


if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from brokers.inspection import Inspection, WorkerState
    from settings import Settings
    from tasks.app import App
    from tasks.decisions import Decision
    from tasks.outcomes import Registration

#: Seconds for Kafka to answer, and for the reports to be read.
ASK_S = 8.0

#: Seconds that workers have to say what they do.
WORKERS_S = 1.5


@dataclass(frozen=True, slots=True)
class ReplicaRow:
    """One replica.

    *position*: the last command that it reported, -1 for none.  *lag*, *lag_s*: how many commands it has before it, and
    how many seconds the next of them has waited.  *state*: ``applying``, ``held`` (it tries the next command again and
    again), ``paused``, ``quarantined``, ``behind the log's start``, or ``away`` (no worker of its answers).  *why*,
    *since_ms*, *attempts*: about the state.  *worker* is ``host:pid``, empty for none; *version* that of its Neo4j;
    *registered_ms* when its worker began.  *differs*: what is otherwise on another replica's server.  *shares*: other
    replicas with the same database.  *ahead_s*: by how many seconds at least the worker's clock is ahead of this
    machine's; behind it, below 0.
    """

    name: str
    position: int
    lag: int
    lag_s: float
    state: str
    why: str
    since_ms: int | None
    attempts: int
    worker: str
    version: str
    neo4j_uri: str
    registered_ms: int
    stands: bool  #: nothing of the log is being applied just now
    differs: tuple[str, ...] = ()
    shares: tuple[str, ...] = ()
    ahead_s: float = 0.0

    @property
    def last_command(self) -> str:
        """The position for people."""
        return "none yet" if self.position < 0 else str(self.position)


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of one replica; `row` judges it."""

    registration: Registration
    position: int
    first: int  #: the log's first offset
    end: int  #: the offset of the next command
    next_ms: int | None  #: when the next command that it has to apply was sent
    decisions: Mapping[str, Decision]  #: about it, by kind
    worker: WorkerState | None  #: the one that holds the log's partition
    silent: bool  #: its group has members, though
    place: str  #: the log's partition, as workers name it
    differs: tuple[str, ...] = ()
    shares: tuple[str, ...] = ()
    ahead_s: float = 0.0

    def row(self, now_ms: int) -> ReplicaRow:
        """At *now_ms* of the wall clock."""
        lag = max(self.end - 1 - self.position, 0)
        state, why, since_ms, attempts = self._state()
        return ReplicaRow(
            name=self.registration.replica,
            position=self.position,
            lag=lag,
            lag_s=max(now_ms - self.next_ms, 0) / 1000 if lag and self.next_ms is not None else 0.0,
            state=state,
            why=why,
            since_ms=since_ms,
            attempts=attempts,
            worker=self.worker.name if self.worker else "",
            version=self.registration.server.version if self.registration.server else "",
            neo4j_uri=self.registration.neo4j_uri,
            registered_ms=self.registration.since_ms,
            stands=self._stands(lag),
            differs=self.differs,
            shares=self.shares,
            ahead_s=self.ahead_s,
        )

    def _stands(self, lag: int) -> bool:
        if self.worker is None:
            return not self.silent
        busy = any(job.queue == COMMANDS for job in self.worker.running)
        return not busy and (lag == 0 or self.place in self.worker.blocked)

    def _state(self) -> tuple[str, str, int | None, int]:
        """State, why, since when, attempts.  What people have decided goes before what follows from it."""
        for kind, state in (("quarantine", "quarantined"), ("pause", "paused")):
            decision = self.decisions.get(kind)
            if decision is not None:
                catches_up = "; it catches up" if decision.applies else ""
                return state, f"{decision.reason}{catches_up} ({decision.by})", decision.at_ms, 0
        if self.position + 1 < self.first:
            why = f"the log begins at {self.first}: `replica repair {self.registration.replica}` restores a snapshot"
            return "behind the log's start", why, None, 0
        if self.worker is None:
            return "away", "no worker that answers reads its log" if self.silent else "no worker runs", None, 0
        halt = self.worker.blocked.get(self.place)
        if halt is not None:
            return "held", halt.reason, halt.since_ms, halt.attempts
        return "applying", "", None, 0


def replicas(settings: Settings) -> list[ReplicaRow]:
    """Every registered replica.  Makes no topic but the one on which workers are asked.

    Raises:
      KafkaAway: no Kafka server answers.
    """
    with connected(settings) as app:
        return rows(app)


def rows(app: App) -> list[ReplicaRow]:
    """As `replicas`."""
    there = {
        spec: app.broker.topics.partitions(spec.name) is not None
        for spec in (app.command_topic, app.replicas_topic, app.outcomes_topic)
    }
    if not (there[app.command_topic] and there[app.replicas_topic]):
        return []
    topic_id = app.broker.topics.identity(app.command_topic.name)
    registered = registry.registrations(app.broker, app.replicas_topic, timeout_s=ASK_S)
    registered = {name: one for name, one in sorted(registered.items()) if one.topic_id == topic_id}
    if not registered:
        return []
    first, end = log_bounds(app)
    # The first command makes the topic of outcomes: until then nobody has passed any.
    positions = app.follower.replicas(ASK_S) if there[app.outcomes_topic] else {}
    decisions = app.decisions.look()
    asked_ms = _now_ms()
    found = app.broker.control.inspect(WORKERS_S, enough=_all_of(map(app.settings.group, registered), _place(app)))
    heard_ms = _now_ms()
    workers = [_worker_of(app.settings.group(name), _place(app), found.workers) for name in registered]
    times = _times(app, {positions.get(name, -1) + 1 for name in registered}, first, end)
    seen = [
        Seen(
            registration=one,
            position=positions.get(name, -1),
            first=first,
            end=end,
            next_ms=times.get(positions.get(name, -1) + 1),
            decisions={decision.kind: decision for decision in decisions if decision.target == name},
            worker=worker,
            silent=_is_silent(app.settings.group(name), found),
            place=_place(app),
            differs=_differences(one, registered),
            shares=tuple(registry.others_on(one.neo4j_uri, name, topic_id, registered)),
            ahead_s=worker.ahead_s(asked_ms, heard_ms) if worker else 0.0,
        )
        for (name, one), worker in zip(registered.items(), workers, strict=True)
    ]
    now_ms = _now_ms()
    return [one.row(now_ms) for one in seen]


def _now_ms() -> int:
    return int(time.time() * 1000)


def log_bounds(app: App) -> tuple[int, int]:
    """First offset of the log of commands, and the one that the next command will get.

    Raises:
      Unreachable: nobody says.
    """
    place = (app.command_topic.name, 0)
    found = bounds(opened(AdminClient, app.broker.client_settings), [place], ASK_S)
    if place not in found:
        raise Unreachable(f"Kafka does not tell where the log {place[0]!r} begins and ends")
    return found[place]


def _place(app: App) -> str:
    return f"{app.command_topic.name}/0"


def _all_of(expected: Iterable[str], place: str) -> Callable[[Collection[WorkerState]], bool]:
    """Whether everybody who is expected has answered."""
    groups = tuple(expected)

    def enough(workers: Collection[WorkerState]) -> bool:
        return all(_worker_of(group, place, workers) is not None for group in groups)

    return enough


def _worker_of(group: str, place: str, workers: Iterable[WorkerState]) -> WorkerState | None:
    """The worker that applies for the replica; others of its group stand by."""
    return next((one for one in workers if group in one.groups and place in one.partitions), None)


def _is_silent(group: str, found: Inspection) -> bool:
    return any(member.group == group for member in found.silent) or any(group in one.groups for one in found.workers)


def _differences(one: Registration, registered: Mapping[str, Registration]) -> tuple[str, ...]:
    if one.server is None:
        return ()
    found = registry.others_that_differ(one.replica, one.topic_id, one.server, registered)
    return tuple(f"{other}: {difference}" for other, differences in found.items() for difference in differences)


def _times(app: App, offsets: Iterable[int], first: int, end: int) -> dict[int, int]:
    """When the first commands from *offsets* on were sent, by Kafka's clock; missing where the log has none.

    Of what is before its start the first one that it still has counts.
    """
    found: dict[int, int] = {}
    peek = Peek(app.broker.client_settings, app.command_topic.name, timeout_s=ASK_S)
    try:
        for offset in sorted(offsets):
            at, at_ms = peek.first_from(max(offset, first)) if offset < end else (offset, None)
            if at_ms is not None and at < end:
                found[offset] = at_ms
    finally:
        peek.close()
    return found
