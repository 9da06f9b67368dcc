"""Batches of unordered queues: what is in one, who is charged with a failure, what middleware sees, what is acked."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import dramatiq
import pytest
from dramatiq.errors import ActorNotFound, Retry
from dramatiq.middleware import Middleware, SkipMessage
from dramatiq.middleware.shutdown import Shutdown
from hypothesis import given
from hypothesis import strategies as st

from brokers import BatchFailed, KafkaBroker
from brokers.assignment import Assignment
from brokers.batches import Batch, BatchProxy, BatchReader, shared
from brokers.errors import Unreachable
from brokers.keyed import KeyedBuffer
from brokers.offsets import AckTracker
from brokers.records import Outgoing, Record, encode
from brokers.topics import Queue, TopicSpec
from tests.readers import work


if TYPE_CHECKING:
    from collections.abc import Callable


class Numbers:
    """Stands for messages where only their identity counts."""

    def __init__(self, count: int) -> None:
        self.batch = Batch(cast("list[Any]", range(count)))
        self.calls: list[list[int]] = []

    def charged(self, body: Callable[[list[int]], Any]) -> dict[int, BaseException]:
        """Whom a call of *body* charges with a failure."""

        def called(numbers: list[int]) -> Any:
            self.calls.append(list(numbers))
            return body(numbers)

        try:
            shared(called)(self.batch)
        except BatchFailed as exc:
            return exc.errors
        return {}


@given(st.integers(1, 60), st.sets(st.integers(0, 59)))
def test_who_fails_is_found_and_nobody_else_is_charged(count: int, poison: set[int]) -> None:
    """In halves; every message that is not poison has been in a call that succeeded, exactly once."""
    numbers, done = Numbers(count), []

    def body(part: list[int]) -> None:
        if poison & set(part):
            raise ValueError(min(poison & set(part)))
        done.extend(part)

    errors = numbers.charged(body)
    bad = poison & set(range(count))
    assert {place: error.args[0] for place, error in errors.items()} == {place: place for place in bad}
    assert sorted(done) == sorted(set(range(count)) - bad)
    assert len(numbers.calls) <= 1 + 2 * len(bad) * math.ceil(math.log2(count) if count > 1 else 0)


def test_the_actor_may_say_which_ones_failed() -> None:
    """Then nothing is run again."""
    numbers = Numbers(5)
    error = ValueError("three")

    def body(part: list[int]) -> None:
        raise BatchFailed({3: error})

    assert numbers.charged(body) == {3: error}
    assert len(numbers.calls) == 1


def test_what_the_actor_says_of_a_half_counts_in_that_half() -> None:
    """Its places are those of the list that it was given."""
    numbers = Numbers(4)

    def body(part: list[int]) -> None:
        if len(part) == 4:
            raise KeyError
        if 2 in part:
            raise BatchFailed({part.index(2): ValueError("two")})

    assert [(place, str(error)) for place, error in numbers.charged(body).items()] == [(2, "two")]


def test_a_message_that_is_not_there_cannot_have_failed() -> None:
    """The actor's mistake is told with every message, rather than one of them being taken for done."""
    numbers = Numbers(2)

    def body(part: list[int]) -> None:
        raise BatchFailed({7: ValueError("five")})

    errors = numbers.charged(body)
    assert errors.keys() == {0, 1}
    assert "names the messages [7], and the list has 2" in str(errors[0])
    with pytest.raises(ValueError, match="needs a message"):
        BatchFailed({})
    with pytest.raises(TypeError, match="are exceptions"):
        BatchFailed({0: "five"})  # type: ignore[dict-item]  # as an application without types may say it


def test_asking_for_later_means_the_whole_batch() -> None:
    """`Retry` says nothing about a single message."""
    numbers = Numbers(3)

    def body(part: list[int]) -> None:
        raise Retry("later", delay=5)

    assert numbers.charged(body).keys() == {0, 1, 2}
    assert len(numbers.calls) == 1


def test_an_interruption_charges_what_has_not_run_and_no_more() -> None:
    """A time limit or a shutdown in the second half: the first half is done."""
    numbers = Numbers(4)

    def body(part: list[int]) -> None:
        if len(part) == 4:
            raise ValueError
        if 2 in part:
            raise Shutdown

    errors = numbers.charged(body)
    assert errors.keys() == {2, 3}
    assert all(isinstance(error, Shutdown) for error in errors.values())


