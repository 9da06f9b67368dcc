"""Order per key as a state machine: whatever happens, the messages of a key run one after the other, in log order."""

from __future__ import annotations

import threading
import time
from typing import ClassVar

import dramatiq
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, MultipleResults, RuleBasedStateMachine, consumes, invariant, multiple, rule

from brokers import keyed
from brokers.assignment import Assignment, Unit
from brokers.errors import DeliveryRefused
from brokers.keyed import KeyedBuffer, crowded
from brokers.offsets import AckTracker, decode, resumed
from brokers.reader import KafkaMessageProxy, Reader
from brokers.records import Outgoing, Record, encode
from brokers.topics import Queue, TopicSpec


def record(partition: int, offset: int, key: str | None) -> Record:
    """Ten bytes of value at a place; without a *key* it has that of its own message id, as the broker sends it."""
    text = (key or f"id-{offset}").encode()
    return Record("t", partition, offset, 0, text, b"x" * 10, {"message_id": b"id-%d" % offset})


def message() -> dramatiq.Message[None]:
    """What a held unit hands out again."""
    return dramatiq.Message("t", "a", (), {}, {"retries": 1})


class KeyedMachine(RuleBasedStateMachine):
    """Two partitions that come and go, three keys and messages without one; up to four units out at a time."""

    LIMIT: ClassVar[int] = 4
    units: Bundle[Unit] = Bundle("units")
    ended: Bundle[Unit] = Bundle("ended")

    def __init__(self) -> None:
        super().__init__()
        self.buffer = KeyedBuffer(Queue("q", TopicSpec("t"), "g"))
        self.log: dict[int, list[str | None]] = {0: [], 1: []}
        self.done: dict[int, list[int]] = {0: [], 1: []}
        self.out: list[Unit] = []
        self.begun: set[tuple[int, str]] = set()
        self.assigned = {n: self.assign(n, AckTracker(0)) for n in self.log}

    def assign(self, partition: int, tracker: AckTracker) -> Assignment:
        return Assignment("t", partition, self.buffer, tracker, started=True, paused=False)

    def key(self, unit: Unit) -> tuple[int, str] | None:
        key = self.log[unit.records[0].partition][unit.records[0].offset]
        return None if key is None else (unit.assignment.partition, key)

    @rule(partition=st.integers(0, 1), keys=st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=6))
    def deliver(self, partition: int, keys: list[str | None]) -> None:
        first = len(self.log[partition])
        self.log[partition] += keys
        self.hand_in(partition, range(first, len(self.log[partition])))

    def hand_in(self, partition: int, offsets: range) -> None:
        assignment, log = self.assigned[partition], self.log[partition]
        fresh = [record(partition, n, log[n]) for n in offsets if assignment.tracker.begin(n)]
        self.buffer.deliver(assignment, fresh)

    @rule(target=units)
    def take(self) -> Unit | MultipleResults[Unit]:
        unit = self.buffer.take(self.LIMIT, 0)
        if unit is None:
            return multiple()
        key = self.key(unit)
        if key is not None:
            partition, offset = unit.assignment.partition, unit.records[0].offset
            earlier = [n for n in range(offset) if self.log[partition][n] == key[1]]
            assert set(earlier) <= set(self.done[partition]), "overtaken"
            assert not any(self.key(other) == key and other in other.assignment.running for other in self.out)
        self.out.append(unit)
        return unit

    def begin(self, unit: Unit) -> bool:
        """Work begins; what Dramatiq does when it was recalled."""
        self.out.remove(unit)
        return self.buffer.begin(unit)

    @rule(target=ended, unit=consumes(units))
    def finish(self, unit: Unit) -> Unit:
        if self.begin(unit):
            [one] = unit.records
            assert one.offset not in self.done[one.partition], "ran twice"
            self.done[one.partition].append(one.offset)
        self.buffer.finish(unit)
        return unit

    @rule(target=ended, unit=consumes(units))
    def release(self, unit: Unit) -> Unit:
        self.out.remove(unit)
        self.buffer.release(unit)
        return unit

    @rule(target=ended, unit=consumes(units), delay_s=st.sampled_from([0.0, 0.0, 1000.0]))
    def fail(self, unit: Unit, delay_s: float) -> Unit:
        if unit.lane is None:
            self.out.remove(unit)
            self.buffer.release(unit)
            return unit
        running = self.begin(unit)
        self.buffer.hold(unit, "no", delay_s, message())
        assert not running or self.buffer.held_keys(unit.assignment)
        return unit

    @rule()
    def time_passes(self) -> None:
        """All holds are due."""
        self.buffer._holds = [(0.0, number, unit) for _, number, unit in self.buffer._holds]

    @rule(unit=ended)
    def end_again(self, unit: Unit) -> None:
        """Dramatiq acks again after a connection error, and requeues what it has acked."""
        self.buffer.finish(unit)
        self.buffer.release(unit)
        self.buffer.hold(unit, "again", 0, message())

    @rule(partition=st.integers(0, 1), full=st.booleans())
    def fill_map(self, partition: int, full: bool) -> None:
        assignment = self.assigned[partition]
        if full != assignment.map_full:
            self.buffer.map_is(assignment, full=full)

    @rule(partition=st.integers(0, 1))
    def hand_over(self, partition: int) -> None:
        """The partition moves away, gracefully, and the next owner is this same buffer."""
        old = self.assigned[partition]
        self.buffer.revoke([old])
        assert self.buffer.drained([old], 0)
        commit = old.tracker.snapshot()
        self.buffer.forget(old)
        assert not self.buffer.held_keys(old)
        tracker = resumed(commit.offset, decode(commit.offset, commit.metadata))
        self.assigned[partition] = self.assign(partition, tracker)
        self.hand_in(partition, range(commit.offset, len(self.log[partition])))

    @invariant()
    def every_record_is_in_one_place(self) -> None:
        for partition, assignment in self.assigned.items():
            waiting = assignment.waiting + assignment.behind
            assert assignment.tracker.unfinished == waiting + len(assignment.running)
            assert assignment.tracker.unfinished + len(self.done[partition]) == len(self.log[partition])
            assert (assignment.waiting_bytes > 0, assignment.behind_bytes > 0) == (
                assignment.waiting > 0,
                assignment.behind > 0,
            )

    @invariant()
    def only_busy_keys_are_remembered(self) -> None:
        """Or a queue whose every message has a key of its own would fill the memory."""
        idle = [a for a in self.assigned.values() if not (a.running or a.waiting or a.behind)]
        out = {self.key(unit) for unit in self.out}
        for assignment in idle:
            assert {(assignment.partition, key.decode()) for key in self.buffer._lanes[assignment.partition]} <= out

    @invariant()
    def only_what_is_held_is_remembered_as_held(self) -> None:
        """A partition that moved must leave nothing for the days that a backoff may take."""
        held = [unit for _, _, unit in self.buffer._holds]
        assert all(unit.lane is not None and unit.lane.head is unit for unit in held)
        assert {unit.assignment for unit in held} <= set(self.assigned.values())

    def teardown(self) -> None:
        for assignment in self.assigned.values():
            self.buffer.map_is(assignment, full=False)
        for unit in list(self.out):
            self.finish(unit)
        self.time_passes()
        while isinstance(left := self.take(), Unit):
            self.finish(left)
        for partition, keys in self.log.items():
            assert sorted(self.done[partition]) == list(range(len(keys))), "lost"
            assert self.assigned[partition].tracker.snapshot() == (len(keys), "")
        assert not any(self.buffer._lanes.values())


