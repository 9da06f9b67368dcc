"""The buffer of an ordered queue as a state machine: whatever happens in whatever order, the log is followed."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
)

from brokers.assignment import Assignment, Unit
from brokers.offsets import AckTracker
from brokers.ordered import LONGEST_BACKOFF_S, OrderedBuffer, backoff_s
from brokers.records import Record
from tests.buffers import QUICK, TOPIC, ordered_queue, record, started


class OrderedMachine(RuleBasedStateMachine):
    """One partition; units of up to three; holds, cuts, moves and restarts."""

    ended: Bundle[Unit] = Bundle("ended")

    @initialize(batch=st.sampled_from([None, 1, 3]))
    def begin(self, batch: int | None) -> None:
        self.buffer = OrderedBuffer(ordered_queue(batch))
        self.batch = batch or 1
        self.end = 0
        self.finished: list[int] = []
        self.unit: Unit | None = None
        self.start(0)

    def start(self, offset: int) -> None:
        self.assignment = Assignment(TOPIC, 0, self.buffer, AckTracker(offset), paused=False)
        self.buffer.start_at(self.assignment, offset)
        self.hand_in(range(offset, self.end))

    def hand_in(self, offsets: range) -> None:
        fresh = [record(0, offset) for offset in offsets if self.assignment.tracker.begin(offset)]
        self.buffer.deliver(self.assignment, fresh)

    @rule(count=st.integers(1, 5))
    def deliver(self, count: int) -> None:
        self.end += count
        self.hand_in(range(self.end - count, self.end))

    @rule()
    def take(self) -> None:
        unit = self.buffer.take(99, 0)
        if self.unit is not None or not self.assignment.waiting:
            assert unit is None or self.unit is None
            self.unit = self.unit or unit
            return
        assert unit is not None
        offsets = [one.offset for one in unit.records]
        assert offsets[0] == len(self.finished), "not the next one"
        assert offsets == list(range(offsets[0], offsets[0] + len(offsets)))
        assert len(offsets) <= self.batch
        self.unit = unit

    @rule(size=st.integers(1, 3))
    def cut(self, size: int) -> None:
        if self.unit is not None and size < len(self.unit.records):
            self.buffer.shorten(self.unit, size)
            assert len(self.unit.records) == size

    def give_back(self) -> Unit | None:
        unit, self.unit = self.unit, None
        return unit

    @rule(target=ended)
    def finish(self) -> Unit | MultipleResults[Unit]:
        unit = self.give_back()
        if unit is None:
            return multiple()
        if self.buffer.begin(unit):
            self.finished += [one.offset for one in unit.records]
        self.buffer.finish(unit)
        return unit

    @rule(target=ended)
    def hold(self) -> Unit | MultipleResults[Unit]:
        unit = self.give_back()
        if unit is None:
            return multiple()
        self.buffer.hold(unit, "no", retry_after_s=0)
        return unit

    @rule(target=ended)
    def release(self) -> Unit | MultipleResults[Unit]:
        unit = self.give_back()
        if unit is None:
            return multiple()
        self.buffer.release(unit)
        return unit

    @rule(unit=ended)
    def end_again(self, unit: Unit) -> None:
        held = self.buffer.held(self.assignment)
        self.buffer.hold(unit, "again")
        self.buffer.finish(unit)
        self.buffer.release(unit)
        assert self.buffer.held(self.assignment) == held

    @rule()
    def pause_for_a_moment(self) -> None:
        """What was handed out and has not begun is taken back, and handed out again."""
        self.buffer.pause(0, "paused")
        assert self.buffer.take(99, 0) is None
        self.buffer.resume()

    @rule()
    def move(self) -> None:
        self.buffer.revoke([self.assignment])
        self.buffer.forget(self.assignment)
        self.start(len(self.finished))

    @rule(ahead=st.integers(0, 3))
    def told_to_go_on(self, ahead: int) -> None:
        """Somebody else has applied some of what waits here."""
        if self.unit is None:
            offset = min(len(self.finished) + ahead, self.end)
            assert self.buffer.go_on_at(self.assignment, offset)
            self.finished += range(len(self.finished), offset)

    @invariant()
    def the_finished_ones_are_a_prefix_of_the_log(self) -> None:
        assert self.finished == list(range(len(self.finished)))

    @invariant()
    def at_most_one_unit_is_out(self) -> None:
        assert self.buffer.outstanding == (self.unit is not None)

    def teardown(self) -> None:
        self.finish()
        for _ in range(self.end):
            self.take()
            self.finish()
        assert len(self.finished) == self.end, "lost"
        assert self.assignment.tracker.snapshot() == (self.end, "")
        assert self.buffer.held(self.assignment) is None


TestOrderedBuffer = OrderedMachine.TestCase
TestOrderedBuffer.settings = QUICK


def test_an_ordered_queue_waits_for_the_unit_of_a_lost_assignment_in_the_same_process() -> None:
    """Two threads must never be inside one ordered queue, even when Kafka has taken it away and given it back."""
    buffer = OrderedBuffer(ordered_queue(None))
    old = started(buffer, 1)
    unit = buffer.take(9, 0)
    assert unit is not None
    assert buffer.begin(unit)
    buffer.forget(old)
    started(buffer, 1)
    assert buffer.take(9, 0) is None
    buffer.finish(unit)
    assert buffer.take(9, 0) is not None


def test_a_batch_that_failed_keeps_its_order() -> None:
    """It goes on where it was."""
    ordered = OrderedBuffer(ordered_queue(3))
    started(ordered, 3)
    unit = ordered.take(1, 0)
    assert unit is not None
    ordered.hold(unit, "no", retry_after_s=0)
    again = ordered.take(1, 0)
    assert again is not None
    assert [one.offset for one in again.records] == [0, 1, 2]


def test_a_held_unit_comes_again_after_its_pause_and_not_before() -> None:
    """The pause grows with the attempts, unless the error itself says how long to wait."""
    buffer = OrderedBuffer(ordered_queue(None))
    assignment = started(buffer, 1)
    unit = buffer.take(1, 0)
    assert unit is not None
    began = time.monotonic()
    buffer.hold(unit, "locked", retry_after_s=0.05)
    held = buffer.held(assignment)
    assert held is not None
    assert (held.reason, held.attempts) == ("locked", 1)
    assert buffer.take(1, 0) is None
    assert buffer.take(1, 5) is not None
    assert time.monotonic() - began >= 0.05


def test_the_pause_doubles_up_to_its_longest_and_never_overflows() -> None:
    """A command may be held for days."""
    assert [backoff_s(n) for n in (1, 2, 3)] == [0.5, 1.0, 2.0]
    assert backoff_s(100_000) == LONGEST_BACKOFF_S


def test_a_position_that_moved_on_ends_the_hold() -> None:
    """Another process may have applied the held command; then nothing is blocked any more."""
    buffer = OrderedBuffer(ordered_queue(None))
    assignment = started(buffer, 1)
    unit = buffer.take(1, 0)
    assert unit is not None
    buffer.hold(unit, "away")
    assert buffer.go_on_at(assignment, 1)
    assert buffer.held(assignment) is None
    assert assignment.tracker.snapshot() == (1, "")


def test_a_position_outside_what_is_buffered_has_to_be_sought() -> None:
    """Backwards, or beyond what waits: the buffer cannot help."""
    buffer = OrderedBuffer(ordered_queue(None))
    assignment = started(buffer, 2)
    assert not buffer.go_on_at(assignment, 3)
    unit = buffer.take(1, 0)
    assert unit is not None
    buffer.finish(unit)
    assert not buffer.go_on_at(assignment, 0)


def test_a_queue_with_a_start_of_its_own_can_be_told_to_ask_for_it_again() -> None:
    """It hands out nothing before the answer; where Kafka's commit is the start there is nothing to ask."""
    plain, own = ordered_queue(), replace(ordered_queue(), start=lambda _topic, _partition, _first: 0)
    for queue in (plain, own):
        buffer = OrderedBuffer(queue)
        assignment = started(buffer, 2)
        buffer.reconsider()
        assert assignment.started == (queue is plain)
        assert (buffer.take(1, 0) is not None) == (queue is plain)
        assert buffer.go_on_at(assignment, 1) == (queue is own)


def test_a_batch_of_large_records_is_cut_by_its_bytes() -> None:
    """Five hundred small commands are one transaction; five hundred large ones are not."""
    buffer = OrderedBuffer(ordered_queue(100))
    assignment = Assignment(TOPIC, 0, buffer, AckTracker(0), started=True, paused=False)
    buffer.start_at(assignment, 0)
    big = [Record(TOPIC, 0, n, 0, None, b"x" * 1_500_000) for n in range(5)]
    buffer.deliver(assignment, big)
    unit = buffer.take(1, 0)
    assert unit is not None
    assert len(unit.records) == 3


def test_a_paused_queue_sleeps() -> None:
    """A reader waits its time-out without looking again and again, and `resume` wakes it."""
    buffer = OrderedBuffer(ordered_queue())
    started(buffer, 3)
    buffer.pause(5.0, "paused")
    before = time.thread_time()
    assert buffer.take(9, 0.3) is None
    assert time.thread_time() - before < 0.05
    threading.Timer(0.02, buffer.resume).start()
    assert buffer.take(9, 10) is not None
