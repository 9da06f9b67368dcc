"""Interrupting an actor, and nothing but an actor."""

from __future__ import annotations

import random
import threading
import time
from typing import Any, cast

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker

from brokers.errors import Abort, Revoked
from brokers.reader import KafkaMessageProxy
from brokers.running import Running, interruptible


def proxy(message_id: str = "m") -> KafkaMessageProxy:
    """A message in flight, of no queue."""
    message: dramatiq.Message[Any] = dramatiq.Message("q", "a", (), {}, {}, message_id=message_id)
    return KafkaMessageProxy(message, cast("Any", None))


def nothing(*_: object) -> None:
    """No change, and no objection."""


def everything(message: KafkaMessageProxy) -> bool:
    """Whatever runs is meant."""
    return True


def test_an_actor_that_runs_is_interrupted() -> None:
    """In its own thread; the message has failed, in the way that Dramatiq does not try again."""
    running, message, caught = Running(), proxy(), threading.Event()

    def wait() -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            time.sleep(0.001)

    def work() -> None:
        running.begin(message, nothing)
        with pytest.raises(Abort):
            running.run(wait, (), {})
        running.end()
        caught.set()

    thread = threading.Thread(target=work)
    thread.start()
    while not any(job.inside for job in running.jobs()):
        time.sleep(0.001)
    assert [job.message for job in running.abort(nothing, everything)] == [message]
    assert running.abort(nothing, everything) == []  # once
    assert caught.wait(5)
    thread.join()
    assert message.failed
    assert message.options["throws"] is Abort


def test_a_message_that_is_aborted_before_its_actor_is_called_does_not_run() -> None:
    """It has begun, and middleware is at work: the exception is raised where it hurts nobody."""
    running, message = Running(), proxy()
    running.begin(message, nothing)
    running.abort(nothing, everything)
    with pytest.raises(Abort):
        running.run(lambda: pytest.fail("it ran"), (), {})
    running.end()
    assert running.jobs() == []


def test_what_is_refused_does_not_run() -> None:
    """The check and the beginning are one step."""
    running = Running()

    def refuse(_: KafkaMessageProxy) -> None:
        raise Revoked("no")

    with pytest.raises(Revoked):
        running.begin(proxy(), refuse)
    assert running.jobs() == []


def test_an_actor_can_be_called_as_a_function() -> None:
    """Outside a worker, and by another actor inside one."""
    running = Running()

    @dramatiq.actor(broker=StubBroker())
    def add(a: int, b: int) -> int:
        return a + b

    interruptible(add, lambda: running)
    assert add(1, b=2) == 3
    running.begin(proxy(), nothing)
    assert running.run(add, (1, 2), {}) == 3
    running.end()


def test_no_interruption_gets_out_of_an_actor() -> None:
    """Threads whose actors are aborted at any moment: each of the exceptions arrives inside one, or not at all.

    Outside it would end a worker's thread, or hit an ack.
    """
    running, stop, outside = Running(), threading.Event(), list[BaseException]()
    ran = [0, 0]

    def body(until: float) -> None:
        while time.perf_counter() < until:
            pass

    def work(rng: random.Random) -> None:
        while not stop.is_set():
            try:
                running.begin(proxy(), nothing)
                try:
                    running.run(body, (time.perf_counter() + rng.uniform(0, 0.0005),), {})
                    ran[0] += 1
                except Abort:
                    ran[1] += 1
                running.end()
            except BaseException as exc:  # noqa: BLE001 - what must not happen
                outside.append(exc)

    threads = [threading.Thread(target=work, args=(random.Random(n),)) for n in range(3)]
    for thread in threads:
        thread.start()
    rng, deadline = random.Random(7), time.monotonic() + 1.5
    while time.monotonic() < deadline:
        running.abort(nothing, everything)
        time.sleep(rng.uniform(0, 0.001))
    stop.set()
    for thread in threads:
        thread.join()
    assert outside == []
    assert min(ran) > 0


def test_an_actor_that_says_how_it_is_stopped_gets_no_exception() -> None:
    """Not even where it waits; whoever was aborted before that is stopped at once."""
    running, called = Running(), cast("list[str]", [])
    inside, over = threading.Event(), threading.Event()

    def stop() -> None:
        called.append("stop")
        over.set()

    def work() -> None:
        with running.stopped_by(stop):
            inside.set()
            assert over.wait(10)

    def run() -> None:
        running.begin(proxy(), nothing)
        running.run(work, (), {})
        running.end()
        called.append("done")

    thread = threading.Thread(target=run)
    thread.start()
    assert inside.wait(5)
    assert len(running.abort(nothing, everything)) == 1
    assert running.abort(nothing, everything) == []
    thread.join(5)
    assert called == ["stop", "done"]
    with running.stopped_by(lambda: called.append("never")):  # outside of a worker's thread
        assert called == ["stop", "done"]