TestKeyedBuffer = KeyedMachine.TestCase
TestKeyedBuffer.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


def started(keys: str) -> tuple[KeyedBuffer, Assignment]:
    """A partition with a record for each letter, which is its key; ``.`` is none."""
    buffer = KeyedBuffer(Queue("q", TopicSpec("t"), "g"))
    assignment = Assignment("t", 0, buffer, AckTracker(0), started=True, paused=False)
    add(buffer, assignment, keys)
    return buffer, assignment


def add(buffer: KeyedBuffer, assignment: Assignment, keys: str) -> None:
    """More records, one for each letter."""
    first = assignment.tracker.next
    records = [record(0, first + n, None if key == "." else key) for n, key in enumerate(keys)]
    buffer.deliver(assignment, [one for one in records if assignment.tracker.begin(one.offset)])


def taken(buffer: KeyedBuffer, timeout_s: float = 0) -> Unit:
    """The next unit, begun."""
    unit = buffer.take(99, timeout_s)
    assert unit is not None
    assert buffer.begin(unit)
    return unit


def offsets(buffer: KeyedBuffer) -> list[int]:
    """All that can be handed out."""
    found = []
    while (unit := buffer.take(99, 0)) is not None:
        found.append(unit.records[0].offset)
    return found


def test_keys_run_beside_each_other_and_each_for_itself_in_order() -> None:
    """The first of each key, and all without one; the next of a key comes first as soon as the one before has ended."""
    buffer, _ = started("aaba.b.")
    first = taken(buffer)
    assert offsets(buffer) == [2, 4, 6]
    buffer.finish(first)
    assert offsets(buffer) == [1]


