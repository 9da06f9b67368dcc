"""Batches of an ordered queue: where they end, and that what comes while one runs is a part of it, or has its turn."""

from __future__ import annotations

import threading
import time
from itertools import chain
from typing import TYPE_CHECKING, Any

import pytest
from dramatiq.errors import Retry
from hypothesis import given, settings
from hypothesis import strategies as st

from brokers import claims, signing
from brokers.consecutive import Consecutive
from brokers.errors import Undecodable, WrongTopic
from brokers.ordered import GROWN_BYTES, GROWS_S, OrderedBuffer
from brokers.records import Record, decode
from brokers.topics import Compact
from tests.readers import Bench, failed, taken, value


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


def offsets(messages: Sequence[Any]) -> list[int]:
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


def grown(batch: Consecutive) -> list[list[int]]:
    """The offsets of all that comes to it, as it comes."""
    found = []
    while more := batch.further():
        found.append(offsets(more))
    return found


@settings(deadline=None)
@given(
    start=st.integers(0, 20),
    batch=st.integers(1, 8),
    steps=st.lists(st.one_of(st.integers(0, 12), st.sampled_from(["further", "ack", "fail"])), max_size=20),
)
def test_whatever_comes_to_a_batch_is_handed_out_in_order_and_ends_with_it(
    start: int, batch: int, steps: list[int | str]
) -> None:
    """Once where batches succeed; what a failed one had comes again, all of it and first."""
    bench = started_at(Bench(ordered=True, batch=batch), start)
    reader = bench.reader()
    done, end, running = start, start, None
    for step in (*steps, "further", "ack"):
        if isinstance(step, int):
            bench.deliver(*[value()] * step)
            end += step
            continue
        if running is None and (handed := next(reader)) is not None:
            assert handed.begin()
            running, had = handed, offsets(batch_of(handed))
        if running is None:
            continue
        if step == "further":
            had += chain.from_iterable(grown(batch_of(running)))
            assert had[-1] == end - 1
        elif step == "ack":
            assert had == list(range(done, done + len(had)))
            reader.ack(running)
            done, running = done + len(had), None
        else:
            reader.nack(failed(running, Retry(delay=0)))
            running = None
        assert bench.committed == done
    assert bench.buffer.outstanding == (running is not None)


def test_what_comes_to_a_batch_ends_where_batches_do() -> None:
    """So that it fills what its actor does at round offsets."""
    bench = started_at(Bench(ordered=True, batch=4), 2).deliver(*[value()] * 9)
    _, batch = running(bench)
    assert offsets(batch) == [2, 3]
    assert grown(batch) == [[4, 5, 6, 7], [8, 9, 10]]


def test_nothing_comes_that_is_here_later() -> None:
    """A batch that has asked in vain ends; what comes then is handed out in its turn."""
    bench = Bench(ordered=True, batch=2).deliver(value())
    reader, batch = running(bench)
    assert grown(batch) == []
    bench.deliver(value())
    assert next(reader) is None
    assert grown(batch) == [[1]]


def test_what_comes_soon_may_be_waited_for() -> None:
    """It goes to who waits, at once, and to nobody else."""
    bench = Bench(ordered=True, batch=2).deliver(value())
    reader, batch = running(bench)
    threading.Timer(0.05, bench.deliver, [value()]).start()
    began = time.monotonic()
    assert offsets(batch.further(60)) == [1]
    assert time.monotonic() - began < 30
    assert next(reader) is None
    assert batch.further(0.01) == ()


