"""Rate limits, barriers, time limits, shutdown notices: as Dramatiq's documentation promises it of every broker."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from threading import Event
from typing import TYPE_CHECKING, Any

import dramatiq
import pytest
from dramatiq.middleware import Shutdown
from dramatiq.rate_limits import Barrier, BucketRateLimiter, ConcurrentRateLimiter, WindowRateLimiter

from tests.support import unique, wait_until


if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.contract.conftest import Desk

Worker = dramatiq.Worker

#: Dramatiq's limiters, at most two at once, or two in a second.
LIMITERS: dict[str, Callable[[Any], Any]] = {
    "concurrent": lambda backend: ConcurrentRateLimiter(backend, unique("limit"), limit=2),  # type: ignore[no-untyped-call]
    "bucket": lambda backend: BucketRateLimiter(backend, unique("limit"), limit=2, bucket=500),  # type: ignore[no-untyped-call]
    "window": lambda backend: WindowRateLimiter(backend, unique("limit"), limit=2, window=1),  # type: ignore[no-untyped-call]
}


def test_an_actor_that_runs_too_long_is_interrupted(desk: Desk, worker: Worker) -> None:
    """The time limit is an exception inside the actor."""
    ended: list[str] = []

    @dramatiq.actor(time_limit=100, max_retries=0)
    def endless() -> None:
        try:
            while True:
                time.sleep(0.01)
        except BaseException as exc:
            ended.append(type(exc).__name__)
            raise

    endless.send()
    desk.join()
    assert ended == ["TimeLimitExceeded"]
    assert len(desk.dead_letters()) == 1


@pytest.mark.parametrize("kind", LIMITERS)
def test_what_is_over_a_limit_comes_back_later(desk: Desk, worker: Worker, limits: Any, kind: str) -> None:
    """`RateLimitExceeded` is retried like any error, until everything has run."""
    limiter = LIMITERS[kind](limits)
    ran: Counter[int] = Counter()
    inside: list[int] = []
    running = threading.Semaphore(2)

    @dramatiq.actor(min_backoff=50, max_backoff=200, max_retries=None)
    def run(number: int) -> None:
        with limiter.acquire():
            assert kind != "concurrent" or running.acquire(blocking=False)
            inside.append(number)
            time.sleep(0.02)
            ran[number] += 1
            running.release()

    for number in range(4):
        run.send(number)
    desk.join()
    assert ran == Counter(range(4))
    assert desk.dead_letters() == []


def test_a_barrier_is_passed_by_all_at_once(desk: Desk, worker: Worker, limits: Any) -> None:
    """Only the last one to arrive is told so, when nobody blocks."""
    barrier: Any = Barrier(limits, unique("barrier"))  # type: ignore[no-untyped-call]  # not annotated
    barrier.create(parties=4)
    last: list[bool] = []

    @dramatiq.actor
    def arrive() -> None:
        last.append(barrier.wait(block=False))

    for _ in range(4):
        arrive.send()
    desk.join()
    assert sorted(last) == [False, False, False, True]


def test_an_actor_that_asks_is_told_of_a_shutdown(desk: Desk, work: Callable[..., Worker]) -> None:
    """By an exception, as any other followed by a retry; who did not ask is waited for."""
    ended: list[str] = []
    begun = Counter[str]()

    @dramatiq.actor(notify_shutdown=True, min_backoff=500, max_backoff=500)
    def endless() -> None:
        begun["endless"] += 1
        try:
            while begun["endless"] == 1:
                time.sleep(0.01)
        except Shutdown:
            ended.append("interrupted")
            raise
        ended.append("endless")

    @dramatiq.actor
    def patient() -> None:
        begun["patient"] += 1
        time.sleep(0.3)
        ended.append("patient")

    worker = work()
    endless.send()
    patient.send()
    wait_until(lambda: set(begun) == {"endless", "patient"}, what="both to begin")
    worker.stop()
    assert sorted(ended) == ["interrupted", "patient"]
    if desk.stub:
        return  # the retry lies in the memory of the worker that ends, and StubBroker forgets it there
    work()
    desk.join()
    assert sorted(ended) == ["endless", "interrupted", "patient"]
    assert begun == {"endless": 2, "patient": 1}


def test_an_async_actor_that_takes_too_long_fails(desk: Desk, worker: Worker) -> None:
    """Its worker thread is interrupted where it waits for the event loop."""

    @dramatiq.actor(time_limit=100, max_retries=0)
    async def slow() -> None:
        await asyncio.sleep(2)

    slow.send()
    desk.join()
    assert [message.actor_name for message in desk.dead_letters()] == ["slow"]


def test_current_messages_do_not_mix(desk: Desk, worker: Worker) -> None:
    """Each thread has its own; between messages there is none."""
    seen: list[bool] = []
    go_on = Event()

    @dramatiq.actor
    def look(number: int) -> None:
        go_on.wait(5)
        message = dramatiq.middleware.CurrentMessage.get_current_message()
        seen.append(message is not None and message.args == (number,))

    for number in range(8):
        look.send(number)
    go_on.set()
    desk.join()
    assert seen == [True] * 8
    assert dramatiq.middleware.CurrentMessage.get_current_message() is None
