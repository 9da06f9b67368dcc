"""Delays in the log: a message for later lies on the compacted topic ``delayed`` until its time.

Nothing waits in a worker's memory with an offset pinned behind it.  Whoever holds a partition of the topic is its
timer.  When messages are due, one Kafka transaction puts them on their queues and a tombstone on each key, so that a
killed timer, or two that both believe to hold the partition, fire none of them twice and lose none: the transactional
id belongs to the partition, and a new timer fences the old one before it reads.

A timer remembers only what is due soon.  The rest is found again by reading the partition anew, which goes at some
hundred thousand records a second; so a million messages for next month cost no memory.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from brokers.records import Outgoing
from brokers.topics import DAY_S, FOR_EVER, TopicSpec


if TYPE_CHECKING:
    from brokers.records import Record

PARTITIONS = 4

#: The headers of a delayed record: where it goes, under which key, and when, in milliseconds of the wall clock.
TOPIC = "delayed.topic"
KEY = "delayed.key"
ETA = "delayed.eta_ms"


def delayed_topic(prefix: str) -> TopicSpec:
    """The topic of delayed messages of one prefix."""
    return TopicSpec(f"{prefix}delayed", PARTITIONS, FOR_EVER, compacted=True)


def delayed(record: Outgoing, eta_ms: int, spec: TopicSpec) -> Outgoing:
    """*record* wrapped for the delayed topic.  Its key there is new: a message may be delayed more than once."""
    message_id = record.headers.get("message_id", b"").decode(errors="replace")
    headers = {**record.headers, TOPIC: record.topic.encode(), ETA: str(eta_ms).encode()}
    if record.key is not None:
        headers[KEY] = record.key  # also an empty one: it is a key, and orders
    return Outgoing(spec.name, record.value, f"{message_id}/{uuid.uuid4().hex[:12]}".encode(), headers)


@dataclass(frozen=True, slots=True)
class Entry:
    """A message that waits for its time."""

    eta_ms: int
    key: bytes
    due: Outgoing

    @property
    def order(self) -> tuple[int, bytes]:
        """Its place among the others: sooner first, and no two alike."""
        return self.eta_ms, self.key

    def __lt__(self, other: Entry) -> bool:
        """Sooner first."""
        return self.order < other.order


def entry_of(record: Record) -> Entry | None:
    """The entry in *record*, or none: a tombstone, or something that anybody else wrote."""
    eta, topic = record.headers.get(ETA, b""), record.headers.get(TOPIC, b"")
    if record.key is None or record.value is None or not eta.isdigit() or not topic:
        return None
    headers = {name: value for name, value in record.headers.items() if name not in {TOPIC, KEY, ETA}}
    due = Outgoing(topic.decode(errors="replace"), record.value, record.headers.get(KEY), headers)
    return Entry(int(eta), record.key, due)


def parked_topic(spec: TopicSpec) -> TopicSpec:
    """Where delayed messages are parked whose queue does not exist."""
    return TopicSpec(f"{spec.name}.XQ", PARTITIONS, 30 * DAY_S)


def undeliverable(entry: Entry, topic: str) -> Outgoing:
    """What to park of an entry of *topic* that cannot be delivered."""
    about = {
        "xq.topic": topic.encode(),
        "xq.to": entry.due.topic.encode(),
        "xq.error": b"WrongTopic",
        "xq.reason": b"there is no topic " + entry.due.topic.encode(),
    }
    return Outgoing(f"{topic}.XQ", entry.due.value, entry.due.key, {**entry.due.headers, **about})


def now_ms() -> int:
    """The wall clock, in milliseconds."""
    return int(time.time() * 1000)
