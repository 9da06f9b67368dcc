"""Waiting for what the replicas report about a command."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Literal

from brokers.replies import Place, TopicReader
from tasks import holding, outcomes
from tasks.errors import CommandRejected, ReplicasDisagree, WaitTimeout


if TYPE_CHECKING:
    from brokers import KafkaBroker
    from brokers.records import Record
    from brokers.topics import TopicSpec
    from replica.statement import Outcome
    from tasks.outcomes import Holding

    #: Who has to have applied a command: any replica, all registered ones, or that many.
    Applied = Literal["any", "all"] | int

logger = logging.getLogger("tasks.following")

#: Milliseconds before a command's own time from which reports are read: the clocks of several Kafka servers differ.
MARGIN_MS = 10_000


class Follower:
    """Reads the outcomes and replicas topics from the first wait on.  Any thread; anew in a forked child."""

    def __init__(
        self, broker: KafkaBroker, commands: TopicSpec, reports: TopicSpec, registry: TopicSpec, *, timeout_s: float
    ) -> None:
        self._broker = broker
        self._commands, self._reports, self._registry = commands, reports, registry
        self._timeout_s = timeout_s
        self._changed = threading.Condition()
        self._opening = threading.Lock()
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._reader: TopicReader | None = None
        self._since_ms: float = float("inf")
        self._topic_id = ""
        self._ledger = outcomes.Ledger()
        self._registered: set[str] = set()
        self._held: dict[str, Holding] = {}

    def wait(self, offset: int, sent_ms: int, applied: Applied, timeout_s: float) -> dict[str, Outcome]:
        """Wait until the command at *offset*, sent at *sent_ms* of Kafka's clock, is applied as widely as asked.

        Returns:
          The outcome of each replica that has reported one.

        Raises:
          CommandRejected, ReplicasDisagree, WaitTimeout: see `tasks.errors`.
          Unreachable: no Kafka server answers.
        """
        deadline = time.monotonic() + timeout_s
        reader = self._read(max(sent_ms - MARGIN_MS, 0))
        if not reader.wait_caught_up(max(deadline - time.monotonic(), 0)):
            raise WaitTimeout(f"the outcomes topic {self._reports.name!r} could not be read within {timeout_s:g} s")
        with self._changed:
            while not self._enough(offset, applied):
                left = deadline - time.monotonic()
                if left <= 0 or not reader.running:
                    raise WaitTimeout(self._missing(offset, applied, timeout_s))
                self._changed.wait(min(left, self._timeout_s))
            found = self._found(offset)
            known = self._since_ms <= 0 or all(self._ledger.knows(replica, offset) for replica in found)
            heard = {name: told for name, told in found.items() if self._ledger.knows(name, offset)}
        if known:
            _judged(offset, heard or found)
            return found
        # A report lies before what was read: a wait long after the command, or clocks further apart than the margin.
        return self.wait(offset, 0, applied, max(deadline - time.monotonic(), 0))

    def replicas(self, timeout_s: float) -> dict[str, int]:
        """Every registered replica, and the last command that it is known to have passed (-1: none yet)."""
        self._read(0).wait_caught_up(timeout_s)
        with self._changed:
            return {replica: self._ledger.position(replica) for replica in sorted(self._registered)}

    def held(self, timeout_s: float) -> dict[str, Holding]:
        """What each registered replica cannot get past now, and why; those that go on are left out."""
        self._read(0).wait_caught_up(timeout_s)
        with self._changed:
            return {
                replica: holding
                for replica, holding in sorted(self._held.items())
                if replica in self._registered and holding.is_since(self._topic_id, self._ledger.position(replica))
            }

    def _enough(self, offset: int, applied: Applied) -> bool:
        found = self._found(offset)
        if any(not outcome.applied for outcome in found.values()) and applied != "all":
            return True  # the others will say the same
        if applied == "all":
            return bool(self._registered) and self._registered <= found.keys()
        return len(found) >= (1 if applied == "any" else applied)

    def _found(self, offset: int) -> dict[str, Outcome]:
        found = {replica: self._ledger.outcome(replica, offset) for replica in sorted(self._ledger.replicas)}
        return {replica: outcome for replica, outcome in found.items() if outcome is not None}

    def _missing(self, offset: int, applied: Applied, timeout_s: float) -> str:
        if not self._registered:
            return f"command {offset}: no replica has registered within {timeout_s:g} s; is a worker running?"
        number = len(self._registered)
        wanted = {"any": "any replica", "all": f"all {number} replicas"}.get(str(applied), f"{applied} replicas")
        said = ", ".join(self._place(replica) for replica in sorted(self._registered))
        silent = any(self._ledger.position(replica) < 0 for replica in self._registered)
        more = "; `replica list` says what keeps a replica" if silent else ""
        held = "".join(f"; {words}" for words in self._holdings(offset))
        return f"command {offset} was not applied by {wanted} within {timeout_s:g} s: {said}{held}{more}"

    def _place(self, replica: str) -> str:
        """Where it is, as far as its reports from the time of the command on say."""
        position = self._ledger.position(replica)
        return f"{replica} is at {position}" if position >= 0 else f"{replica} has reported nothing since"

    def _holdings(self, offset: int) -> list[str]:
        """What keeps replicas from getting to the end of the command, those that say the same together."""
        found: dict[tuple[int, str], list[str]] = {}
        for replica in sorted(self._registered & self._held.keys()):
            held = self._held[replica]
            if held.offset <= offset and held.is_since(self._topic_id, self._ledger.position(replica)):
                found.setdefault((held.offset, f"{held.code}: {held.message}"), []).append(replica)
        return [
            f"{', '.join(names)} {'cannot start' if at < 0 else f'cannot apply {at}'}: {why}"
            for (at, why), names in found.items()
        ]

    def _read(self, since_ms: float) -> TopicReader:
        """The reader, reading from *since_ms* or earlier."""
        with self._opening:
            if self._pid != os.getpid():
                self._reset()
            if self._reader is not None and self._reader.running and self._since_ms <= since_ms:
                return self._reader
            if self._reader is not None:
                self._reader.close()
            for spec in (self._commands, self._reports, self._registry):
                self._broker.topics.ensure(spec)
            self._topic_id = self._broker.topics.identity(self._commands.name)
            places = [Place(self._reports.name, since_ms=int(since_ms)), Place(self._registry.name, from_start=True)]
            self._reader = TopicReader(self._broker.client_settings, places, self._heard, timeout_s=self._timeout_s)
            self._since_ms = since_ms
            return self._reader

    def _heard(self, record: Record) -> None:
        with self._changed:
            if record.topic == self._registry.name:
                self._register(record)
            else:
                report = outcomes.decode(record.value, outcomes.Report)
                if report is not None and report.topic_id == self._topic_id:
                    self._ledger.add(report)
            self._changed.notify_all()

    def _register(self, record: Record) -> None:
        if about := holding.read(record.key, record.value):
            replica, held = about
            self._held.pop(replica, None) if held is None else self._held.update({replica: held})
            return
        replica = (record.key or b"").decode(errors="replace")
        registration = outcomes.decode(record.value, outcomes.Registration)
        if registration is not None and registration.topic_id == self._topic_id:
            self._registered.add(replica)
        else:
            self._registered.discard(replica)

    def close(self) -> None:
        """Stop reading.  Idempotent; a later wait reads again."""
        with self._opening:
            reader, self._reader = self._reader, None
            if reader is not None and self._pid == os.getpid():
                reader.close()
            self._since_ms = float("inf")


def _judged(offset: int, found: dict[str, Outcome]) -> None:
    """Raise unless all of *found* applied it.

    A replica that was restored from a snapshot has never said what became of earlier commands: the others have.
    """
    rejected = {replica: outcome for replica, outcome in found.items() if not outcome.applied}
    if not rejected:
        return
    if len(rejected) < len(found):
        others = ", ".join(sorted(found.keys() - rejected.keys()))
        raise ReplicasDisagree(f"command {offset}: rejected by {', '.join(rejected)}, applied by {others}")
    outcome = next(iter(rejected.values()))
    raise CommandRejected(offset, outcome.code or "unknown", outcome.message or "no reason was given")
