"""Declaring, sending and running, as Dramatiq's documentation promises it of every broker."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections import Counter
from threading import Event
from typing import TYPE_CHECKING, Any

import dramatiq
import pytest
from dramatiq import Message, PickleEncoder, get_encoder
from dramatiq.errors import ActorNotFound, QueueNotFound
from dramatiq.middleware import CurrentMessage

from brokers.envelope import Envelope
from tests.support import wait_until


if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.contract.conftest import Desk

Worker = dramatiq.Worker


def test_every_message_is_run(desk: Desk, worker: Worker) -> None:
    """A hundred are sent, a hundred run, each once."""
    ran: Counter[int] = Counter()

    @dramatiq.actor
    def count(number: int) -> None:
        ran[number] += 1

    for number in range(100):
        count.send(number)
    desk.join()
    assert ran == Counter(range(100))


def test_arguments_arrive_as_they_were_sent(desk: Desk, worker: Worker) -> None:
    """Positional and by name, in any script, nested, empty, and large."""
    ran: list[Any] = []

    @dramatiq.actor
    def take(*args: Any, **kwargs: Any) -> None:
        ran.append((args, kwargs))

    args = ("grüße, 你好, 🙂", None, True, 1.5, 2**70, [1, {"a": []}], "x" * 100_000)
    take.send(*args, name="wert", ключ={"n": [None]})
    desk.join()
    assert ran == [(args, {"name": "wert", "ключ": {"n": [None]}})]


def test_a_message_knows_its_actor_queue_and_options(desk: Desk, worker: Worker) -> None:
    """Also inside the actor, through CurrentMessage."""
    seen: list[Any] = []

    @dramatiq.actor(queue_name="letters")
    def look() -> None:
        seen.append(CurrentMessage.get_current_message())

    sent = look.send_with_options(custom={"a": 1})
    desk.join("letters")
    [message] = seen
    assert (message.message_id, message.actor_name, message.queue_name) == (sent.message_id, "look", "letters")
    assert message.options["custom"] == {"a": 1}
    assert message.message_timestamp == sent.message_timestamp


def test_actors_of_all_priorities_run(desk: Desk, work: Callable[[], Worker]) -> None:
    """A priority changes the order inside one worker, and loses nothing."""
    ran: Counter[str] = Counter()

    @dramatiq.actor(priority=0)
    def high() -> None:
        ran["high"] += 1

    @dramatiq.actor(priority=100)
    def low() -> None:
        ran["low"] += 1

    for _ in range(10):
        low.send()
        high.send()
    work()
    desk.join()
    assert ran == {"high": 10, "low": 10}


def test_a_queue_that_was_never_declared_is_not_found(desk: Desk) -> None:
    """By whatever asks for it."""
    message: Message[Any] = Message("nowhere", "nobody", (), {}, {})
    with pytest.raises(QueueNotFound):
        desk.broker.enqueue(message)
    with pytest.raises(QueueNotFound):
        desk.broker.consume("nowhere")
    with pytest.raises(QueueNotFound):
        desk.join("nowhere")


def test_a_message_for_an_unknown_actor_is_a_dead_letter(desk: Desk, worker: Worker) -> None:
    """It cannot run here, and must not stop the others."""
    ran: list[int] = []

    @dramatiq.actor
    def known() -> None:
        ran.append(1)

    desk.broker.enqueue(Message("default", "unknown", (), {}, {}))
    known.send()
    desk.join()
    assert ran == [1]
    assert [message.actor_name for message in desk.dead_letters()] == ["unknown"]


def test_queues_and_actors_are_declared_once(desk: Desk) -> None:
    """A queue as often as one likes; an actor's name belongs to the first."""
    desk.broker.declare_queue("mine")
    desk.broker.declare_queue("mine")

    @dramatiq.actor(queue_name="mine")
    def first() -> None: ...

    with pytest.raises(ValueError, match="already registered"):
        dramatiq.actor(actor_name="first")(lambda: None)
    assert desk.broker.get_declared_actors() == {"first"}
    assert "mine" in desk.broker.get_declared_queues()
    assert desk.broker.get_actor("first") is first


def test_generic_actors_work(desk: Desk, worker: Worker) -> None:
    """Classes as actors."""
    ran: list[str] = []

    class Base(dramatiq.GenericActor):
        class Meta:
            abstract = True
            queue_name = "classes"

        prefix = ""

        def perform(self, name: str) -> None:
            ran.append(f"{self.prefix} {name}")

    class Greeting(Base):
        prefix = "hello"

    Greeting.send("you")
    desk.join("classes")
    assert ran == ["hello you"]


def test_an_actor_may_send(desk: Desk, worker: Worker) -> None:
    """Messages of messages all run."""
    ran: Counter[int] = Counter()

    @dramatiq.actor
    def tree(depth: int) -> None:
        ran[depth] += 1
        if depth:
            tree.send(depth - 1)
            tree.send(depth - 1)

    tree.send(4)
    wait_until(lambda: ran.total() == 31, timeout_s=20, what="the whole tree")
    desk.join()
    assert ran == {4: 1, 3: 2, 2: 4, 1: 8, 0: 16}


