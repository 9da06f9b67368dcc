"""What a reader may not read, or not now: parked, held, or refused by every replica alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dramatiq
import pytest

from brokers.errors import (
    BadSignature,
    ClaimBroken,
    ClaimGone,
    StoreAway,
    Undecodable,
    UnknownKey,
    Unsigned,
)
from brokers.reader import Reader
from brokers.records import Record, decode
from tests.readers import Bench, taken, value


if TYPE_CHECKING:
    from brokers.topics import Queue


class Lock:
    """An envelope that opens nothing as long as there is an error; contents from elsewhere may be large."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.content = b""

    def open(self, record: Record, queue: Queue) -> Record:
        if self.error is not None:
            raise self.error
        return record.with_value((record.value or b"") + self.content)

    def decode(self, record: Record, queue_name: str) -> dramatiq.Message[Any]:
        return decode(record, queue_name)


def locked(bench: Bench, error: Exception | None) -> tuple[Reader, Lock]:
    """A reader of *bench* behind a lock."""
    lock: Any = Lock(error)
    park, send = bench.kafka.park, bench.kafka.send
    return Reader(bench.queue, bench.buffer, park=park, send=send, prefetch=9, timeout_s=0, envelope=lock), lock


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("error", [Unsigned("no"), BadSignature("no"), UnknownKey("no"), ClaimGone("no")])
def test_what_may_not_be_read_is_parked_by_its_kind(ordered: bool, error: Undecodable) -> None:
    """With its headers and its value untouched, so that it can be sent again as it was."""
    bench = Bench(ordered=ordered).deliver(value())
    reader, _ = locked(bench, error)
    assert next(reader) is None
    assert bench.kafka.told == [(type(error).__name__, "no")]
    assert bench.committed == 1


def test_while_the_store_is_away_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message is tried again after a pause, and is not done before."""
    monkeypatch.setattr("brokers.parallel.HELD_S", 0.0)
    bench = Bench().deliver(value("first"), value("second"))
    reader, lock = locked(bench, StoreAway("away"))
    assert next(reader) is None
    lock.error = None
    seen = [taken(reader).actor_name, taken(reader).actor_name]
    assert sorted(seen) == ["first", "second"]
    assert bench.kafka.parked == []
    assert bench.committed == 0


def test_a_held_message_of_a_partition_that_moves_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the new owner's."""
    monkeypatch.setattr("brokers.parallel.HELD_S", 0.0)
    bench = Bench().deliver(value())
    reader, lock = locked(bench, StoreAway("away"))
    assert next(reader) is None
    assert bench.assignment.waiting == 1
    bench.buffer.revoke([bench.assignment])
    lock.error = None
    assert next(reader) is None
    assert (bench.assignment.waiting, bench.buffer.outstanding) == (0, 0)


def test_a_full_map_does_not_keep_a_held_message_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the gap that makes the map long."""
    monkeypatch.setattr("brokers.parallel.HELD_S", 0.0)
    bench = Bench().deliver(value("first"), value("second"))
    reader, lock = locked(bench, StoreAway("away"))
    assert next(reader) is None
    bench.buffer.map_is(bench.assignment, full=True)
    lock.error = None
    assert taken(reader).actor_name == "first"
    assert next(reader) is None


@pytest.mark.parametrize("batch", [None, 5])
def test_an_ordered_queue_waits_for_the_store(batch: int | None) -> None:
    """Nothing overtakes; why is told."""
    bench = Bench(ordered=True, batch=batch).deliver(value(), value())
    reader, lock = locked(bench, StoreAway("away"))
    assert next(reader) is None
    assert next(reader) is None
    held = bench.buffer.held(bench.assignment)
    assert held is not None
    assert held.reason == "away"
    assert bench.kafka.parked == []
    lock.error = None
    bench.buffer._not_before = 0.0  # type: ignore[attr-defined]  # the pause
    message = taken(reader)
    assert message.record.offset == 0
    assert len(message.unit.records) == ((batch and 2) or 1)


def refused(record: Record, queue_name: str, reason: str) -> dramatiq.Message[Any]:
    """What a replica makes of a record that it may not read."""
    return dramatiq.Message(queue_name, "a", (), {}, {"refused": reason})


@pytest.mark.parametrize("error", [Unsigned("no"), BadSignature("no"), Undecodable("no")])
def test_a_replica_refuses_what_every_replica_refuses(error: Undecodable) -> None:
    """In its place in the log, as a message like any other."""
    bench = Bench(ordered=True, refused=refused).deliver(value())
    reader, _ = locked(bench, error)
    message = taken(reader)
    assert message.options == {"refused": f"{type(error).__name__}: no"}
    assert bench.kafka.parked == []


@pytest.mark.parametrize("error", [UnknownKey("no"), ClaimGone("no"), ClaimBroken("no"), StoreAway("no")])
def test_a_replica_holds_what_another_may_be_able_to_read(error: Exception) -> None:
    """Rather it stands still than that it differs."""
    bench = Bench(ordered=True, refused=refused).deliver(value())
    reader, _ = locked(bench, error)
    assert next(reader) is None
    assert bench.kafka.parked == []
    assert bench.buffer.held(bench.assignment) is not None


def test_a_replica_without_keys_holds_what_is_signed() -> None:
    """It cannot judge it; on any other queue a signature that nobody asked for does no harm."""
    record = Record("q", 0, 0, 0, None, value(), {"sig": b"x", "sig.key": b"y"})
    for bench, parked in ((Bench(ordered=True, refused=refused), True), (Bench(ordered=True), False)):
        bench.assignment.tracker.begin(0)
        bench.buffer.deliver(bench.assignment, [record])
        assert (next(bench.reader()) is None) == parked


def test_a_batch_of_large_contents_is_cut() -> None:
    """Their records are small, so the buffer cannot know."""
    bench = Bench(ordered=True, batch=9).deliver(*[value() for _ in range(5)])
    reader, lock = locked(bench, None)
    lock.content = b" " * 1_500_000
    assert len(taken(reader).unit.records) == 2
