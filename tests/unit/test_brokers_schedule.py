from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace

from brokers.delays import delayed, delayed_topic, entry_of, eta_in
from brokers.records import Outgoing, Record
from brokers.schedule import SLACK, Schedule


SPEC = delayed_topic("p-")


def as_record(outgoing: Outgoing, offset: int) -> Record:
    """What Kafka gives back for a record that was sent."""
    return Record(outgoing.topic, 0, offset, 0, outgoing.key, outgoing.value, dict(outgoing.headers))


@given(st.binary(max_size=20), st.none() | st.binary(max_size=10), st.integers(0, 2**45))
def test_a_record_survives_the_delay(value: bytes, key: bytes | None, eta_ms: int) -> None:
    """When it is due it is the record that it was: topic, value, key and headers."""
    before = Outgoing("p-queue", value, key, {"message_id": b"m/1", "actor": b"a"})

    entry = entry_of(as_record(delayed(before, eta_ms, SPEC), 0))

    assert entry is not None
    assert entry.eta_ms == eta_ms
    assert entry.due == before
    assert eta_in(entry.key) == eta_ms


def test_what_is_no_delayed_message_is_no_entry() -> None:
    """Tombstones, and records of anybody else."""
    good = as_record(delayed(Outgoing("q", b"v", b"k"), 5, SPEC), 0)

    for bad in (replace(good, value=None), replace(good, key=None), replace(good, headers={})):
        assert entry_of(bad) is None
    assert entry_of(replace(good, headers={**good.headers, "delayed.eta_ms": b"soon"})) is None


class Partition(RuleBasedStateMachine):
    """A partition of the delayed topic, its timer, and a clock; the timer reads behind the log, and may be replaced."""

    LIMIT = 6
    LIMIT_BYTES = 400
    AHEAD_MS = 1000

    @initialize()
    def begin(self) -> None:
        self.now = 0
        self.log: list[Record] = []
        self.waiting: dict[bytes, int] = {}
        self.fired: list[bytes] = []
        self._new_timer()

    def _new_timer(self) -> None:
        self.schedule = Schedule(limit=self.LIMIT, horizon_ms=self.AHEAD_MS, limit_bytes=self.LIMIT_BYTES)
        self._read()

    def _read(self) -> None:
        self.schedule.begin_reading(self.now)
        self.cursor, self.end = 0, len(self.log)

    @rule(delay_ms=st.integers(0, 3000), size=st.integers(0, 200))
    def delay(self, delay_ms: int, size: int) -> None:
        # Hypothesis repeats what it finds, so nothing here may be drawn elsewhere.
        key = b"m/%d/%012x" % (self.now + delay_ms, len(self.log))
        outgoing = replace(delayed(Outgoing("q", b"v" * size, b"k"), self.now + delay_ms, SPEC), key=key)
        self.log.append(as_record(outgoing, len(self.log)))
        self.waiting[key] = self.now + delay_ms

    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        """A tombstone; it counts only once the timer has read it, so the timer reads on to the end here."""
        if self.waiting:
            key = data.draw(st.sampled_from(sorted(self.waiting)))
            self.log.append(Record(SPEC.name, 0, len(self.log), 0, key, None))
            del self.waiting[key]
            self._read_on(len(self.log))

    @rule(records=st.integers(1, 5))
    def read_on(self, records: int) -> None:
        self._read_on(records)

    def _read_on(self, records: int) -> None:
        for record in self.log[self.cursor : self.cursor + records]:
            key, is_tombstone = record.key or b"", record.value is None
            if not self.schedule.passes_over(key, record.offset, is_tombstone=is_tombstone):
                self.schedule.take(record)
            self.cursor += 1
        if self.schedule.reading and self.cursor >= self.end:
            self.schedule.end_reading(self.now)

    @rule(ms=st.integers(1, 800))
    def time_passes(self, ms: int) -> None:
        self.now += ms

    @rule(limit=st.integers(1, 4), fails=st.booleans())
    def fire(self, limit: int, fails: bool) -> None:
        entries = self.schedule.due(self.now, limit)
        if fails:
            self._new_timer()
            return
        for entry in entries:
            assert entry.eta_ms <= self.now
            assert self.waiting.pop(entry.key, None) is not None, "fired twice, or after it was cancelled"
            self.fired.append(entry.key)
            self.log.append(Record(SPEC.name, 0, len(self.log), 0, entry.key, None))
        self.schedule.fired(entries)

    @rule()
    def read_again(self) -> None:
        if self.schedule.reads_again(self.now):
            self._read()

    @rule()
    def another_timer_takes_over(self) -> None:
        self._new_timer()

    @invariant()
    def memory_is_bounded(self) -> None:
        for kept, times in ((self.schedule._live, 2 * SLACK + SLACK), (self.schedule._found, SLACK)):
            if kept is not None:
                assert not kept.exceeds(times * self.LIMIT, times * self.LIMIT_BYTES)
                assert kept.bytes == sum(entry.size for entry in kept.entries.values())

    def teardown(self) -> None:
        """Left alone, the timer fires all that is due, each once."""
        self.now += 4000
        for _ in range(200):
            if self.schedule.reads_again(self.now):
                self._read()
            self._read_on(len(self.log))
            self.fire(100, fails=False)
        assert not self.waiting


def test_a_slow_reading_begins_early_enough() -> None:
    """What is due next must be known before the time that is known is over."""
    schedule = Schedule(limit=4, horizon_ms=100_000)
    schedule.begin_reading(0)
    for n in range(10):
        schedule.take(as_record(replace(delayed(Outgoing("q", b"v"), 1000 * n, SPEC), key=b"%d" % n), n))
    schedule.end_reading(1500)  # it took 1.5 s, and knows as much as fits: less than 4 s

    assert schedule.reads_again(1500)


TestPartition = Partition.TestCase
TestPartition.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
