"""The owner thread: the only one that calls a Kafka consumer.

One consumer per group, not per queue: a rebalance then costs one move, and Dramatiq's readers, which it closes and
opens as it likes, are thin views that never leave the group.  Between polls the owner starts partitions, pauses and
resumes them, and commits.  It never waits for anything but Kafka: a start that somebody else must tell (a database,
say) is asked for in a thread of its own.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from confluent_kafka import OFFSET_BEGINNING, KafkaException, TopicPartition
from confluent_kafka import Consumer as Client

from brokers import codes
from brokers.assignment import Assignment, Blocked
from brokers.clients import Health, base_config, client_logger
from brokers.errors import ConsumerStopped, StartError
from brokers.offsets import MAP_LIMIT, METADATA_LIMIT, AckTracker, Commit, UnknownMap, decode
from brokers.ordered import OrderedBuffer
from brokers.parallel import ParallelBuffer
from brokers.records import received


if TYPE_CHECKING:
    from collections.abc import Mapping

    from confluent_kafka import KafkaError
    from confluent_kafka import Message as KafkaMessage

    from brokers.assignment import Buffer
    from brokers.topics import Queue

logger = logging.getLogger("brokers.consumer")

#: Longest poll, in seconds: what a change of subscription, a pause or a commit may have to wait.
POLL_S = 0.1

#: The same while a partition is paused or waits for its start, so that it goes on soon.
BUSY_POLL_S = 0.01

#: Records taken from the client at once.
CHUNK = 500

#: Records of a partition that wait in this process: above the first it is paused, below the second it goes on.  The gap
#: keeps the number of pauses low, since each drops what the client has fetched ahead.
HIGH_WATER = 2000
LOW_WATER = 500

#: Seconds between commits.  A kill repeats at most what was finished in this time.
COMMIT_EVERY_S = 0.1

#: Longest wait, in seconds, for what runs when partitions move away.  Far below `max.poll.interval.ms`, which is 300.
DRAIN_S = 20.0

#: Seconds that a question to Kafka about offsets may take.
ASK_KAFKA_S = 5.0

#: Seconds before the start of a partition is asked for again when it was out of reach, and when it was refused.
ASK_AGAIN_S = 1.0
ASK_REFUSED_AGAIN_S = 5.0


def consumer_config(group_id: str, protocol: str) -> dict[str, Any]:
    """The group part of the client's configuration.

    *protocol* ``classic`` notices a killed member in 6 s; ``consumer`` (KIP-848) in 45 s with the server's defaults,
    and its client takes none of the classic settings.
    """
    config = {
        "group.id": group_id,
        "group.protocol": protocol,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",  # every start is our own decision
        "isolation.level": "read_committed",
        "queued.min.messages": 1000,
        "queued.max.messages.kbytes": 16384,
        "fetch.queue.backoff.ms": 10,  # or a resumed partition starves behind its neighbours
    }
    if protocol == "classic":
        config |= {
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": 6000,
            "heartbeat.interval.ms": 1500,
        }
    return config


class GroupConsumer:
    """Reads the queues of one consumer group in a thread of its own."""

    def __init__(
        self, group_id: str, settings: Mapping[str, Any], *, protocol: str = "classic", drain_s: float = DRAIN_S
    ) -> None:
        self.group_id = group_id
        self.health = Health()
        self.failure: BaseException | None = None
        config = base_config(settings, self.health) | consumer_config(group_id, protocol)
        self._drain_s = drain_s
        self._lock = threading.Lock()
        self._buffers: dict[str, Buffer] = {}  # by topic
        self._subscribed: frozenset[str] = frozenset()
        self._assignments: dict[tuple[str, int], Assignment] = {}
        self._starts: dict[Assignment, _Start] = {}
        self._committing: dict[tuple[str, int], tuple[Assignment, Commit]] = {}
        self._commit_due = 0.0
        self._closing = threading.Event()
        self._client = Client(config | {"on_commit": self._on_commit}, logger=client_logger())
        self._thread = threading.Thread(target=self._run, name=f"kafka-{group_id}", daemon=True)
        self._thread.start()

    # Any thread.

    def open(self, queue: Queue) -> Buffer:
        """The buffer of *queue*, which is subscribed to from now on."""
        with self._lock:
            buffer = self._buffers.get(queue.topic.name)
            if buffer is None:
                buffer = OrderedBuffer(queue) if queue.ordered else ParallelBuffer(queue)
                self._buffers[queue.topic.name] = buffer
        return buffer

    @property
    def running(self) -> bool:
        """False once the thread has ended, for whatever reason."""
        return self._thread.is_alive() and self.failure is None

    def blocked(self) -> dict[str, Blocked]:
        """The partitions that do not go on, and why."""
        found = {str(a): a.buffer.held(a) or a.blocked for a in list(self._assignments.values())}
        return {name: blocked for name, blocked in found.items() if blocked is not None}

    def assigned(self) -> list[tuple[str, int]]:
        """The partitions held just now, as (topic, partition)."""
        return list(self._assignments)

    def close(self) -> None:
        """Wait, bounded, for what runs; commit; leave the group.  Idempotent."""
        self._closing.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(self._drain_s + ASK_KAFKA_S)

    # The owner thread.

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                self._step()
        except Exception as exc:
            logger.exception("kafka_consumer_failed group=%s", self.group_id)
            self.failure = exc
        finally:
            self._leave()

    def _leave(self) -> None:
        try:
            self._client.close()  # calls on_revoke, which drains and commits
        except Exception:  # nothing is left to do for this client; what was not committed is delivered again
            logger.exception("kafka_consumer_close_failed group=%s", self.group_id)
        reason = ConsumerStopped(f"the consumer of group {self.group_id!r} has ended: {self.failure or 'closed'}")
        for buffer in self._buffers.values():
            buffer.stop(reason)

    def _step(self) -> None:
        self._subscribe()
        if not self._subscribed:
            self._closing.wait(BUSY_POLL_S)
            return
        message = self._client.poll(self._patience())
        if message is not None:
            self._receive(message)
            for further in self._client.consume(CHUNK, 0):
                self._receive(further)
        self._start_partitions()
        self._balance()
        self._commit()

    def _patience(self) -> float:
        soon = any(a.paused and a.blocked is None for a in self._assignments.values())
        return BUSY_POLL_S if soon else POLL_S

    def _subscribe(self) -> None:
        with self._lock:
            topics = frozenset(self._buffers)
        if topics != self._subscribed:
            self._client.subscribe(
                sorted(topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
            )
            self._subscribed = topics

    def _receive(self, message: KafkaMessage) -> None:
        error = message.error()
        if error is not None:
            self._complain(message, error)
            return
        assignment = self._assignments.get((message.topic() or "", message.partition() or 0))
        if assignment is None or assignment.paused:
            return  # fetched for a former assignment, or before a seek
        record = received(message)
        if assignment.tracker.begin(record.offset):
            assignment.buffer.deliver(assignment, record)

    def _complain(self, message: KafkaMessage, error: KafkaError) -> None:
        if error.fatal() or error.code() == codes.MAX_POLL_EXCEEDED:
            raise KafkaException(error)
        logger.warning("kafka_consumer_error group=%s code=%s text=%s", self.group_id, error.name(), error.str())
        assignment = self._assignments.get((message.topic() or "", message.partition() or -1))
        if assignment is not None and error.code() in codes.OUTSIDE_LOG:
            self._stop_fetching(assignment)  # the partition would stay silent: ask anew where to start
            assignment.started = False

    # Where a partition starts.

    def _start_partitions(self) -> None:
        waiting = [a for a in self._assignments.values() if not a.started]
        for assignment in waiting:
            start = self._starts.setdefault(assignment, _Start(assignment))
            if start.due():
                self._ask(start)
            if start.answer is not None:
                self._starts.pop(assignment)
                assignment.blocked = None
                self._begin(assignment, *start.answer)

    def _ask(self, start: _Start) -> None:
        """Kafka is asked here; any other source of offsets in a thread of its own."""
        assignment = start.assignment
        place = TopicPartition(assignment.topic, assignment.partition)
        try:
            log_start, log_end = self._client.get_watermark_offsets(place, timeout=ASK_KAFKA_S, cached=False)
            if assignment.buffer.queue.start is not None:
                start.ask(assignment.buffer.queue.start, log_start)
                return
            [committed] = self._client.committed([place], timeout=ASK_KAFKA_S)
        except KafkaException as exc:
            start.failed(exc.args[0].str(), ASK_AGAIN_S)
            return
        start.answer = _resume_at(assignment, committed, log_start, log_end)

    def _begin(self, assignment: Assignment, offset: int, tracker: AckTracker | None) -> None:
        buffer = assignment.buffer
        if isinstance(buffer, OrderedBuffer) and not assignment.paused and buffer.go_on(assignment, offset):
            return
        with buffer.changed:
            buffer.drop(assignment)
        assignment.tracker = tracker or AckTracker(offset)
        if not self._fetch_from(assignment, offset):
            return  # stays unstarted, and is asked for again
        logger.info("kafka_partition_started group=%s partition=%s offset=%d", self.group_id, assignment, offset)
        if isinstance(buffer, OrderedBuffer):
            buffer.begin(assignment, offset)
        else:
            assignment.started = True

    def _fetch_from(self, assignment: Assignment, offset: int) -> bool:
        place = TopicPartition(assignment.topic, assignment.partition, offset)
        try:
            self._client.resume([place])  # resume, then seek: the other order takes up to a second
            self._client.seek(place)
        except KafkaException as exc:
            logger.warning("kafka_seek_failed partition=%s offset=%d text=%s", assignment, offset, exc.args[0].str())
            return False
        assignment.paused = False
        return True

    def _stop_fetching(self, assignment: Assignment) -> None:
        self._client.pause([TopicPartition(assignment.topic, assignment.partition)])
        assignment.paused = True

    def _balance(self) -> None:
        for assignment in self._assignments.values():
            if not assignment.paused and assignment.waiting > HIGH_WATER:
                self._stop_fetching(assignment)
            elif assignment.paused and assignment.started and assignment.waiting < LOW_WATER:
                self._fetch_from(assignment, assignment.tracker.next)

    # Commits.

    def _commit(self) -> None:
        now = time.monotonic()
        if now < self._commit_due or self._committing:
            return
        self._commit_due = now + COMMIT_EVERY_S
        offsets = self._to_commit(list(self._assignments.values()))
        if offsets:
            self._client.commit(offsets=offsets, asynchronous=True)

    def _to_commit(self, assignments: list[Assignment]) -> list[TopicPartition]:
        offsets = []
        for assignment in assignments:
            commit = assignment.tracker.to_commit() if assignment.started else None
            if commit is None:
                continue
            self._watch_map(assignment, commit)
            self._committing[assignment.topic, assignment.partition] = (assignment, commit)
            metadata = commit.metadata if len(commit.metadata) <= METADATA_LIMIT else ""  # rather twice than never
            offsets.append(TopicPartition(assignment.topic, assignment.partition, commit.offset, metadata=metadata))
        return offsets

    def _watch_map(self, assignment: Assignment, commit: Commit) -> None:
        full = len(commit.metadata) > MAP_LIMIT
        if full and not assignment.map_full:
            logger.warning("kafka_completion_map_full partition=%s offset=%d", assignment, commit.offset)
            assignment.map_full = True
        elif assignment.map_full and not full and isinstance(assignment.buffer, ParallelBuffer):
            assignment.buffer.map_has_room(assignment)

    def _on_commit(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        for place in partitions:
            assignment, commit = self._committing.pop((place.topic, place.partition), (None, None))
            if assignment is not None and commit is not None and error is None and place.error is None:
                assignment.tracker.committed(commit)
        if error is not None:
            self._committing.clear()  # tried again at the next turn
            logger.warning("kafka_commit_failed group=%s code=%s", self.group_id, error.name())

    def _commit_now(self, assignments: list[Assignment]) -> None:
        offsets = self._to_commit(assignments)
        try:
            if offsets:
                self._client.commit(offsets=offsets, asynchronous=False)
        except KafkaException as exc:  # lost already: the new owner runs again what it does not know to be done
            logger.warning("kafka_commit_failed group=%s code=%s", self.group_id, exc.args[0].name())
        for place in offsets:
            self._committing.pop((place.topic, place.partition), None)

    # Rebalances, called inside poll and close.

    def _on_assign(self, client: Client, places: list[TopicPartition]) -> None:
        client.incremental_assign([TopicPartition(p.topic, p.partition, OFFSET_BEGINNING) for p in places])
        if places:
            client.pause(places)
        for place in places:
            assignment = Assignment(place.topic, place.partition, self._buffers[place.topic])
            self._assignments[place.topic, place.partition] = assignment
        logger.info("kafka_partitions_assigned group=%s partitions=%s", self.group_id, _names(places))

    def _on_revoke(self, client: Client, places: list[TopicPartition]) -> None:
        leaving = [self._assignments[key] for p in places if (key := (p.topic, p.partition)) in self._assignments]
        deadline = time.monotonic() + self._drain_s
        for buffer in {a.buffer for a in leaving}:
            mine = [a for a in leaving if a.buffer is buffer]
            if not buffer.drain(mine, max(deadline - time.monotonic(), 0)):
                logger.warning("kafka_drain_timed_out group=%s partitions=%s", self.group_id, _names(places))
        self._commit_now(leaving)
        self._drop(places)
        client.incremental_unassign(places)
        logger.info("kafka_partitions_revoked group=%s partitions=%s", self.group_id, _names(places))

    def _on_lost(self, client: Client, places: list[TopicPartition]) -> None:
        self._drop(places)
        client.incremental_unassign(places)
        logger.warning("kafka_partitions_lost group=%s partitions=%s", self.group_id, _names(places))

    def _drop(self, places: list[TopicPartition]) -> None:
        for place in places:
            assignment = self._assignments.pop((place.topic, place.partition), None)
            self._committing.pop((place.topic, place.partition), None)
            if assignment is not None:
                self._starts.pop(assignment, None)
                assignment.buffer.forget(assignment)


class _Start:
    """The question where one partition starts, and its answer."""

    def __init__(self, assignment: Assignment) -> None:
        self.assignment = assignment
        self.answer: tuple[int, AckTracker | None] | None = None
        self._asking = False
        self._not_before = 0.0

    def due(self) -> bool:
        return self.answer is None and not self._asking and time.monotonic() >= self._not_before

    def ask(self, source: Any, log_start: int) -> None:
        self._asking = True
        threading.Thread(
            target=self._answer, args=(source, log_start), name=f"start-{self.assignment}", daemon=True
        ).start()

    def _answer(self, source: Any, log_start: int) -> None:
        try:
            self.answer = (source(self.assignment.topic, self.assignment.partition, log_start), None)
        except StartError as exc:
            self.failed(str(exc), ASK_AGAIN_S if exc.retryable else ASK_REFUSED_AGAIN_S, halted=not exc.retryable)
        except Exception as exc:
            logger.exception("kafka_start_failed partition=%s", self.assignment)
            self.failed(repr(exc), ASK_REFUSED_AGAIN_S)
        finally:
            self._asking = False

    def failed(self, reason: str, again_s: float, *, halted: bool = False) -> None:
        before = self.assignment.blocked
        if halted and (before is None or before.reason != reason):
            logger.critical("kafka_partition_halted partition=%s reason=%s", self.assignment, reason)
        elif before is None:
            logger.warning("kafka_start_unknown partition=%s reason=%s", self.assignment, reason)
        self.assignment.blocked = Blocked(
            before.since if before else time.time(), reason, before.attempts + 1 if before else 1
        )
        self._not_before = time.monotonic() + again_s


def _resume_at(
    assignment: Assignment, committed: TopicPartition, log_start: int, log_end: int
) -> tuple[int, AckTracker]:
    """Where Kafka's commit says to go on, within what the log still holds."""
    offset = committed.offset if committed.offset >= 0 else log_start
    if not log_start <= offset <= log_end:
        logger.error(
            "kafka_commit_outside_log partition=%s commit=%d log=%d..%d", assignment, offset, log_start, log_end
        )
        return log_start, AckTracker(log_start)
    try:
        return offset, AckTracker(offset, decode(offset, committed.metadata))
    except UnknownMap as exc:
        logger.warning("kafka_completion_map_unknown partition=%s reason=%s", assignment, exc)
        return offset, AckTracker(offset)


def _names(places: list[TopicPartition]) -> str:
    return ",".join(f"{place.topic}/{place.partition}" for place in places)