def test_results_are_one_for_each_message() -> None:
    """A list of as many; anything else is the result of each; nothing is nothing."""
    three = Numbers(3).batch
    assert shared(lambda part: [number * 2 for number in part])(three) == [0, 2, 4]
    assert shared(lambda _: "all")(three) == ["all"] * 3
    assert shared(lambda _: None)(three) is None
    with pytest.raises(BatchFailed) as failed:
        shared(lambda part: [6 // number for number in part])(three)
    assert failed.value.errors.keys() == {0}
    assert failed.value.results == {1: 6, 2: 3}


def test_a_call_by_hand_is_left_alone() -> None:
    """In an application's own tests the actor raises what it raises."""
    with pytest.raises(ZeroDivisionError):
        shared(lambda part: 1 // part[0])([0])


class Noting(Middleware):
    """Writes down what it sees, and skips what it is told to."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, str]] = []
        self.skipped: set[int] = set()

    def note(self, what: str, message: Any, about: object = "") -> None:
        self.seen.append((what, message.args[0], str(about)))

    def before_process_message(self, broker: Any, message: Any) -> None:
        if message.args[0] in self.skipped:
            raise SkipMessage
        self.note("before", message)

    def after_process_message(self, broker: Any, message: Any, *, result: Any = None, exception: Any = None) -> None:
        self.note("after", message, result if exception is None else repr(exception))

    def after_skip_message(self, broker: Any, message: Any) -> None:
        self.note("skip", message)

    def after_ack(self, broker: Any, message: Any) -> None:
        self.note("ack", message)

    def after_nack(self, broker: Any, message: Any) -> None:
        self.note("nack", message)


class Bench:
    """A broker without Kafka, a reader of batches of up to four, and Dramatiq's way of working on one."""

    def __init__(self, middleware: list[Middleware] | None = None) -> None:
        self.noting = Noting()
        self.sent: list[tuple[int, int, int | None]] = []
        self.parked: list[Outgoing] = []
        self.errors: list[Exception] = []
        self.broker = KafkaBroker(middleware=[self.noting, *(middleware or [])])
        self.broker.enqueue = self.enqueue  # type: ignore[assignment,method-assign]  # there is no Kafka
        self.broker.declare_queue("q", batch=4)
        self.queue = Queue("q", TopicSpec("q"), "g", batch=4)
        self.buffer = KeyedBuffer(self.queue)
        self.assignment = Assignment("q", 0, self.buffer, AckTracker(0), started=True, paused=False)

    def enqueue(self, message: Any, *, delay: int | None = None) -> None:
        self.sent.append((message.args[0], message.options["retries"], delay))

    def park(self, record: Outgoing, spec: TopicSpec) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.parked.append(record)

    def reader(self, prefetch: int = 9) -> BatchReader:
        return BatchReader(self.queue, self.buffer, park=self.park, send=print, prefetch=prefetch, timeout_s=0)

    def actor(self, fn: Callable[..., Any]) -> Bench:
        dramatiq.actor(broker=self.broker, queue_name="q", actor_name="a")(fn)
        return self

    def deliver(self, count: int, actor: str = "a", **options: Any) -> Bench:
        first = self.assignment.tracker.next
        for number in range(first, first + count):
            message: dramatiq.Message[Any] = dramatiq.Message("q", actor, (number,), {}, options)
            out = encode(message, "q")
            self.add(number, out.value, out.key, dict(out.headers))
        return self

    def add(self, offset: int, value: bytes | None, key: bytes | None, headers: dict[str, bytes]) -> None:
        self.assignment.tracker.begin(offset)
        self.buffer.deliver(self.assignment, [Record("q", 0, offset, 0, key, value, headers)])

    def work(self, batch: BatchProxy) -> None:
        """As Dramatiq's worker thread does."""
        work(self.broker, batch)

    def end(self, reader: BatchReader, batch: BatchProxy) -> None:
        """As Dramatiq does, once."""
        self.broker.emit_before("ack", batch)
        reader.ack(batch)
        self.broker.emit_after("ack", batch)

    @property
    def finished(self) -> list[int]:
        return [offset for start, end in self.assignment.tracker.finished() for offset in range(start, end)]


def numbers(batch: BatchProxy | None) -> list[int]:
    """What is in it."""
    return [] if batch is None else [message.args[0] for message in batch.all]


def test_a_batch_is_what_is_there_of_one_actor() -> None:
    """At most its size; cut before another actor; what cannot be read is parked on the way."""
    bench = Bench().actor(print).deliver(5).deliver(1, "b").deliver(1)
    bench.add(7, b"garbage", None, {})
    bench.deliver(1, eta=99)
    reader = bench.reader()
    assert [numbers(next(reader)) for _ in range(5)] == [[0, 1, 2, 3], [4], [5], [6, 8], []]
    assert len(bench.parked) == 1
    assert bench.finished == [7]


def test_a_batch_holds_one_message_of_a_key() -> None:
    """The next one has to wait for its end."""
    bench = Bench().actor(print).deliver(2, key="k").deliver(2)
    reader = bench.reader()
    batch = next(reader)
    assert batch is not None
    assert numbers(batch) == [0, 2, 3]
    bench.work(batch)
    bench.end(reader, batch)
    assert numbers(next(reader)) == [1]


def test_the_prefetch_counts_batches() -> None:
    """Else, while all threads are busy, messages would pile up in batches of one."""
    bench = Bench().actor(print).deliver(1)
    reader = bench.reader(prefetch=1)
    batch = next(reader)
    assert batch is not None
    bench.deliver(6)
    assert next(reader) is None
    bench.work(batch)
    bench.end(reader, batch)
    assert numbers(next(reader)) == [1, 2, 3, 4]


def test_middleware_sees_each_message_with_its_own_end() -> None:
    """The one that failed, the one that was skipped, and the others, each with its result."""

    def double(messages: list[Any]) -> list[int]:
        found = [message.args[0] for message in messages]
        if 1 in found:
            raise ValueError("one")
        return [number * 2 for number in found]

    bench = Bench().actor(double).deliver(4)
    bench.noting.skipped = {2}
    reader = bench.reader()
    batch = next(reader)
    assert batch is not None
    bench.work(batch)
    bench.end(reader, batch)
    assert bench.noting.seen == [
        ("before", 0, ""),
        ("before", 1, ""),
        ("before", 3, ""),
        ("after", 0, "0"),
        ("after", 1, "ValueError('one')"),
        ("after", 3, "6"),
        ("skip", 2, ""),
        *[("ack", number, "") for number in range(4)],
    ]
    assert bench.finished == [0, 1, 2, 3]


def test_a_failed_message_of_a_batch_is_retried_with_its_own_count_and_then_parked() -> None:
    """By Dramatiq's Retries, which sees nothing but that message; its neighbours are done."""

    def fail(messages: list[Any]) -> None:
        raise BatchFailed({number: ValueError("no") for number, one in enumerate(messages) if one.args[0] % 2})

    bench = Bench([dramatiq.middleware.Retries(max_retries=3)]).actor(fail).deliver(2).deliver(2, retries=3)
    reader = bench.reader()
    batch = next(reader)
    assert batch is not None
    bench.work(batch)
    bench.end(reader, batch)
    [(number, retries, delay)] = bench.sent
    assert (number, retries) == (1, 1)
    assert delay is not None
    assert [one.headers["xq.reason"] for one in bench.parked] == [b"ValueError: no"]
    assert bench.parked[0].headers["xq.offset"] == b"3"
    assert ("nack", 3, "") in bench.noting.seen
    assert bench.finished == [0, 1, 2, 3]


def test_what_cannot_be_parked_leaves_the_others_acked_and_is_parked_once() -> None:
    """Dramatiq acks the whole batch again after a connection error."""

    def fail(messages: list[Any]) -> None:
        raise ValueError("no")

    bench = Bench([dramatiq.middleware.Retries(max_retries=0)]).actor(fail).deliver(3)
    reader = bench.reader()
    batch = next(reader)
    assert batch is not None
    bench.work(batch)
    bench.errors = [Unreachable("away")]
    with pytest.raises(Unreachable):
        bench.end(reader, batch)
    assert bench.finished == [1, 2]
    bench.end(reader, batch)
    assert [one.headers["xq.offset"] for one in bench.parked] == [b"1", b"2", b"0"]
    assert bench.finished == [0, 1, 2]


def test_recalled_messages_leave_the_batch_unseen() -> None:
    """Those of a partition that has moved run elsewhere; when none is left nothing runs."""
    ran: list[int] = []

    def note(messages: list[Any]) -> None:
        ran.extend(message.args[0] for message in messages)

    bench = Bench().actor(note).deliver(1)
    other = Assignment("q", 1, bench.buffer, AckTracker(0), started=True, paused=False)
    other.tracker.begin(0)
    elsewhere = encode(dramatiq.Message("q", "a", (77,), {}, {}), "q")
    bench.buffer.deliver(other, [Record("q", 1, 0, 0, elsewhere.key, elsewhere.value, elsewhere.headers)])
    reader = bench.reader()
    batch = next(reader)
    assert batch is not None
    assert numbers(batch) == [0, 77]
    bench.buffer.revoke([other])
    bench.work(batch)
    bench.end(reader, batch)
    assert ran == [0]
    assert {number for _, number, _ in bench.noting.seen} == {0}
    assert (bench.finished, other.tracker.finished()) == ([0], [])
    assert bench.buffer.outstanding == 0
    bench.deliver(1)
    last = next(reader)
    assert last is not None
    bench.buffer.revoke([bench.assignment])
    bench.work(last)
    assert ran == [0]


def test_an_actor_that_nobody_knows_parks_each_message() -> None:
    """As Dramatiq's consumer thread says it, before anything has begun."""
    bench = Bench().deliver(2, "ghost")
    reader = bench.reader()
    batch = next(reader)
    assert batch is not None
    batch.fail()
    batch.stuff_exception(ActorNotFound("ghost"))  # type: ignore[no-untyped-call]
    reader.nack(batch)
    assert [one.headers["xq.error"] for one in bench.parked] == [b"ActorNotFound"] * 2
    assert bench.finished == [0, 1]


def test_requeued_batches_come_again_in_their_order() -> None:
    """And may be cut otherwise then."""
    bench = Bench().actor(print).deliver(6)
    reader = bench.reader()
    batches = [batch for _ in range(2) if (batch := next(reader))]
    bench.deliver(1)
    reader.requeue(iter(batches))
    assert [numbers(next(bench.reader())) for _ in range(2)] == [[0, 1, 2, 3], [4, 5, 6]]