def test_async_actors_work(desk: Desk, worker: Worker) -> None:
    """Their enqueues and results too."""

    @dramatiq.actor(store_results=True)
    async def slow(number: int) -> int:
        await asyncio.sleep(0.01)
        return number + 1

    messages = [slow.send(n) for n in range(8)]
    assert [m.get_result(block=True, timeout=20_000) for m in messages] == list(range(1, 9))


def test_one_thread_runs_one_after_the_other_in_the_order_of_sending(desk: Desk, work: Callable[..., Worker]) -> None:
    """On Kafka within one key, which is within one partition; StubBroker takes no notice of the option."""
    ran: list[int] = []

    @dramatiq.actor
    def note(number: int) -> None:
        ran.append(number)

    for number in range(50):
        note.send_with_options(args=(number,), key="one")
    work(threads=1)
    desk.join()
    assert ran == list(range(50))


def test_a_higher_priority_runs_before_what_waits_in_the_worker(
    desk: Desk, work: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lower number is a higher priority; it counts among what one worker has fetched."""
    monkeypatch.setattr(dramatiq.worker, "QUEUE_PREFETCH", 20)
    ran: list[str] = []
    begun, go_on = Event(), Event()

    @dramatiq.actor(priority=0)
    def gate() -> None:
        begun.set()
        go_on.wait(20)

    @dramatiq.actor(priority=10)
    def high() -> None:
        ran.append("high")

    @dramatiq.actor(priority=20)
    def low() -> None:
        ran.append("low")

    worker = work(threads=1)
    gate.send()
    assert begun.wait(20)
    for actor in (low, high, low, high, low, high):
        actor.send()
    wait_until(lambda: worker.work_queue.qsize() == 6, what="all to be fetched")
    go_on.set()
    desk.join()
    assert ran == ["high"] * 3 + ["low"] * 3


def test_options_that_nobody_knows_are_kept_and_ignored(desk: Desk, worker: Worker) -> None:
    """On a message; an actor's options have to be known, so that a misspelt one is noticed."""
    seen: list[Any] = []

    @dramatiq.actor
    def look() -> None:
        message = CurrentMessage.get_current_message()
        assert message is not None
        seen.append(message.options["colour"])

    look.send_with_options(colour="red")
    desk.join()
    assert seen == ["red"]
    with pytest.raises(ValueError, match="colour"):
        dramatiq.actor(colour="red")(lambda: None)


def test_an_encoder_of_ones_own_is_used(desk: Desk, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """What JSON cannot say arrives all the same; ours wants to be told that the encoder can be trusted."""
    ran: list[Any] = []
    if not desk.stub:
        monkeypatch.setattr(desk.broker, "envelope", Envelope(any_encoder=True))
    former = get_encoder()
    dramatiq.set_encoder(PickleEncoder())
    try:

        @dramatiq.actor(max_retries=0)
        def take(value: set[int]) -> None:
            ran.append(value)
            if not value:
                raise ValueError("empty")

        take.send({1, 2})
        take.send(set())
        desk.join()
        assert [message.args for message in desk.dead_letters()] == [(set(),)]
    finally:
        dramatiq.set_encoder(former)
    assert sorted(ran) == [set(), {1, 2}]


def test_only_queues_by_their_own_names_are_declared(desk: Desk) -> None:
    """A worker that was told of delay queues or dead letters as queues would read them as such."""

    @dramatiq.actor(queue_name="mine")
    def idle() -> None: ...

    assert {name for name in desk.broker.get_declared_queues() if "." not in name} == {"mine"}
    declared = desk.broker.get_declared_queues()
    declared.clear()  # a copy: what a caller does to it is its own affair
    assert "mine" in desk.broker.get_declared_queues()
    with pytest.raises(ActorNotFound):
        desk.broker.get_actor("nobody")
    if not desk.stub:  # StubBroker has a queue `mine.DQ` beside each, and names it among them
        assert desk.broker.get_declared_queues() == {"mine"}
        assert desk.broker.get_declared_delay_queues() == set()


def test_errors_are_let_go_of_after_the_message(desk: Desk, worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    """An exception keeps all that its frames held; a worker that kept it would grow."""
    if desk.stub:
        pytest.skip("StubBroker keeps exceptions on purpose, for join(fail_fast=True)")
    caplog.set_level(logging.CRITICAL, logger="dramatiq")  # the plugin keeps what is logged, tracebacks and all
    errors: list[weakref.ref[Exception]] = []

    class Remembered(Exception):
        pass

    @dramatiq.actor(max_retries=0)
    def fail() -> None:
        error = Remembered()
        errors.append(weakref.ref(error))
        raise error

    fail.send()
    desk.join()

    def gone() -> bool:
        gc.collect()
        return errors[0]() is None

    wait_until(gone, what="the exception to go")


def test_a_message_may_be_sent_again_as_it_is(desk: Desk, worker: Worker) -> None:
    """`enqueue` gives the message back; a second send of it is a second run."""
    ran: list[str] = []

    @dramatiq.actor
    def note(name: str) -> None:
        ran.append(name)

    message = note.message("same")
    assert desk.broker.enqueue(message).message_id == message.message_id
    desk.broker.enqueue(message)
    desk.join()
    assert ran == ["same", "same"]
