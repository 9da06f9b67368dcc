"""What lies on the delayed topic, asked from outside: for those who list, cancel, or wait.

The topic is read partition by partition, and only what was asked for is kept: the soonest messages, and of every other
one that waits eight bytes of its key, so that its tombstone can be told from that of another one.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from confluent_kafka import OFFSET_BEGINNING, KafkaException, TopicPartition

from brokers import clients, codes
from brokers.clients import Health, base_config
from brokers.consumer import consumer_config
from brokers.delays import entry_of, eta_in, now_ms
from brokers.errors import Unreachable
from brokers.received import received
from brokers.roster import Periodic, Roster


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from confluent_kafka import Message as KafkaMessage

    from brokers.delays import Entry
    from brokers.records import Record
    from brokers.topics import TopicSpec

    #: Offsets read so far, and in all.
    Progress = Callable[[int, int], None]

#: Messages kept while a partition is read for the first time.  Of more, the soonest are found in a second reading, when
#: it is known which of them still wait: else many that were fired could stand in the way of those.
KEPT = 10_000

#: How many more than needed are collected before the later ones are thrown away.
SLACK = 1000

#: Messages that are listed, unless the caller says otherwise.
LISTED = 1000

#: Records taken from the client at once, and the longest wait for them in seconds.
CHUNK = 1000
POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which delayed messages, and which periodic actors, are meant: all that fit every property given."""

    ids: frozenset[str] = frozenset()
    topics: frozenset[str] | None = None
    actor: str | None = None

    def periodic(self, actor: Periodic) -> bool:
        """Whether *actor* is one of them."""
        return not self.ids and self._on(actor.topic) and self.actor in {None, actor.actor}

    def _on(self, topic: str) -> bool:
        return self.topics is None or topic in self.topics

    def __call__(self, entry: Entry) -> bool:
        """Whether *entry* is one of them."""
        return (
            (not self.ids or entry.message_id in self.ids)
            and self._on(entry.due.topic)
            and (self.actor is None or entry.actor == self.actor)
        )


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits: the soonest messages, how many there are for each topic, and the periodic actors.

    *records* were read to know it: their number grows with every delay.
    """

    entries: tuple[Entry, ...]
    by_topic: Mapping[str, int]
    periodic: tuple[Periodic, ...]
    records: int

    @property
    def total(self) -> int:
        """How many messages wait."""
        return sum(self.by_topic.values())


class Living:
    """The messages of one partition that wait, in up to two readings of it.  Pure."""

    def __init__(self, wanted: Wanted, limit: int, kept: int = KEPT) -> None:
        self._wanted = wanted
        self._limit = limit
        self._most = kept
        self._topics: dict[int, str] = {}  # by the hash of the key
        self._kept: dict[bytes, Entry] | None = {}  # none: there were too many
        self._soonest: list[Entry] = []
        self._bound_ms: int | None = None  # later ones are not among the soonest

    def take(self, record: Record) -> None:
        """A record, in the first reading."""
        if record.key is None:
            return
        entry = entry_of(record)
        if entry is None or not self._wanted(entry):
            self._topics.pop(hash(record.key), None)
            if self._kept is not None:
                self._kept.pop(record.key, None)
            return
        self._topics[hash(entry.key)] = entry.due.topic
        if self._kept is not None:
            self._kept[entry.key] = entry
            if len(self._kept) > self._most:
                self._kept = None

    @property
    def read_again(self) -> bool:
        """Whether the soonest are not known yet."""
        return self._kept is None and self._limit > 0

    def is_soon(self, key: bytes) -> bool:
        """Whether the second reading has to look into a record of that key."""
        if hash(key) not in self._topics:
            return False
        eta_ms = eta_in(key)
        return self._bound_ms is None or eta_ms is None or eta_ms <= self._bound_ms

    def take_again(self, record: Record) -> None:
        """A record that is soon, in the second reading."""
        entry = entry_of(record)
        if entry is None:
            return
        self._soonest.append(entry)
        if len(self._soonest) >= 2 * self._limit + SLACK:
            self._soonest = sorted(self._soonest)[: self._limit]
            self._bound_ms = self._soonest[-1].eta_ms

    def soonest(self) -> list[Entry]:
        """At most *limit* of them, sooner first."""
        entries = self._soonest if self._kept is None else list(self._kept.values())
        return sorted(entries)[: self._limit]

    def by_topic(self) -> Counter[str]:
        """How many there are."""
        return Counter(self._topics.values())


def silent(done: int, total: int) -> None:
    """Tell nobody how far a reading is."""


@dataclass(frozen=True, slots=True)
class DelayedTopic:
    """The delayed topic, to be read from outside.

    *timeout_s* is how long Kafka may be silent, not how long it may take.
    """

    settings: Mapping[str, Any]
    spec: TopicSpec
    partitions: int
    timeout_s: float
    progress: Progress = silent

    def waiting(self, wanted: Wanted, limit: int) -> Waiting:
        """The *limit* soonest, and the numbers of all.

        Raises:
          Unreachable: Kafka does not answer.
        """
        entries: list[Entry] = []
        by_topic: Counter[str] = Counter()
        roster, records = Roster(), 0
        for reading in self._readings():
            living = Living(wanted, limit)
            records += reading.read(roster.take, living.take)
            if living.read_again:
                reading.read(living.take_again, only=living.is_soon)
            entries = sorted([*entries, *living.soonest()])[:limit]
            by_topic += living.by_topic()
        periodic = tuple(actor for actor in roster.periodic(now_ms()) if wanted.periodic(actor))
        return Waiting(tuple(entries), dict(by_topic), periodic, records)

    def keys(self, wanted: Wanted) -> Iterator[tuple[int, list[bytes]]]:
        """The keys of the messages that wait, by partition.  Raises as `waiting` does."""
        for reading in self._readings():
            keys = Keys(wanted)
            reading.read(keys.take)
            yield reading.place.partition, list(keys.found)

    def _readings(self) -> Iterator[_Reading]:
        """Each partition, up to where it ends now."""
        health = Health()
        config = base_config(self.settings, health) | consumer_config("delayed-reader", "classic")  # never joined
        client = clients.opened(clients.Consumer, config)
        try:
            places = [TopicPartition(self.spec.name, n, OFFSET_BEGINNING) for n in range(self.partitions)]
            bounds = [client.get_watermark_offsets(place, timeout=self.timeout_s, cached=False) for place in places]
            total, done = sum(end - first for first, end in bounds), 0
            for place, (first, end) in zip(places, bounds, strict=True):
                yield _Reading(client, place, first, end, self.timeout_s, self.progress, done, total)
                done += end - first
        except KafkaException as exc:
            why = health.why() or f" ({exc.args[0].str()})"
            raise Unreachable(f"topic {self.spec.name!r} could not be read{why}") from exc
        finally:
            client.close()


class Keys:
    """The keys of the messages of one partition that wait.  Pure."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self.found: set[bytes] = set()

    def take(self, record: Record) -> None:
        """A record."""
        if record.key is None:
            return
        entry = entry_of(record)
        if entry is None:
            self.found.discard(record.key)
        elif self._wanted(entry):
            self.found.add(record.key)


