"""Messages of one kind handed out together: who is among them, what middleware sees, what becomes of each."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import dramatiq
import pytest
from dramatiq.middleware import Middleware

from brokers import BatchFailed, KafkaBroker
from brokers.assignment import Assignment, Unit
from brokers.batches import Batch
from brokers.companions import SMALL_BYTES, Companions, CompanyReader, GoAlone
from brokers.company import Company
from brokers.errors import ConsumerStopped, WrongTopic
from brokers.keyed import KeyedBuffer
from brokers.offsets import AckTracker
from brokers.reader import KafkaMessageProxy
from brokers.records import Outgoing, Record, encode
from brokers.topics import Queue, TopicSpec
from tests.readers import work
from tests.support import wait_until


if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    #: One message, or several.
    Handed = KafkaMessageProxy | Companions | None


class Noting(Middleware):
    """Writes down what it sees of which message."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []

    def before_process_message(self, broker: Any, message: Any) -> None:
        self.seen.append(("before", message.args[0]))

    def after_process_message(self, broker: Any, message: Any, *, result: Any = None, exception: Any = None) -> None:
        self.seen.append(("after" if exception is None else "failed", message.args[0]))

    def after_skip_message(self, broker: Any, message: Any) -> None:
        self.seen.append(("skipped", message.args[0]))

    def after_ack(self, broker: Any, message: Any) -> None:
        self.seen.append(("ack", message.args[0]))


def kind_of(message: dramatiq.Message[Any]) -> Hashable | None:
    """What its option says."""
    return message.options.get("kind")


class Bench:
    """A broker without Kafka, a reader, and Dramatiq's way of working on what it gives."""

    def __init__(self, ready: Callable[[Any], float | None] | None = None, kind_of: Any = kind_of) -> None:
        self.noting = Noting()
        self.parked: list[Outgoing] = []
        self.calls: list[list[int]] = []
        self.broker = KafkaBroker(middleware=[self.noting])
        self.broker.declare_queue("q", company=kind_of)
        self.queue = Queue("q", TopicSpec("q"), "g", company=kind_of, ready=ready)
        self.buffer = KeyedBuffer(self.queue)
        self.assignment = Assignment("q", 0, self.buffer, AckTracker(0), started=True, paused=False)
        self.count = 0

        def run(what: Any) -> None:
            self.calls.append([one.args[0] for one in what] if isinstance(what, Batch) else [what])
            self.act(what)

        dramatiq.actor(broker=self.broker, queue_name="q", actor_name="a")(run)

    def act(self, what: Any) -> None:
        """What the actor does."""

    def park(self, record: Outgoing, spec: TopicSpec) -> None:
        self.parked.append(record)

    def reader(self, prefetch: int = 9, timeout_s: float = 0) -> CompanyReader:
        return CompanyReader(
            self.queue, self.buffer, park=self.park, send=print, prefetch=prefetch, timeout_s=timeout_s
        )

    def deliver(self, *kinds: str | None, **options: Any) -> Bench:
        """A message of each kind, numbered."""
        for kind in kinds:
            given = {"kind": kind, **options} if kind is not None else options
            out = encode(dramatiq.Message("q", "a", (self.count,), {}, given), "q")
            self.assignment.tracker.begin(self.count)
            record = Record("q", 0, self.count, 0, out.key, out.value, out.headers)
            self.buffer.deliver(self.assignment, [record])
            self.count += 1
        return self

    def work(self, reader: CompanyReader, handed: Handed) -> None:
        """As Dramatiq's worker thread does."""
        assert handed is not None
        work(self.broker, handed)
        self.broker.emit_before("ack", handed)
        (reader.nack if handed.failed else reader.ack)(handed)
        self.broker.emit_after("ack", handed)

    @property
    def finished(self) -> list[int]:
        return [offset for start, end in self.assignment.tracker.finished() for offset in range(start, end)]


def numbers(handed: Handed) -> list[int]:
    """What it is."""
    if isinstance(handed, Companions):
        return [message.args[0] for message in handed.all]
    return [] if handed is None else [handed.args[0]]