def test_a_failed_message_keeps_its_key_waiting_and_no_other() -> None:
    """It comes again with the message that the failed attempt has left, after its pause."""
    buffer, assignment = started("ab.a")
    unit = taken(buffer)
    again = message()
    buffer.hold(unit, "ValueError: five", 0.05, again)
    assert offsets(buffer) == [1, 2]
    held = buffer.held_keys(assignment)["a"]
    assert (held.reason, held.attempts) == ("ValueError: five", 1)
    unit = taken(buffer, timeout_s=5)
    assert (unit.records[0].offset, unit.message) == (0, again)
    buffer.hold(unit, "ValueError: six", 0, again)
    assert buffer.held_keys(assignment)["a"].attempts == 2
    assert buffer.held_keys(assignment)["a"].since == held.since
    buffer.finish(taken(buffer))
    assert buffer.held_keys(assignment) == {}
    assert offsets(buffer) == [3]


def test_a_hold_that_is_due_does_not_keep_the_taker_awake_while_the_prefetch_is_full() -> None:
    """It looks again when something ends, and seldom besides."""
    buffer, _ = started("a.")
    buffer.hold(taken(buffer), "no", 0, message())
    other = taken(buffer)
    assert other.records[0].offset == 0
    looks = 0
    wait = buffer.changed.wait

    def counted(timeout: float | None = None) -> bool:
        nonlocal looks
        looks += 1
        return wait(timeout)

    buffer.hold(other, "no", 0, message())
    taken(buffer)
    buffer.changed.wait = counted  # type: ignore[method-assign]
    assert buffer.take(1, 0.2) is None
    assert looks < 10


def test_a_key_whose_message_of_a_lost_assignment_runs_here_still_waits_for_it() -> None:
    """Two threads must never be inside one key, even when Kafka has taken the partition away and given it back."""
    buffer, old = started("aa")
    unit = taken(buffer)
    buffer.forget(old)
    new = Assignment("t", 0, buffer, AckTracker(0), started=True, paused=False)
    add(buffer, new, "aa")
    assert offsets(buffer) == []
    buffer.finish(unit)
    assert offsets(buffer) == [0]


def test_a_blocked_key_does_not_fill_the_map_against_itself() -> None:
    """What was begun before the map was full is handed out again, and what it let pass behind it too."""
    buffer, assignment = started("aa..")
    unit = taken(buffer)
    buffer.finish(taken(buffer))
    buffer.finish(taken(buffer))
    buffer.map_is(assignment, full=True)
    add(buffer, assignment, ".")
    buffer.hold(unit, "no", 0, message())
    assert offsets(buffer) == [0]
    buffer.map_is(assignment, full=False)
    assert offsets(buffer) == [4]


def test_a_message_given_back_while_the_map_is_full_comes_again() -> None:
    """Only it can make the map shorter, so waiting for a shorter map would never end."""
    buffer, assignment = started("....")
    first = taken(buffer)
    buffer.finish(taken(buffer))
    buffer.map_is(assignment, full=True)
    buffer.release(first)
    assert offsets(buffer) == [0]


def test_what_waits_behind_a_key_counts_for_itself_up_to_a_limit() -> None:
    """So that neighbours are read on; the memory is bounded all the same."""
    buffer, assignment = started("a" * 50 + ".")
    taken(buffer)
    assert offsets(buffer) == [50]
    assert (assignment.waiting, assignment.waiting_bytes) == (0, 0)
    assert assignment.behind == 49
    assert not crowded([assignment])
    assignment.behind = keyed.BEHIND
    assert crowded([assignment])
    assignment.behind, assignment.behind_bytes = 1, keyed.BEHIND_BYTES
    assert crowded([assignment])


