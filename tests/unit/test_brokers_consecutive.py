"""Batches of an ordered queue: where they end, and that what is read ahead of its turn is what its turn would read."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brokers import claims, signing
from brokers.consecutive import Consecutive
from brokers.errors import Undecodable, WrongTopic
from brokers.ordered import QUICK_S, SLOW_S, OrderedBuffer
from brokers.records import Record, decode
from brokers.topics import Compact
from tests.readers import Bench, taken, value


if TYPE_CHECKING:
    from collections.abc import Sequence

    import dramatiq

    from brokers.reader import KafkaMessageProxy, Reader


class Decoder:
    """Counts what it decodes."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, record: Record, queue_name: str) -> dramatiq.Message[Any]:
        self.seen.append(record.offset)
        return decode(record, queue_name)


def batch_of(message: KafkaMessageProxy) -> Consecutive:
    """What the actor gets."""
    [messages] = message.args
    assert isinstance(messages, Consecutive)
    return messages


def offsets(messages: Consecutive) -> list[int]:
    """Where they stand in the log."""
    return [message.record.offset for message in messages]


def ordered(bench: Bench) -> OrderedBuffer:
    """Its buffer."""
    assert isinstance(bench.buffer, OrderedBuffer)
    return bench.buffer


def started_at(bench: Bench, offset: int) -> Bench:
    """The bench, whose log is read from *offset* on."""
    bench.assignment.tracker.reached(offset)
    ordered(bench).start_at(bench.assignment, offset)
    return bench


