"""Which topic a queue is, and how it has to be made.

A queue is declared long before Kafka is reached; its topic is looked up, or made, at the first send or the first read.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public here, though not marked so
    ClusterMetadata,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from brokers import codes
from brokers.errors import Unreachable, WrongTopic


if TYPE_CHECKING:
    import dramatiq
    from confluent_kafka.admin import AdminClient

    from brokers.records import Record

DAY_S = 86_400.0
FOR_EVER = -1.0

#: Partitions of a queue that says nothing: enough for eight worker processes, cheap for one.
PARTITIONS = 8

#: Bytes that a dead letter may have: a record as large as Kafka's default allows, and the headers that say why it is
#: there.
PARKED_BYTES = 1_250_000

#: Longest topic name that Kafka takes, in characters.
NAME_LIMIT = 249

_name = re.compile(r"[a-zA-Z0-9._-]+")

#: Highest `max_priority`: every level costs a topic, and its partitions.
MOST_LEVELS = 9

#: Seconds between two looks for the leaders of a new topic.
LEADER_EVERY_S = 0.02

#: Where to start reading: (topic, partition, log start) to the offset to read first.  May block; raises a `StartError`.
Start = Callable[[str, int, int], int]

#: Record to message; raises `Undecodable`.
Decode = Callable[["Record", str], "dramatiq.Message[Any]"]


@dataclass(frozen=True, slots=True)
class Compact:
    """How a batch holds records without making messages of them.

    *actor*: whose messages they are.  *read*: what each record says, in the application's own form, or none where only
    its message tells; with the same meaning, of course.  What is no list stands for all of them.
    """

    actor: str
    read: Callable[[Sequence[Record]], Sequence[Any]]


#: Whether a message may be handed out now (none), or in how many seconds to ask again.  Called by the threads that
#: read, with the queue's condition held: it has to answer from memory.
Ready = Callable[["dramatiq.Message[Any]"], float | None]

#: What a message has in common with those that it may be run with in one call; none where it has a call of its own.
#: Called by the thread that reads.
KindOf = Callable[["dramatiq.Message[Any]"], Hashable | None]

#: Record, queue name and reason: the message that stands for a record which may not be read.
Refused = Callable[["Record", str, str], "dramatiq.Message[Any]"]


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """How a topic has to be.

    *retention_s* is in seconds, negative for ever.  Without *replicas* there are three where there are three servers.
    *more*: further settings of Kafka's for the topic.
    *uniform*: its messages are of one actor and keep their place, so that no header says whose they are, which attempt
    it is, or an id that is the key.  To read headers takes as long as to read a short message.
    """

    name: str
    partitions: int = PARTITIONS
    retention_s: float = 7 * DAY_S
    exact: bool = False
    compacted: bool = False
    replicas: int | None = None
    max_message_bytes: int | None = None
    more: tuple[tuple[str, str], ...] = ()
    uniform: bool = False

    def __post_init__(self) -> None:
        if not _name.fullmatch(self.name) or len(self.name) > NAME_LIMIT:
            raise WrongTopic(
                f"{self.name!r} cannot be a topic: use a-z, A-Z, 0-9, '.', '_', '-', at most {NAME_LIMIT} characters"
            )

    def config(self, replicas: int) -> dict[str, str]:
        """Kafka's settings for a new topic of this kind."""
        retention_ms = -1 if self.retention_s < 0 else int(self.retention_s * 1000)
        config = {"min.insync.replicas": "2" if replicas >= 3 else "1"}  # noqa: PLR2004 - one of three may fail
        config |= dict(self.more)
        if self.max_message_bytes is not None:
            config["max.message.bytes"] = str(self.max_message_bytes)
        if self.compacted:
            return config | {"cleanup.policy": "compact"}
        return config | {"cleanup.policy": "delete", "retention.ms": str(retention_ms)}


