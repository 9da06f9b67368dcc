"""Uniqueness, rate limits and expiry, on Dramatiq's own stubs of a broker and of a limiter backend."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import dramatiq
import dramatiq.middleware
import pytest
from dramatiq import Worker
from dramatiq.brokers.stub import StubBroker
from dramatiq.rate_limits import RateLimiterBackend
from dramatiq.rate_limits.backends import StubBackend
from dramatiq.results import Results
from dramatiq.results.backends import StubBackend as StubResults
from dramatiq.results.errors import ResultFailure
from hypothesis import given
from hypothesis import strategies as st

from brokers import KafkaBroker
from brokers.assignment import Assignment
from brokers.errors import (
    DelayRefused,
    DeliveryUnknown,
    Duplicate,
    KafkaError,
    LimitsUnreachable,
    PutOff,
    Unreachable,
    WrongOption,
)
from brokers.expiry import Expires
from brokers.limits import Rate, RateLimits, pause_ms, rate
from brokers.parallel import ParallelBuffer
from brokers.reader import KafkaMessageProxy
from brokers.records import Record
from brokers.unique import LOCK, Unique
from tests.support import wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator


class Absent(RateLimiterBackend):
    """A backend whose server is away."""

    def add(self, *arguments: Any, **keywords: Any) -> bool:
        raise ConnectionError("no route")


class Bench:
    """A broker with the three middlewares, and a worker once it is asked for."""

    def __init__(self, backend: RateLimiterBackend | None = None) -> None:
        self.broker = StubBroker()
        backend = backend or StubBackend()  # type: ignore[no-untyped-call]  # Dramatiq's gap
        self.unique = Unique(backend)
        self.results = StubResults()
        results = Results(backend=self.results)  # type: ignore[no-untyped-call]  # as above
        for middleware in (Expires(), self.unique, RateLimits(backend), results):
            self.broker.add_middleware(middleware)
        self.worker: Worker | None = None

    def work(self, threads: int = 4) -> None:
        self.worker = Worker(self.broker, worker_timeout=10, worker_threads=threads)
        self.worker.start()

    def done(self) -> None:
        if self.worker is None:
            self.work()
        self.broker.join("default", fail_fast=False)
        assert self.worker is not None
        self.worker.join()

    def stop(self) -> None:
        """`done`, and nobody works on what is sent from now on."""
        self.done()
        assert self.worker is not None
        self.worker.stop()
        self.worker = None


@pytest.fixture
def bench() -> Iterator[Bench]:
    """As it says."""
    bench = Bench()
    yield bench
    if bench.worker is not None:
        bench.worker.stop()


# Unique.


def test_a_second_message_is_refused_until_the_first_is_done(bench: Bench) -> None:
    """Equal arguments mean an equal message, however they are given by name."""
    ran: list[Any] = []

    @dramatiq.actor(broker=bench.broker, unique_for=60_000)
    def work(number: int, **options: Any) -> None:
        ran.append(number)

    work.send(1, a=1, b=2)
    work.send(2, a=1, b=2)
    with pytest.raises(Duplicate, match=r"work\(1, b=2, a=1\)") as caught:
        work.send(1, b=2, a=1)
    assert caught.value.key.startswith("unique:work:")
    bench.done()
    work.send(1, a=1, b=2)
    bench.done()
    assert sorted(ran) == [1, 1, 2]


def test_the_window_can_outlast_the_message_and_ends(bench: Bench) -> None:
    """With ``unique_until="window"`` being done is not enough."""

    @dramatiq.actor(broker=bench.broker)
    def work(number: int) -> None: ...

    options: dict[str, Any] = {"unique_for": 150, "unique_key": "k", "unique_until": "window"}
    work.send_with_options(args=(1,), **options)
    bench.done()
    with pytest.raises(Duplicate):
        work.send_with_options(args=(2,), **options)
    work.send(3)  # says nothing, and is not touched
    time.sleep(0.2)  # longer than the window
    work.send_with_options(args=(4,), **options)


def test_a_retry_is_no_duplicate_and_failing_for_good_frees_the_key(bench: Bench) -> None:
    """While it is tried again the key stays taken."""
    tries: list[bool] = []

    @dramatiq.actor(broker=bench.broker, unique_for=60_000, max_retries=1, min_backoff=1, max_backoff=1)
    def fails() -> None:
        try:
            fails.send()
            tries.append(False)
        except Duplicate:
            tries.append(True)
        raise RuntimeError("again")

    fails.send()
    bench.done()
    assert tries == [True, True]
    fails.send()


def test_many_senders_at_once_send_one(bench: Bench) -> None:
    """Taking the key is one step."""

    @dramatiq.actor(broker=bench.broker, unique_for=60_000)
    def work() -> None: ...

    sent, refused, start = list[str](), list[str](), threading.Barrier(8)

    def send() -> None:
        start.wait()
        try:
            sent.append(work.send().message_id)
        except Duplicate as exc:
            refused.append(exc.key)

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(sent), len(refused)) == (1, 7)


@pytest.mark.parametrize(
    ("error", "free"), [(Unreachable("away"), True), (DeliveryUnknown("late", message_id="m"), False)]
)
def test_a_send_that_failed_frees_the_key_unless_it_may_have_arrived(
    bench: Bench, error: Exception, free: bool
) -> None:
    """Kafka's broker says how a send ended."""

    @dramatiq.actor(broker=bench.broker, unique_for=60_000)
    def work() -> None: ...

    message = work.message()
    bench.unique.before_enqueue(bench.broker, message, None)
    bench.unique.after_enqueue_failed(bench.broker, message, error)
    if free:
        assert LOCK not in message.options
        work.send()
    else:
        with pytest.raises(Duplicate):
            work.send()
        bench.broker.enqueue(message)  # the same again is no duplicate of itself


