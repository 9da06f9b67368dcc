"""The worker's side of commands: from the log into this replica's graph, and word of it to whoever waits."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, NoReturn

from brokers.consecutive import Consecutive
from brokers.errors import StartRefused, StartUnknown
from replica.alike import Alike
from replica.apply import Applier
from replica.errors import Halted, Held, HistoryMissing, Unavailable
from replica.statement import Command
from tasks import skipping, wire
from tasks.reporting import Reports
from tasks.snapshots import way_out
from tasks.standing import Standing
from tasks.verifying import parts


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import neo4j

    from brokers import KafkaBroker
    from brokers.reader import RecordMessage
    from brokers.topics import TopicSpec
    from replica.statement import Applied
    from settings import Settings
    from tasks.comparing import Comparing
    from tasks.decisions import Decision, Decisions
    from tasks.holding import Holdings
    from tasks.registry import Registry

logger = logging.getLogger("tasks.applying")

#: Seconds for which the next command is waited for when all are applied.  Whoever waits for each of theirs before they
#: send another one has it here within that time mostly, and it begins without a change of threads.
LINGERS_S = 0.005


class Applying:
    """One replica's applier in this process.  The broker's start thread and one worker thread take turns in it."""

    def __init__(
        self,
        settings: Settings,
        broker: KafkaBroker,
        driver: Callable[[], neo4j.Driver],
        *,
        reports: TopicSpec,
        registry: Registry,
        decisions: Decisions,
        holding: Holdings,
        comparing: Comparing,
        start_again: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._broker = broker
        self._driver = driver
        self._reports = Reports(broker, reports, settings.group_id)
        self._registry = registry
        self._decisions = decisions
        self._holding = holding
        self._standing = Standing(decisions, settings.group_id, start_again)
        self._comparing = comparing
        self._applier: Applier | None = None
        self._topic_id = ""

    def start(self, topic: str, partition: int, log_start: int) -> int:
        """Where this replica goes on: one above the position in its graph.  What it never reported is reported now.

        Raises:
          StartUnknown: the graph, or Kafka, is out of reach just now; or the replica is paused or quarantined.
          StartRefused: going on would be guessing; the text names the way out.
        """
        topic_id = self._broker.topics.identity(topic)
        self._registry.register(topic_id)
        self._standing.before_start()
        try:
            return self._recovered(topic, partition, log_start, topic_id)
        except Halted as exc:
            way = way_out(self._settings, topic, topic_id, log_start) if isinstance(exc, HistoryMissing) else ""
            self._holding.tell_start(self._topic_id, f"Replica.{type(exc).__name__}", f"{exc}{way}")
            raise StartRefused(f"{exc}{way}") from exc
        except (Unavailable, OSError) as exc:
            self._holding.tell_start(self._topic_id, getattr(exc, "code", type(exc).__name__), str(exc))
            raise StartUnknown(f"replica {self._settings.group_id}: {exc}") from exc

    def _recovered(self, topic: str, partition: int, log_start: int, topic_id: str) -> int:
        applier = self._applier_for(topic, partition, topic_id)
        unreported = applier.recover(log_start)
        position = applier.position
        if position is None:
            raise StartUnknown(f"replica {self._settings.group_id}: the position was lost while it was read")
        self._reports.begin(position.offset if unreported is None else unreported.first - 1)
        if unreported is not None:
            self._reports.say(unreported, topic_id)
            self._reports.confirm()
        self._comparing.begin(topic_id, applier.checkpoints)
        self._holding.passed(position.offset)
        logger.info("replica_started replica=%s position=%d", self._settings.group_id, position.offset)
        return position.offset + 1

    def _applier_for(self, topic: str, partition: int, topic_id: str) -> Applier:
        """The applier, new when the topic is another one than before, even one of the same name."""
        if self._applier is None or topic_id != self._topic_id:
            self._topic_id = topic_id
            self._applier = Applier(
                self._driver(),
                database=self._settings.neo4j_database,
                topic=topic,
                topic_id=topic_id,
                partition=partition,
                batch=self._settings.apply_batch,
                timeout_s=self._settings.command_timeout_s,
            )
        return self._applier

    def apply(self, messages: Sequence[RecordMessage | Command]) -> None:
        """Apply consecutive commands and report their outcomes.

        Raises:
          Held, Unavailable, PositionMoved, StandsStill, Unreachable: the broker holds the messages and asks `start`
            again.
        """
        batch = messages if isinstance(messages, Consecutive) else None
        follows = False
        try:
            if self._applier is None:
                raise StartUnknown("commands came before their start")
            coming = messages if batch is None else batch.messages
            while coming:
                self._apply(self._applier, _Coming(coming, batch, self._settings.apply_batch, self._skips))
                coming = () if batch is None else batch.further(LINGERS_S)
            follows = batch is not None and batch.more
        finally:
            if not follows:  # else what was said is confirmed while the next commands are applied
                self._reports.confirm()
                self._comparing.confirm()

    def _apply(self, applier: Applier, coming: _Coming) -> None:
        def tell(applied: Applied) -> None:
            last = coming.told(applied.last)
            self._reports.say(applied, self._topic_id)
            self._comparing.passed(last, applied.checkpoints, applier.position)
            self._holding.passed(applied.last)

        try:
            applier.apply_all(
                coming.commands(), tell, before=self._standing.before_apply, published=lambda: self._reports.published
            )
            if coming.proposed is not None:
                self._standing.before_apply()
                self._stand_still(applier, *coming.proposed)
        except Held as exc:
            agreed_ms = coming.proposed[1].at_ms if coming.proposed is not None and exc.code == skipping.PROPOSED else 0
            self._holding.tell(self._topic_id, exc.offset, exc.code, exc.message, agreed_ms=agreed_ms)
            raise

    def _skips(self) -> Mapping[int, Decision]:
        return skipping.skips(self._decisions.current(), self._topic_id)

    @staticmethod
    def _stand_still(applier: Applier, command: Command, proposal: Decision) -> NoReturn:
        """In front of a command that people may decide to skip; this graph has not applied it, or says what it did."""
        reason = applier.objection(command)
        code = skipping.PROPOSED if reason is None else skipping.OBJECTED
        said = f"{proposal.by} proposes to skip it: {proposal.reason}" if reason is None else reason
        raise Held(command.offset, code, said, retry_after_s=skipping.AGAIN_S)


class _Coming:
    """*messages*, and what comes behind them to *batch*, as they are to be applied: a transaction at a time."""

    def __init__(
        self,
        messages: Sequence[RecordMessage | Command],
        batch: Consecutive | None,
        size: int,
        skips: Callable[[], Mapping[int, Decision]],
    ) -> None:
        self._messages = messages
        self._batch = batch
        self._size = size
        self._skips = skips
        self._lasts: deque[tuple[int, RecordMessage | Command]] = deque()
        #: The command in front of which the replica has to stand still.
        self.proposed: tuple[Command, Decision] | None = None

    def commands(self) -> Iterator[Sequence[Command]]:
        """Each but the first is asked for while another one is applied, and those behind the messages, too."""
        coming = self._messages
        while coming:
            for part in parts(coming, self._size):
                commands = _commands(part)
                ready, proposal = skipping.prepared(commands, self._skips())
                if ready:
                    self._lasts.append((ready[-1].offset, part[len(ready) - 1]))
                    yield ready
                if proposal is not None:
                    self.proposed = commands[len(ready)], proposal
                    return
            coming = () if self._batch is None else self._batch.further()

    def told(self, offset: int) -> RecordMessage | Command | None:
        """The last message of the last transaction up to *offset*; each once."""
        last = None
        while self._lasts and self._lasts[0][0] <= offset:
            last = self._lasts.popleft()[1]
        return last


def _commands(messages: Sequence[RecordMessage | Command]) -> Sequence[Command]:
    if isinstance(messages, Alike):
        return messages
    return [one if isinstance(one, Command) else wire.command_of(one, one.record.offset) for one in messages]
