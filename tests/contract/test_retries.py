"""Failing, retrying, being late: as Dramatiq's documentation promises it of every broker."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import dramatiq
from dramatiq.errors import ConnectionClosed, Retry
from dramatiq.middleware import CurrentMessage

from tests.support import wait_until


if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from tests.contract.conftest import Desk

Worker = dramatiq.Worker


def test_an_actor_that_fails_for_good_leaves_a_dead_letter(desk: Desk, worker: Worker) -> None:
    """Without retries, at once; the others are not held up."""
    ran: list[int] = []

    @dramatiq.actor(max_retries=0)
    def odd_ones_fail(number: int) -> None:
        if number % 2:
            raise ValueError(number)
        ran.append(number)

    for number in range(6):
        odd_ones_fail.send(number)
    desk.join()
    assert sorted(ran) == [0, 2, 4]
    assert sorted(message.args for message in desk.dead_letters()) == [(1,), (3,), (5,)]


def test_an_expected_error_is_not_retried(desk: Desk, worker: Worker) -> None:
    """`throws` names the errors that mean what they say."""
    ran: list[int] = []

    @dramatiq.actor(throws=ValueError)
    def throw() -> None:
        ran.append(1)
        raise ValueError("as agreed")

    throw.send()
    desk.join()
    assert ran == [1]
    assert len(desk.dead_letters()) == 1


def test_a_failed_message_is_retried_until_it_succeeds(desk: Desk, worker: Worker) -> None:
    """With its backoff between the attempts; the message stays the same one."""
    attempts: list[tuple[str, float]] = []

    @dramatiq.actor(min_backoff=100, max_backoff=150)
    def third_time_lucky() -> None:
        message = CurrentMessage.get_current_message()
        assert message is not None
        attempts.append((message.message_id, time.monotonic()))
        if len(attempts) < 3:
            raise RuntimeError("again")

    sent = third_time_lucky.send()
    desk.join()
    assert [message_id for message_id, _ in attempts] == [sent.message_id] * 3
    assert attempts[2][1] - attempts[0][1] >= 0.15
    assert desk.dead_letters() == []


def test_retries_end(desk: Desk, worker: Worker) -> None:
    """After max_retries the message is dead, and somebody is told."""
    attempts: list[int] = []
    told: list[Any] = []

    @dramatiq.actor
    def undertaker(message: dict[str, Any], retries: dict[str, int]) -> None:
        told.append((message["actor_name"], retries["retries"]))

    @dramatiq.actor(max_retries=2, min_backoff=0, on_retry_exhausted="undertaker")
    def hopeless() -> None:
        attempts.append(1)
        raise RuntimeError("never")

    hopeless.send()
    desk.join()
    wait_until(lambda: told, what="the callback")
    assert len(attempts) == 3
    assert told == [("hopeless", 2)]
    [dead] = desk.dead_letters()
    assert dead.actor_name == "hopeless"


def test_an_actor_may_ask_to_be_retried(desk: Desk, worker: Worker) -> None:
    """Retry, with its delay in milliseconds."""
    attempts: list[float] = []

    @dramatiq.actor(max_retries=5)
    def later() -> None:
        attempts.append(time.monotonic())
        if len(attempts) == 1:
            raise Retry("not yet", delay=200)

    later.send()
    desk.join()
    assert len(attempts) == 2
    assert attempts[1] - attempts[0] >= 0.2


def test_retry_when_decides(desk: Desk, worker: Worker) -> None:
    """The predicate wins over the count."""
    attempts: list[int] = []

    @dramatiq.actor(min_backoff=0, retry_when=lambda retries, error: retries < 1 and isinstance(error, OSError))
    def maybe() -> None:
        attempts.append(1)
        raise OSError("no")

    maybe.send()
    desk.join()
    assert len(attempts) == 2


def test_a_delayed_message_waits_for_its_time(desk: Desk, worker: Worker) -> None:
    """And holds up nobody: what was sent after it runs before it."""
    ran: list[tuple[str, float]] = []

    @dramatiq.actor
    def note(name: str) -> None:
        ran.append((name, time.monotonic()))

    began = time.monotonic()
    note.send_with_options(args=("late",), delay=1200)
    note.send_with_options(args=("soon",), delay=300)
    note.send("now")
    desk.join()
    assert [name for name, _ in ran] == ["now", "soon", "late"]
    assert ran[1][1] - began >= 0.3
    assert ran[2][1] - began >= 1.2


def test_a_message_that_is_too_old_is_dropped(desk: Desk, work: Callable[[], Worker]) -> None:
    """It ends as a dead letter, and does not run."""
    ran: list[int] = []

    @dramatiq.actor(max_age=1)
    def fresh() -> None:
        ran.append(1)

    sent = fresh.send()
    wait_until(lambda: time.time() * 1000 > sent.message_timestamp + 1)
    work()
    desk.join()
    assert ran == []
    assert [message.message_id for message in desk.dead_letters()] == [sent.message_id]


def test_a_message_may_have_its_own_number_of_retries(desk: Desk, worker: Worker) -> None:
    """An option of a message wins over its actor's."""
    attempts: list[int] = []

    @dramatiq.actor(max_retries=9, min_backoff=0)
    def hopeless() -> None:
        attempts.append(1)
        raise RuntimeError("never")

    hopeless.send_with_options(max_retries=1)
    desk.join()
    assert len(attempts) == 2
    [dead] = desk.dead_letters()
    assert dead.options["retries"] >= 1  # ours lies there as it lay on its queue, StubBroker's as it was at its end
    assert "RuntimeError" in dead.options["traceback"]


