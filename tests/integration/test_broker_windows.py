"""What Dramatiq logs and forgets: a retry, a callback or a dead letter that cannot be sent never ends in a mere ack."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import dramatiq
import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public here, though not marked so
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)
from dramatiq import Worker
from dramatiq.middleware import Callbacks, GroupCallbacks, Pipelines, Retries
from dramatiq.rate_limits.backends import StubBackend
from dramatiq.results import Results
from dramatiq.results.backends import StubBackend as StubResults

from brokers import KafkaBroker
from tests.integration.logs import records_of
from tests.support import unique, wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator

    from brokers.topics import TopicSpec


#: Room for a transaction marker, without which no transaction could end, and for no message.
MARKER_BYTES = 120


@pytest.fixture(params=[False, True], ids=["confirmed", "transactional"])
def broker(kafka: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[KafkaBroker]:
    """Both kinds; Dramatiq's five seconds before it acks again, and ours, are shortened."""
    monkeypatch.setattr("dramatiq.worker.POST_PROCESS_MESSAGE_RETRY_DELAY_SECS", 0.2)
    monkeypatch.setattr("brokers.transactions.REFUSED_AGAIN_S", 0.2)
    prefix = unique("windows-")
    rate_limits = StubBackend()  # type: ignore[no-untyped-call]  # not annotated
    middleware = [Callbacks(), GroupCallbacks(rate_limits), Pipelines(), Retries(min_backoff=1000)]
    broker = KafkaBroker(kafka, prefix=prefix, group_id=prefix, middleware=middleware, transactional=request.param)
    yield broker
    broker.close()


@pytest.fixture
def worker(broker: KafkaBroker) -> Iterator[Worker]:
    """To be started when the actors are declared."""
    worker = Worker(broker, worker_threads=4, worker_timeout=100)
    yield worker
    worker.stop()


def limit(broker: KafkaBroker, spec: TopicSpec, max_bytes: int) -> None:
    """From now on the topic refuses what is larger; not less than the 78 bytes of a transaction marker."""
    broker.topics.ensure(spec)
    entry = ConfigEntry("max.message.bytes", str(max_bytes), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, spec.name, incremental_configs=[entry])
    broker._admin().incremental_alter_configs([resource])[resource].result(10)


def reasons(broker: KafkaBroker, queue: str) -> dict[str, str]:
    """What was parked of *queue*: actor and reason."""
    parked = records_of(broker, broker.get_queue(queue).dead_letters)
    return {one.headers["actor"].decode(): one.headers["xq.reason"].decode() for one in parked}


def test_what_kafka_refuses_parks_the_message_that_led_to_it(broker: KafkaBroker, worker: Worker) -> None:
    """A retry, a callback, the next step of a pipeline, a group's callback, one to nowhere: each actor runs once.

    A message among them whose callback is taken is done as usual.
    """
    ran: Counter[str] = Counter()

    @dramatiq.actor(broker=broker, queue_name="refusing")
    def target(*_: Any) -> None:
        ran["target"] += 1

    @dramatiq.actor(broker=broker, queue_name="open")
    def welcome(*_: Any) -> None:
        ran["welcome"] += 1

    @dramatiq.actor(broker=broker, max_retries=3)
    def retried() -> None:
        ran["retried"] += 1
        raise ValueError("on purpose")

    @dramatiq.actor(broker=broker, on_success="target")
    def calls_back() -> None:
        ran["calls_back"] += 1

    @dramatiq.actor(broker=broker)
    def pipes() -> None:
        ran["pipes"] += 1

    @dramatiq.actor(broker=broker)
    def grouped() -> None:
        ran["grouped"] += 1

    @dramatiq.actor(broker=broker, on_success="welcome")
    def lucky() -> None:
        ran["lucky"] += 1

    @dramatiq.actor(broker=broker, on_success="gone")
    def misled() -> None:
        ran["misled"] += 1

    limit(broker, broker.get_queue("refusing").topic, MARKER_BYTES)
    limit(broker, broker.delayed_topic, MARKER_BYTES)
    group: Any = dramatiq.group([grouped.message()], broker=broker)  # type: ignore[no-untyped-call]  # as above
    group.add_completion_callback(target.message())
    group.run()
    pipeline: Any = dramatiq.pipeline([pipes.message(), target.message()], broker=broker)
    pipeline.run()
    for actor in (retried, calls_back, misled, lucky):
        actor.send()
    worker.start()
    broker.join("default", timeout=30_000)
    told = reasons(broker, "default")
    assert "what should follow could not be sent: gone" in told.pop("misled")
    assert told.keys() == {"retried", "calls_back", "pipes", "grouped"}
    assert all("what should follow could not be sent: Kafka refused" in reason for reason in told.values())
    assert told["retried"].startswith("ValueError: on purpose; then ")
    broker.join("open", timeout=30_000)
    assert ran == Counter(["retried", "calls_back", "pipes", "grouped", "misled", "lucky", "welcome"])


def test_a_message_that_cannot_be_parked_is_not_done(broker: KafkaBroker, worker: Worker) -> None:
    """Its dead-letter topic refuses everything; when that is mended it is parked, once, and its actor has run once."""
    ran: Counter[str] = Counter()

    @dramatiq.actor(broker=broker, max_retries=0)
    def fails() -> None:
        ran["fails"] += 1
        raise ValueError("on purpose")

    queue = broker.get_queue("default")
    limit(broker, queue.dead_letters, MARKER_BYTES)
    fails.send()
    worker.start()
    wait_until(lambda: ran, 20, "the actor to fail")
    with pytest.raises(dramatiq.errors.QueueJoinTimeout):
        broker.join("default", timeout=1000)
    limit(broker, queue.dead_letters, 1_250_000)
    broker.join("default", timeout=30_000)
    assert reasons(broker, "default") == {"fails": "ValueError: on purpose"}
    assert ran == Counter(["fails"])


def test_a_result_is_stored_before_the_ack(broker: KafkaBroker, worker: Worker) -> None:
    """While its backend is away the ack waits, and nothing runs twice; what cannot be a result parks its message."""
    ran: Counter[str] = Counter()
    backend: Any = StubResults()
    broker.add_middleware(Results(backend=backend))  # type: ignore[no-untyped-call]  # not annotated

    @dramatiq.actor(broker=broker, store_results=True)
    def answers() -> int:
        ran["answers"] += 1
        return 42

    @dramatiq.actor(broker=broker, store_results=True)
    def raves() -> object:
        ran["raves"] += 1
        return object()

    store, refusals = backend._store, [ConnectionError("away")] * 2

    def refuse(*args: Any) -> None:
        if refusals:
            raise refusals.pop()
        store(*args)

    backend._store = refuse
    message = answers.send()
    worker.start()
    assert message.get_result(backend=backend, block=True, timeout=20_000) == 42
    raves.send()
    broker.join("default", timeout=30_000)
    assert "its result cannot be encoded" in reasons(broker, "default")["raves"]
    assert ran == Counter(["answers", "raves"])
