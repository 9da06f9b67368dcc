"""What people, and replicas themselves, have decided about replicas: out of band, beside the log of commands.

The topic is compacted, one record for each decision that holds, under its kind and target::

    pause/<replica>               its applier stands still between two commands
    quarantine/<replica>          its graph is wrong, or not verified: it answers no queries, and applies nothing
    skip/<topic id>/<offset>      every replica passes that command over

The value is a `Decision`, or none to withdraw it.  A replica that is held never reaches what lies behind in the log of
commands, so decisions cannot lie there.
"""

from __future__ import annotations

import getpass
import logging
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

import msgspec

from brokers import replies
from brokers.records import Outgoing
from tasks import outcomes


if TYPE_CHECKING:
    from collections.abc import Callable

    from brokers import KafkaBroker
    from brokers.records import Record
    from brokers.replies import TopicReader
    from brokers.topics import TopicSpec

logger = logging.getLogger("tasks.decisions")

Kind: TypeAlias = Literal["pause", "quarantine", "skip"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

#: Of these the key alone says enough.  A value that nobody can read leaves the replica standing still, which loses
#: nothing; a command is skipped only on a decision that can be read.
STANDING: Final = frozenset({"pause", "quarantine"})


class Decision(msgspec.Struct, frozen=True):
    """One record of the topic.  *topic_id*: the log of commands that it was made about; *at_ms*: by the wall clock.

    *applies*: of a quarantine, that the graph has been made anew and catches up; it answers nothing before it is
    verified.
    """

    kind: Kind
    target: str
    topic_id: str
    reason: str
    by: str
    at_ms: int
    applies: bool = False

    @property
    def key(self) -> bytes:
        """Under which it lies on the topic."""
        return _key(self.kind, self.target)


def skip_target(topic_id: str, offset: int) -> str:
    """The target of a decision to skip the command at *offset* of that topic."""
    return f"{topic_id}/{offset}"


def _key(kind: Kind, target: str) -> bytes:
    return f"{kind}/{target}".encode()


def read(record: Record) -> tuple[Kind, str, Decision | None] | None:
    """Kind, target, and what holds of them from now on; none where *record* is no decision that is known here."""
    kind, _, target = (record.key or b"").decode(errors="replace").partition("/")
    if kind not in KINDS or not target:
        return None
    if record.value is None:
        return kind, target, None
    decision = outcomes.decode(record.value, Decision)
    if decision is not None and (decision.kind, decision.target) == (kind, target):
        return kind, target, decision
    if kind not in STANDING:
        return None
    return kind, target, Decision(kind, target, "", "the record that says why cannot be read", "", record.timestamp_ms)


class Decisions:
    """Makes decisions, and follows them: in a thread of its own from `follow` on.

    Any thread; a forked child follows anew.  `current` and the questions below it are answered from memory once
    `follow` has returned; before that, and after a reader's death, they follow first, and raise as it does.
    """

    def __init__(self, broker: KafkaBroker, spec: TopicSpec, commands: TopicSpec, *, timeout_s: float) -> None:
        self.spec = spec
        #: Notified after every change.
        self.changed = threading.Condition()
        self._broker = broker
        self._commands = commands
        self._timeout_s = timeout_s
        self._opening = threading.Lock()
        self._watchers: list[Callable[[], object]] = []
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._reader: TopicReader | None = None
        self._held: dict[tuple[Kind, str], Decision] = {}

    # Making them.

    def decide(self, kind: Kind, target: str, *, reason: str, by: str | None = None, applies: bool = False) -> Decision:
        """Decide, from now on and for workers that start later too; confirmed by Kafka.  Again: the later one holds.

        *by* is user and machine unless said.

        Raises:
          Unreachable, DeliveryUnknown, WrongTopic: see `brokers.errors`.
        """
        topic_id = self._broker.topics.identity(self._commands.name)
        decision = Decision(kind, target, topic_id, reason, by or _who(), int(time.time() * 1000), applies)
        self._publish(decision.key, msgspec.json.encode(decision))
        logger.warning("decided kind=%s target=%s by=%s reason=%s", kind, target, decision.by, reason)
        return decision

    def withdraw(self, kind: Kind, target: str) -> None:
        """Undo `decide`; nothing happens where nothing was decided.  Raises as it does."""
        self._publish(_key(kind, target), None)
        logger.warning("withdrawn kind=%s target=%s", kind, target)

    def _publish(self, key: bytes, value: bytes | None) -> None:
        self._broker.publish(Outgoing(self.spec.name, value, key, partition=0), self.spec)

    # Following them.

    def follow(self, *, anew: bool = False) -> None:
        """Hear of every decision from now on; returns when all that were made before the reading began are known.

        *anew*: begin to read now, also where this process follows already.

        Raises:
          Unreachable: they could not be read in time.
        """
        with self._opening:
            if self.caught_up and not anew:
                return
            if self._pid != os.getpid():
                self._reset()
            self._broker.topics.ensure(self.spec)
            held: dict[tuple[Kind, str], Decision] = {}
            reader = replies.follow(
                self._broker.client_settings,
                self.spec.name,
                lambda record: self._heard(held, record),
                timeout_s=self._timeout_s,
            )
            former, self._reader = self._reader, reader
            with self.changed:
                self._held = held
            if former is not None:
                former.close()
        self._tell()

    def look(self) -> tuple[Decision, ...]:
        """Everything that holds now, read from the topic itself; leaves no thread behind.  Makes no topic.

        Raises:
          Unreachable: it could not be read in time.
        """
        if self._broker.topics.partitions(self.spec.name) is None:
            return ()
        held: dict[tuple[Kind, str], Decision] = {}
        replies.read_through(
            self._broker.client_settings,
            self.spec.name,
            lambda record: _take(held, record),
            timeout_s=self._timeout_s,
        )
        return tuple(held.values())

    @property
    def caught_up(self) -> bool:
        """Whether this process follows, and knows every decision that was made before it began to."""
        reader = self._reader
        return reader is not None and self._pid == os.getpid() and reader.running

    def watch(self, callback: Callable[[], object]) -> None:
        """Call *callback* after every change, in the thread that reads: it must be quick, and wait for nothing."""
        self._watchers.append(callback)

    def current(self) -> tuple[Decision, ...]:
        """Everything that holds, as far as this process has heard; begins to follow, unless it does."""
        if not self.caught_up:
            self.follow()
        with self.changed:
            return tuple(self._held.values())

    def of(self, kind: Kind) -> dict[str, Decision]:
        """The decisions of that kind, by target."""
        return {decision.target: decision for decision in self.current() if decision.kind == kind}

    def about(self, kind: Kind, target: str) -> Decision | None:
        """The decision of that kind about *target*, if one holds."""
        if not self.caught_up:
            self.follow()
        with self.changed:
            return self._held.get((kind, target))

    def is_paused(self, replica: str) -> bool:
        """Whether its applier has to stand still."""
        return self.about("pause", replica) is not None

    def is_quarantined(self, replica: str) -> bool:
        """Whether it may not answer; see `stops` for whether it may apply."""
        return self.about("quarantine", replica) is not None

    def stops(self, replica: str) -> Decision | None:
        """The decision for which its applier stands still."""
        quarantine = self.about("quarantine", replica)
        return self.about("pause", replica) if quarantine is None or quarantine.applies else quarantine

    def close(self) -> None:
        """Stop following.  Idempotent; a later question follows again."""
        with self._opening:
            reader, self._reader = self._reader, None
            if reader is not None and self._pid == os.getpid():
                reader.close()

    def _heard(self, held: dict[tuple[Kind, str], Decision], record: Record) -> None:
        with self.changed:
            _take(held, record)
            known = held is self._held
        if known:
            self._tell()

    def _tell(self) -> None:
        with self.changed:
            self.changed.notify_all()
        for watcher in self._watchers:
            try:
                watcher()
            except Exception:  # the next decision must be heard
                logger.exception("decision_watcher_failed")


def _take(held: dict[tuple[Kind, str], Decision], record: Record) -> None:
    found = read(record)
    if found is None:
        logger.warning("decision_ignored record=%s key=%r", record, record.key)
        return
    kind, target, decision = found
    if decision is None:
        held.pop((kind, target), None)
    else:
        held[kind, target] = decision


def _who() -> str:
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container whose user has no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
