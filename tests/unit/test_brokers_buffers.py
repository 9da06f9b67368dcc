"""The buffers as state machines: whatever happens in whatever order, nothing is lost and nothing runs twice."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import ClassVar

import dramatiq
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from brokers.assignment import Assignment, Unit
from brokers.offsets import AckTracker, decode, resumed
from brokers.ordered import LONGEST_BACKOFF_S, OrderedBuffer, backoff_s
from brokers.parallel import ParallelBuffer
from brokers.records import Record
from brokers.topics import Queue, TopicSpec


TOPIC = "t"


def record(partition: int, offset: int) -> Record:
    """Ten bytes at a place."""
    return Record(TOPIC, partition, offset, 0, None, b"x" * 10)


def parallel_queue() -> Queue:
    """A queue as it is by default."""
    return Queue("q", TopicSpec(TOPIC), "g")


def ordered_queue(batch: int | None = 3) -> Queue:
    """A queue that hands out one unit at a time."""
    return Queue("q", TopicSpec(TOPIC, 1, exact=True), "g", ordered=True, batch=batch)


class ParallelMachine(RuleBasedStateMachine):
    """Three partitions that come and go; up to five units out at a time."""

    LIMIT: ClassVar[int] = 5
    units: Bundle[Unit] = Bundle("units")
    ended: Bundle[Unit] = Bundle("ended")

    def __init__(self) -> None:
        super().__init__()
        self.buffer = ParallelBuffer(parallel_queue())
        self.ends = dict.fromkeys(range(3), 0)
        self.done: dict[int, list[int]] = {n: [] for n in range(3)}
        self.out: list[Unit] = []
        self.assigned = {n: self.assign(n, AckTracker(0)) for n in range(3)}

    def assign(self, partition: int, tracker: AckTracker) -> Assignment:
        return Assignment(TOPIC, partition, self.buffer, tracker, started=True, paused=False)

    @rule(partition=st.integers(0, 2), count=st.integers(1, 4))
    def deliver(self, partition: int, count: int) -> None:
        first = self.ends[partition]
        self.ends[partition] += count
        self.hand_in(partition, range(first, first + count))

    def hand_in(self, partition: int, offsets: range) -> None:
        assignment = self.assigned[partition]
        fresh = [record(partition, offset) for offset in offsets if assignment.tracker.begin(offset)]
        self.buffer.deliver(assignment, fresh)

    @rule(target=units)
    def take(self) -> Unit | MultipleResults[Unit]:
        unit = self.buffer.take(self.LIMIT, 0)
        if unit is None:
            ready = any(a.waiting and not a.map_full for a in self.assigned.values())
            assert len(self.out) == self.LIMIT or not ready
            return multiple()
        self.out.append(unit)
        return unit

    @rule(target=ended, unit=consumes(units))
    def finish(self, unit: Unit) -> Unit:
        self.out.remove(unit)
        if self.buffer.begin(unit):
            [one] = unit.records
            if unit.assignment.alive:
                assert one.offset not in self.done[one.partition], "ran twice"
                self.done[one.partition].append(one.offset)
        self.buffer.finish(unit)
        return unit

    @rule(target=ended, unit=consumes(units))
    def release(self, unit: Unit) -> Unit:
        self.out.remove(unit)
        self.buffer.release(unit)
        return unit

    @rule(unit=ended)
    def end_again(self, unit: Unit) -> None:
        """Dramatiq acks again after a connection error, and requeues what it has acked."""
        self.buffer.finish(unit)
        self.buffer.release(unit)

    @rule(partition=st.integers(0, 2), full=st.booleans())
    def fill_map(self, partition: int, full: bool) -> None:
        self.buffer.map_is(self.assigned[partition], full=full)

    @rule()
    def pause_for_a_moment(self) -> None:
        """What was handed out and has not begun is taken back, and handed out again."""
        self.buffer.pause(0, "paused")
        assert self.buffer.take(99, 0) is None
        self.buffer.resume()

    @rule(partition=st.integers(0, 2))
    def hand_over(self, partition: int) -> None:
        """The partition moves away, gracefully, and the next owner is this same buffer."""
        old = self.assigned[partition]
        self.buffer.revoke([old])
        assert self.buffer.drained([old], 0)
        commit = old.tracker.snapshot()
        self.buffer.forget(old)
        tracker = resumed(commit.offset, decode(commit.offset, commit.metadata))
        self.assigned[partition] = self.assign(partition, tracker)
        self.hand_in(partition, range(commit.offset, self.ends[partition]))

    @invariant()
    def every_record_is_in_one_place(self) -> None:
        for partition, assignment in self.assigned.items():
            running = [u.records[0].offset for u in self.out if u.assignment is assignment and u in assignment.running]
            assert len(running) == len(assignment.running)
            assert assignment.waiting_bytes == 10 * assignment.waiting
            assert assignment.tracker.unfinished == assignment.waiting + len(running)
            assert assignment.tracker.unfinished + len(self.done[partition]) == self.ends[partition]

    @invariant()
    def no_more_is_out_than_the_prefetch(self) -> None:
        assert self.buffer.outstanding == len(self.out) <= self.LIMIT

    def teardown(self) -> None:
        for assignment in self.assigned.values():
            self.buffer.map_is(assignment, full=False)
        for unit in list(self.out):
            self.finish(unit)
        while (left := self.buffer.take(self.LIMIT, 0)) is not None:
            self.out.append(left)
            self.finish(left)
        for partition, end in self.ends.items():
            assert sorted(self.done[partition]) == list(range(end)), "lost"
            assert self.assigned[partition].tracker.snapshot() == (end, "")


class HoldingMachine(ParallelMachine):
    """The same, where some messages may not be handed out while a gate is shut."""

    shut: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.buffer = ParallelBuffer(Queue("q", TopicSpec(TOPIC), "g", ready=lambda _: 0.001 if self.shut else None))
        self.assigned = {n: self.assign(n, AckTracker(0)) for n in range(3)}

    @rule(shut=st.booleans(), asked=st.booleans())
    def turn(self, shut: bool, asked: bool) -> None:
        self.shut = shut
        if asked:
            self.buffer.reconsider()

    @rule(target=ParallelMachine.units)
    def take(self) -> Unit | MultipleResults[Unit]:
        unit = self.buffer.take(self.LIMIT, 0)
        if unit is None:
            return multiple()
        self.out.append(unit)
        return unit

    @rule(target=ParallelMachine.ended, unit=consumes(ParallelMachine.units))
    def hold_back(self, unit: Unit) -> Unit:
        self.out.remove(unit)
        message: dramatiq.Message[None] = dramatiq.Message("q", "a", (), {}, {})
        assert self.buffer.hold_back(unit, message, 0)
        return unit

    def teardown(self) -> None:
        self.shut = False
        self.buffer.reconsider()
        super().teardown()


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


quick = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestParallelBuffer = ParallelMachine.TestCase
TestParallelBuffer.settings = quick
TestHoldingBuffer = HoldingMachine.TestCase
TestHoldingBuffer.settings = quick
TestOrderedBuffer = OrderedMachine.TestCase
TestOrderedBuffer.settings = quick


def started(buffer: ParallelBuffer | OrderedBuffer, count: int, partition: int = 0) -> Assignment:
    """A partition that is read from its start, with *count* records delivered."""
    assignment = Assignment(TOPIC, partition, buffer, AckTracker(0), started=True, paused=False)
    if isinstance(buffer, OrderedBuffer):
        buffer.start_at(assignment, 0)
    records = [record(partition, n) for n in range(count) if assignment.tracker.begin(n)]
    buffer.deliver(assignment, records)
    return assignment


def test_a_drain_waits_for_what_has_begun_and_recalls_the_rest() -> None:
    """A rebalance costs the running tasks, not the whole prefetch; what has not begun runs at the next owner only."""
    buffer = ParallelBuffer(parallel_queue())
    assignment = started(buffer, 3)
    running, waiting = buffer.take(9, 0), buffer.take(9, 0)
    assert running is not None
    assert waiting is not None
    assert buffer.begin(running)
    buffer.revoke([assignment])
    assert not buffer.drained([assignment], 0.01)
    threading.Timer(0.02, buffer.finish, [running]).start()
    assert buffer.drained([assignment], 5)
    assert not buffer.begin(waiting)
    buffer.finish(waiting)
    assert assignment.tracker.snapshot() == (1, "")
    assert buffer.outstanding == 0


def test_what_ends_after_its_partition_was_lost_is_remembered_and_not_committed() -> None:
    """Done is done: if the partition comes back, it does not run again."""
    buffer = ParallelBuffer(parallel_queue())
    assignment = started(buffer, 1)
    unit = buffer.take(9, 0)
    assert unit is not None
    assert buffer.begin(unit)
    buffer.forget(assignment)
    buffer.finish(unit)
    assert assignment.tracker.finished() == [(0, 1)]
    assert not assignment.alive


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


def test_records_keep_their_order_when_they_come_back_or_were_set_aside() -> None:
    """A batch that failed, what was requeued, and what waited for room in the map go on where they were."""
    ordered = OrderedBuffer(ordered_queue(3))
    started(ordered, 3)
    unit = ordered.take(1, 0)
    assert unit is not None
    ordered.hold(unit, "no", retry_after_s=0)
    again = ordered.take(1, 0)
    assert again is not None
    assert [one.offset for one in again.records] == [0, 1, 2]
    parallel = ParallelBuffer(parallel_queue())
    assignment = started(parallel, 3)
    parallel.map_is(assignment, full=True)
    assert parallel.take(9, 0) is None
    parallel.map_is(assignment, full=False)
    units = [parallel.take(9, 0) for _ in range(3)]
    for one in reversed(units):
        assert one is not None
        parallel.release(one)
    units = [parallel.take(9, 0) for _ in range(3)]
    assert [one.records[0].offset for one in units if one is not None] == [0, 1, 2]


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


def test_a_reader_that_waits_is_woken_by_a_delivery_and_by_the_end() -> None:
    """No reader sleeps through its time-out when there is something to do."""
    buffer = ParallelBuffer(parallel_queue())
    threading.Timer(0.02, started, [buffer, 1]).start()
    began = time.monotonic()
    assert buffer.take(1, 10) is not None
    threading.Timer(0.02, buffer.stop, ["over"]).start()
    assert buffer.take(2, 10) is None
    assert buffer.stopped == "over"
    assert time.monotonic() - began < 5


def test_a_paused_queue_takes_back_what_has_not_begun_in_its_order() -> None:
    """What runs ends; what Dramatiq keeps for later stays with it; everything else comes again as before."""
    buffer = ParallelBuffer(parallel_queue())
    started(buffer, 5)
    units = [unit for _ in range(4) if (unit := buffer.take(9, 0)) is not None]
    assert buffer.begin(units[0])
    assert buffer.keep(units[1])
    buffer.pause(5.0, "paused: maintenance")
    assert [buffer.begin(unit) for unit in units[2:]] == [False, False]
    for unit in units:
        buffer.finish(unit)
    assert buffer.take(9, 0) is None
    buffer.resume()
    again = [unit.records[0].offset for _ in range(3) if (unit := buffer.take(9, 0)) is not None]
    assert again == [2, 3, 4]


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


def test_what_a_pause_has_taken_back_is_not_kept_for_later() -> None:
    """The pause came first: the reader must not leave it with Dramatiq, which would send it a second time."""
    buffer = ParallelBuffer(parallel_queue())
    started(buffer, 1)
    unit = buffer.take(9, 0)
    assert unit is not None
    buffer.pause(5.0, "paused")
    assert not buffer.keep(unit)
