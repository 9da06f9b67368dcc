"""Periodic actors on real Kafka: once per time in the whole cluster."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING

import dramatiq
import pytest
from dramatiq import Worker
from dramatiq.middleware import CurrentMessage, default_middleware

from brokers import KafkaBroker, every
from tests.support import unique, wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator

    from brokers.periodic import Every


class Member:
    """A worker of a cluster with two periodic actors, one of them on an ordered queue."""

    def __init__(self, kafka: str, prefix: str, ran: list[tuple[str, str, float]], schedule: Every) -> None:
        middleware = [*(m() for m in default_middleware), CurrentMessage()]
        self.broker = KafkaBroker(kafka, prefix=prefix, group_id=prefix + "workers", middleware=middleware)

        def note() -> None:
            message = CurrentMessage.get_current_message()
            assert message is not None
            ran.append((message.message_id, message.options["scheduled_at"], time.time()))

        @dramatiq.actor(broker=self.broker, periodic=schedule)
        def tick() -> None:
            note()

        @dramatiq.actor(broker=self.broker, queue_name="log", ordered=True, periodic=schedule)
        def tock() -> None:
            note()

        self.worker = Worker(self.broker, worker_timeout=100, worker_threads=2)
        self.worker.start()

    def stop(self) -> None:
        self.worker.stop()
        self.broker.close()


@pytest.fixture
def members() -> Iterator[list[Member]]:
    """Stopped at the end."""
    members: list[Member] = []
    yield members
    for member in members:
        member.stop()


def test_a_periodic_actor_runs_once_per_time_in_the_whole_cluster(kafka: str, members: list[Member]) -> None:
    """Two workers that both have it; on time, and each time is another message."""
    prefix, ran = unique("periodic") + "-", list[tuple[str, str, float]]()
    members += [Member(kafka, prefix, ran, every(1)) for _ in range(2)]
    wait_until(lambda: len(ran) >= 6, 30, "both actors to run three times")

    ids = [message_id for message_id, _, _ in ran]
    assert len(set(ids)) == len(ids)
    assert {name.split("@")[0] for name in ids} == {"tick", "tock"}
    late = [at - datetime.fromisoformat(scheduled).timestamp() for _, scheduled, at in ran]
    assert all(0 <= seconds < 1 for seconds in late[-2:])

    [first, second] = members[0].broker.delayed().periodic
    assert {first.actor, second.actor} == {"tick", "tock"}
    assert first.schedule == "every 1 s"
    assert first.next_ms is not None
    assert abs(first.next_ms / 1000 - time.time()) < 2
    members[0].broker.join("default", timeout=10_000)  # a schedule is nothing that is waited for


def test_a_worker_with_newer_code_changes_the_schedule(kafka: str, members: list[Member]) -> None:
    """Although the older one still runs; nothing is fired for both."""
    prefix, ran = unique("periodic") + "-", list[tuple[str, str, float]]()
    members.append(Member(kafka, prefix, ran, every(1)))
    wait_until(lambda: ran, 30, "the first one to run")
    members.append(Member(kafka, prefix, ran, every(3600)))

    def texts() -> set[str]:
        return {row.schedule for row in members[0].broker.delayed().periodic}

    wait_until(lambda: texts() == {"every 3600 s"}, 10, "the newer schedule to count")
    members[0].broker._later.declarations.work_on("default")  # the older worker declares its own again
    before = len(ran)
    time.sleep(2.5)  # nothing may happen in it, so there is no condition to wait for
    assert len(ran) == before
    assert texts() == {"every 3600 s"}