def test_a_delay_holds_up_no_other(desk: Desk, work: Callable[..., Worker]) -> None:
    """With one thread; a delay of zero is none, and one of another queue has nothing to do with this."""
    ran: list[str] = []

    @dramatiq.actor
    def note(name: str) -> None:
        ran.append(name)

    @dramatiq.actor(queue_name="elsewhere")
    def elsewhere() -> None:
        ran.append("elsewhere")

    note.send_with_options(args=("late",), delay=1000)
    elsewhere.send_with_options(delay=200)
    note.send_with_options(args=("at once",), delay=0)
    work(threads=1)
    desk.join()
    desk.join("elsewhere")
    assert ran == ["at once", "elsewhere", "late"]


def test_joining_waits_for_retries(desk: Desk, worker: Worker) -> None:
    """A message between two attempts is not done."""
    ends: list[float] = []

    @dramatiq.actor(max_retries=1, min_backoff=400, max_backoff=400)
    def fail() -> None:
        ends.append(time.monotonic())
        raise RuntimeError("never")

    fail.send()
    desk.join()
    assert len(ends) == 2


def test_an_ack_is_tried_again_after_a_connection_error(
    desk: Desk, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a nack; the actor does not run again."""
    monkeypatch.setattr(dramatiq.worker, "POST_PROCESS_MESSAGE_RETRY_DELAY_SECS", 0.05)
    ran: list[bool] = []
    tried: list[str] = []

    @dramatiq.actor(max_retries=0)
    def run(fails: bool) -> None:
        ran.append(fails)
        if fails:
            raise ValueError("on purpose")

    run.send(False)
    desk.join()
    thread = worker.consumers["default"]
    assert thread.consumer is not None

    def failing_first(name: str, call: Any) -> Any:
        def again(message: dramatiq.MessageProxy) -> None:
            tried.append(name)
            if tried.count(name) == 1:
                raise ConnectionClosed("as if")  # type: ignore[no-untyped-call]  # not annotated
            call(message)

        return again

    for name in ("ack", "nack"):
        monkeypatch.setattr(thread.consumer, name, failing_first(name, getattr(thread.consumer, name)))
    run.send(False)
    run.send(True)
    desk.join()
    assert sorted(ran) == [False, False, True]
    assert sorted(tried) == ["ack", "ack", "nack", "nack"]
    assert len(desk.dead_letters()) == 1