def test_nothing_is_waited_for_by_who_may_not_have_it() -> None:
    """Its end is waited for."""
    bench = Bench(ordered=True, batch=2).deliver(value())
    _, batch = running(bench)
    bench.buffer.pause(0, "for now")
    began = time.monotonic()
    assert batch.further(60) == ()
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    "how", ["pause", "revoke", "forget", "stop", "start anew", "a suspect waits", "long enough", "too large"]
)
def test_whoever_waits_for_the_end_of_a_batch_does_not_wait_for_longer(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may not grow then, and what waits stays where it is."""
    clock = [100.0]
    monkeypatch.setattr("brokers.ordered.time.monotonic", lambda: clock[0])
    bench = Bench(ordered=True, batch=1).deliver(value(), value())
    _, batch = running(bench)
    buffer = ordered(bench)
    if how == "pause":
        buffer.pause(0, "for now")
    elif how == "revoke":
        buffer.revoke([bench.assignment])
    elif how == "forget":
        buffer.forget(bench.assignment)
    elif how == "stop":
        buffer.stop("closed")
    elif how == "start anew":
        bench.assignment.started = False
    elif how == "a suspect waits":
        monkeypatch.setattr("brokers.suspects.Alone.taken", True)
    elif how == "long enough":
        clock[0] += GROWS_S + 0.01
    else:
        batch._size = GROWN_BYTES
    assert grown(batch) == []
    assert not (batch.more and how in {"pause", "revoke", "forget", "stop", "start anew"})


def test_what_cannot_be_read_has_its_own_turn() -> None:
    """What runs has nothing to do with it."""
    bench = Bench(ordered=True, batch=2).deliver(value(), value(), value(), b"garbage", value())
    reader = bench.reader()
    message = taken(reader)
    assert grown(batch_of(message)) == [[2]]
    assert bench.kafka.parked == []
    reader.ack(message)
    assert next(reader) is None
    assert [error for error, _ in bench.kafka.told] == [Undecodable.__name__]
    assert offsets(batch_of(taken(reader))) == [4]


def test_another_actors_messages_have_their_own_turn() -> None:
    """As in a batch that does not grow."""
    bench = Bench(ordered=True, batch=2).deliver(value(), value(), value(), value("b"), value())
    reader = bench.reader()
    message = taken(reader)
    assert grown(batch_of(message)) == [[2]]
    reader.ack(message)
    message = taken(reader)
    assert [one.actor_name for one in batch_of(message)] == ["b"]
    assert grown(batch_of(message)) == []


def test_content_that_lies_elsewhere_is_not_fetched_while_an_actor_waits_for_other_things() -> None:
    """Fetching it may take longer than the actor has to wait."""
    decoder = Decoder()
    bench = Bench(ordered=True, batch=1, decode=decoder).deliver(value())
    claimed = Record("q", 0, 1, 0, None, value(), {claims.HEADER: b"{}"})
    bench.buffer.deliver(bench.assignment, [claimed])
    _, batch = running(bench)
    assert grown(batch) == []
    assert decoder.seen == [0]


def test_a_decoder_that_is_interrupted_leaves_nothing_behind() -> None:
    """What its actor did not get is not done when that ends."""

    class Interrupt(BaseException):
        """What Dramatiq raises in a thread at any moment."""

    def decoding(record: Record, queue_name: str) -> dramatiq.Message[Any]:
        if record.offset == 2:
            raise Interrupt
        return decode(record, queue_name)

    bench = Bench(ordered=True, batch=2, decode=decoding).deliver(*[value()] * 4)
    reader = bench.reader()
    message = taken(reader)
    with pytest.raises(Interrupt):
        batch_of(message).further()
    reader.ack(message)
    assert bench.committed == 2


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


def items(messages: Sequence[Any]) -> list[int | str]:
    """What the actor gets: a number for what was read the short way, a name for a message."""
    return [one if isinstance(one, int) else f"{one.actor_name}@{one.record.offset}" for one in messages]


def test_plain_records_are_read_the_short_way() -> None:
    """But for one that is alone; whose a batch is, the first one's message says."""
    bench = compacting(batch=9).deliver(value(), value(), value(long=1), value(), value("b"), value())
    reader = bench.reader()
    message = taken(reader)
    assert items(batch_of(message)) == [0, 1, "a@2", 3]
    reader.ack(message)
    message = taken(reader)
    assert items(batch_of(message)) == ["b@4"]
    reader.ack(message)
    message = taken(reader)
    assert items(batch_of(message)) == ["a@5"]
    bench.deliver(value(), value(long=1))
    assert items(batch_of(message).further()) == [6, "a@7"]
    reader.ack(message)
    assert bench.committed == 8


def test_what_stands_for_all_records_is_handed_on_as_it_is() -> None:
    """A form of the application's own, in which nothing is missing."""

    def read(records: Sequence[Record]) -> tuple[int, ...]:
        return tuple(record.offset for record in records)

    bench = Bench(ordered=True, batch=2, compact=Compact("a", read)).deliver(*[value()] * 5)
    _, batch = running(bench)
    assert (batch.messages, batch[1], batch[:1], list(batch), len(batch)) == ((0, 1), 1, (0,), [0, 1], 2)
    assert list(iter(batch.further, ())) == [(2, 3), (4,)]


def test_a_signed_record_is_not_read_the_short_way_by_who_cannot_verify_it() -> None:
    """Another process may refuse it."""
    bench = compacting(batch=9, refused=refused).deliver(value())
    signed = Record("q", 0, 1, 0, None, value(), {signing.SIGNATURE: b"x"})
    bench.assignment.tracker.begin(1)
    bench.buffer.deliver(bench.assignment, [signed])
    reader = bench.reader()
    message = taken(reader)
    assert items(batch_of(message)) == [0]
    reader.ack(message)
    assert next(reader) is None
    assert bench.committed == 1


def refused(record: Record, queue_name: str, reason: str) -> dramatiq.Message[Any]:
    """Stands for a record that may not be read."""
    return decode(Record("q", 0, record.offset, 0, None, value(reason)), queue_name)


def test_only_batches_are_read_the_short_way() -> None:
    """Without them every message is wanted as one."""
    with pytest.raises(WrongTopic, match="message"):
        compacting()