@settings(deadline=None)
@given(start=st.integers(0, 20), count=st.integers(1, 40), batch=st.integers(1, 8))
def test_batches_end_at_multiples_of_their_size_wherever_reading_begins(start: int, count: int, batch: int) -> None:
    """So that, after the first one, all are whole, and fill a checkpoint's interval that is a multiple of it."""
    bench = started_at(Bench(ordered=True, batch=batch), start).deliver(*[value()] * count)
    reader = bench.reader()
    found = []
    while (message := next(reader)) is not None:
        found.append(offsets(batch_of(message)))
        reader.ack(message)
    assert list(chain.from_iterable(found)) == list(range(start, start + count))
    assert all(len({offset // batch for offset in one}) == 1 for one in found)
    assert len(found) == (start + count - 1) // batch - start // batch + 1


def test_what_is_read_ahead_is_not_read_again() -> None:
    """The batch behind the one that runs, and no more than that."""
    decoder = Decoder()
    bench = Bench(ordered=True, batch=2, decode=decoder).deliver(*[value()] * 6)
    reader = bench.reader()
    message = taken(reader)
    batch_of(message).read_ahead(9)
    assert decoder.seen == [0, 1, 2, 3]
    batch_of(message).read_ahead(9)
    assert decoder.seen == [0, 1, 2, 3]
    reader.ack(message)
    assert offsets(batch_of(taken(reader))) == [2, 3]
    assert decoder.seen == [0, 1, 2, 3]


def test_what_was_read_ahead_is_forgotten_when_the_log_is_read_from_elsewhere() -> None:
    """It is the record that counts, not its offset: a topic may have been made anew meanwhile."""
    bench = Bench(ordered=True, batch=2).deliver(value(), value(), value("old"), value("old"))
    reader = bench.reader()
    message = taken(reader)
    batch_of(message).read_ahead(9)
    reader.ack(message)
    bench.buffer.forget(bench.assignment)
    bench.assign()
    bench = started_at(bench, 2).deliver(value("new"), value("new"))
    assert [one.actor_name for one in batch_of(taken(reader))] == ["new", "new"]


def test_a_record_that_cannot_be_read_fails_in_its_turn_and_not_ahead() -> None:
    """What runs has nothing to do with it."""
    bench = Bench(ordered=True, batch=2).deliver(value(), value(), value(), b"garbage", value())
    reader = bench.reader()
    message = taken(reader)
    batch_of(message).read_ahead(9)
    assert bench.kafka.parked == []
    reader.ack(message)
    message = taken(reader)
    assert offsets(batch_of(message)) == [2]
    batch_of(message).read_ahead(9)
    reader.ack(message)
    assert next(reader) is None
    assert [error for error, _ in bench.kafka.told] == [Undecodable.__name__]
    assert offsets(batch_of(taken(reader))) == [4]


def test_content_that_lies_elsewhere_is_not_fetched_ahead() -> None:
    """Fetching it may take longer than the actor has to wait."""
    decoder = Decoder()
    bench = Bench(ordered=True, batch=1, decode=decoder).deliver(value())
    claimed = Record("q", 0, 1, 0, None, value(), {claims.HEADER: b"{}"})
    bench.buffer.deliver(bench.assignment, [claimed])
    batch_of(taken(bench.reader())).read_ahead(9)
    assert decoder.seen == [0]


def running(bench: Bench) -> tuple[Reader, Consecutive]:
    """A reader, and a batch of it that runs."""
    reader = bench.reader()
    return reader, batch_of(taken(reader))


def test_more_follows_while_records_wait_that_may_be_handed_out() -> None:
    """Only then may the actor leave something to the next batch."""
    bench = Bench(ordered=True, batch=2).deliver(value(), value(), value())
    _, batch = running(bench)
    found = [batch.more]
    bench.buffer.pause(0, "for now")
    found.append(batch.more)
    bench.buffer.resume()
    found.append(batch.more)
    bench.buffer.revoke([bench.assignment])
    found.append(batch.more)
    assert found == [True, False, True, False]


@pytest.mark.parametrize("how", ["the last batch", "a partition that is gone", "a queue that has ended"])
def test_nothing_follows(how: str) -> None:
    """Then the actor has to end what it began itself."""
    bench = Bench(ordered=True, batch=2).deliver(value(), value(), *[value()] * (how != "the last batch"))
    _, batch = running(bench)
    if how == "a partition that is gone":
        bench.buffer.forget(bench.assignment)
    elif how == "a queue that has ended":
        bench.buffer.stop("closed")
    assert not batch.more


def compacting(**options: Any) -> Bench:
    """A bench whose records of actor ``a`` are read the short way, but for those with the option ``long``."""

    def read(records: Sequence[Record]) -> list[int | None]:
        return [record.offset if is_short(record.value or b"") else None for record in records]

    def is_short(content: bytes) -> bool:
        return b'"actor_name":"a"' in content and b"long" not in content

    return Bench(ordered=True, compact=Compact("a", read), **options)


def items(messages: Consecutive) -> list[int | str]:
    """What the actor gets: a number for what was read the short way, a name for a message."""
    return [one if isinstance(one, int) else f"{one.actor_name}@{one.record.offset}" for one in messages]


def test_plain_records_are_read_the_short_way_but_for_the_first() -> None:
    """That one's message says whose the batch is."""
    bench = compacting(batch=9).deliver(value(), value(), value(long=1), value(), value("b"), value())
    reader = bench.reader()
    message = taken(reader)
    assert items(batch_of(message)) == ["a@0", 1, "a@2", 3]
    reader.ack(message)
    message = taken(reader)
    assert items(batch_of(message)) == ["b@4"]
    reader.ack(message)
    assert items(batch_of(taken(reader))) == ["a@5"]
    assert bench.committed == 5


def test_what_was_read_ahead_the_short_way_is_what_the_actor_gets() -> None:
    """So many at a time, and the rest in its turn."""
    bench = compacting(batch=4).deliver(*[value()] * 8)
    reader = bench.reader()
    message = taken(reader)
    found = [items(Consecutive(batch_of(message).read_ahead(most), None)) for most in (1, 2)]  # type: ignore[arg-type]
    assert found == [["a@4"], ["a@4", 5, 6]]
    reader.ack(message)
    assert items(batch_of(taken(reader))) == ["a@4", 5, 6, 7]


def test_a_signed_record_is_not_read_the_short_way_by_who_cannot_verify_it() -> None:
    """Another process may refuse it."""
    bench = compacting(batch=9, refused=refused).deliver(value())
    signed = Record("q", 0, 1, 0, None, value(), {signing.SIGNATURE: b"x"})
    bench.assignment.tracker.begin(1)
    bench.buffer.deliver(bench.assignment, [signed])
    reader = bench.reader()
    message = taken(reader)
    assert items(batch_of(message)) == ["a@0"]


def refused(record: Record, queue_name: str, reason: str) -> dramatiq.Message[Any]:
    """Stands for a record that may not be read."""
    return decode(Record("q", 0, record.offset, 0, None, value(reason)), queue_name)


def test_batches_grow_while_they_end_quickly_and_shrink_when_they_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Doubled, from multiples of the least size to multiples of the largest."""
    clock = [100.0]
    monkeypatch.setattr("brokers.ordered.time.monotonic", lambda: clock[0])
    bench = Bench(ordered=True, batch=8, least=2).deliver(*[value()] * 40)
    reader = bench.reader()
    found = []
    between = (QUICK_S + SLOW_S) / 2
    for seconds in (0.0, 0.0, 0.0, 0.0, SLOW_S * 2, between, between, 0.0):
        message = taken(reader)
        found.append(offsets(batch_of(message)))
        clock[0] += seconds
        reader.ack(message)
    assert [len(one) for one in found] == [2, 2, 4, 8, 8, 2, 2, 2]
    assert [one[0] for one in found] == [0, 2, 4, 8, 16, 24, 26, 28]


@pytest.mark.parametrize("wrong", [{"least": 4}, {"batch": 2, "least": 3}, {"batch": 2, "least": 0}])
def test_only_batches_grow(wrong: dict[str, int]) -> None:
    """And up to their size."""
    with pytest.raises(WrongTopic, match="grow"):
        Bench(ordered=True, **wrong)


def test_only_batches_are_read_the_short_way() -> None:
    """Without them every message is wanted as one."""
    with pytest.raises(WrongTopic, match="message"):
        compacting()
