"""Share groups (KIP-932) for short, unordered messages: any number of workers take from the same partitions.

Kafka hands records out under a lock and counts how often; the client takes no new ones before it has said of each old
one what became of it.  So a consumer works in rounds: poll, hand out, wait for all, acknowledge.  A round has to end
before its locks do, and the lock cannot be renewed:

    0 .. BEGIN_S         records are handed out; what has not begun by then goes to the end of the queue
    .. BEGIN_S + RUN_S   what has begun ends: RUN_S is the longest time limit of an actor here
    LOCK_S               Kafka gives what is left to somebody else

A record that is handed out and never acknowledged ends its worker, or hangs in it.  Kafka drops one without a word
when it has been delivered as often as the group's limit says; it is parked the time before.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, Any

import confluent_kafka
from confluent_kafka import KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public here, though not marked so
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from brokers import clients
from brokers.assignment import Assignment
from brokers.clients import Health, base_config
from brokers.commits import Commits
from brokers.dead_letters import dead_letter
from brokers.errors import Unreachable, WrongSetting, WrongTopic
from brokers.offsets import AckTracker
from brokers.parallel import ParallelBuffer
from brokers.received import received
from brokers.records import Outgoing


if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import dramatiq
    from confluent_kafka import Message as KafkaMessage

    from brokers.assignment import Blocked, Buffer
    from brokers.reader import Park
    from brokers.records import Record
    from brokers.topics import Queue, TopicSpec

logger = logging.getLogger("brokers.share")

#: Seconds for which Kafka locks what it hands out; it allows 15 to 60.  A killed worker's records wait that long.
LOCK_S = 30.0

#: Of those, how long records may wait for a free thread, and how long one may run.
BEGIN_S = 8.0
RUN_S = 15.0

#: Records asked for at once.  Kafka hands out whole batches as they were produced, so there may be more.
TOGETHER = 100

#: Longest poll, in seconds, and the time that Kafka has for acknowledgements.
POLL_S = 0.1
ASK_S = 5.0

#: What the group is told before it is used.  A queue's first reader must not miss what waits; the server's default is
#: "latest", and to show records of transactions that are not committed.
GROUP_CONFIG = {
    "share.auto.offset.reset": "earliest",
    "share.isolation.level": "read_committed",
    "share.record.lock.duration.ms": str(int(LOCK_S * 1000)),
}
LIMIT = "share.delivery.count.limit"


def require_client() -> None:
    """Refuse where the Kafka client knows no share groups.

    Raises:
      WrongSetting: says which one does.
    """
    if not hasattr(confluent_kafka, "ShareConsumer"):
        raise WrongSetting(
            f"share queues need confluent-kafka 2.15 or newer, and {confluent_kafka.__version__} is installed"
        )


def limit_time(actor: dramatiq.Actor[Any, Any]) -> None:
    """Let *actor* of a share queue run for no longer than its lock lasts.

    Raises:
      WrongTopic: it asks for more.
    """
    longest_ms = int(RUN_S * 1000)
    asked = actor.options.get("time_limit")
    if asked is not None and asked > longest_ms:
        raise WrongTopic(
            f"actor {actor.actor_name!r} may run {asked} ms, and a message of a share queue is given to another worker"
            f" before that: set time_limit to {longest_ms} at most, or use a queue without share"
        )
    actor.options["time_limit"] = asked if asked is not None else longest_ms


def prepare(admin: clients.AdminClient, group_id: str) -> int:
    """Configure the share group; how often it delivers one record at most.

    Raises:
      WrongSetting: the servers know no share groups.
      Unreachable: no server answers.
    """
    entries = [
        ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in GROUP_CONFIG.items()
    ]
    change = ConfigResource(ResourceType.GROUP, group_id, incremental_configs=entries)
    group = ConfigResource(ResourceType.GROUP, group_id)
    try:
        known = admin.describe_configs([group], request_timeout=ASK_S)[group].result(ASK_S + 1)
        if LIMIT not in known:
            raise WrongSetting("share queues need Kafka 4.2 or newer, with the feature share.version switched on")
        admin.incremental_alter_configs([change], request_timeout=ASK_S)[change].result(ASK_S + 1)
    except (KafkaException, TimeoutError) as exc:
        raise Unreachable(f"share group {group_id!r} cannot be configured: {exc}") from exc
    return int(known[LIMIT].value)


class ShareBuffer(ParallelBuffer):
    """The records of a round, some of which may come to nothing."""

    def unbegun(self, assignment: Assignment) -> list[Record]:
        """Recall what of *assignment* has not begun: nobody will begin it now."""
        with self.changed:
            waiting = [unit for unit in self._ready if unit.assignment is assignment]
            recalled = [unit for unit in assignment.running if not unit.begun]
            self.revoke([assignment])
            return [record for unit in (*recalled, *waiting) for record in unit.records]


class ShareGroup:
    """Reads the share queues of one group in a thread of its own; the counterpart of `GroupConsumer`.

    *park* puts a record on a topic and returns when Kafka has it.

    Raises:
      WrongSetting: the client or the servers know no share groups.
      Unreachable: no server answers.
    """

    def __init__(
        self,
        group_id: str,
        settings: Mapping[str, Any],
        admin: clients.AdminClient,
        park: Park,
        *,
        health: Health | None = None,
    ) -> None:
        require_client()
        self.group_id = group_id
        self.commits = Commits(group_id)  # acknowledges nothing: Kafka keeps no offsets of a share group
        self.failure: BaseException | None = None
        self._limit = prepare(admin, group_id)
        self._park = park
        self._lock = threading.Lock()
        self._buffers: dict[str, ShareBuffer] = {}  # by topic
        self._subscribed: frozenset[str] = frozenset()
        self._round: dict[Assignment, list[KafkaMessage]] = {}
        self._closing = threading.Event()
        config = base_config(settings, health or Health()) | {
            "group.id": group_id,
            "share.acknowledgement.mode": "explicit",
            "max.poll.records": TOGETHER,
        }
        self._client = clients.opened(_client_class(), config)
        self._thread = threading.Thread(target=self._run, name=f"kafka-{group_id}", daemon=True)
        self._thread.start()

    # Any thread.

    def open(self, queue: Queue) -> Buffer:
        """The buffer of *queue*, which is subscribed to from now on."""
        with self._lock:
            return self._buffers.setdefault(queue.topic.name, ShareBuffer(queue))

    @property
    def running(self) -> bool:
        """False once the thread ends, for whatever reason."""
        return self._thread.is_alive() and self.failure is None and not self._closing.is_set()

    def blocked(self) -> dict[str, Blocked]:
        """Nothing: no record of a share group waits for another one."""
        return {}

    def assigned(self) -> list[tuple[str, int]]:
        """The partitions of the records at hand."""
        return [(assignment.topic, assignment.partition) for assignment in list(self._round)]

    def begin_close(self) -> None:
        """Ask the thread to end, when the round at hand has."""
        self._closing.set()
        for buffer in list(self._buffers.values()):
            with buffer.changed:
                buffer.changed.notify_all()

    def close(self) -> None:
        """`begin_close`, and wait for it.  Idempotent."""
        self.begin_close()
        if threading.current_thread() is not self._thread:
            self._thread.join(LOCK_S + ASK_S)

    # The owner thread.

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                self._step()
        except Exception as exc:
            logger.exception("kafka_share_failed group=%s", self.group_id)
            self.failure = exc
        finally:
            self._leave()

    def _leave(self) -> None:
        try:
            self._client.close()
        except Exception:  # what was not acknowledged is delivered again
            logger.exception("kafka_share_close_failed group=%s", self.group_id)
        for buffer in list(self._buffers.values()):
            buffer.stop(f"the consumer of share group {self.group_id!r} has ended: {self.failure or 'closed'}")

    def _step(self) -> None:
        with self._lock:
            topics = frozenset(self._buffers)
        if not topics:
            self._closing.wait(POLL_S)
            return
        if topics != self._subscribed:
            self._client.subscribe(sorted(topics))
            self._subscribed = topics
        began = time.monotonic()
        messages = self._client.poll(timeout=POLL_S)
        if messages:
            self._work(messages, began)

    def _work(self, messages: list[KafkaMessage], began: float) -> None:
        """One round."""
        found: dict[tuple[str, int], list[KafkaMessage]] = defaultdict(list)
        for message in messages:
            if message.error() is None:  # else the client has acknowledged it by itself
                found[message.topic() or "", message.partition() or 0].append(message)
        self._round = {self._hand_out(*place, those): those for place, those in found.items()}
        self._wait(
            began + BEGIN_S,
            lambda assignment: self._closing.is_set() or not (assignment.waiting or assignment.running),
        )
        for assignment in self._round:
            self._send_back(assignment)
        self._wait(began + BEGIN_S + RUN_S, lambda assignment: not assignment.running)
        self._acknowledge()

    def _hand_out(self, topic: str, partition: int, messages: list[KafkaMessage]) -> Assignment:
        buffer = self._buffers[topic]
        delivered = sorted(((received(message), message.delivery_count() or 0) for message in messages), key=_offset)
        assignment = Assignment(topic, partition, buffer, AckTracker(delivered[0][0].offset), started=True)
        fresh = []
        for record, times in delivered:
            assignment.tracker.begin(record.offset)  # in ascending order, or it would count as done
            if times < self._limit - 1:
                fresh.append(record)
            else:
                self._condemn(assignment, record, times)
        buffer.deliver(assignment, fresh)
        return assignment

    def _condemn(self, assignment: Assignment, record: Record, times: int) -> None:
        queue = assignment.buffer.queue
        reason = f"handed out {times - 1} times and never acknowledged: it ends its worker, or outlasts its lock"
        letter = dead_letter(record, queue, error="Unacknowledged", reason=reason)
        if self._sent(letter, assignment, record, queue.dead_letters):
            logger.error("kafka_message_parked record=%s error=Unacknowledged reason=%s", record, reason)

    def _send_back(self, assignment: Assignment) -> None:
        """What has not begun goes to the end of its queue: to give it back would count as a failed delivery."""
        buffer = assignment.buffer
        for record in self._buffers[assignment.topic].unbegun(assignment):
            copy = Outgoing(record.topic, record.value, record.key, record.headers)
            self._sent(copy, assignment, record, buffer.queue.topic)

    def _sent(self, outgoing: Outgoing, assignment: Assignment, record: Record, spec: TopicSpec) -> bool:
        """Whether *record* is done with, because *outgoing* is in the log."""
        try:
            self._park(outgoing, spec)
        except Exception as exc:  # noqa: BLE001 - then it is delivered again
            logger.warning("kafka_share_send_failed record=%s text=%s", record, exc)
            return False
        assignment.tracker.done(record.offset)
        return True

    def _wait(self, until: float, ended: Callable[[Assignment], bool]) -> None:
        for assignment in self._round:
            buffer = assignment.buffer
            with buffer.changed:
                buffer.changed.wait_for(partial(ended, assignment), max(until - time.monotonic(), 0))

    def _acknowledge(self) -> None:
        kinds = confluent_kafka.AcknowledgeType
        for assignment, messages in self._round.items():
            assignment.buffer.forget(assignment)
            for message in messages:
                done = not assignment.tracker.done(message.offset() or 0)
                self._client.acknowledge(message, kinds.ACCEPT if done else kinds.RELEASE)
        self._round = {}
        for place, error in self._client.commit_sync(timeout=ASK_S).items():
            if error is not None:
                logger.warning("kafka_share_ack_failed place=%s text=%s", place, error)


def _offset(delivered: tuple[Record, int]) -> int:
    return delivered[0].offset


def _client_class() -> Any:
    class ShareConsumer(confluent_kafka.ShareConsumer):
        """confluent-kafka's, that weak references can point at."""

    return ShareConsumer
