"""The buffer of an unordered queue: whatever happens in whatever order, nothing is lost and nothing runs twice."""

from __future__ import annotations

import threading
import time
from typing import ClassVar

import dramatiq
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
)

from brokers.assignment import Assignment, Unit
from brokers.offsets import AckTracker, decode, resumed
from brokers.parallel import ParallelBuffer
from brokers.topics import Queue, TopicSpec
from tests.buffers import QUICK, TOPIC, parallel_queue, record, started


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


TestParallelBuffer = ParallelMachine.TestCase
TestParallelBuffer.settings = QUICK
TestHoldingBuffer = HoldingMachine.TestCase
TestHoldingBuffer.settings = QUICK


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


def test_records_keep_their_order_when_they_come_back_or_were_set_aside() -> None:
    """What was requeued, and what waited for room in the map, go on where they were."""
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


def test_what_a_pause_has_taken_back_is_not_kept_for_later() -> None:
    """The pause came first: the reader must not leave it with Dramatiq, which would send it a second time."""
    buffer = ParallelBuffer(parallel_queue())
    started(buffer, 1)
    unit = buffer.take(9, 0)
    assert unit is not None
    buffer.pause(5.0, "paused")
    assert not buffer.keep(unit)
