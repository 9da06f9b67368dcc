"""Batches of an ordered queue: where they end, and that what is read ahead of its turn is what its turn would read."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brokers import claims
from brokers.consecutive import Consecutive
from brokers.errors import Undecodable
from brokers.ordered import OrderedBuffer
from brokers.records import Record, decode
from tests.readers import Bench, taken, value


if TYPE_CHECKING:
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
