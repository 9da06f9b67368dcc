"""The worker's side of a comparison of whole graphs: read this replica's at one place of the log, and tell.

The applier waits meanwhile, queries do not.  A request says how long appliers may wait; a graph that takes longer is
not verified, and says so.
"""

from __future__ import annotations

import logging
import random
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any, Final

import msgspec
from dramatiq.errors import BrokerError

from brokers.records import Outgoing
from brokers.replies import Place, TopicReader
from replica.alike import Alike
from replica.errors import QueryUnavailable
from replica.statement import Command
from tasks import verified
from tasks.divergence import judge
from tasks.verified import Reading, Request, Unverified, Verified


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import dramatiq
    import neo4j

    from brokers import KafkaBroker
    from brokers.reader import RecordMessage
    from brokers.topics import TopicSpec
    from replica.statement import Position
    from tasks.app import App
    from tasks.divergence import Disagreement

logger = logging.getLogger("tasks.verifying")

#: Seconds between two words about how far the reading is.
TELL_EVERY_S: Final = 1.0

#: Comparisons that are remembered, to hear what the others say to them.
REMEMBERED: Final = 8

#: Seconds that appliers wait at most for a comparison that nobody asked for.
SCHEDULED_PAUSE_S: Final = 300.0


class TooLong(Exception):
    """The applier has waited long enough."""


def parts(messages: Sequence[RecordMessage | Command], size: int) -> Iterator[Sequence[RecordMessage | Command]]:
    """Consecutive commands, cut behind each comparison and below each multiple of *size*."""
    start = 0
    if isinstance(messages, Alike) and messages[0].offset // size == messages[-1].offset // size:
        yield messages
        return
    for index, message in enumerate(messages, start=1):
        if isinstance(message, Command):  # a plain one
            last = (message.offset + 1) % size == 0
        else:
            last = (message.record.offset + 1) % size == 0 or verified.OPTION in message.options
        if last:
            yield messages[start:index]
            start = index
    if start < len(messages):
        yield messages[start:]


def message_for(app: App, request: Request) -> dramatiq.Message[Any]:
    """The command that asks every replica."""
    message = app.run_command.message_with_options(args=(verified.TEXT,))
    message.options[verified.OPTION] = msgspec.to_builtins(request)
    return message


class Verifying:
    """Answers requests, and compares this replica's answer with the others'.  One thread, besides the reader's."""

    def __init__(
        self,
        broker: KafkaBroker,
        spec: TopicSpec,
        driver: Callable[[], neo4j.Driver],
        *,
        database: str,
        replica: str,
        conclude: Callable[[Disagreement], None],
        timeout_s: float,
    ) -> None:
        self._broker = broker
        self._spec = spec
        self._driver = driver
        self._database = database
        self._replica = replica
        self._conclude = conclude
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._reader: TopicReader | None = None
        self._answers: dict[str, dict[str, Verified]] = {}
        #: Monotonic seconds of the last request in the log, whoever made it.
        self.asked_at = time.monotonic()

    def answer(self, request: Request, topic_id: str, offset: int, position: Position | None) -> None:
        """Read the graph, which is at *offset* of the log, and publish what it holds; what goes wrong is published too.

        Raises:
          Unreachable, DeliveryUnknown: Kafka does not take the answer; the command is tried again.
        """
        self.asked_at = time.monotonic()
        if position is None or position.offset != offset:
            return  # tried again, and passed in the meantime: the graph of then is no more
        self._listen()
        started = time.monotonic()
        try:
            self._read(request, topic_id, started)
        except TooLong:
            self._say(
                Unverified(request.id, self._replica, f"reading the graph takes longer than {request.pause_s:g} s")
            )
        except QueryUnavailable as exc:
            self._say(Unverified(request.id, self._replica, str(exc)))
        logger.info("replica_read replica=%s offset=%d seconds=%.1f", self._replica, offset, time.monotonic() - started)

    def _read(self, request: Request, topic_id: str, started: float) -> None:
        from replica.checksum import checksum  # noqa: PLC0415 - a caller of commands does without

        told = started

        def progress(done: int, total: int) -> None:
            nonlocal told
            now = time.monotonic()
            if now - started > request.pause_s:
                raise TooLong
            if now - told > TELL_EVERY_S:
                told = now
                self._say(Reading(request.id, self._replica, done, total))

        found = checksum(self._driver(), self._database, wanted=request.wanted, progress=progress)
        for listing in verified.listings(request, self._replica, found):
            self._say(listing)
        mine = verified.verified(request, self._replica, topic_id, found, time.monotonic() - started)
        self._say(mine)
        if not request.followed:
            self._take(mine)

    def _say(self, answer: verified.Answer) -> None:
        record = Outgoing(self._spec.name, msgspec.json.encode(answer), self._replica.encode(), partition=0)
        self._broker.publish(record, self._spec)

    # What the others answer.

    def _listen(self) -> None:
        if self._reader is None or not self._reader.running:
            self._broker.topics.ensure(self._spec)
            place = Place(self._spec.name, from_start=True)
            self._reader = TopicReader(self._broker.client_settings, [place], self._heard, timeout_s=self._timeout_s)

    def _heard(self, record: Any) -> None:
        answer = verified.answer_of(record.value)
        if isinstance(answer, Verified) and answer.replica != self._replica:
            self._take(answer)

    def _take(self, answer: Verified) -> None:
        with self._lock:
            answers = self._answers.setdefault(answer.id, {})
            answers[answer.replica] = answer
            while len(self._answers) > REMEMBERED:
                del self._answers[next(iter(self._answers))]
            mine = answers.get(self._replica)
            comparable = {
                name: one
                for name, one in answers.items()
                if mine is not None and (one.topic_id, one.offset) == (mine.topic_id, mine.offset)
            }
        found = judge(self._replica, comparable, first=0, last=answer.offset)
        if found is not None:
            self._conclude(found)

    def close(self) -> None:
        """Stop listening."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()


class Schedule:
    """Asks for a comparison where none was asked for in *every_s* seconds.

    Every replica's worker has one.  Each waits a little longer than *every_s*, at random, so that mostly one asks and
    the others see it in the log; two at once are two comparisons, and do no harm.
    """

    def __init__(self, app: App, verifying: Verifying, every_s: float) -> None:
        self._app = app
        self._verifying = verifying
        self._every_s = every_s
        self._closing = threading.Event()
        threading.Thread(target=self._run, name="verify-schedule", daemon=True).start()

    def _run(self) -> None:
        wait_s = self._wait_s()
        while not self._closing.wait(min(wait_s, 1.0)):
            if time.monotonic() - self._verifying.asked_at < wait_s:
                continue
            wait_s = self._wait_s()
            self._verifying.asked_at = time.monotonic()
            try:
                self._app.broker.enqueue(message_for(self._app, Request(uuid.uuid4().hex, SCHEDULED_PAUSE_S)))
            except BrokerError as exc:
                logger.warning("verification_not_asked_for reason=%s", exc)

    def _wait_s(self) -> float:
        return self._every_s * random.uniform(1.0, 1.1)

    def close(self) -> None:
        """Ask no more."""
        self._closing.set()
