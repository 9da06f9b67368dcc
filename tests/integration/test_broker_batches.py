"""Batches of an unordered queue on real Kafka, worked on by Dramatiq's own worker."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING

import dramatiq
import pytest
from dramatiq import Worker
from dramatiq.results import Results
from dramatiq.results.backends import StubBackend
from dramatiq.results.errors import ResultFailure

from brokers import BatchFailed, KafkaBroker
from tests.support import unique


if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def broker(kafka: str) -> Iterator[KafkaBroker]:
    """With results, on topics of its own."""
    prefix = unique("batch-")
    broker = KafkaBroker(kafka, prefix=prefix, group_id=prefix)
    broker.add_middleware(Results(backend=StubBackend(), store_results=True))  # type: ignore[no-untyped-call]
    yield broker
    broker.close()


def test_each_message_of_a_batch_ends_for_itself(broker: KafkaBroker) -> None:
    """A poisoned one fails alone, is retried and parked; a named one is retried and succeeds; all others run once."""
    done: Counter[int] = Counter()
    sizes: list[int] = []
    tries: Counter[int] = Counter()
    lock = threading.Lock()

    @dramatiq.actor(broker=broker, batch=20, max_retries=1, min_backoff=50, max_backoff=50)
    def double(messages: list[dramatiq.MessageProxy]) -> list[int]:
        found = [message.args[0] for message in messages]
        with lock:
            sizes.append(len(found))
            tries.update(found)
            if 13 in found:
                raise ValueError("thirteen")
            failed = {place: KeyError(number) for place, number in enumerate(found) if number == 50 and tries[50] == 1}
            done.update(number for place, number in enumerate(found) if place not in failed)
        results = {place: number * 2 for place, number in enumerate(found) if place not in failed}
        if failed:
            raise BatchFailed(failed, results)
        return list(results.values())

    with broker.batching():
        sent = [double.send(number) for number in range(100)]  # type: ignore[arg-type]  # the actor gets a list of them
    worker = Worker(broker, worker_timeout=100, worker_threads=2)
    worker.start()
    backend = broker.get_results_backend()
    results: list[object] = [
        one.get_result(backend=backend, block=True, timeout=20_000) for one in sent if one.args[0] != 13
    ]
    with pytest.raises(ResultFailure, match="thirteen"):
        sent[13].get_result(backend=backend, block=True, timeout=20_000)
    broker.join("default", timeout=20_000)
    worker.stop()
    assert results == [number * 2 for number in range(100) if number != 13]
    assert done == Counter(number for number in range(100) if number != 13)
    assert max(sizes) > 1
    assert broker.topics.partitions(f"{broker.prefix}default.XQ") is not None
