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
from itertools import compress
from operator import attrgetter
from typing import TYPE_CHECKING, Any, cast

from confluent_kafka import OFFSET_BEGINNING, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage

from brokers import clients, codes
from brokers.assignment import Assignment
from brokers.clients import Callbacks, Health, Seldom, base_config
from brokers.commits import Commits
from brokers.keyed import KeyedBuffer, crowded
from brokers.membership import is_displacement
from brokers.ordered import OrderedBuffer
from brokers.received import all_delivered, all_received
from brokers.starts import ASK_KAFKA_S, Start, ask_kafka
from brokers.suspects import Alone, Suspects, handing_over


if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from confluent_kafka import Consumer as Client
    from confluent_kafka import KafkaError

    from brokers.assignment import Blocked, Buffer
    from brokers.bounds import Bounds
    from brokers.membership import Seat
    from brokers.offsets import AckTracker
    from brokers.topics import Queue

logger = logging.getLogger("brokers.consumer")

#: Longest poll, in seconds: what a change of subscription or a pause may have to wait.
POLL_S = 0.1

#: The same while something runs, or a partition is paused or waits for its start, so that it goes on soon.
BUSY_POLL_S = 0.01

#: The same while work ends all the time, and with it commits: what ended and is not committed is repeated after a kill.
LIVELY_POLL_S = 0.001

#: Records taken from the client at once.
CHUNK = 500

#: Bytes of a partition's records that wait in this process: above the first it is paused, below the second it goes on.
#: Their number is the buffer's affair (`Buffer.high_water`).
HIGH_WATER_BYTES, LOW_WATER_BYTES = 16_000_000, 4_000_000

#: Longest wait, in seconds, for what runs when partitions move away.  Far below `max.poll.interval.ms`, which is 300.
DRAIN_S = 20.0


