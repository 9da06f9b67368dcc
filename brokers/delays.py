"""Delays in the log: a message for later lies on the compacted topic ``delayed`` until its time.

Nothing waits in a worker's memory with an offset pinned behind it.  Whoever holds a partition of the topic is its
timer.  When messages are due, one Kafka transaction puts them on their queues and a tombstone on each key, so that a
killed timer, or two that both believe to hold the partition, fire none of them twice and lose none: the transactional
id belongs to the partition, and a new timer fences the old one before it reads.

A timer remembers only what is due soon.  The rest is found again by reading the partition anew, in seconds; so a
million messages for next month cost no memory.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from brokers.records import Outgoing
from brokers.topics import DAY_S, FOR_EVER, PARKED_BYTES, TopicSpec


if TYPE_CHECKING:
    from brokers.records import Record

PARTITIONS = 4

#: The form of a key: message id, time, and something that no other key has.
KEY_PARTS = 3
UNIQUE_CHARS = 12

#: Timers read the topic from its start, so what has been fired must not stay for long: by default it would until a
#: segment of 1 GB is full, and its tombstone for a day more.  A reader has to see a tombstone within the hour for which
#: it stays, and reads all in minutes.
COMPACTION = (
    ("segment.bytes", str(64 * 1024 * 1024)),
    ("segment.ms", "600000"),
    ("min.cleanable.dirty.ratio", "0.2"),
    ("delete.retention.ms", "3600000"),
)

#: The headers of a delayed record: where it goes, under which key, and when, in milliseconds of the wall clock.
TOPIC = "delayed.topic"
KEY = "delayed.key"
ETA = "delayed.eta_ms"


def delayed_topic(prefix: str) -> TopicSpec:
    """The topic of delayed messages of one prefix."""
    return TopicSpec(f"{prefix}delayed", PARTITIONS, FOR_EVER, compacted=True, more=COMPACTION)


def delayed(record: Outgoing, eta_ms: int, spec: TopicSpec) -> Outgoing:
    """*record* wrapped for the delayed topic.

    Its key there is new: a message may be delayed more than once.  It tells the time, too, so that a timer can pass
    over what is due much later without looking into it.
    """
    headers = {**record.headers, TOPIC: record.topic.encode(), ETA: b"%d" % eta_ms}
    if record.key is not None:
        headers[KEY] = record.key  # also an empty one: it is a key, and orders
    key = b"%b/%d/%b" % (record.headers.get("message_id", b""), eta_ms, os.urandom(6).hex().encode())
    return Outgoing(spec.name, record.value, key, headers)


def eta_in(key: bytes) -> int | None:
    """The time in the key of a delayed message, in milliseconds; none when it has another form."""
    parts = key.rsplit(b"/", 2)
    if len(parts) == KEY_PARTS and len(parts[2]) == UNIQUE_CHARS and parts[1].isdigit():
        return int(parts[1])
    return None


def cancelled(spec: TopicSpec, key: bytes, partition: int) -> Outgoing:
    """The tombstone of a delayed message, for the partition that it lies on."""
    return Outgoing(spec.name, None, key, partition=partition)


@dataclass(frozen=True, slots=True)
class Entry:
    """A message that waits for its time."""

    eta_ms: int
    key: bytes
    due: Outgoing

    @property
    def size(self) -> int:
        """Bytes of key and value."""
        return len(self.key) + len(self.due.value or b"")

    @property
    def message_id(self) -> str:
        """The message's id."""
        return self._header("message_id")

    @property
    def actor(self) -> str:
        """The name of its actor."""
        return self._header("actor")

    @property
    def attempt(self) -> int:
        """Which run of the message it waits for, from 1."""
        text = self._header("attempt")
        return int(text) if text.isdigit() else 1

    def _header(self, name: str) -> str:
        return self.due.headers.get(name, b"").decode(errors="replace")

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
    # Many of them are remembered, and all have the same few names.
    headers = {sys.intern(name): value for name, value in record.headers.items() if name not in {TOPIC, KEY, ETA}}
    due = Outgoing(sys.intern(topic.decode(errors="replace")), record.value, record.headers.get(KEY), headers)
    return Entry(int(eta), record.key, due)


def parked_topic(spec: TopicSpec) -> TopicSpec:
    """Where delayed messages are parked that their queue does not take."""
    return TopicSpec(f"{spec.name}.XQ", PARTITIONS, 30 * DAY_S, max_message_bytes=PARKED_BYTES)


def undeliverable(entry: Entry, topic: str, reason: str) -> Outgoing:
    """What to park of an entry of the delayed topic, called *topic*, that its queue does not take."""
    about = {"xq.topic": topic, "xq.to": entry.due.topic, "xq.error": "DeliveryRefused", "xq.reason": reason}
    headers = {**entry.due.headers, **{name: text.encode() for name, text in about.items()}}
    return Outgoing(f"{topic}.XQ", entry.due.value, entry.due.key, headers)


def now_ms() -> int:
    """The wall clock, in milliseconds."""
    return int(time.time() * 1000)