def test_a_second_send_of_the_same_message_that_fails_keeps_the_key(bench: Bench) -> None:
    """The first one is in the log."""

    @dramatiq.actor(broker=bench.broker, unique_for=60_000)
    def work() -> None: ...

    message = work.send()
    bench.unique.after_enqueue_failed(bench.broker, message, Unreachable("away"))
    with pytest.raises(Duplicate):
        work.send()


def test_a_message_that_runs_twice_frees_only_its_own_key(bench: Bench) -> None:
    """A worker was killed before the ack; meanwhile somebody else has the key."""

    @dramatiq.actor(broker=bench.broker, unique_for=60_000)
    def work() -> None: ...

    first = work.send()
    bench.stop()
    work.send()  # has the key now, and nobody runs it
    proxy = dramatiq.MessageProxy(first)
    bench.unique.after_process_message(bench.broker, proxy)
    bench.unique.after_nack(bench.broker, proxy)
    with pytest.raises(Duplicate):
        work.send()


def test_nothing_is_sent_while_nobody_knows_whether_it_is_a_duplicate() -> None:
    """And the error says so."""
    bench = Bench(Absent())

    @dramatiq.actor(broker=bench.broker, unique_for=60_000)
    def work() -> None: ...

    with pytest.raises(LimitsUnreachable, match="no route"):
        work.send()
    assert bench.broker.queues["default"].empty()


# Rates.


@pytest.mark.parametrize(("text", "meaning"), [("10/s", (10, 1)), ("100/m", (100, 60)), ("5/30s", (5, 30))])
def test_a_rate_is_read(text: str, meaning: tuple[int, int]) -> None:
    """So many in so many seconds."""
    assert rate(text, "actor") == Rate(*meaning)


@pytest.mark.parametrize("text", ["", "10", "0/s", "10/h", "-1/s", "10/0s", "1.5/s", 7, "1/11m"])
def test_a_wrong_rate_says_what_to_write(text: object) -> None:
    """At the declaration already."""
    broker = Bench().broker
    with pytest.raises(WrongOption, match="rate_limit of actor 'work'"):

        @dramatiq.actor(broker=broker, rate_limit=text)
        def work() -> None: ...


