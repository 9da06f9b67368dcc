"""Everything by which one replica's worker compares its graph with the others'."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dramatiq.errors import BrokerError

from brokers.errors import StartUnknown
from replica.statement import Command
from tasks import verified
from tasks.checkpoints import Watch
from tasks.verifying import Schedule, Verifying


if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import neo4j

    from brokers.reader import RecordMessage
    from replica.digest import Checkpoint
    from replica.statement import Position
    from tasks.app import App

#: Seconds for Kafka to answer.
ASK_S = 8.0


class Comparing:
    """What the applier says of its graph.  One thread at a time."""

    def __init__(self, app: App, driver: Callable[[], neo4j.Driver]) -> None:
        settings = app.settings
        self._app = app
        self._watch = Watch(app.broker, app.checkpoints_topic, app.decisions, settings.group_id, timeout_s=ASK_S)
        self._verifying = Verifying(
            app.broker,
            app.verifications_topic,
            driver,
            database=settings.neo4j_database,
            replica=settings.group_id,
            conclude=self._watch.conclude,
            timeout_s=ASK_S,
        )
        self._schedule: Schedule | None = None
        self._topic_id = ""

    def begin(self, topic_id: str, checkpoints: Iterable[Checkpoint]) -> None:
        """The applier starts, on a graph that keeps *checkpoints*.

        Raises:
          StartUnknown: Kafka is out of reach just now.
        """
        self._topic_id = topic_id
        try:
            self._watch.begin(topic_id, checkpoints)
        except BrokerError as exc:
            raise StartUnknown(f"replica {self._app.settings.group_id}: {exc}") from exc
        if self._schedule is None and self._app.settings.verify_every_s > 0:
            self._schedule = Schedule(self._app, self._verifying, self._app.settings.verify_every_s)

    def passed(
        self, last: RecordMessage | Command | None, checkpoints: Iterable[Checkpoint], at: Position | None
    ) -> None:
        """All up to *last*, which may ask for a comparison, is applied, and the graph is *at* that position.

        None for one that somebody else has applied, further than it was known here.
        """
        self._watch.say(checkpoints)
        if last is None or isinstance(last, Command):  # a plain one
            return
        if (request := verified.request_of(last.options)) is not None:
            self._verifying.answer(request, self._topic_id, last.record.offset, at)

    def confirm(self) -> None:
        """Wait until what was said is published.

        Raises:
          Unreachable, DeliveryUnknown, DeliveryRefused: called again, it is sent again.
        """
        self._watch.confirm()

    def close(self) -> None:
        """Stop listening."""
        if self._schedule is not None:
            self._schedule.close()
        self._watch.close()
        self._verifying.close()
