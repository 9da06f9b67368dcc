"""Answers that are waited for, in bounded memory."""

from __future__ import annotations

from typing import cast

import pytest

from brokers.errors import ConsumerStopped
from brokers.records import Record
from brokers.replies import partition_of_process
from brokers.waiter import CORRELATION, Reread, Waiter


class Log:
    """What a topic keeps, from some offset on."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.opened = self.closed = 0
        self._at = 0

    def reread(self, record: Record) -> Reread:
        """Begin at *record*."""
        self.opened, self._at = self.opened + 1, record.offset
        return cast("Reread", self)

    def get(self, timeout_s: float) -> Record | None:
        """The next one."""
        self._at += 1
        return self.records[self._at - 1] if self._at <= len(self.records) else None

    def close(self) -> None:
        """No more."""
        self.closed += 1


def waiting(log: Log, forgotten: list[str]) -> Waiter:
    """A waiter with room for three records of 100 bytes."""
    return Waiter("q", 0, forgotten.append, log.reread, kept_bytes=300)


def arrive(log: Log, waiter: Waiter, count: int) -> None:
    """*count* more records of 100 bytes come."""
    for _ in range(count):
        record = Record("t", 0, len(log.records), 0, None, b"x" * 100, {CORRELATION: b"q"})
        log.records.append(record)
        waiter.put(record)


def offsets(waiter: Waiter) -> list[int]:
    """All that can be taken now."""
    found: list[int] = []
    while (record := waiter.get(0)) is not None:
        found.append(record.offset)
    return found


def test_what_is_taken_in_time_is_never_read_again() -> None:
    """The usual case: nothing but a queue."""
    log, forgotten = Log(), cast("list[str]", [])
    waiter = waiting(log, forgotten)
    for _ in range(4):
        arrive(log, waiter, 3)
        assert len(offsets(waiter)) == 3
    assert (log.opened, forgotten) == (0, [])


def test_what_does_not_fit_is_read_from_the_log_afterwards() -> None:
    """Each once, in order; from then on the shared reader keeps nothing for this one."""
    log, forgotten = Log(), cast("list[str]", [])
    waiter = waiting(log, forgotten)
    arrive(log, waiter, 7)
    assert offsets(waiter) == list(range(7))
    assert waiter.behind
    arrive(log, waiter, 2)
    assert offsets(waiter) != []
    assert (log.opened, forgotten) == (1, ["q"])
    waiter.close()
    waiter.close()
    assert log.closed == 1


def test_one_record_always_fits() -> None:
    """However large it is: else nothing would ever come."""
    log = Log()
    waiter = waiting(log, [])
    record = Record("t", 0, 0, 0, None, b"x" * 1000, {CORRELATION: b"q"})
    waiter.put(record)
    assert waiter.take() == record


def test_whoever_waits_is_told_that_nobody_reads_any_more() -> None:
    """After what had come."""
    log = Log()
    told: list[int] = []
    waiter = waiting(log, [])
    waiter.on_arrival(lambda: told.append(1))
    arrive(log, waiter, 1)
    waiter.put(ConsumerStopped("closed"))
    assert told == [1, 1]
    assert waiter.get(0) is not None
    with pytest.raises(ConsumerStopped):
        waiter.get(0)


def test_neighbouring_processes_are_answered_on_partitions_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as there are enough; processes of the same number on other machines need not be."""

    def partitions(machine: str) -> list[int]:
        monkeypatch.setattr("socket.gethostname", lambda: machine)
        found = []
        for pid in range(1000, 1024):
            monkeypatch.setattr("os.getpid", lambda pid=pid: pid)
            found.append(partition_of_process(24))
        return found

    assert sorted(partitions("a")) == list(range(24))
    assert len({partitions(machine)[0] for machine in "abcdefgh"}) > 1