def test_what_is_over_the_limit_comes_later_and_counts_no_attempt(bench: Bench) -> None:
    """Two a second, five messages, one thread: it takes two seconds, and every id runs once, untried before."""
    ran: list[tuple[str, int, float]] = []

    @dramatiq.actor(broker=bench.broker, rate_limit="2/s", max_retries=0, store_results=True)
    def work() -> str:
        message = dramatiq.middleware.CurrentMessage.get_current_message()
        assert message is not None
        ran.append((message.message_id, message.options.get("retries", 0), time.time()))
        return "ran"

    bench.broker.add_middleware(dramatiq.middleware.CurrentMessage())
    sent = [work.send() for _ in range(5)]
    bench.work(threads=1)
    wait_until(lambda: len(ran) == 5, 20, "all to run")
    bench.done()
    assert {(one, tries) for one, tries, _ in ran} == {(message.message_id, 0) for message in sent}
    seconds = [int(at) for _, _, at in ran]
    assert max(seconds.count(second) for second in seconds) <= 2
    assert [message.get_result(backend=bench.results) for message in sent] == ["ran"] * 5


def in_flight(broker: KafkaBroker, message: dramatiq.Message[Any]) -> KafkaMessageProxy:
    """*message*, as a worker of Kafka's broker has it."""
    queue = broker.get_queue(message.queue_name)
    buffer = ParallelBuffer(queue)
    assignment = Assignment(queue.topic.name, 0, buffer, started=True)
    buffer.deliver(assignment, [Record(queue.topic.name, 0, 0, 0, None, message.encode())])
    unit = buffer.take(1, 0)
    assert unit is not None
    return KafkaMessageProxy(message, unit)


@pytest.mark.parametrize("error", [Unreachable("away"), DelayRefused("no")])
def test_a_message_that_cannot_be_put_off_is_not_acknowledged(
    monkeypatch: pytest.MonkeyPatch, error: KafkaError | Unreachable
) -> None:
    """It does not run either.  While Kafka is away its ack owes the copy; refused for good, it is parked."""
    broker = KafkaBroker("localhost:1")
    backend = StubBackend()  # type: ignore[no-untyped-call]  # Dramatiq's gap
    broker.add_middleware(Unique(backend))
    broker.add_middleware(RateLimits(backend))

    @dramatiq.actor(broker=broker, rate_limit="1/600s", unique_for=60_000)
    def work() -> None: ...

    def refuse(message: object, delay: int | None) -> None:
        raise error

    message = work.message_with_options(retries=2)
    broker.emit_before("enqueue", message, None)
    broker.emit_after("enqueue", message, None)
    broker.emit_before("process_message", in_flight(broker, work.message()))  # within the limit
    monkeypatch.setattr(broker._sending, "_made", refuse)
    over = in_flight(broker, message)
    with pytest.raises(PutOff):
        broker.emit_before("process_message", over)
    broker.emit_after("skip_message", over)
    if isinstance(error, Unreachable):
        [(copy, delay)] = over.owed
        assert (copy.message_id, copy.message_timestamp) == (message.message_id, message.message_timestamp)
        assert copy.options["retries"] == 2
        assert "store_results" not in copy.options
        assert delay is not None
        assert delay > 0
    else:
        assert over.send_error is error
    with pytest.raises(Duplicate):  # it is not done
        broker.emit_before("enqueue", work.message(), None)


