"""Apply a stretch of the log to one graph without being a replica's worker: to get a graph as it was at one command."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any, Final, Self

from confluent_kafka import KafkaException, TopicPartition

from brokers.clients import Consumer, Health, base_config, opened
from brokers.errors import ReadLater, Unreachable
from brokers.reader import read_message
from brokers.received import received
from replica.apply import Applier
from replica.errors import Unavailable
from tasks import skipping, wire
from tasks.app import COMMANDS


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from brokers.records import Record
    from tasks.app import App
    from tasks.decisions import Decision

    #: Told how many of how many offsets are done.
    Tell = Callable[[int, int], None]

#: Seconds without any record before Kafka counts as away.
_SILENCE_S: Final = 30.0
#: Seconds that a command may be held before the replay ends: nobody waits for what does not heal by itself.
_HELD_S: Final = 60.0
_POLL_S: Final = 0.1
#: Seconds for a question about offsets.
_ASK_S: Final = 8.0


class Log:
    """The command log, read without a group.  Use it in a `with` block, in one thread."""

    def __init__(self, app: App) -> None:
        self._app = app
        self.topic = app.command_topic.name
        health = Health()
        self._client = opened(Consumer, base_config(app.broker.client_settings, health) | _CONFIG)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def bounds(self) -> tuple[int, int]:
        """The first offset that it has, and the one after its last."""
        try:
            place = TopicPartition(self.topic, 0)
            start, end = self._client.get_watermark_offsets(place, timeout=_ASK_S, cached=False)
        except KafkaException as exc:
            raise Unreachable(exc.args[0].str()) from exc
        return start, end

    def before(self, time_ms: int) -> int:
        """The offset just before the first record at or after that time; the last one where there is none."""
        try:
            [found] = self._client.offsets_for_times([TopicPartition(self.topic, 0, time_ms)], timeout=_ASK_S)
        except KafkaException as exc:
            raise Unreachable(exc.args[0].str()) from exc
        return (found.offset if found.offset >= 0 else self.bounds()[1]) - 1

    def batches(self, first: int, last: int, size: int) -> Iterator[list[Record]]:
        """The records from *first* to *last*, some at a time; offsets without a record are passed over."""
        self._client.assign([TopicPartition(self.topic, 0, first)])
        heard = time.monotonic()
        at = first
        while at <= last:
            found = [message for message in self._client.consume(size, _POLL_S) if message.error() is None]
            records = [record for record in map(received, found) if record.offset <= last]
            if records:
                yield records
            position = self._client.position([TopicPartition(self.topic, 0)])[0].offset
            if position > at or records:
                at, heard = max(position, at), time.monotonic()
            elif time.monotonic() - heard > _SILENCE_S:
                raise Unreachable(f"no record of {self.topic} from offset {at} on came within {_SILENCE_S:g} s")


_CONFIG: Final[dict[str, Any]] = {
    "group.id": "replay",  # never joined; the client insists on a name
    "enable.auto.commit": False,
    "auto.offset.reset": "error",  # what is gone must not be passed over
    "isolation.level": "read_committed",
}


def replay(app: App, log: Log, last: int, tell: Tell) -> int:
    """Apply the log to the app's graph, up to the record at *last*; give the position of the graph then.

    Nothing is reported or registered: the graph may never become a replica, or one of another name.  Outcomes that a
    worker has to publish stay in the graph.  What was decided to be skipped is skipped here too; what is only proposed
    is not.

    Raises:
      Halted: the graph cannot go on with this log; the text names the way out.
      Unreachable: Kafka is away.
      Held, Unavailable: Neo4j is away, or a command cannot be applied, and that did not change for a minute.
    """
    topic_id = app.broker.topics.identity(log.topic)
    applier = Applier(
        app.driver(),
        database=app.settings.neo4j_database,
        topic=log.topic,
        topic_id=topic_id,
        batch=app.settings.apply_batch,
        timeout_s=app.settings.command_timeout_s,
    )
    decided = skipping.skips((one for one in app.decisions.look() if one.applies), topic_id)
    log_start, log_end = log.bounds()
    applier.recover(log_start, log_end)
    first = _position(applier) + 1
    for records in log.batches(first, last, app.settings.apply_batch):
        _insist(functools.partial(_apply, app, applier, records, decided))
        tell(records[-1].offset - first + 1, last - first + 1)
    return _position(applier)


def _position(applier: Applier) -> int:
    if applier.position is None:
        raise AssertionError("unreachable: `recover` and `apply` leave a position, or raise")
    return applier.position.offset


def _apply(app: App, applier: Applier, records: Sequence[Record], decided: Mapping[int, Decision]) -> None:
    """As a worker reads and applies them."""
    queue = app.broker.queues[COMMANDS]
    messages = [(read_message(record, queue, app.broker.envelope)[0], record.offset) for record in records]
    commands, _ = skipping.prepared([wire.command_of(message, offset) for message, offset in messages], decided)
    applier.apply(commands)


def _insist(act: Callable[[], None]) -> None:
    """Do *act* again while it is held: as a worker would, but not for ever."""
    deadline = time.monotonic() + _HELD_S
    while True:
        try:
            return act()
        except (Unavailable, ReadLater) as error:
            if time.monotonic() > deadline:
                raise
            time.sleep(getattr(error, "retry_after_s", 1.0))
