"""Waiting for the answers to one question, in bounded memory, however slowly they are taken.

All callers of a process share one reader of their partition, and it cannot stop for one of them.  So what arrives for a
caller is kept up to a bound; what comes beyond that is dropped, since it is kept anyway: in Kafka, for as long as the
topic keeps answers.  When the caller has taken what was kept, it goes on from there with a reader of its own.  Neither
the worker nor other callers notice a slow one.
"""

from __future__ import annotations

import logging
import threading
import time
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from confluent_kafka import TopicPartition

from brokers import clients
from brokers.received import received


if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from brokers.records import Record

logger = logging.getLogger("brokers.replies")

#: The header that says which question a record answers.
CORRELATION = "correlation_id"

#: Bytes of answers that are kept for a caller who does not take them: some twenty large records.
KEPT_BYTES = 8_000_000

#: What a reader of one caller's own has fetched ahead, at most, in KB; and the shortest and the longest poll of it, in
#: seconds: the client lets nobody interrupt one, not even Ctrl-C.
AHEAD_KB = 2048
POLL_S, LONG_POLL_S = 0.01, 0.2


def correlation_of(record: Record) -> str:
    """The question that *record* answers; empty for none."""
    return record.headers.get(CORRELATION, b"").decode(errors="replace")


class Reread:
    """The answers to one question from *offset* of a partition on, read by whoever waits for them.  One thread."""

    def __init__(self, config: Mapping[str, Any], record: Record) -> None:
        ahead = {"queued.max.messages.kbytes": AHEAD_KB, "queued.min.messages": 1}
        self._client = clients.opened(clients.Consumer, {**config, **ahead})
        self._client.assign([TopicPartition(record.topic, record.partition, record.offset)])
        self._wanted = correlation_of(record)

    def get(self, timeout_s: float) -> Record | None:
        """The next one, or none within *timeout_s*; takes what is there already in any case."""
        deadline = time.monotonic() + timeout_s
        while True:
            message = self._client.poll(min(max(deadline - time.monotonic(), POLL_S), LONG_POLL_S))
            if message is None:
                if time.monotonic() >= deadline:
                    return None
            elif (error := message.error()) is not None:
                logger.warning("kafka_reader_error code=%s text=%s", error.name(), error.str())
            elif correlation_of(record := received(message)) == self._wanted:
                return record
            elif time.monotonic() >= deadline:
                return None

    def close(self) -> None:
        """Give the connection back."""
        self._client.close()


class Waiter:
    """The answers to one question, as they arrive.  `put` is the reading thread's; the rest one thread's at a time."""

    def __init__(
        self,
        correlation_id: str,
        partition: int,
        forget: Callable[[str], None],
        reread: Callable[[Record], Reread],
        *,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self.correlation_id = correlation_id
        self.partition = partition
        self._forget = forget
        self._reread = reread
        self._room = kept_bytes
        self._lock = threading.Lock()  # of the room, and of what was left off
        self._records: SimpleQueue[Record | BaseException] = SimpleQueue()
        self._left_off: Record | None = None
        self._own: Reread | None = None
        self._told: Callable[[], None] | None = None

    def put(self, record: Record | BaseException) -> None:
        """Keep *record*, if there is room; the first one always fits."""
        with self._lock:
            if not isinstance(record, BaseException):
                if self._left_off is not None:
                    return
                if record.size > self._room and not self._records.empty():
                    self._left_off = record
                    return
                self._room -= record.size
            self._records.put(record)
        if self._told is not None:
            self._told()

    def get(self, timeout_s: float) -> Record | None:
        """The next record, or none within *timeout_s*; what is here already comes in any case.

        Raises:
          ConsumerStopped: nobody reads the answers any more.
        """
        if self.behind:
            return self._from_log(timeout_s)
        try:
            return self._taken(self._records.get(timeout=max(timeout_s, 0)))
        except Empty:
            return None

    def take(self) -> Record | None:
        """As `get`, at once; not to be called while `behind`."""
        try:
            return self._taken(self._records.get_nowait())
        except Empty:
            return None

    @property
    def behind(self) -> bool:
        """Whether the next record has to be read from the log, which takes a thread some time."""
        with self._lock:
            return self._left_off is not None and self._records.empty()

    def on_arrival(self, told: Callable[[], None] | None) -> None:
        """Have *told* called, in the reading thread, when there is something to take."""
        self._told = told

    def _taken(self, record: Record | BaseException) -> Record:
        if isinstance(record, BaseException):
            raise record
        with self._lock:
            self._room += record.size
        return record

    def _from_log(self, timeout_s: float) -> Record | None:
        if self._own is None:
            assert self._left_off is not None  # noqa: S101 - `behind` says so
            self._forget(self.correlation_id)
            self._own = self._reread(self._left_off)
        return self._own.get(timeout_s)

    def close(self) -> None:
        """Wait no longer: what comes late is dropped.  Idempotent."""
        self._forget(self.correlation_id)
        own, self._own = self._own, None
        if own is not None:
            own.close()