def test_no_more_run_at_once_than_allowed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the number of threads; a slot is free again when its message ends, also by an error."""
    monkeypatch.setattr("brokers.limits.SLOT_MS", 50)
    running, most, ended, lock = [0], [0], [0], threading.Lock()

    @dramatiq.actor(broker=bench.broker, max_concurrent=2, max_retries=0)
    def work(number: int) -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.05)
        with lock:
            running[0] -= 1
            ended[0] += 1
        if number % 2:
            raise RuntimeError("odd")

    for number in range(4):
        work.send(number)
    bench.work(threads=4)
    wait_until(lambda: ended[0] == 4, 20, "all to run")
    assert most[0] == 2


def test_an_unlimited_actor_needs_no_backend() -> None:
    """It is not even asked."""
    bench = Bench(Absent())
    ran: list[int] = []

    @dramatiq.actor(broker=bench.broker)
    def work(number: int) -> None:
        ran.append(number)

    work.send(1)
    bench.done()
    assert bench.worker is not None
    bench.worker.stop()
    assert ran == [1]


@given(mean=st.integers(1, 600_000), times=st.integers(0, 50), chance=st.floats(0, 1))
def test_what_was_put_off_before_is_tried_sooner(mean: int, times: int, chance: float) -> None:
    """At random within bounds, and never at once."""
    assert 1 <= pause_ms(mean, times, chance) <= max(1.5 * mean, 1)
    assert pause_ms(mean, times + 1, chance) <= max(0.75 * mean, 1)


# Expiry.


def test_what_begins_too_late_is_dropped(bench: Bench) -> None:
    """Not run; whoever waits for the result is told."""
    ran: list[str] = []

    @dramatiq.actor(broker=bench.broker, expires_in=50, store_results=True)
    def work(name: str) -> None:
        ran.append(name)

    late = work.send("late")
    early = work.send_with_options(args=("early",), expires_in=60_000)
    time.sleep(0.1)  # longer than the actor's own time
    bench.done()
    assert ran == ["early"]
    assert early.options["expires_at"] - early.message_timestamp == pytest.approx(60_000, abs=1000)
    with pytest.raises(ResultFailure, match="Expired"):
        late.get_result(backend=bench.results)


def test_a_retry_keeps_the_first_time(bench: Bench) -> None:
    """Three tries 100 ms apart, 150 ms in all: the third comes too late."""
    tries: list[int] = []

    @dramatiq.actor(broker=bench.broker, expires_in=150, max_retries=5, min_backoff=100, max_backoff=100)
    def fails() -> None:
        tries.append(1)
        raise RuntimeError("again")

    fails.send()
    bench.done()
    assert 1 <= len(tries) <= 3


def test_in_a_pipeline_each_message_counts_from_its_turn(bench: Bench) -> None:
    """The first one takes longer than the second may wait."""
    ran: list[int] = []

    @dramatiq.actor(broker=bench.broker)
    def slow() -> int:
        time.sleep(0.3)
        return 1

    @dramatiq.actor(broker=bench.broker, expires_in=200)
    def work(number: int = 0) -> None:
        ran.append(number)

    bench.work()
    dramatiq.pipeline([slow.message(), work.message()], broker=bench.broker).run()  # type: ignore[no-untyped-call]  # Dramatiq's gap
    bench.done()
    assert ran == [1]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"expires_in": 100, "delay": 200}, "would expire after 100 ms"),
        ({"expires_in": "soon"}, "has to be a whole number above zero"),
        ({"expires_at": 0}, "has to be a whole number above zero"),
        ({"unique_key": "k"}, "say unique_for"),
        ({"unique_key": 1, "unique_for": 5}, "has to be a text"),
        ({"unique_for": -1}, "has to be a whole number above zero"),
        ({"unique_for": 5, "unique_until": "later"}, "'done' or 'window'"),
    ],
)
def test_a_wrong_option_of_a_message_is_refused(bench: Bench, options: dict[str, Any], reason: str) -> None:
    """Nothing is sent."""

    @dramatiq.actor(broker=bench.broker)
    def work() -> None: ...

    with pytest.raises(WrongOption, match=reason):
        work.send_with_options(**options)
    assert bench.broker.queues["default"].empty()


@pytest.mark.parametrize(
    "options", [{"expires_in": 5}, {"unique_for": 5}, {"rate_limit": "1/s"}, {"max_concurrent": 1}]
)
def test_an_ordered_actor_has_no_such_options(options: dict[str, Any]) -> None:
    """None of its messages is skipped, put off or left out."""
    bench = Bench()
    bench.broker.actor_options.add("ordered")
    with pytest.raises(WrongOption, match="is ordered"):

        @dramatiq.actor(broker=bench.broker, ordered=True, **options)
        def work() -> None: ...


@pytest.mark.parametrize(
    "options",
    [{"expires_in": 0}, {"unique_for": True}, {"max_concurrent": "two"}, {"unique_until": "never", "unique_for": 1}],
)
def test_a_wrong_option_of_an_actor_is_refused(options: dict[str, Any]) -> None:
    """At its declaration."""
    with pytest.raises(WrongOption):

        @dramatiq.actor(broker=Bench().broker, **options)
        def work() -> None: ...
