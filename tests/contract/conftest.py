"""Each test here runs on Dramatiq's StubBroker, which shows that the test is right, and on ours, of both kinds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dramatiq
import pytest
from dramatiq import Message
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import AsyncIO, CurrentMessage, GroupCallbacks
from dramatiq.rate_limits.backends import StubBackend as StubLimits
from dramatiq.results import Results
from dramatiq.results.backends import StubBackend as StubResults

from brokers import KafkaBroker
from brokers.replies import Place, TopicReader
from tests.support import unique


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from brokers.records import Record


class Desk:
    """A broker, and what tests need to know about it that no broker says in the same way."""

    def __init__(self, broker: StubBroker | KafkaBroker) -> None:
        self.broker = broker

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
        return [Message.decode(record.value or b"") for record in found]


@pytest.fixture(params=["stub", "kafka", pytest.param("transactional", marks=pytest.mark.slow)])
def desk(request: pytest.FixtureRequest) -> Iterator[Desk]:
    """A broker of each kind, with every middleware that the tests use, as Dramatiq's global broker."""
    if request.param == "stub":
        broker: StubBroker | KafkaBroker = StubBroker()
    else:
        prefix = unique("contract-")
        servers, transactional = request.getfixturevalue("kafka"), request.param == "transactional"
        broker = KafkaBroker(servers, prefix=prefix, group_id=prefix, transactional=transactional)
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
    broker.close()
    dramatiq.broker.global_broker = former


@pytest.fixture
def broker(desk: Desk) -> StubBroker | KafkaBroker:
    """The broker itself."""
    return desk.broker


@pytest.fixture
def work(broker: StubBroker | KafkaBroker) -> Iterator[Callable[[], dramatiq.Worker]]:
    """Starts a worker; at the end all are stopped."""
    workers: list[dramatiq.Worker] = []
    broker.emit_after("process_boot")  # as the command line does; the time limit's clock starts here

    def start() -> dramatiq.Worker:
        worker = dramatiq.Worker(broker, worker_threads=4, worker_timeout=100)
        workers.append(worker)
        worker.start()
        return worker

    yield start
    for worker in workers:
        worker.stop(timeout=10_000)


@pytest.fixture
def worker(work: Callable[[], dramatiq.Worker]) -> dramatiq.Worker:
    """A worker that runs; actors may still be declared."""
    return work()
