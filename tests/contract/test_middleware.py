"""Middleware: every hook, in the order that Dramatiq documents, on every broker."""

from __future__ import annotations

import threading
from threading import Event
from typing import TYPE_CHECKING, Any

import dramatiq
import pytest
from dramatiq.errors import Retry
from dramatiq.middleware import Middleware, SkipMessage
from dramatiq.worker import ConsumerThread

from tests.support import wait_until


if TYPE_CHECKING:
    from pathlib import Path

    from tests.contract.conftest import Desk

#: All that Dramatiq tells a middleware of messages.
HOOKS = (
    *(f"{when}_{what}" for what in ("enqueue", "process_message", "ack", "nack") for when in ("before", "after")),
    "after_skip_message",
    "before_delay_message",
)


class Recorder(Middleware):
    """Writes down what it is told of messages, each thread's part by itself, in its order."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.ran: list[str] = []
        self._sender = threading.get_ident()

    def note(self, hook: str, message: dramatiq.Message[Any]) -> None:
        """What *hook* was called for."""
        # StubBroker's way of delaying is left out: the message lies on a queue of its own, then in a worker's memory,
        # and is sent anew from there.  Ours waits in the log, and a worker hears of it when it is due.
        moved = isinstance(threading.current_thread(), ConsumerThread)
        if moved if "enqueue" in hook else message.queue_name.endswith(".DQ"):
            return
        (self.sent if threading.get_ident() == self._sender else self.ran).append(hook)


def _noting(hook: str) -> Any:
    def call(self: Recorder, broker: dramatiq.Broker, message: Any, *args: Any, **kwargs: Any) -> None:
        self.note(hook, message)

    return call


for _hook in HOOKS:
    setattr(Recorder, _hook, _noting(_hook))

Worker = dramatiq.Worker

RUN = ["before_process_message", "after_process_message"]
ACK, NACK, SEND = (["before_" + what, "after_" + what] for what in ("ack", "nack", "enqueue"))


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


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("succeeds", [*RUN, *ACK]),
        ("fails", [*RUN, *NACK]),
        ("is retried", ["before_process_message", *SEND, "after_process_message", *ACK, *RUN, *ACK]),
        ("sends", ["before_process_message", *SEND, "after_process_message", *ACK]),
        ("is skipped", ["before_process_message", "after_skip_message", *ACK]),
        ("is unknown", NACK),
        ("is delayed", [*RUN, *ACK]),
    ],
)
def test_a_message_is_told_of_in_the_same_order_everywhere(desk: Desk, what: str, expected: list[str]) -> None:
    """Whatever becomes of it; around each of its runs, each ack and each send."""
    recorder = Recorder()
    desk.broker.add_middleware(recorder, before=dramatiq.middleware.Retries)
    attempts: list[int] = []

    class Skipping(Middleware):
        def before_process_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
            if message.actor_name == "run" and what == "is skipped":
                raise SkipMessage("this one")

    desk.broker.add_middleware(Skipping())

    @dramatiq.actor(queue_name="other")
    def other() -> None: ...

    @dramatiq.actor(max_retries=5)
    def run() -> None:
        attempts.append(1)
        if what == "fails":
            raise ValueError("on purpose")
        if what == "is retried" and len(attempts) == 1:
            raise Retry("again", delay=0)
        if what == "sends":
            other.send()

    message = run.message_with_options(max_retries=0 if what == "fails" else 5)
    name = "nobody" if what == "is unknown" else "run"
    desk.broker.enqueue(message.copy(actor_name=name), delay=100 if what == "is delayed" else None)
    worker = dramatiq.Worker(desk.broker, queues={"default"}, worker_threads=1, worker_timeout=100)
    worker.start()
    desk.join()
    worker.stop()
    desk.broker.queues.pop("other")  # nobody reads it
    assert recorder.sent == SEND
    assert recorder.ran == expected


def test_declarations_are_told_of(desk: Desk) -> None:
    """The queue within the actor, and each of them once; to a middleware that comes late, afterwards."""
    calls: list[tuple[str, str]] = []

    class Declared(Middleware):
        def before_declare_actor(self, broker: dramatiq.Broker, actor: dramatiq.Actor[Any, Any]) -> None:
            calls.append(("before actor", actor.actor_name))

        def after_declare_actor(self, broker: dramatiq.Broker, actor: dramatiq.Actor[Any, Any]) -> None:
            calls.append(("after actor", actor.actor_name))

        def before_declare_queue(self, broker: dramatiq.Broker, queue_name: str) -> None:
            calls.append(("before queue", queue_name))

        def after_declare_queue(self, broker: dramatiq.Broker, queue_name: str) -> None:
            calls.append(("after queue", queue_name))

    desk.broker.add_middleware(Declared())

    @dramatiq.actor(queue_name="mine")
    def first() -> None: ...

    @dramatiq.actor(queue_name="mine")
    def second() -> None: ...

    assert [call for call in calls if call[0] != "after queue" or call[1] == "mine"] == [
        ("before actor", "first"),
        ("before queue", "mine"),
        ("after queue", "mine"),
        ("after actor", "first"),
        ("before actor", "second"),
        ("after actor", "second"),
    ]
    calls.clear()
    desk.broker.add_middleware(Declared())
    assert sorted(call for call in calls if ".DQ" not in call[1]) == [
        ("after actor", "first"),
        ("after actor", "second"),
        ("after queue", "mine"),
    ]


def test_prometheus_counts_what_happens(
    desk: Desk, worker: Worker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Dramatiq's own middleware: its gauges go back to zero, its counters say what was retried and rejected."""
    pytest.importorskip("prometheus_client", reason="Dramatiq's extra `prometheus` is not installed")
    from dramatiq.middleware import prometheus

    monkeypatch.setattr(prometheus, "DB_PATH", str(tmp_path))
    for name in ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"):
        monkeypatch.setenv(name, str(tmp_path))  # so that it is put back: the middleware sets it
    told = prometheus.Prometheus()
    told.after_process_boot(desk.broker)  # type: ignore[no-untyped-call]  # not annotated
    desk.broker.add_middleware(told)
    attempts: list[str] = []

    @dramatiq.actor(max_retries=1, min_backoff=50, max_backoff=50)
    def run(what: str) -> None:
        attempts.append(what)
        if what == "fails" or (what == "is retried" and attempts.count(what) == 1):
            raise ValueError(what)

    for what in ("succeeds", "fails", "is retried"):
        run.send(what)
    run.send_with_options(args=("is delayed",), delay=100)
    desk.join()
    wait_until(lambda: _sample(told.inprogress_messages) == 0, what="the last message to be counted")
    assert len(attempts) == 6
    assert _sample(told.total_messages) == 6
    assert _sample(told.total_errored_messages) == 3
    assert _sample(told.total_rejected_messages) == 1
    if not desk.stub:
        # StubBroker's worker keeps delayed messages in its memory under the name of their delay queue, and sends them
        # from there to their own: the gauge of that name only grows, and each retry counts twice.
        assert _sample(told.inprogress_delayed_messages) == 0
        assert _sample(told.total_retried_messages) == 2


def _sample(metric: Any) -> float:
    """What a metric with one set of labels says; a counter has its time of birth beside it."""
    values = [one.value for family in metric.collect() for one in family.samples if not one.name.endswith("_created")]
    return float(values[0]) if values else 0.0