def test_those_that_come_while_one_of_their_kind_runs_go_together_after_it() -> None:
    """The first one as it is, at once; the others with one call, which ends each of them."""
    bench = Bench().deliver("a")
    reader = bench.reader()
    first = next(reader)
    assert (type(first), numbers(first)) == (KafkaMessageProxy, [0])
    bench.deliver("a", "a")
    assert next(reader) is None
    bench.work(reader, first)
    bench.deliver("a")
    several = next(reader)
    assert (type(several), numbers(several)) == (Companions, [1, 2, 3])
    bench.work(reader, several)
    assert bench.calls == [[0], [1, 2, 3]]
    assert bench.finished == [0, 1, 2, 3]
    assert bench.noting.seen[-9:] == [(what, number) for what in ("before", "after", "ack") for number in (1, 2, 3)]


def test_what_is_there_at_once_goes_together_at_once() -> None:
    """Of each kind for itself, and what has none goes alone and first."""
    bench = Bench().deliver("a", "b", None, "a", "b", "a")
    reader = bench.reader()
    assert [numbers(next(reader)) for _ in range(4)] == [[2], [0, 3, 5], [1, 4], []]


@pytest.mark.parametrize("option", [{"eta": 9}, {"filler": "x" * SMALL_BYTES}])
def test_what_is_large_or_waits_for_its_time_goes_alone(option: dict[str, Any]) -> None:
    """Whatever kind it is."""
    bench = Bench().deliver("a", "a", **option)
    reader = bench.reader()
    assert [numbers(next(reader)) for _ in range(2)] == [[0], [1]]


def test_a_suspect_goes_alone() -> None:
    """Its crash would be put down to all of them."""
    bench = Bench().deliver("a")
    unit = bench.buffer.take(9, 0)
    assert unit is not None
    bench.buffer._suspect = Unit(bench.assignment, unit.records, alone=True)
    reader = bench.reader()
    assert numbers(next(reader)) == [0]
    assert reader._company._under_way == {}


