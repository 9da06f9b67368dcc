"""Where a partition starts to be read: what Kafka's commit says, or what somebody else knows better."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from confluent_kafka import KafkaException, TopicPartition

from brokers.assignment import Blocked
from brokers.crashes import Past, split
from brokers.errors import StartError, StartRefused
from brokers.offsets import AckTracker, Run, UnknownMap, decode, resumed, union
from brokers.suspects import past_of


if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from confluent_kafka import Consumer as Client

    from brokers.assignment import Assignment
    from brokers.bounds import Bounds, Place
    from brokers.topics import Start as Source

    #: Places to what the group has committed there; those that nobody can answer for just now are missing.
    Committed = Callable[[list[Place], Client], dict[Place, TopicPartition]]

logger = logging.getLogger("brokers.consumer")

#: Seconds that a question to Kafka about offsets may take.
ASK_KAFKA_S = 5.0

#: Seconds before the start of a partition is asked for again when it was out of reach, and when it was refused.
ASK_AGAIN_S = 1.0
ASK_REFUSED_AGAIN_S = 5.0

#: Seconds after which a question that is still open is reported as what keeps the partition.
SLOW_ANSWER_S = 5.0


class Start:
    """The question where one partition starts, and its answer.

    The owner thread asks.  Kafka answers it at once; any other source is asked in a thread of its own, and may need as
    long as it likes.
    """

    def __init__(self, assignment: Assignment, former: AckTracker | None = None) -> None:
        self.assignment = assignment
        self.answer: AckTracker | None = None
        #: What the group's last commit says about crashes.
        self.past = Past()
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

    def told(self, log: tuple[int, int] | None, committed: TopicPartition | None) -> None:
        """What Kafka says: where the log begins and ends, and what the group has committed."""
        source = self.assignment.buffer.queue.start
        if log is None:
            self._failed("no server answers for it", ASK_AGAIN_S)
        elif source is not None:
            self._ask_elsewhere(source, *log)
        elif committed is None:
            self._failed("the group's coordinator does not answer", ASK_AGAIN_S)
        else:
            self.past = past_of(committed, log[1])
            self.answer = resume_at(self.assignment, committed, log, self._former)

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


def ask_kafka(starts: Iterable[Start], client: Client, bounds: Bounds, committed: Committed | None = None) -> None:
    """Ask for all that are due, in as many calls as for one; *committed* is how, where not the client is asked."""
    due = {(start.assignment.topic, start.assignment.partition): start for start in starts if start.due()}
    if not due:
        return
    logs = bounds(due)
    answers = (committed or _committed)([place for place in due if place in logs], client)
    for place, start in due.items():
        start.told(logs.get(place), answers.get(place))


def _committed(places: list[Place], client: Client) -> dict[Place, TopicPartition]:
    try:
        answers = client.committed([TopicPartition(*place) for place in places], timeout=ASK_KAFKA_S) if places else []
    except KafkaException as exc:
        logger.warning("kafka_commits_unknown text=%s", exc.args[0].str())
        return {}
    return {(answer.topic, answer.partition): answer for answer in answers if answer.error is None}


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
        runs = decode(offset, split(committed.metadata)[0])
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
