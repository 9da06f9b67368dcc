"""Each test here runs on Dramatiq's StubBroker, which shows that the test is right, and on ours, of both kinds.

Where StubBroker itself does not do what Dramatiq documents, the test says so.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import dramatiq
import dramatiq.worker
import pytest
from dramatiq import Message
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import AsyncIO, CurrentMessage, GroupCallbacks, default_middleware
from dramatiq.rate_limits.backends import RedisBackend as RedisLimits
from dramatiq.rate_limits.backends import StubBackend as StubLimits
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend as RedisResults
from dramatiq.results.backends import StubBackend as StubResults

from brokers import KafkaBroker
from brokers.declaring import QUEUE_OPTIONS
from brokers.replies import Place, TopicReader
from tests.support import unique


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from brokers.records import Record

#: Seconds after which Dramatiq opens a reader again, instead of its three.
RESTART_S = 0.1


class Desk:
    """A broker, and what tests need to know about it that no broker says in the same way."""

    def __init__(self, broker: StubBroker | KafkaBroker) -> None:
        self.broker = broker
        self.stub = isinstance(broker, StubBroker)
        self._began_ms = int(time.time() * 1000)

    def join(self, queue_name: str = "default", timeout: int = 30_000) -> None:
        """Wait until the queue is done, failed messages included; *timeout* in milliseconds."""
        if isinstance(self.broker, StubBroker):
            self.broker.join(queue_name, timeout=timeout, fail_fast=False)
        else:
            self.broker.join(queue_name, timeout=timeout)

    def dead_letters(self, queue_name: str = "default") -> list[Message[Any]]:
        """The messages that failed for good."""
        if isinstance(self.broker, StubBroker):
            return [proxy._message for proxy in self.broker.dead_letters_by_queue[queue_name]]
        return self._parked(self.broker, queue_name)

    def _parked(self, broker: KafkaBroker, queue_name: str) -> list[Message[Any]]:
        spec = broker.get_queue(queue_name).dead_letters
        found: list[Record] = []
        places = [Place(spec.name, number, from_start=True) for number in range(broker.topics.ensure(spec))]
        reader = TopicReader(broker.client_settings, places, found.append, timeout_s=10)
        try:
            assert reader.wait_caught_up(10)
        finally:
            reader.close()
        return [Message.decode(record.value or b"") for record in found if record.timestamp_ms >= self._began_ms]


class Shelf:
    """Our broker, for as long as tests leave it clean: making topics and joining a group takes a second each time."""

    def __init__(self) -> None:
        self._brokers: dict[bool, KafkaBroker] = {}  # transactional ones, and others

    def take(self, servers: str, *, transactional: bool) -> KafkaBroker:
        """A broker with nothing declared on it, whose queues are empty."""
        broker = self._brokers.pop(transactional, None)
        if broker is None:
            prefix = unique("contract-")
            return KafkaBroker(servers, prefix=prefix, group_id=prefix, transactional=transactional)
        dramatiq.Broker.__init__(broker, [middleware() for middleware in default_middleware])
        broker.actor_options |= QUEUE_OPTIONS
        return broker

    def give_back(self, broker: KafkaBroker) -> None:
        """Keep *broker* for the next test, unless something was left on its queues."""
        left = sum(broker._groups.left(broker.get_queue(name)) for name in broker.get_declared_queues())
        if left or broker.delayed().entries:
            broker.close()
        else:
            self._brokers[broker.transactional] = broker

    def close(self) -> None:
        """No more tests."""
        for broker in self._brokers.values():
            broker.close()


@pytest.fixture(scope="session")
def shelf() -> Iterator[Shelf]:
    """Where our broker is between the tests."""
    shelf = Shelf()
    yield shelf
    shelf.close()


@pytest.fixture(params=["stub", "kafka", pytest.param("transactional", marks=pytest.mark.slow)])
def desk(request: pytest.FixtureRequest, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """A broker of each kind, with every middleware that the tests use, as Dramatiq's global broker."""
    monkeypatch.setattr(dramatiq.worker, "CONSUMER_RESTART_DELAY_SECS", RESTART_S)
    if request.param == "stub":
        broker: StubBroker | KafkaBroker = StubBroker()
    else:
        broker = shelf.take(request.getfixturevalue("kafka"), transactional=request.param == "transactional")
    for middleware in (
        Results(backend=StubResults()),  # type: ignore[no-untyped-call]  # not annotated
        GroupCallbacks(StubLimits()),  # type: ignore[no-untyped-call]  # not annotated
        CurrentMessage(),
        AsyncIO(),
    ):
        broker.add_middleware(middleware)
    former = dramatiq.broker.global_broker
    dramatiq.set_broker(broker)
    yield Desk(broker)
    dramatiq.broker.global_broker = former
    if isinstance(broker, KafkaBroker):
        shelf.give_back(broker)


@pytest.fixture
def broker(desk: Desk) -> StubBroker | KafkaBroker:
    """The broker itself."""
    return desk.broker


@pytest.fixture
def work(broker: StubBroker | KafkaBroker) -> Iterator[Callable[..., dramatiq.Worker]]:
    """Starts a worker; at the end all are stopped."""
    workers: list[dramatiq.Worker] = []
    broker.emit_after("process_boot")  # as the command line does; the time limit's clock starts here

    def start(threads: int = 4) -> dramatiq.Worker:
        worker = dramatiq.Worker(broker, worker_threads=threads, worker_timeout=100)
        workers.append(worker)
        worker.start()
        return worker

    yield start
    for worker in workers:
        if any(thread.is_alive() for thread in worker.workers):  # else the test has stopped it
            worker.stop(timeout=10_000)


@pytest.fixture
def worker(work: Callable[..., dramatiq.Worker]) -> dramatiq.Worker:
    """A worker that runs; actors may still be declared."""
    return work()


@pytest.fixture(params=["stub", "redis"])
def limits(request: pytest.FixtureRequest) -> Any:
    """A backend for rate limiters and barriers."""
    if request.param == "stub":
        return StubLimits()  # type: ignore[no-untyped-call]  # not annotated
    return RedisLimits(url=request.getfixturevalue("redis_url"))


@pytest.fixture(params=["stub", "redis"])
def results(request: pytest.FixtureRequest, desk: Desk) -> Any:
    """A backend for results, in the broker's middleware."""
    [middleware] = [one for one in desk.broker.middleware if isinstance(one, Results)]
    if request.param == "redis":
        middleware.backend = RedisResults(url=request.getfixturevalue("redis_url"))
    return middleware.backend
