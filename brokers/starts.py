"""Where a partition starts to be read: what Kafka's commit says, or what somebody else knows better."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from confluent_kafka import KafkaException, TopicPartition

from brokers.assignment import Blocked
from brokers.errors import StartError, StartRefused
from brokers.offsets import AckTracker, Run, UnknownMap, decode, resumed, union


if TYPE_CHECKING:
    from brokers.assignment import Assignment
    from brokers.clients import Consumer
    from brokers.topics import Start as Source

logger = logging.getLogger("brokers.consumer")

#: Seconds that a question to Kafka about offsets may take.
ASK_KAFKA_S = 5.0

#: Seconds before the start of a partition is asked for again when it was out of reach, and when it was refused.
ASK_AGAIN_S = 1.0
ASK_REFUSED_AGAIN_S = 5.0

#: Seconds after which a question that is still open is reported as what keeps the partition.
SLOW_ANSWER_S = 5.0


class Start:
    """The question where one partition starts, and its answer.  Asked by the owner thread, and by nobody else.

    Kafka answers the owner thread.  Any other source is asked in a thread of its own: it may need as long as it likes.
    """

    def __init__(self, assignment: Assignment, former: AckTracker | None = None) -> None:
        self.assignment = assignment
        self.answer: AckTracker | None = None
        self._former = former
        self._asked_at: float | None = None
        self._not_before = 0.0

    def due(self) -> bool:
        """Whether it has to be asked, again or for the first time."""
        now, asked_at = time.monotonic(), self._asked_at
        if asked_at is not None:
            if now - asked_at > SLOW_ANSWER_S and self.assignment.blocked is None:
                self._block("nobody has said yet where to start")
            return False
        return self.answer is None and now >= self._not_before

    def ask(self, client: Consumer) -> bool:
        """Ask; false when Kafka does not answer."""
        assignment = self.assignment
        place = TopicPartition(assignment.topic, assignment.partition)
        source = assignment.buffer.queue.start
        try:
            log = client.get_watermark_offsets(place, timeout=ASK_KAFKA_S, cached=False)
            if source is not None:
                self._ask_elsewhere(source, *log)
                return True
            [committed] = client.committed([place], timeout=ASK_KAFKA_S)
        except KafkaException as exc:
            self._failed(exc.args[0].str(), ASK_AGAIN_S)
            return False
        self.answer = resume_at(assignment, committed, log, self._former)
        return True

    def _ask_elsewhere(self, source: Source, log_start: int, log_end: int) -> None:
        self._asked_at = time.monotonic()
        name = f"start-{self.assignment}"
        threading.Thread(target=self._answer, args=(source, log_start, log_end), name=name, daemon=True).start()

    def _answer(self, source: Source, log_start: int, log_end: int) -> None:
        try:
            offset = source(self.assignment.topic, self.assignment.partition, log_start)
            self.answer = AckTracker(_within(offset, log_start, log_end))
        except StartError as exc:
            self._failed(str(exc), ASK_AGAIN_S if exc.retryable else ASK_REFUSED_AGAIN_S, halted=not exc.retryable)
        except Exception as exc:
            logger.exception("kafka_start_failed partition=%s", self.assignment)
            self._failed(repr(exc), ASK_REFUSED_AGAIN_S)
        finally:
            self._asked_at = None

    def postpone(self, reason: str) -> None:
        """The answer could not be used; ask again in a moment."""
        self.answer = None
        self._failed(reason, ASK_AGAIN_S)

    def _failed(self, reason: str, again_s: float, *, halted: bool = False) -> None:
        before = self.assignment.blocked
        if halted and (before is None or before.reason != reason):
            logger.critical("kafka_partition_halted partition=%s reason=%s", self.assignment, reason)
        elif before is None:
            logger.warning("kafka_start_unknown partition=%s reason=%s", self.assignment, reason)
        self._not_before = time.monotonic() + again_s
        self._block(reason)

    def _block(self, reason: str) -> None:
        before = self.assignment.blocked
        since, attempts = (before.since, before.attempts) if before else (time.time(), 0)
        self.assignment.blocked = Blocked(since, reason, attempts + 1)


def _within(offset: int, log_start: int, log_end: int) -> int:
    if not log_start <= offset <= log_end:
        raise StartRefused(f"told to start at offset {offset}, and the log holds {log_start} to {log_end}")
    return offset


def resume_at(
    assignment: Assignment, committed: TopicPartition, log: tuple[int, int], former: AckTracker | None = None
) -> AckTracker:
    """A tracker that goes on where Kafka's commit says, within what the *log* (first offset, end) still holds.

    *former* is what this process knows from an assignment that it lost without being able to commit.
    """
    log_start, log_end = log
    offset = committed.offset if committed.offset >= 0 else log_start
    if not log_start <= offset <= log_end:
        logger.error(
            "kafka_commit_outside_log partition=%s commit=%d log=%d..%d", assignment, offset, log_start, log_end
        )
        return AckTracker(log_start)
    try:
        runs = decode(offset, committed.metadata)
    except UnknownMap as exc:
        logger.warning("kafka_completion_map_unknown partition=%s reason=%s", assignment, exc)
        runs = []
    return resumed(offset, union(runs, _still_true(former, committed.offset, log_end)))


def _still_true(former: AckTracker | None, committed: int, log_end: int) -> list[Run]:
    """What *former* knows to be finished, unless the group was rewound or the topic made anew in the meantime."""
    if former is None or former.confirmed is None:
        return []
    same_log = former.confirmed.offset <= committed and former.next <= log_end
    return former.finished() if same_log else []