def test_a_kind_that_cannot_be_told_is_none() -> None:
    """A defect there does not stop the queue."""
    bench = Bench(kind_of=lambda _: 1 // 0).deliver("a", "a")
    reader = bench.reader()
    assert [numbers(next(reader)) for _ in range(2)] == [[0], [1]]


def test_what_waits_does_not_count_against_the_prefetch() -> None:
    """It needs no thread; what has no kind does."""
    bench = Bench().deliver("a")
    reader = bench.reader(prefetch=2)
    assert numbers(next(reader)) == [0]
    bench.deliver("a", "a", "a", None, None)
    assert [numbers(next(reader)) for _ in range(2)] == [[4], []]
    assert reader._company.waiting == 3


def test_nobody_waits_long() -> None:
    """Each that does goes alone, beside whatever takes so long."""
    bench = Bench().deliver("a")
    reader = bench.reader()
    next(reader)
    company: Company[KafkaMessageProxy] = Company(patience_s=0.0)
    reader._company = company
    company.went("a", KafkaMessageProxy(dramatiq.Message("q", "a", (), {}, {}), next(iter(bench.buffer._out))))
    bench.deliver("a", "a")
    found = [next(reader), next(reader)]
    assert [(type(one), numbers(one)) for one in found] == [(KafkaMessageProxy, [1]), (KafkaMessageProxy, [2])]


def test_a_reader_that_waits_is_woken_when_those_before_have_ended() -> None:
    """At once, and not by its time-out."""
    bench = Bench().deliver("a")
    reader = bench.reader(timeout_s=60.0)
    reader._company = Company(patience_s=60.0)
    first = next(reader)
    bench.deliver("a", "a")
    found: list[Handed] = []
    thread = threading.Thread(target=lambda: found.append(next(reader)), daemon=True)
    thread.start()
    wait_until(lambda: reader._company.waiting == 2)
    assert not found
    bench.work(reader, first)
    thread.join(20.0)
    assert [numbers(one) for one in found] == [[1, 2]]


def test_an_actor_may_have_each_run_alone() -> None:
    """Middleware sees them skipped, and then run; none is acked before."""
    bench = Bench().deliver("a", "a", "a")
    reader = bench.reader()

    def apart(what: Any) -> None:
        if isinstance(what, Batch):
            reader._kind_of = lambda _: None  # they are of no kind any more
            raise GoAlone

    bench.act = apart  # type: ignore[method-assign]  # of this one
    bench.work(reader, next(reader))
    assert bench.noting.seen == [(what, number) for what in ("before", "skipped") for number in (0, 1, 2)]
    assert bench.finished == []
    del bench.noting.seen[:]
    for number in (0, 1, 2):
        alone = next(reader)
        assert numbers(alone) == [number]
        bench.work(reader, alone)
    assert bench.noting.seen == [(what, number) for number in (0, 1, 2) for what in ("before", "after", "ack")]
    assert bench.finished == [0, 1, 2]
    assert bench.buffer.outstanding == 0


def test_of_several_one_that_fails_is_parked_and_the_others_are_done() -> None:
    """Each ends for itself."""
    bench = Bench().deliver("a", "a", "a")
    reader = bench.reader()

    def fail(what: Any) -> None:
        what[1].fail()
        raise BatchFailed({1: ValueError("one")})

    bench.act = fail  # type: ignore[method-assign]  # of this one
    bench.work(reader, next(reader))
    [letter] = bench.parked
    assert b"ValueError: one" in letter.headers.values()
    assert bench.finished == [0, 1, 2]
    assert bench.buffer.outstanding == 0


def test_one_that_has_moved_away_does_not_run() -> None:
    """The others do; it is somebody else's."""
    bench = Bench().deliver("a", "a", "a")
    reader = bench.reader()
    several = next(reader)
    assert isinstance(several, Companions)
    bench.assignment.running.discard(several.all[1].unit)
    bench.work(reader, several)
    assert bench.calls == [[0, 2]]
    assert bench.finished == [0, 2]
    assert ("before", 1) not in bench.noting.seen
    assert bench.buffer.outstanding == 0


def test_those_for_which_there_is_no_room_are_held_back() -> None:
    """The first one is asked about for all; they come again when there is."""
    asked: list[int] = []
    room = [0.01]

    def ready(message: Any) -> float | None:
        asked.append(message.args[0])
        return room[0] if room else None

    bench = Bench(ready).deliver("a", "a")
    reader = bench.reader()
    assert next(reader) is None
    assert (asked, bench.buffer.outstanding, reader._company.waiting) == ([0], 0, 0)
    room.clear()
    bench.buffer.reconsider()
    assert numbers(next(reader)) == [0, 1]


def test_what_dramatiq_gives_back_comes_again_in_its_order() -> None:
    """Several as one by one."""
    bench = Bench().deliver("a", "a", None)
    reader = bench.reader()
    one, several = next(reader), next(reader)
    assert one is not None
    assert several is not None
    reader.requeue([several, one])
    assert [numbers(next(reader)) for _ in range(2)] == [[2], [0, 1]]


def test_what_waits_in_a_reader_that_is_closed_comes_again() -> None:
    """Dramatiq closes one, and opens another, when something went wrong."""
    bench = Bench().deliver("a")
    reader = bench.reader()
    first = next(reader)
    bench.deliver("a", "a")
    assert next(reader) is None
    reader.close()
    again = bench.reader()
    assert numbers(next(again)) == [1, 2]
    bench.work(again, first)
    assert bench.finished == [0]


def test_a_reader_says_when_its_consumer_has_ended() -> None:
    """As any reader does."""
    bench = Bench()
    bench.buffer.stop("over")
    with pytest.raises(ConsumerStopped, match="over"):
        next(bench.reader())


@pytest.mark.parametrize("other", [{"batch": 3}, {"share": True}, {"max_priority": 2}])
def test_only_of_plain_queues_messages_go_together(other: dict[str, Any]) -> None:
    """Where each has an end of its own already, or levels have their turns."""
    with pytest.raises(WrongTopic, match="plain queues only"):
        Queue("q", TopicSpec("q"), "g", company=kind_of, **other)
