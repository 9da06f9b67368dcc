"""Make a database a replica, or a wrong replica right again.

From the first step to the last the replica is quarantined, so that whatever ends this process leaves one that answers
nothing and says so::

    quarantine   it applies nothing and answers nothing
    empty        (a repair only) behind the position's lock
    restore      the newest verified snapshot that the log can go on from, or nothing where the log is whole
    catch up     its own worker applies the log; one that runs here, where none does
    verify       its graph and the others' at one place of the log
    release      the quarantine ends

Begun again after a kill, it begins with the first step.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dramatiq

from ops import snapshots
from ops.connection import connected, database
from ops.errors import DatabaseAway, NotAReplica, ReplicaBusy
from ops.progress import Step, silent
from ops.replicas import ASK_S, log_bounds, rows
from replica import emptying, recovery
from replica.checksum import checksum
from replica.driver import connect
from replica.errors import Halted, QueryUnavailable, Unavailable
from replica.marker import Key
from replica.server import server_facts
from replica.snapshot_catalogue import listed
from replica.transactions import Database
from tasks.app import COMMANDS
from tasks.registry import others_on, others_that_differ, registrations


if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import neo4j

    from ops.progress import Progress
    from replica.snapshot_schema import Tell
    from settings import Settings
    from tasks.app import App
    from tasks.outcomes import Registration

#: Seconds between two looks at the position of a replica that catches up.
POLL_S = 0.2

#: Times that two replicas are read, in the hope that both are at the same command.
MEETINGS = 20

#: Seconds without a step forward after which nobody waits any longer.
STALLED_S = 120.0


@dataclass(frozen=True, slots=True)
class Seeded:
    """What became of it.

    *snapshot* is the name of the one that was restored, *checksum* what its graph has in common with those of *equals*;
    none where there is no other replica.
    """

    replica: str
    neo4j_uri: str
    snapshot: str | None
    position: int
    equals: tuple[str, ...]
    checksum: str | None


@dataclass(frozen=True, slots=True)
class Wish:
    """How it is to be done.  *force*: although its server differs from the others'; *store*: where snapshots lie."""

    force: bool = False
    store: str | None = None
    stalled_s: float = STALLED_S


def add(settings: Settings, wish: Wish, show: Progress) -> Seeded:
    """Make the settings' database, which is empty, the replica that the settings name.

    Raises:
      DatabaseAway: nothing was changed.
      NotAReplica: nothing was changed, or the replica stays quarantined; the text says which, and why.
      ReplicaBusy: it does not catch up; it stays quarantined.
    """
    with connected(settings) as app, database(settings) as driver:
        seeding = _Seeding(app, driver, wish, show)
        seeding.require_new()
        seeding.require_alike()
        seeding.require_empty()
        seeding.quarantine("it is being added, and not ready")
        return seeding.seed()


def repair(settings: Settings, wish: Wish, show: Progress) -> Seeded:
    """Empty the settings' database and make it the replica that the settings name.

    Raises as `add` does.
    """
    with connected(settings) as app, database(settings) as driver:
        seeding = _Seeding(app, driver, wish, show)
        seeding.require_ours()
        seeding.require_alike()
        seeding.quarantine("it is being repaired, and not ready")
        seeding.empty()
        return seeding.seed()


def require_repairable(settings: Settings) -> None:
    """What `repair` asks before it changes anything, for whoever asks a person then.

    Raises:
      NotAReplica: there is nothing to repair, or it cannot be.
    """
    with connected(settings) as app, database(settings) as driver:
        _Seeding(app, driver, Wish(), silent).require_ours()


def told_apart(found: Mapping[str, Sequence[str]]) -> str:
    """Replicas and in what each differs, those that differ in the same together."""
    alike: dict[str, list[str]] = {}
    for other, differences in found.items():
        alike.setdefault(", ".join(differences), []).append(other)
    return "; ".join(f"{', '.join(others)} ({differences})" for differences, others in alike.items())


