"""What Dramatiq's documentation promises of every broker, as its users see it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from threading import Event
from typing import TYPE_CHECKING, Any

import dramatiq
import pytest
from dramatiq import Message, group, pipeline
from dramatiq.errors import QueueJoinTimeout, QueueNotFound, Retry
from dramatiq.middleware import CurrentMessage, SkipMessage
from dramatiq.results import ResultFailure

from tests.support import wait_until


if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.contract.conftest import Desk

Worker = dramatiq.Worker


def together(children: list[Any]) -> Any:
    """A group; Dramatiq leaves it without types."""
    return group(children)  # type: ignore[no-untyped-call]


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
    note.send_with_options(args=("late",), delay=3000)
    note.send_with_options(args=("soon",), delay=300)
    note.send("now")
    desk.join()
    assert [name for name, _ in ran] == ["now", "soon", "late"]
    assert ran[1][1] - began >= 0.3
    assert ran[2][1] - began >= 3


def test_hooks_are_called_in_their_order(desk: Desk, work: Callable[[], Worker]) -> None:
    """Around declaring, sending, running and acking, so that any middleware works."""
    calls: list[str] = []

    def noting(name: str) -> Any:
        return lambda *_, **__: calls.append(name)

    names = [f"{when}_{what}" for what in ("enqueue", "process_message", "ack", "nack") for when in ("before", "after")]
    desk.broker.add_middleware(type("Noting", (dramatiq.Middleware,), {name: noting(name) for name in names})())

    @dramatiq.actor(max_retries=0)
    def run(fails: bool) -> None:
        calls.append("run")
        if fails:
            raise ValueError("on purpose")

    work()
    for fails, end in ((False, "ack"), (True, "nack")):
        calls.clear()
        run.send(fails)
        wait_until(lambda: "after_enqueue" in calls, what="the sender")
        wait_until(lambda: {"after_ack", "after_nack"} & set(calls), what=f"the {end}")
        assert calls[0] == "before_enqueue"
        calls.remove("after_enqueue")  # the worker may be faster than the sender's confirmation
        assert calls[1:] == [
            "before_process_message",
            "run",
            "after_process_message",
            f"before_{end}",
            f"after_{end}",
        ]


def test_a_hook_that_raises_stops_nothing(desk: Desk, worker: Worker) -> None:
    """Dramatiq logs it and goes on."""
    ran: list[int] = []

    class Broken(dramatiq.Middleware):
        def before_process_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
            raise RuntimeError("before")

        def after_process_message(self, *args: Any, **kwargs: Any) -> None:
            raise RuntimeError("after")

    desk.broker.add_middleware(Broken())

    @dramatiq.actor
    def run() -> None:
        ran.append(1)

    run.send()
    desk.join()
    assert ran == [1]


def test_middleware_may_skip_a_message(desk: Desk, worker: Worker) -> None:
    """A skipped message is acked, and does not run."""
    ran: list[int] = []
    skipped = Event()

    class Skipping(dramatiq.Middleware):
        def before_process_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
            raise SkipMessage("not this one")

        def after_skip_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
            skipped.set()

    desk.broker.add_middleware(Skipping())

    @dramatiq.actor
    def run() -> None:
        ran.append(1)

    run.send()
    assert skipped.wait(10)
    desk.join()
    assert (ran, desk.dead_letters()) == ([], [])


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


def test_results_come_back(desk: Desk, worker: Worker) -> None:
    """Values, and errors once the message has failed for good."""

    @dramatiq.actor(store_results=True, max_retries=0)
    def divide(a: int, b: int) -> float:
        return a / b

    good, bad = divide.send(1, 2), divide.send(1, 0)
    assert good.get_result(block=True, timeout=20_000) == 0.5
    with pytest.raises(ResultFailure, match="ZeroDivisionError"):
        bad.get_result(block=True, timeout=20_000)


def test_a_pipeline_hands_results_on(desk: Desk, worker: Worker) -> None:
    """From each actor to the next, through the queue."""

    @dramatiq.actor(store_results=True)
    def add(a: int, b: int) -> int:
        return a + b

    message: Callable[..., Message[Any]] = add.message  # the result before it is the other argument
    chain: Any = message(1, 2) | message(3) | message(4)
    assert isinstance(chain, pipeline)
    ran: Any = chain.run()  # type: ignore[no-untyped-call]  # not annotated
    assert ran.get_result(block=True, timeout=20_000) == 10


def test_a_group_gathers_results(desk: Desk, worker: Worker) -> None:
    """In the order of its members; groups of pipelines too."""

    @dramatiq.actor(store_results=True)
    def double(number: int) -> int:
        return 2 * number

    message: Callable[..., Message[Any]] = double.message  # a result may be its argument
    jobs = together([message(n) for n in range(10)]).run()
    assert list(jobs.get_results(block=True, timeout=20_000)) == [2 * n for n in range(10)]
    nested = together([message(n) | message() for n in range(3)]).run()
    assert list(nested.get_results(block=True, timeout=20_000)) == [0, 4, 8]


def test_a_group_calls_back_when_all_have_run(desk: Desk, worker: Worker) -> None:
    """Once, after the last one."""
    ran: list[int] = []
    done: list[int] = []

    @dramatiq.actor
    def member(number: int) -> None:
        ran.append(number)

    @dramatiq.actor
    def finale() -> None:
        done.append(len(ran))

    jobs = together([member.message(n) for n in range(5)])
    jobs.add_completion_callback(finale.message())
    jobs.run()
    wait_until(lambda: done, what="the completion callback")
    desk.join()
    assert done == [5]


def test_actors_call_back(desk: Desk, worker: Worker) -> None:
    """On success with the result, on failure with the error."""
    told: list[Any] = []

    @dramatiq.actor
    def succeeded(message: dict[str, Any], result: int) -> None:
        told.append((message["args"], result))

    @dramatiq.actor
    def failed(message: dict[str, Any], error: dict[str, str]) -> None:
        told.append((message["args"], error))

    @dramatiq.actor(max_retries=0, store_results=True, on_success="succeeded", on_failure="failed")
    def invert(number: int) -> float:
        return 1 / number

    invert.send(2)
    invert.send(0)
    wait_until(lambda: len(told) == 2, what="both callbacks")
    assert ([2], 0.5) in told
    assert ([0], {"type": "ZeroDivisionError", "message": "division by zero"}) in told


def test_a_worker_pauses_and_resumes(desk: Desk, worker: Worker) -> None:
    """Nothing runs in between, and afterwards everything, once."""
    ran: Counter[int] = Counter()

    @dramatiq.actor
    def count(number: int) -> None:
        ran[number] += 1

    for number in range(10):
        count.send(number)
    desk.join()
    worker.pause()
    for number in range(10, 20):
        count.send(number)
    with pytest.raises(QueueJoinTimeout):
        desk.join(timeout=300)
    assert ran == Counter(range(10))
    worker.resume()
    desk.join()
    assert ran == Counter(range(20))


def test_joining_gives_up_in_time(desk: Desk) -> None:
    """A queue that nobody works on is not done."""

    @dramatiq.actor
    def idle() -> None: ...

    idle.send()
    with pytest.raises(QueueJoinTimeout):
        desk.join(timeout=200)


def test_a_flushed_queue_is_empty(desk: Desk, work: Callable[[], Worker]) -> None:
    """What was dropped does not run; what comes after does."""
    ran: list[str] = []

    @dramatiq.actor
    def note(name: str) -> None:
        ran.append(name)

    for _ in range(5):
        note.send("dropped")
    desk.broker.flush("default")
    note.send("dropped too")
    desk.broker.flush_all()
    note.send("kept")
    work()
    desk.join()
    assert ran == ["kept"]


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


def test_an_actor_may_be_declared_while_a_worker_runs(desk: Desk, worker: Worker) -> None:
    """On a queue of its own, too."""
    ran: list[str] = []

    @dramatiq.actor
    def early() -> None:
        ran.append("early")

    early.send()
    desk.join()

    @dramatiq.actor(queue_name="another")
    def late() -> None:
        ran.append("late")

    late.send()
    desk.join("another")
    assert ran == ["early", "late"]


def test_a_consumer_hands_out_no_more_than_its_prefetch(desk: Desk) -> None:
    """The next message comes when one has been acked."""

    @dramatiq.actor
    def idle(number: int) -> None: ...

    for number in range(3):
        idle.send(number)
    consumer = desk.broker.consume("default", prefetch=2, timeout=200)

    def taken() -> dramatiq.MessageProxy:
        message = wait_until(lambda: next(consumer), what="a message")
        assert message is not None
        return message

    first, second = taken(), taken()
    assert next(consumer) is None
    consumer.ack(first)
    assert {first.args, second.args, taken().args} == {(0,), (1,), (2,)}
    consumer.close()


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


def test_async_actors_work(desk: Desk, worker: Worker) -> None:
    """Their enqueues and results too."""

    @dramatiq.actor(store_results=True)
    async def slow(number: int) -> int:
        await asyncio.sleep(0.01)
        return number + 1

    messages = [slow.send(n) for n in range(8)]
    assert [m.get_result(block=True, timeout=20_000) for m in messages] == list(range(1, 9))


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