def test_a_taker_that_waits_is_woken_when_its_key_is_free() -> None:
    """Not only when something new arrives."""
    buffer, _ = started("aa")
    unit = taken(buffer)
    began = time.monotonic()
    threading.Timer(0.02, buffer.finish, [unit]).start()
    assert taken(buffer, timeout_s=10).records[0].offset == 1
    assert time.monotonic() - began < 5


class Bench:
    """A reader of one message with a key."""

    def __init__(self, **options: object) -> None:
        queue = Queue("t", TopicSpec("t"), "g")
        self.buffer = KeyedBuffer(queue)
        self.assignment = Assignment("t", 0, self.buffer, AckTracker(0), started=True, paused=False)
        self.assignment.tracker.begin(0)
        out = encode(dramatiq.Message("t", "a", (), {}, {"key": "k", **options}), "t")
        self.buffer.deliver(self.assignment, [Record("t", 0, 0, 0, out.key, out.value, out.headers)])
        self.parked: list[Outgoing] = []
        self.sent: list[object] = []
        self.reader = Reader(queue, self.buffer, park=self.park, send=self.send, prefetch=9, timeout_s=0)

    def park(self, record: Outgoing, spec: TopicSpec) -> None:
        self.parked.append(record)

    def send(self, served: KafkaMessageProxy, message: dramatiq.Message[object], delay: int | None) -> None:
        self.sent.append(message)

    def taken(self) -> KafkaMessageProxy:
        proxy = next(self.reader)
        assert proxy is not None
        assert proxy.begin()
        return proxy

    def failed(self) -> KafkaMessageProxy:
        """The message as Dramatiq's Retries leaves it when it asks for a retry at once."""
        proxy = self.taken()
        proxy.stuff_exception(ValueError("five"))
        proxy.options["retries"] = proxy.options.get("retries", 0) + 1
        assert proxy.keep_place(proxy, 0)  # type: ignore[arg-type]  # Retries enqueues the proxy itself
        return proxy


def test_a_retry_that_middleware_asks_for_happens_in_place_with_its_count() -> None:
    """Nothing is sent; the next attempt knows how many there were."""
    bench = Bench()
    for attempts in (1, 2):
        bench.reader.ack(bench.failed())
        held = bench.buffer.held_keys(bench.assignment)["k"]
        assert (held.reason, held.attempts) == ("ValueError: five", attempts)
    proxy = bench.taken()
    assert proxy.options["retries"] == 2
    bench.reader.ack(proxy)
    assert bench.assignment.tracker.snapshot() == (1, "")
    assert (bench.sent, bench.parked) == ([], [])


def test_an_attempt_that_was_given_back_keeps_its_count() -> None:
    """A worker that ends in this process gives back what it had not begun."""
    bench = Bench()
    bench.reader.ack(bench.failed())
    proxy = next(bench.reader)
    assert proxy is not None
    bench.reader.requeue([proxy])
    assert bench.taken().options["retries"] == 1


def test_what_middleware_sends_besides_is_no_retry() -> None:
    """A callback, or the message sent on to another queue."""
    bench = Bench()
    proxy = bench.taken()
    assert not proxy.keep_place(message(), 0)
    assert not proxy.keep_place(proxy.copy(queue_name="other"), 0)


def test_a_retry_in_place_waits_for_what_is_owed_and_parks_what_cannot_be_sent() -> None:
    """As any other ack does."""
    bench = Bench()
    proxy = bench.failed()
    callback = message()
    proxy.owed = [(callback, None)]
    bench.reader.ack(proxy)
    assert bench.sent == [callback]
    proxy = bench.failed()
    proxy.send_error = DeliveryRefused("too large")
    bench.reader.ack(proxy)
    assert len(bench.parked) == 1
    assert bench.buffer.held_keys(bench.assignment) == {}


def test_a_message_with_a_key_never_sleeps_in_dramatiqs_hands() -> None:
    """It would keep its key waiting for its time; its place is its time."""
    assert "eta" not in Bench(eta=2**50).taken().options