@dataclass(frozen=True, slots=True)
class Queue:
    """One Dramatiq queue on Kafka.

    *ordered*: one unit (a message, or with *batch* up to that many consecutive ones) at a time, held in place until it
    succeeds.
    *batch*: of an unordered queue, up to that many messages in one call, each with an end of its own.
    *start*: where to begin, asked at every assignment and after every failure; without it Kafka's commit decides.
    *decode*: how a record becomes a message; without it Dramatiq's JSON is expected.
    *compact*: of an ordered queue with batches, how its plain records are read instead, for a fraction of the time.
    *max_priority*: the highest level, each of which is a topic of its own; see `priorities`.
    *parked_on*: the dead-letter topic, where that is not ``<topic>.XQ``.
    *refused*: for a log that several replicas read alike: what a record becomes that all of them have to refuse.  What
    only some of them might refuse is held instead.  Without it such records are parked.
    *share*: read by a share group (see `share`), not by a consumer group.
    *ready*: what has to say of each message, once it is read, that it may be handed out; see `held_back`.
    *company*: which messages are run in one call while they wait for each other; see `company`.  Their actors get a
    `Batch` then, as those of batches do.
    *repeatable*: to run a message again does no harm, so Kafka is told less often which ones have ended.
    """

    name: str
    topic: TopicSpec
    group_id: str
    ordered: bool = False
    batch: int | None = None
    start: Start | None = field(default=None, compare=False)
    decode: Decode | None = field(default=None, compare=False)
    compact: Compact | None = field(default=None, compare=False)
    parked_on: str | None = None
    max_priority: int | None = None
    refused: Refused | None = field(default=None, compare=False)
    share: bool = False
    ready: Ready | None = field(default=None, compare=False)
    company: KindOf | None = field(default=None, compare=False)
    repeatable: bool = False

    def __post_init__(self) -> None:
        if self.ordered and not (self.topic.exact and self.topic.partitions == 1):
            raise WrongTopic(f"queue {self.name!r} is ordered: its topic needs exactly one partition")
        if self.batch is not None and self.batch < 1:
            raise WrongTopic(f"queue {self.name!r}: a batch is a positive number of messages")
        if self.share and self.ordered:
            raise WrongTopic(f"queue {self.name!r} is ordered, and a share group knows no order")
        if self.compact is not None and not (self.ordered and self.batch is not None):
            raise WrongTopic(f"queue {self.name!r}: only in the batches of an ordered queue records need no message")
        if self.start is not None and not self.ordered:
            raise WrongTopic(f"queue {self.name!r}: only an ordered queue has a start of its own")
        if self.ready is not None and (self.ordered or self.share or self.batch is not None):
            raise WrongTopic(f"queue {self.name!r}: nothing is held back on ordered or shared queues, or of batches")
        if self.company is not None and (self.ordered or self.share or self.batch or self.max_priority):
            raise WrongTopic(f"queue {self.name!r}: messages go together on plain queues only")
        if self.max_priority is not None and (self.ordered or not 0 < self.max_priority <= MOST_LEVELS):
            raise WrongTopic(
                f"queue {self.name!r}: max_priority is a number from 1 to {MOST_LEVELS}, and not for ordered queues"
            )

    def level(self, priority: int) -> Queue:
        """The queue of one priority alone; all park on the same topic."""
        name = f"{self.topic.name}.p{priority}" if priority else self.topic.name
        topic = replace(self.topic, name=name)
        return replace(self, topic=topic, parked_on=self.dead_letters.name, max_priority=None)

    @property
    def levels(self) -> list[Queue]:
        """All of them, the highest first; of a queue without levels it alone."""
        if self.max_priority is None:
            return [self]
        return [self.level(priority) for priority in range(self.max_priority, -1, -1)]

    @property
    def dead_letters(self) -> TopicSpec:
        """The topic on which this queue's messages are parked."""
        name = self.parked_on or f"{self.topic.name}.XQ"
        return TopicSpec(name, self.topic.partitions, 30 * DAY_S, max_message_bytes=PARKED_BYTES)