@dataclass(frozen=True, slots=True)
class _Reading:
    """One partition, to be read as often as needed."""

    client: clients.Consumer
    place: TopicPartition
    first: int
    end: int
    timeout_s: float
    progress: Progress
    done: int
    total: int

    def read(self, *takers: Callable[[Record], object], only: Callable[[bytes], bool] | None = None) -> int:
        """Hand over all its records, or those with *only* such keys; how many there were."""
        records, heard, ended = 0, time.monotonic(), self.first >= self.end
        if not ended:
            self.client.assign([self.place])
        while not ended:
            messages = self._messages()
            ended = any(self._is_end(message) for message in messages)
            for record in _records(messages, self.end, only):
                records += 1
                for take in takers:
                    take(record)
            if messages:
                heard, at = time.monotonic(), messages[-1].offset() or 0
                self.progress(self.done + min(at, self.end) - self.first, self.total)
            if time.monotonic() - heard > self.timeout_s:
                raise Unreachable(f"{self.place} could not be read to its end: nothing for {self.timeout_s:g} s")
        self.client.unassign()
        return records

    def _messages(self) -> list[KafkaMessage]:
        """What is there; `consume` alone would wait for all of a chunk."""
        first = self.client.poll(POLL_S)
        return [] if first is None else [first, *self.client.consume(CHUNK, 0)]

    def _is_end(self, message: KafkaMessage) -> bool:
        """Either of the end itself, or of the last record before it."""
        error, offset = message.error(), message.offset() or 0
        if error is not None:
            return error.code() == codes.PARTITION_EOF and offset >= self.end
        return offset >= self.end - 1


def _records(messages: list[KafkaMessage], end: int, only: Callable[[bytes], bool] | None) -> Iterator[Record]:
    for message in messages:
        if message.error() is not None or (message.offset() or 0) >= end:
            continue
        if only is None or only(message.key() or b""):
            yield received(message)
