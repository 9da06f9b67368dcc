"""Answers on their way into the store: what a worker collects while it replies, and keeps before the query's ack."""

from __future__ import annotations

import threading
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from dramatiq.results import Results

from tasks import answers
from tasks.answers import Answer, Failure
from tasks.errors import QueryFailed
from tasks.options import STORE, ttl_of


if TYPE_CHECKING:
    from collections.abc import Iterator

    import dramatiq

    from tasks.kept import Kept, KeptResults

#: Bytes of one answer that is kept.  Redis holds it in memory for an hour, and thousands of others with it.
LONGEST: Final = 4_000_000

#: What is kept in place of an answer that is larger.
TOO_LARGE: Final = "Replica.ResultTooLarge"

#: What is kept of a query that never came to its turn.
PIPELINE_ENDED: Final = "Replica.PipelineEnded"


class Collected:
    """The answers that this process is giving just now, by the query's id; bounded.  Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parts: dict[str, list[bytes]] = {}
        self._sizes: dict[str, int] = {}

    def take(self, message_id: str, answer: Answer, encoded: bytes) -> None:
        """One part; the first of an answer takes the place of what was there."""
        with self._lock:
            if answer.seq == 0:
                self._parts[message_id], self._sizes[message_id] = [], 0
            size = self._sizes[message_id] = self._sizes.get(message_id, 0) + len(encoded)
            if size <= LONGEST:
                self._parts.setdefault(message_id, []).append(encoded)
            elif answer.end:
                self._parts[message_id] = [answers.encode(_too_large(answer, size))]
            else:
                self._parts[message_id] = []

    def of(self, message_id: str) -> list[bytes]:
        """What was collected; nothing where nobody has answered."""
        with self._lock:
            return self._parts.get(message_id, [])

    def drop(self, message_id: str) -> None:
        """It is kept, or not wanted."""
        with self._lock:
            self._parts.pop(message_id, None)
            self._sizes.pop(message_id, None)


def _too_large(answer: Answer, size: int) -> Answer:
    why = f"the answer has {size:,} bytes, and {LONGEST:,} are kept at most: ask for less, or take it from the reply"
    return Answer(answer.id, answer.run, 0, end=True, replica=answer.replica, error=Failure(TOO_LARGE, why))


@dataclass(frozen=True, slots=True)
class _Asked:
    message_id: str
    ttl_s: float


class Keeping(Results):
    """Keeps the answers of queries that ask for it.

    It is one of `Results`, so that a worker whose Redis is away keeps the answer later, before the ack, and does not
    run the query again.
    """

    def __init__(self, kept: Kept, backend: KeptResults, collected: Collected, queue_name: str, replica: str) -> None:
        super().__init__(backend=backend)  # type: ignore[no-untyped-call]  # Dramatiq's gap
        self._queue_name = queue_name
        self._kept = kept
        self._collected = collected
        self._replica = replica

    @property
    def actor_options(self) -> set[str]:
        """None: messages have options, and queries check theirs."""
        return set()

    def before_enqueue(self, broker: dramatiq.Broker, message: dramatiq.Message[Any], delay: int | None) -> None:
        """Note that somebody has asked; also for what follows in a pipeline, which waits for its turn.

        Raises:
          StoreUnreachable: nothing is sent.
        """
        if "passed_on" in message.options:
            return  # noted by whoever has asked; a worker must not stumble here over a Redis that is away
        for asked in self._asked(message):
            self._kept.note(asked.message_id, asked.ttl_s)

    def after_process_message(
        self,
        broker: dramatiq.Broker,
        message: dramatiq.MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        """Keep what was answered, be it an error."""
        parts = self._collected.of(message.message_id)
        if parts and message.options.get(STORE) is not None:
            self._kept.keep(message.message_id, parts, ttl_of(message.options))
        self._collected.drop(message.message_id)

    def after_skip_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
        """A query that is skipped runs somewhere else, or fails."""

    def after_nack(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
        """Keep why a query has failed that never came to an answer, and that its pipeline has ended."""
        if not message.failed:
            return
        ended = getattr(message, "_exception", None)
        why = str(ended or "it was given up")
        for asked in self._asked(message):
            if asked.message_id != message.message_id:
                ahead = f"{message.actor_name}, before it in its pipeline, has failed (query {message.message_id})"
                self._fail(asked, Failure(PIPELINE_ENDED, f"{ahead}: {why}"))
            elif not isinstance(ended, QueryFailed):  # that is what the query was answered with, and kept already
                self._fail(asked, Failure(type(ended).__name__ if ended else "Failed", why))

    def _fail(self, asked: _Asked, failure: Failure) -> None:
        answer = Answer(asked.message_id, uuid.uuid4().hex[:12], 0, end=True, replica=self._replica, error=failure)
        self._kept.keep(asked.message_id, [answers.encode(answer)], asked.ttl_s)

    def _asked(self, message: dramatiq.Message[Any] | dramatiq.MessageProxy) -> Iterator[_Asked]:
        """The queries whose answers are to be kept, of *message* and what follows it in its pipeline."""
        message_id, queue_name, options = message.message_id, message.queue_name, message.options
        while True:
            if queue_name == self._queue_name and options.get(STORE) is not None:
                yield _Asked(message_id, ttl_of(options))
            target = options.get("pipe_target")
            if not isinstance(target, dict):
                return
            message_id, queue_name, options = target["message_id"], target["queue_name"], target["options"]