class Topics:
    """Looks topics up, makes the missing ones, refuses the wrong ones.

    Any thread; one network call a topic and process.
    """

    def __init__(
        self, admin: Callable[[], AdminClient], timeout_s: float, *, why: Callable[[], str] = lambda: ""
    ) -> None:
        self._admin = admin
        self._timeout_s = timeout_s
        self._why = why  # what clients have said about their servers
        self._lock = threading.Lock()
        self._known: dict[str, tuple[TopicSpec, int]] = {}

    def ensure(self, spec: TopicSpec) -> int:
        """Make the topic unless it is there; the number of its partitions.

        Raises:
          Unreachable: no server answers.
          WrongTopic: it is there, and not as needed; or it cannot be made.
        """
        known = self._known.get(spec.name)
        if known is not None and (known[0] is spec or known[0] == spec):
            return known[1]
        with self._lock:
            found = self.partitions(spec.name)
            partitions = self._check(spec, self._create(spec) if found is None else found)
            self._known[spec.name] = spec, partitions
        return partitions

    def knows(self, spec: TopicSpec) -> bool:
        """Whether `ensure` answers without asking Kafka."""
        known = self._known.get(spec.name)
        return known is not None and (known[0] is spec or known[0] == spec)

    def doubt(self, spec: TopicSpec) -> None:
        """Look *spec* up again before its next use: something went wrong there."""
        self._known.pop(spec.name, None)

    def partitions(self, name: str) -> int | None:
        """How many partitions the topic has; none when there is no such topic."""
        topic = self._metadata().topics.get(name)
        return None if topic is None else len(topic.partitions)

    def all(self) -> dict[str, int]:
        """Every topic that this user may see, and how many partitions it has.  Raises `Unreachable`."""
        return {name: len(topic.partitions) for name, topic in sorted(self._metadata().topics.items())}

    def identity(self, name: str) -> str:
        """The topic's id, which another topic of the same name does not have.

        Raises:
          Unreachable: no server answers.
          WrongTopic: there is no such topic.
        """
        future = self._admin().describe_topics(TopicCollection([name]), request_timeout=self._timeout_s)[name]
        try:
            return str(future.result(self._timeout_s).topic_id)
        except KafkaException as exc:
            if exc.args[0].code() == codes.UNKNOWN_TOPIC:
                raise WrongTopic(f"there is no topic {name!r}") from exc
            raise Unreachable(f"cannot reach Kafka: {exc.args[0].str()}") from exc
        except TimeoutError as exc:
            raise Unreachable(f"Kafka does not describe topic {name!r} within {self._timeout_s:g} s") from exc

    def _metadata(self) -> ClusterMetadata:
        try:
            return self._admin().list_topics(timeout=self._timeout_s)  # of all: asking for one can make it
        except KafkaException as exc:
            self._admin().poll(0)  # hands over what the client has to say
            raise Unreachable(f"cannot reach Kafka: {exc.args[0].str()}{self._why()}") from exc

    def _check(self, spec: TopicSpec, partitions: int) -> int:
        if spec.exact and partitions != spec.partitions:
            raise WrongTopic(
                f"topic {spec.name!r} has {partitions} partitions and needs exactly {spec.partitions}, so that offset"
                " order is the order of work; delete it, or name another one, and make it with `init`"
            )
        return partitions

    def _create(self, spec: TopicSpec) -> int:
        replicas = spec.replicas or self._replicas()
        topic = NewTopic(
            spec.name, num_partitions=spec.partitions, replication_factor=replicas, config=spec.config(replicas)
        )
        future = self._admin().create_topics([topic], request_timeout=self._timeout_s)[spec.name]
        try:
            future.result(self._timeout_s + 1)
        except TimeoutError as exc:
            raise Unreachable(f"Kafka does not make topic {spec.name!r} within {self._timeout_s:g} s") from exc
        except KafkaException as exc:
            error = exc.args[0]
            if error.code() in codes.AWAY:
                raise Unreachable(f"cannot reach Kafka to make topic {spec.name!r}: {error.str()}") from exc
            if error.code() != codes.TOPIC_ALREADY_EXISTS:  # somebody else was first, which is as good
                raise WrongTopic(f"topic {spec.name!r} is missing and cannot be made: {error.str()}") from exc
        return self._await_leaders(spec)

    def _await_leaders(self, spec: TopicSpec) -> int:
        """A new topic is known before it has leaders; a send in that gap would wait for its time-out."""
        deadline = time.monotonic() + self._timeout_s
        while time.monotonic() < deadline:
            topic = self._metadata().topics.get(spec.name)
            if topic is not None and topic.partitions and all(part.leader >= 0 for part in topic.partitions.values()):
                return len(topic.partitions)
            time.sleep(LEADER_EVERY_S)
        raise Unreachable(f"topic {spec.name!r} was made and has no leader after {self._timeout_s:g} s")

    def _replicas(self) -> int:
        return 3 if len(self._metadata().brokers) >= 3 else 1  # noqa: PLR2004 - Kafka's usual replication factor

    def describe(self, specs: Sequence[TopicSpec]) -> list[dict[str, Any]]:
        """Each topic as it is: partitions, replicas, retention, and what is wrong with it.

        Raises:
          Unreachable: no server answers.
          WrongTopic: one of them is missing.
        """
        metadata = self._metadata()
        return [self._describe(spec, metadata) for spec in specs]

    def _describe(self, spec: TopicSpec, metadata: ClusterMetadata) -> dict[str, Any]:
        topic = metadata.topics.get(spec.name)
        if topic is None:
            raise WrongTopic(f"there is no topic {spec.name!r}")
        resource = ConfigResource(ResourceType.TOPIC, spec.name)
        try:
            config = self._admin().describe_configs([resource])[resource].result(self._timeout_s)
        except (KafkaException, TimeoutError) as exc:
            raise Unreachable(f"Kafka does not describe topic {spec.name!r}: {exc}") from exc
        partitions = len(topic.partitions)
        replicas = min(len(part.replicas) for part in topic.partitions.values())
        wanted = spec.config(replicas)
        wrong = [
            f"{name} is {config[name].value}, needs {value}"
            for name, value in wanted.items()
            if config[name].value != value
        ]
        if spec.exact and partitions != spec.partitions:
            wrong.insert(0, f"has {partitions} partitions, needs exactly {spec.partitions}")
        return {
            "topic": spec.name,
            "partitions": partitions,
            "replication": replicas,
            "cleanup": config["cleanup.policy"].value,
            "retention_ms": int(config["retention.ms"].value),
            "wrong": wrong,
        }
