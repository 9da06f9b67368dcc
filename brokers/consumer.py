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
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from confluent_kafka import OFFSET_BEGINNING, KafkaException, TopicPartition

from brokers import clients, codes
from brokers.assignment import Assignment
from brokers.clients import Health, Seldom, base_config
from brokers.commits import Commits
from brokers.ordered import OrderedBuffer
from brokers.parallel import ParallelBuffer
from brokers.records import received
from brokers.starts import ASK_KAFKA_S, Start, ask_kafka


if TYPE_CHECKING:
    from collections.abc import Mapping

    from confluent_kafka import Consumer as Client
    from confluent_kafka import KafkaError
    from confluent_kafka import Message as KafkaMessage

    from brokers.assignment import Blocked, Buffer
    from brokers.bounds import Bounds
    from brokers.offsets import AckTracker
    from brokers.records import Record
    from brokers.topics import Queue

logger = logging.getLogger("brokers.consumer")

#: Longest poll, in seconds: what a change of subscription, a pause or a commit may have to wait.
POLL_S = 0.1

#: The same while a partition is paused or waits for its start, so that it goes on soon.
BUSY_POLL_S = 0.01

#: Records taken from the client at once.
CHUNK = 500

#: Records of a partition that wait in this process, and their bytes: above the first it is paused, below the second it
#: goes on.  The gap keeps the number of pauses low, since each drops what the client has fetched ahead.
HIGH_WATER, HIGH_WATER_BYTES = 2000, 16_000_000
LOW_WATER, LOW_WATER_BYTES = 500, 4_000_000