def consumer_config(group_id: str, protocol: str, seat: Seat | None = None) -> dict[str, Any]:
    """The group part of the client's configuration.

    *protocol* ``classic`` notices a killed member in 6 s; ``consumer`` (KIP-848) in 45 s with the server's defaults,
    and its client takes none of the classic settings.  *seat* is for the classic one: the other refuses the successor
    of a killed member until its session has ended.
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
        if seat is not None:
            config["group.instance.id"] = seat.name
    return config


class GroupConsumer:
    """Reads the queues of one consumer group in a thread of its own.

    *bounds* tells where logs begin and end; with a *seat* it is a static member (see `membership`), and leaves it at
    its end.

    Raises:
      WrongSetting: Kafka's client does not take the settings.
    """

    def __init__(
        self,
        group_id: str,
        settings: Mapping[str, Any],
        bounds: Bounds,
        alone: Alone | None = None,
        *,
        health: Health | None = None,
        protocol: str = "classic",
        drain_s: float = DRAIN_S,
        seat: Seat | None = None,
        commits: Commits | None = None,
    ) -> None:
        self.group_id = group_id
        self.commits = commits or Commits(group_id)
        self.failure: BaseException | None = None
        #: Another member has the same seat: a machine that looks like this one.
        self.displaced = False
        self.member_id = ""  #: Kafka's name for this process in the group, once it has joined
        self._bounds = bounds
        self._drain_s = drain_s
        self._lock = threading.Lock()
        self._buffers: dict[str, Buffer] = {}  # by topic
        self._ended: str | None = None
        self._left: frozenset[str] = frozenset()  # topics that are not read for now, though their queues are open
        self._subscribed: frozenset[str] = frozenset()
        self._assignments: dict[tuple[str, int], Assignment] = {}
        self._early: dict[str, list[TopicPartition]] = {}  # of queues that are not open yet: a predecessor's
        self._starts: dict[Assignment, Start] = {}
        self._former: dict[tuple[str, int], AckTracker] = {}  # of partitions that were lost before all was committed
        self._alone = alone or Alone()
        self._suspects = Suspects(self._alone)
        self._seldom = Seldom()
        self._closing = threading.Event()
        self._seat = seat
        config = base_config(settings, health or Health()) | consumer_config(group_id, protocol, self._seat)
        self._callbacks = Callbacks()
        on_commit = self._callbacks.guarded(self.commits.answered)
        self._client = clients.opened(clients.Consumer, config | {"on_commit": on_commit})
        self._thread = threading.Thread(target=self._run, name=f"kafka-{group_id}", daemon=True)
        self._thread.start()

    # Any thread.

    def open(self, queues: Iterable[Queue]) -> None:
        """Subscribe to *queues*, together: each change of what a member reads is a rebalance."""
        with self._lock:
            for queue in queues:
                if queue.topic.name not in self._buffers:
                    levels = (other for other in self._buffers.values() if other.queue.name == queue.name)
                    buffer = OrderedBuffer(queue) if queue.ordered else KeyedBuffer(queue, next(levels, None))
                    buffer.stopped = self._ended
                    self._alone.join(buffer)
                    self._buffers[queue.topic.name] = buffer

    def leave(self, topics: Iterable[str]) -> None:
        """Read all but *topics* from now on; their partitions move to other members of the group, if there are any."""
        self._left = frozenset(topics)

    def reconsider(self, queue: Queue) -> None:
        """Something has changed that what *queue* holds back may have waited for."""
        with self._lock:
            buffers = [self._buffers[level.topic.name] for level in queue.levels if level.topic.name in self._buffers]
        for buffer in buffers:
            buffer.reconsider()

    def buffer(self, queue: Queue) -> Buffer:
        """The buffer of a *queue* that is open."""
        return self._buffers[queue.topic.name]

    @property
    def running(self) -> bool:
        """False once the thread ends, for whatever reason."""
        return self._thread.is_alive() and self.failure is None and not self._closing.is_set()

    def blocked(self) -> dict[str, Blocked]:
        """The partitions that do not go on, and why; a key that does not is named behind its partition."""
        found: dict[str, Blocked | None] = {}
        for assignment in self.assignments():
            found[str(assignment)] = (
                assignment.blocked or assignment.buffer.paused or assignment.buffer.held(assignment)
            )
            found |= {f"{assignment} {key}": why for key, why in assignment.buffer.held_keys(assignment).items()}
        return {name: blocked for name, blocked in found.items() if blocked is not None}

    def assigned(self) -> list[tuple[str, int]]:
        """The partitions held just now, as (topic, partition)."""
        return list(self._assignments)

    def queues(self) -> list[str]:
        """The queues that are read."""
        with self._lock:
            return [buffer.queue.name for buffer in self._buffers.values()]

    def assignments(self) -> list[Assignment]:
        """The partitions held just now, with what waits and runs of each."""
        return list(self._assignments.values())

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
            self._say_goodbye()
            self._client.close()  # calls on_revoke, which drains and commits
        except Exception:  # nothing is left to do for this client; what was not committed is delivered again
            logger.exception("kafka_consumer_close_failed group=%s", self.group_id)
        if self._seat is not None:
            self._seat.leave()
        with self._lock:
            self._ended = f"the consumer of group {self.group_id!r} has ended: {self.failure or 'closed'}"
            buffers = list(self._buffers.values())
        for assignment in list(self._assignments.values()):  # where the client had no chance to revoke
            self._drop(assignment)
        self._suspects.step(())
        for buffer in buffers:
            buffer.stop(self._ended)

    def _say_goodbye(self) -> None:
        """A static member does not leave its group when it is closed, only when it unsubscribes."""
        if self._seat is None or self.failure is not None:
            return
        self._client.unsubscribe()
        deadline = time.monotonic() + self._drain_s + ASK_KAFKA_S
        while self._assignments and time.monotonic() < deadline:
            self._receive([message] if (message := self._client.poll(POLL_S)) is not None else [])

    def _step(self) -> None:
        self._subscribe()
        if not (self._subscribed or self._left):
            self._closing.wait(BUSY_POLL_S)
            return
        message = self._client.poll(self._patience())
        if self._subscribed and not self.member_id:
            self.member_id = self._client.memberid() or ""  # one without partitions is not called back
        if message is not None:
            self._receive([message])  # before `consume`, in which a rebalance may take the partition away
            self._receive(self._client.consume(CHUNK, 0))
        self._callbacks.check()
        self._start_partitions()
        self._balance()
        self._suspects.step(self._assignments.values())
        self.commits.send(self._client, self._assignments.values())

    def _patience(self) -> float:
        if self.commits.lively:
            return min(max(self.commits.due_in(), LIVELY_POLL_S), POLL_S)
        soon = any(a.running or (a.paused and a.blocked is None) for a in self._assignments.values())
        return BUSY_POLL_S if soon or self._suspects.busy or self.commits.hurry(self._assignments.values()) else POLL_S

    def _subscribe(self) -> None:
        with self._lock:
            topics = frozenset(self._buffers) - self._left
        if topics != self._subscribed and not topics:
            self._client.unsubscribe()  # leaves the group, and a static member too
            self.member_id, self._subscribed = "", topics
        elif topics != self._subscribed:
            guarded = self._callbacks.guarded
            self._client.subscribe(
                sorted(topics),
                on_assign=guarded(self._on_assign),
                on_revoke=guarded(self._on_revoke),
                on_lost=guarded(self._on_lost),
            )
            self._subscribed = topics
            for topic in topics & self._early.keys():
                self._take(self._early.pop(topic))

    def _receive(self, messages: list[KafkaMessage]) -> None:
        good, errors = _sorted(messages)
        for place, delivered in good.items():
            assignment = self._assignments.get(place)
            if assignment is not None and not assignment.paused:  # else fetched before a rebalance or a seek
                lazily = assignment.buffer.queue.compact is not None
                records = all_delivered(delivered) if lazily else all_received(delivered, place)
                begun = assignment.tracker.begin_all(list(map(_offset, records)))
                fresh = self.commits.not_ended_before(assignment, list(compress(records, begun)))
                if fresh:
                    assignment.buffer.deliver(assignment, fresh)
        for message, error in errors:  # last: the end of a partition counts what lies before it as begun
            place = message.topic() or "", message.partition() or 0
            self._note_error(message, error, self._assignments.get(place))

    def _note_error(self, message: KafkaMessage, error: KafkaError, assignment: Assignment | None) -> None:
        if error.code() == codes.PARTITION_EOF:
            if assignment is not None and not assignment.paused:
                assignment.tracker.reached(message.offset() or 0)
            return
        if error.fatal() or error.code() in codes.ENDING:
            self.displaced = is_displacement(error)
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
        assignment.watch = self._suspects.watch(assignment, self._starts[assignment].past)
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
        crowd = crowded(self._assignments.values())
        for assignment in self._assignments.values():
            full = crowd and assignment.behind > 0
            waiting, size = assignment.waiting, assignment.waiting_bytes
            if not assignment.paused:
                if full or waiting > assignment.buffer.high_water or size > HIGH_WATER_BYTES:
                    self._stop_fetching(assignment)
            elif full:
                continue
            elif assignment.started and waiting < assignment.buffer.low_water and size < LOW_WATER_BYTES:
                self._fetch_from(assignment, assignment.tracker.next)

    # Rebalances, called inside poll, consume and close.

    def _on_assign(self, client: Client, places: list[TopicPartition]) -> None:
        client.incremental_assign([TopicPartition(p.topic, p.partition, OFFSET_BEGINNING) for p in places])
        self.member_id = client.memberid() or ""
        if places:
            client.pause(places)
        known = [place for place in places if place.topic in self._buffers]
        self._take(known)
        for place in places:
            if place not in known:
                self._early.setdefault(place.topic, []).append(place)
        logger.info("kafka_partitions_assigned group=%s partitions=%s", self.group_id, _names(places))

    def _take(self, places: list[TopicPartition]) -> None:
        for place in places:
            key = (place.topic, place.partition)
            if key in self._assignments:  # taken away without a word
                self._drop(self._assignments[key])
            self._assignments[key] = Assignment(*key, self._buffers[place.topic])

    def _on_revoke(self, client: Client, places: list[TopicPartition]) -> None:
        leaving = self._held(places)
        drained = self._drain(leaving)
        handing_over(leaving)
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
        self.member_id = ""
        logger.warning("kafka_partitions_lost group=%s partitions=%s", self.group_id, _names(places))

    def _held(self, places: list[TopicPartition]) -> list[Assignment]:
        for place in places:
            self._early.pop(place.topic, None)
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


def _sorted(
    messages: list[KafkaMessage],
) -> tuple[Mapping[tuple[str, int], list[KafkaMessage]], list[tuple[KafkaMessage, KafkaError]]]:
    """Those with content, by topic and partition, and those without, with their errors."""
    errors: list[tuple[KafkaMessage, KafkaError]] = []
    if any(map(KafkaMessage.error, messages)):
        errors = [(message, error) for message in messages if (error := message.error()) is not None]
        messages = [message for message in messages if message.error() is None]
    topics, partitions = set(map(_topic_of, messages)), set(map(_partition_of, messages))
    if len(topics) == len(partitions) == 1:
        return {(topics.pop(), partitions.pop()): messages}, errors
    places = zip(map(_topic_of, messages), map(_partition_of, messages), strict=True)
    good: dict[tuple[str, int], list[KafkaMessage]] = defaultdict(list)
    for place, message in zip(places, messages, strict=True):
        good[place].append(message)
    return good, errors


# What has no error has both.
_topic_of = cast("Callable[[KafkaMessage], str]", KafkaMessage.topic)
_partition_of = cast("Callable[[KafkaMessage], int]", KafkaMessage.partition)
_offset = attrgetter("offset")


def _names(places: list[TopicPartition]) -> str:
    return ",".join(f"{place.topic}/{place.partition}" for place in places)