class _Seeding:
    """One replica on its way."""

    def __init__(self, app: App, driver: neo4j.Driver, wish: Wish, show: Progress) -> None:
        self._app = app
        self._settings = app.settings
        self._name = app.settings.group_id
        self._driver = driver
        self._wish = wish
        self._show = show
        self._key = Key(app.command_topic.name, 0)
        app.broker.topics.ensure(app.command_topic)
        self._topic_id = app.broker.topics.identity(app.command_topic.name)
        self._registered = self._registrations()

    def _registrations(self) -> dict[str, Registration]:
        found = registrations(self._app.broker, self._app.replicas_topic, timeout_s=ASK_S)
        return {name: one for name, one in found.items() if one.topic_id == self._topic_id}

    # What has to be so before anything is changed.

    def require_new(self) -> None:
        """Neither the name nor the database is a replica's."""
        if self._name in self._registered:
            raise NotAReplica(
                f"{self._name} is a replica already: `replica repair {self._name}` makes its graph anew, and"
                f" `replica remove {self._name}` takes it out"
            )
        self._require_free_database()

    def require_ours(self) -> None:
        """The database is the one that the replica was registered with, or nobody's."""
        one = self._registered.get(self._name)
        quarantined = ("quarantine", self._name) in {(d.kind, d.target) for d in self._app.decisions.look()}
        if one is None and not quarantined:
            raise NotAReplica(f"no replica {self._name!r} is registered, so there is nothing to repair: add it")
        if one is not None and one.neo4j_uri != self._settings.neo4j_uri:
            raise NotAReplica(
                f"{self._name} is registered with the database at {one.neo4j_uri}, not at {self._settings.neo4j_uri},"
                " which would be emptied: start its worker there first, or remove the replica and add it again"
            )
        self._require_free_database()
        if ("pause", self._name) in {(d.kind, d.target) for d in self._app.decisions.look()}:
            raise NotAReplica(f"{self._name} is paused, and could not catch up: resume it first")

    def _require_free_database(self) -> None:
        uri = self._settings.neo4j_uri
        others = others_on(uri, self._name, self._topic_id, self._registered)
        if others:
            raise NotAReplica(f"the database at {uri} is that of {', '.join(others)}")

    def require_alike(self) -> None:
        """The server does with the same commands what the others' do."""
        self._show(Step("server", "asked what it is"))
        try:
            facts = server_facts(self._driver, self._settings.neo4j_database)
        except Unavailable as exc:
            raise DatabaseAway(f"the database at {self._settings.neo4j_uri} cannot be used: {exc}") from exc
        found = others_that_differ(self._name, self._topic_id, facts, self._registered)
        self._show(Step("server", f"Neo4j {facts.version} {facts.edition}", finished=True))
        if found and not self._wish.force:
            raise NotAReplica(
                f"the server at {self._settings.neo4j_uri} differs from {told_apart(found)}: the same commands may do"
                " something else there. Set it like the others, or say --force"
            )

    def require_empty(self) -> None:
        """There is nothing in the database that a log may have made."""
        try:
            database = Database(self._driver, self._settings.neo4j_database, ASK_S)
            recovery.refuse_unless_empty(database, self._key)
        except Halted as exc:
            raise NotAReplica(
                f"the database at {self._settings.neo4j_uri} is not empty, and nothing in it was changed. Empty it,"
                f" or, if `replica add` was ended half-way, say `replica repair {self._name} --neo4j-uri"
                f" {self._settings.neo4j_uri}`, which deletes all that is in it"
            ) from exc

    # The steps.

    def quarantine(self, reason: str) -> None:
        """Whoever hears of it from now on leaves the graph alone, and everybody has to hear before a start."""
        self._decide(reason, applies=False)

    def _decide(self, reason: str, *, applies: bool) -> None:
        self._app.decisions.decide("quarantine", self._name, reason=reason, applies=applies)

    def empty(self) -> None:
        """Nothing is in it afterwards, but the claim that keeps appliers away."""
        tell = self._teller("empty")
        emptying.claim(self._driver, self._settings.neo4j_database, self._key)
        emptying.empty(self._driver, self._settings.neo4j_database, tell)
        self._show(Step("empty", "the database is empty", finished=True))

    def seed(self) -> Seeded:
        """From an empty database to a replica like the others."""
        snapshot = self._restore()
        self._decide("it catches up, and is verified then", applies=True)
        with ExitStack() as stack:
            if not self._has_worker():
                stack.enter_context(self._worker())
            position = self._catch_up()
            equals, checksum = self._verify()
        self._app.decisions.withdraw("quarantine", self._name)
        return Seeded(self._name, self._settings.neo4j_uri, snapshot, position, equals, checksum)

    def _restore(self) -> str | None:
        first, _ = log_bounds(self._app)
        name = self._snapshot(first)
        if name is not None:
            snapshots.restore(self._settings, snapshots.store_of(self._settings, self._wish.store), name, self._show)
            self._show(Step("restore", name, finished=True))
            return name
        if first > 0:
            raise NotAReplica(
                f"the log begins at command {first}, and there is no verified snapshot from which it could go on:"
                " take one of another replica (`snapshot create`), and begin again"
            )
        emptying.release(self._driver, self._settings.neo4j_database, self._key)
        return None

    def _snapshot(self, first: int) -> str | None:
        """The newest one that somebody has read to its end."""
        if self._wish.store is None and self._settings.snapshot_store is None:
            return None
        rows_there = listed(snapshots.store_of(self._settings, self._wish.store))
        good = [row for row in rows_there if row.verified_at and row.topic_id == self._topic_id]
        usable = [row.name for row in good if row.topic == self._key.topic and row.offset + 1 >= first]
        return usable[-1] if usable else None

    def _has_worker(self) -> bool:
        return any(row.worker for row in rows(self._app) if row.name == self._name)

    @contextmanager
    def _worker(self) -> Iterator[None]:
        """The replica's worker, in this process: it ends with it."""
        worker = dramatiq.Worker(self._app.broker, queues={COMMANDS}, worker_threads=1)
        worker.start()
        try:
            yield
        finally:
            worker.stop()

    def _catch_up(self) -> int:
        """Wait until all that was in the log at the beginning is applied; the position then."""
        _, end = log_bounds(self._app)
        begun: int | None = None
        last, moved = -2, time.monotonic()
        while (position := self._position()) < end - 1:
            if position != last:
                last, moved = position, time.monotonic()
            elif time.monotonic() - moved > self._wish.stalled_s:
                raise ReplicaBusy(f"{self._name} does not get beyond command {position}: {self._why()}")
            begun = position if begun is None else begun
            self._show(Step("catch up", "applying", position - begun, end - 1 - begun, unit="commands"))
            time.sleep(POLL_S)
        self._show(Step("catch up", f"at command {position}", finished=True))
        return position

    def _position(self) -> int:
        """By the graph itself: what was reported may be from before."""
        with Database(self._driver, self._settings.neo4j_database, ASK_S).session(read=True) as session:
            marker = self._key.read(session)
        return -1 if marker is None or marker.topic_id != self._topic_id else marker.offset

    def _why(self) -> str:
        here = [blocked.reason for blocked in self._app.broker.blocked().values()]
        there = [row.why for row in rows(self._app) if row.name == self._name]
        return "; ".join(here or there) or "its worker does not say why"

    def _verify(self) -> tuple[tuple[str, ...], str | None]:
        """The replicas whose graphs are the same, and the checksum; all that can be compared with have to be."""
        if not self._registrations().keys() - {self._name}:
            self._show(Step("verify", "there is no other replica", finished=True))
            return (), None
        found = {name: self._compare(one) for name, one in self._registrations().items() if name != self._name}
        pairs = {name: pair for name, pair in found.items() if not isinstance(pair, str)}
        if not pairs:
            reasons = "; ".join(f"{name} {reason}" for name, reason in found.items())
            raise NotAReplica(
                f"{self._name} has caught up, and its graph could not be compared with any other: {reasons}. It stays"
                " quarantined; repair it when another one can be read with NEO4J_USER and NEO4J_PASS, and its worker"
                " runs"
            )
        differ = [name for name, pair in pairs.items() if pair[0] != pair[1]]
        if differ:
            raise NotAReplica(f"{self._name} has caught up, and its graph is not that of {', '.join(sorted(differ))}")
        return tuple(sorted(pairs)), next(iter(pairs.values()))[0]

    def _compare(self, other: Registration) -> tuple[str, str] | str:
        """Both checksums at one position, or why there are none."""
        reason = ""
        self._show(Step("verify", f"compared with {other.replica}"))
        user, password = self._settings.neo4j_user, self._settings.neo4j_password
        with connect(other.neo4j_uri, user, password) as driver:
            for _ in range(MEETINGS):
                try:
                    mine, theirs = (checksum(one, self._settings.neo4j_database) for one in (self._driver, driver))
                    if mine.position == theirs.position:
                        return mine.digest, theirs.digest
                    reason = "was not at the same command while both were read"
                except QueryUnavailable as exc:
                    reason = f"could not be read at {other.neo4j_uri}: {exc}".rstrip(".")
                time.sleep(POLL_S)
        return reason

    def _teller(self, name: str) -> Tell:
        return snapshots.teller(name, self._show)