#: Longest wait, in seconds, for what runs when partitions move away.  Far below `max.poll.interval.ms`, which is 300.
DRAIN_S = 20.0


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
        "enable.partition.eof": True,  # how far the log goes, markers included
        "auto.offset.reset": "error",  # every start is our own decision
        "isolation.level": "read_committed",
        "queued.min.messages": 1000,
        "queued.max.messages.kbytes": 16384,
        "fetch.wait.max.ms": 100,  # any other question on the same connection waits behind a fetch
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
    """Reads the queues of one consumer group in a thread of its own.  *bounds* tells where logs begin and end.

    Raises:
      WrongSetting: Kafka's client does not take the settings.
    """

    def __init__(
        self,
        group_id: str,
        settings: Mapping[str, Any],
        bounds: Bounds,
        *,
        health: Health | None = None,
        protocol: str = "classic",
        drain_s: float = DRAIN_S,
        commits: Commits | None = None,
    ) -> None:
        self.group_id = group_id
        self.commits = commits or Commits(group_id)
        self.failure: BaseException | None = None
        self._bounds = bounds
        self._drain_s = drain_s
        self._lock = threading.Lock()
        self._buffers: dict[str, Buffer] = {}  # by topic
        self._ended: str | None = None
        self._subscribed: frozenset[str] = frozenset()
        self._assignments: dict[tuple[str, int], Assignment] = {}
        self._starts: dict[Assignment, Start] = {}
        self._former: dict[tuple[str, int], AckTracker] = {}  # of partitions that were lost before all was committed
        self._seldom = Seldom()
        self._closing = threading.Event()
        config = base_config(settings, health or Health()) | consumer_config(group_id, protocol)
        self._client = clients.opened(clients.Consumer, config | {"on_commit": self.commits.answered})
        self._thread = threading.Thread(target=self._run, name=f"kafka-{group_id}", daemon=True)
        self._thread.start()

    # Any thread.

    def open(self, queue: Queue) -> Buffer:
        """The buffer of *queue*, which is subscribed to from now on."""
        with self._lock:
            buffer = self._buffers.get(queue.topic.name)
            if buffer is None:
                buffer = OrderedBuffer(queue) if queue.ordered else ParallelBuffer(queue)
                buffer.stopped = self._ended
                self._buffers[queue.topic.name] = buffer
        return buffer

    @property
    def running(self) -> bool:
        """False once the thread ends, for whatever reason."""
        return self._thread.is_alive() and self.failure is None and not self._closing.is_set()

    def blocked(self) -> dict[str, Blocked]:
        """The partitions that do not go on, and why."""
        found = {str(a): a.blocked or a.buffer.held(a) for a in list(self._assignments.values())}
        return {name: blocked for name, blocked in found.items() if blocked is not None}

    def assigned(self) -> list[tuple[str, int]]:
        """The partitions held just now, as (topic, partition)."""
        return list(self._assignments)

    def begin_close(self) -> None:
        """Ask the thread to end; it waits, bounded, for what runs, commits, and leaves the group."""
        self._closing.set()

    def close(self) -> None:
        """`begin_close`, and wait for it.  Idempotent."""
        self.begin_close()
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
        with self._lock:
            self._ended = f"the consumer of group {self.group_id!r} has ended: {self.failure or 'closed'}"
            buffers = list(self._buffers.values())
        for assignment in list(self._assignments.values()):  # where the client had no chance to revoke
            self._drop(assignment)
        for buffer in buffers:
            buffer.stop(self._ended)

    def _step(self) -> None:
        self._subscribe()
        if not self._subscribed:
            self._closing.wait(BUSY_POLL_S)
            return
        message = self._client.poll(self._patience())
        if message is not None:
            self._receive([message])  # before `consume`, in which a rebalance may take the partition away
            self._receive(self._client.consume(CHUNK, 0))
        self._start_partitions()
        self._balance()
        self.commits.send(self._client, self._assignments.values())

    def _patience(self) -> float:
        soon = any(a.paused and a.blocked is None for a in self._assignments.values())
        return BUSY_POLL_S if soon or self.commits.hurry(self._assignments.values()) else POLL_S

    def _subscribe(self) -> None:
        with self._lock:
            topics = frozenset(self._buffers)
        if topics != self._subscribed:
            self._client.subscribe(
                sorted(topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
            )
            self._subscribed = topics

    def _receive(self, messages: list[KafkaMessage]) -> None:
        fresh: dict[Assignment, list[Record]] = defaultdict(list)
        for message in messages:
            assignment = self._assignments.get((message.topic() or "", message.partition() or 0))
            error = message.error()
            if error is not None:
                self._note_error(message, error, assignment)
            elif assignment is not None and not assignment.paused:  # else fetched before a rebalance or a seek
                record = received(message)
                if assignment.tracker.begin(record.offset) and not self.commits.ended_before(assignment, record):
                    fresh[assignment].append(record)
        for assignment, records in fresh.items():
            assignment.buffer.deliver(assignment, records)

    def _note_error(self, message: KafkaMessage, error: KafkaError, assignment: Assignment | None) -> None:
        if error.code() == codes.PARTITION_EOF:
            if assignment is not None and not assignment.paused:
                assignment.tracker.reached(message.offset() or 0)
            return
        if error.fatal() or error.code() == codes.MAX_POLL_EXCEEDED:
            raise KafkaException(error)
        if self._seldom.due(error.name()):
            logger.warning("kafka_consumer_error group=%s code=%s text=%s", self.group_id, error.name(), error.str())
        if assignment is not None and error.code() in codes.OUTSIDE_LOG:
            self._stop_fetching(assignment)  # the partition would stay silent: ask anew where to start
            assignment.started = False

    # Where a partition starts.

    def _start_partitions(self) -> None:
        # What runs of an ordered queue is about to move the place where it starts.
        waiting = [a for a in self._assignments.values() if not (a.started or (a.buffer.queue.ordered and a.running))]
        starts = [self._start_of(assignment) for assignment in waiting]
        ask_kafka(starts, self._client, self._bounds, self.commits.committed)
        for start in starts:
            if start.answer is not None and self._begin(start.assignment, start.answer):
                del self._starts[start.assignment]
                start.assignment.blocked = None

    def _start_of(self, assignment: Assignment) -> Start:
        start = self._starts.get(assignment)
        if start is None:
            former = self._former.pop((assignment.topic, assignment.partition), None)
            start = self._starts[assignment] = Start(assignment, former)
        return start

    def _begin(self, assignment: Assignment, tracker: AckTracker) -> bool:
        buffer, offset = assignment.buffer, tracker.next
        if isinstance(buffer, OrderedBuffer) and not assignment.paused and buffer.go_on_at(assignment, offset):
            return True
        buffer.restart(assignment)
        assignment.tracker = tracker
        if not self._fetch_from(assignment, offset):
            self._starts[assignment].postpone("its fetcher is not ready")
            return False
        if isinstance(buffer, OrderedBuffer):
            buffer.start_at(assignment, offset)
        assignment.started = True
        logger.info("kafka_partition_started group=%s partition=%s offset=%d", self.group_id, assignment, offset)
        return True

    def _fetch_from(self, assignment: Assignment, offset: int) -> bool:
        place = TopicPartition(assignment.topic, assignment.partition, offset)
        try:
            self._client.resume([place])  # resume, then seek: the other order takes up to a second
            self._client.seek(place)
        except KafkaException as exc:
            logger.info("kafka_seek_failed partition=%s offset=%d text=%s", assignment, offset, exc.args[0].str())
            return False
        assignment.paused = False
        return True

    def _stop_fetching(self, assignment: Assignment) -> None:
        self._client.pause([TopicPartition(assignment.topic, assignment.partition)])
        assignment.paused = True

    def _balance(self) -> None:
        for assignment in self._assignments.values():
            if not assignment.paused:
                if assignment.waiting > HIGH_WATER or assignment.waiting_bytes > HIGH_WATER_BYTES:
                    self._stop_fetching(assignment)
            elif assignment.started and assignment.waiting < LOW_WATER and assignment.waiting_bytes < LOW_WATER_BYTES:
                self._fetch_from(assignment, assignment.tracker.next)

    # Rebalances, called inside poll, consume and close.

    def _on_assign(self, client: Client, places: list[TopicPartition]) -> None:
        client.incremental_assign([TopicPartition(p.topic, p.partition, OFFSET_BEGINNING) for p in places])
        if places:
            client.pause(places)
        for place in places:
            key = (place.topic, place.partition)
            if key in self._assignments:  # taken away without a word
                self._drop(self._assignments[key])
            self._assignments[key] = Assignment(*key, self._buffers[place.topic])
        logger.info("kafka_partitions_assigned group=%s partitions=%s", self.group_id, _names(places))

    def _on_revoke(self, client: Client, places: list[TopicPartition]) -> None:
        leaving = self._held(places)
        drained = self._drain(leaving)
        committed = self.commits.send_and_wait(self._client, leaving)
        for assignment in leaving:
            self._drop(assignment, settled=drained and committed)
        client.incremental_unassign(places)
        logger.info("kafka_partitions_revoked group=%s partitions=%s", self.group_id, _names(places))

    def _drain(self, leaving: list[Assignment]) -> bool:
        by_buffer: dict[Buffer, list[Assignment]] = defaultdict(list)
        for assignment in leaving:
            by_buffer[assignment.buffer].append(assignment)
        for buffer, assignments in by_buffer.items():
            buffer.revoke(assignments)
        deadline = time.monotonic() + self._drain_s
        ended = [buffer.drained(those, max(deadline - time.monotonic(), 0)) for buffer, those in by_buffer.items()]
        if not all(ended):
            running = ",".join(str(a) for a in leaving if a.running)
            logger.warning("kafka_drain_timed_out group=%s partitions=%s", self.group_id, running)
        return all(ended)

    def _on_lost(self, client: Client, places: list[TopicPartition]) -> None:
        for assignment in self._held(places):
            self._drop(assignment)
        client.incremental_unassign(places)
        logger.warning("kafka_partitions_lost group=%s partitions=%s", self.group_id, _names(places))

    def _held(self, places: list[TopicPartition]) -> list[Assignment]:
        keys = ((place.topic, place.partition) for place in places)
        return [self._assignments[key] for key in keys if key in self._assignments]

    def _drop(self, assignment: Assignment, *, settled: bool = False) -> None:
        """No longer ours.  What was done and not *settled* is remembered, in case that the partition comes back."""
        key = (assignment.topic, assignment.partition)
        del self._assignments[key]
        self._starts.pop(assignment, None)
        self.commits.forget(assignment)
        if assignment.started and not settled:
            self._former[key] = assignment.tracker
        assignment.buffer.forget(assignment)


def _names(places: list[TopicPartition]) -> str:
    return ",".join(f"{place.topic}/{place.partition}" for place in places)
