"""Parking what cannot be done, with the reason, where a person finds it: the topic ``<queue>.XQ``.

The value is the record's own, untouched, so that it can be sent again as it was.  Only of a value too large for a
dead-letter topic no more than the beginning is kept; the record itself stays where it was.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from msgspec.structs import replace

from brokers.records import Outgoing
from brokers.replays import number


if TYPE_CHECKING:
    from collections.abc import Sequence

    from brokers.records import Record
    from brokers.topics import Queue

#: Characters of a reason, and of a traceback's end, that are kept.
REASON_CHARS = 1000
TRACEBACK_CHARS = 4000

#: How the name of a dead-letter topic ends.
SUFFIX = ".XQ"

#: The header of a mark: offsets of letters of the same partition that are dealt with, apart by ",".
SETTLED = "xq.settled"

#: Bytes of a value that every dead-letter topic takes, and what is kept of a larger one.
VALUE_BYTES = 1_000_000
BEGINNING_BYTES = 64_000


def dead_letter(
    record: Record,
    queue: Queue,
    *,
    error: str,
    reason: str,
    traceback: str = "",
    tried: int = 1,
    crashes: int = 0,
) -> Outgoing:
    """The record to put on *queue*'s dead-letter topic for *record*.

    *error* is the kind of failure, for filters; *reason* is for people.  *tried*: how often this very record was tried,
    and *crashes*, how often its process did not live to tell.
    """
    about = {
        "xq.topic": record.topic,
        "xq.partition": str(record.partition),
        "xq.offset": str(record.offset),
        "xq.timestamp_ms": str(record.timestamp_ms),
        "xq.group": queue.group_id,
        "xq.ordered": "1" if queue.ordered else "",
        "xq.attempts": str(_former_attempts(record) + tried),
        "xq.crashes": str(crashes or ""),
        "xq.error": error,
        "xq.reason": reason[:REASON_CHARS],
        "xq.traceback": traceback[-TRACEBACK_CHARS:],
        "xq.worker": f"{socket.gethostname()}:{os.getpid()}",
    }
    value = record.value
    if value is not None and len(value) > VALUE_BYTES:
        about["xq.cut"] = f"{len(value)} bytes"
        value = value[:BEGINNING_BYTES]
    headers = {
        **record.headers,
        **{name: text.encode("utf-8", "backslashreplace") for name, text in about.items() if text},
    }
    return Outgoing(queue.dead_letters.name, value, record.key, headers)


def _former_attempts(record: Record) -> int:
    """How often the same message had been tried in earlier records: a retry is a record of its own."""
    return max((number(record.headers, "attempt") or 1) - 1, 0)


def bare(letter: Outgoing) -> Outgoing:
    """*letter* without its value, which Kafka does not take; it says so."""
    size = f"{len(letter.value or b''):d} bytes".encode()
    return replace(letter, value=None, headers={**letter.headers, "xq.cut": letter.headers.get("xq.cut", size)})


def mark(topic: str, partition: int, offsets: Sequence[int], how: str) -> Outgoing:
    """The record that says of letters on *topic* that they are dealt with, and *how*."""
    headers = {SETTLED: ",".join(map(str, offsets)).encode(), "xq.how": how.encode()}
    return Outgoing(topic, None, None, headers, partition)
