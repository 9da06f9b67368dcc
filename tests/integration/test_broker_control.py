"""Telling two worker processes something over the control topic, on real Kafka."""

from __future__ import annotations

import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import dramatiq
import pytest
from dramatiq import Worker
from dramatiq.results import Results
from dramatiq.results.backends import StubBackend
from dramatiq.results.errors import ResultFailure

from brokers import KafkaBroker
from brokers.errors import ControlRefused
from brokers.records import Outgoing
from brokers.replies import Place, TopicReader
from tests.integration.control_worker import Crew, make_broker
from tests.support import unique, wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from brokers.inspection import Inspection
    from brokers.records import Record


class Desk:
    """Two worker processes, and the broker of whoever gives orders."""

    def __init__(self, kafka: str, log: Path) -> None:
        self.prefix = unique("control") + "-"
        self.broker = make_broker(kafka, self.prefix)
        self.control = self.broker.control
        self.crew = Crew(kafka, self.prefix, log)
        self.crew.start()
        self.crew.start()

    def send(self, queue: str, number: int, seconds: float = 0, **options: Any) -> dramatiq.Message[Any]:
        """A nap."""
        actor = self.broker.get_actor(f"nap.{queue}")
        return actor.send_with_options(args=(number, seconds), **options)

    def all_answer(self) -> Inspection:
        """Once both hold partitions, and nobody is silent."""

        def asked() -> Inspection | None:
            found = self.control.inspect(0.5)
            pids = {worker.pid for worker in found.workers if worker.partitions}
            return found if pids == {member.pid for member in self.crew.members} and not found.silent else None

        found = wait_until(asked, 60, "both workers to answer")
        assert found is not None
        return found

    def heard(self, queue: str, *, paused: bool) -> None:
        """Until every worker has heard of it."""
        wait_until(
            lambda: all((queue in worker.paused) is paused for worker in self.control.inspect(0.3).workers),
            20,
            f"{queue} to be paused or resumed everywhere",
        )

    def did(self, what: str) -> list[int]:
        """The numbers of those that began, ended or were interrupted."""
        return sorted(line.number for line in self.crew.lines() if line.what == what)

    def close(self) -> None:
        """Let nobody run on."""
        self.crew.close()
        self.broker.close()


@pytest.fixture(scope="module")
def desk(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """One for all tests here: each has a queue of its own, and leaves both workers running."""
    desk = Desk(kafka, tmp_path_factory.mktemp("control") / "log")
    desk.all_answer()
    yield desk
    desk.close()


def test_inspect_tells_what_every_worker_does_and_who_is_silent(desk: Desk) -> None:
    """What runs, with its message; and a process that hangs is named all the same."""
    message = desk.send("first", 1, seconds=3)
    wait_until(lambda: 1 in desk.did("begin"), 20, "it to run")
    found = desk.all_answer()
    [running] = [one for worker in found.workers for one in worker.running]
    assert (running.message_id, running.actor, running.queue) == (message.message_id, "nap.first", "first")
    assert running.record.startswith(f"{desk.prefix}first/")
    assert 0 <= time.time() * 1000 - running.since_ms < 30_000
    partitions = [name for worker in found.workers for name in worker.partitions]
    assert len(partitions) == len(set(partitions)) == 25  # of three queues and the ordered one
    assert {name for worker in found.workers for name in worker.queues} == {"first", "second", "third", "steps"}

    hanging, other = desk.crew.members
    hanging.send_signal(signal.SIGSTOP)
    try:
        found = desk.control.inspect(0.5)
    finally:
        hanging.send_signal(signal.SIGCONT)
    assert [worker.pid for worker in found.workers] == [other.pid]
    [silent] = found.silent
    assert silent.group == f"{desk.prefix}workers"
    assert silent.partitions


def test_a_running_message_is_aborted_and_neither_retried_nor_parked(desk: Desk) -> None:
    """Its actor is interrupted where it runs, and no other one."""
    aborted, spared = desk.send("first", 10, seconds=60), desk.send("first", 11, seconds=1)
    wait_until(lambda: {10, 11} <= set(desk.did("begin")), 20, "both to run")
    desk.control.abort(aborted.message_id, reason="a mistake")
    wait_until(lambda: 11 in desk.did("end"), 20, "the other one to end")
    desk.broker.join("first", timeout=20_000)
    assert desk.did("interrupted") == [10]
    assert desk.did("begin").count(10) == 1
    assert desk.broker.topics.partitions(f"{desk.prefix}first.XQ") is None
    assert spared.message_id != aborted.message_id


def test_revoked_messages_do_not_run_whether_they_wait_or_are_delayed(desk: Desk) -> None:
    """By id, and by actor all that were sent before; what is sent later runs."""
    desk.control.pause("second")
    desk.heard("second", paused=True)
    sent = {number: desk.send("second", number) for number in (20, 21)}
    desk.send("second", 22, delay=3_600_000)
    assert desk.control.revoke(sent[20].message_id) == 0
    desk.control.resume("second")
    wait_until(lambda: 21 in desk.did("end"), 20, "the other one to run")

    desk.control.pause("second")
    desk.heard("second", paused=True)
    desk.send("second", 23)
    assert desk.control.revoke(actor="nap.second") == 1  # the delayed one
    desk.send("second", 24)
    desk.control.resume("second")
    desk.broker.join("second", timeout=20_000)
    assert {20, 22, 23}.isdisjoint(desk.did("begin"))
    assert {21, 24} <= set(desk.did("end"))
    skipped = [worker.skipped.get("Revoked", 0) for worker in desk.control.inspect(0.5).workers]
    assert sum(skipped) == 2
    assert desk.control.unrevoke(actor="nap.second") == 1
    assert [one.kind for one in desk.control.orders().revocations] == ["id", "id"]


@pytest.mark.parametrize(("killed", "first"), [(False, 30), pytest.param(True, 130, marks=pytest.mark.slow)])
def test_a_pause_holds_for_workers_that_start_later(desk: Desk, killed: bool, first: int) -> None:
    """One worker ends during the pause, or is killed with -9, and another one begins: nothing runs before `resume`.

    All of it runs after; other queues go on.  What somebody else writes on the control topic stops nobody.
    """
    numbers = range(first, first + 10)
    topic = desk.broker.control_topic
    for key, value in ((b"garbage", b"\xff"), (b"pause/third", b'{"v": 99}'), (b"pause/third", b"{}")):
        desk.broker.publish(Outgoing(topic.name, value, key), topic)
    desk.control.pause("third", reason="maintenance")
    desk.heard("third", paused=True)
    for number in numbers:
        desk.send("third", number)
    (desk.crew.kill if killed else desk.crew.stop)(desk.crew.members[0])
    desk.crew.start()
    found = desk.all_answer()
    assert {worker.paused["third"].reason for worker in found.workers} == {"maintenance"}
    blocked = {name: why.reason for worker in found.workers for name, why in worker.blocked.items()}
    assert blocked == {f"{desk.prefix}third/{n}": "paused: maintenance" for n in range(8)}
    desk.send("first", first + 10)
    wait_until(lambda: first + 10 in desk.did("end"), 20, "another queue to go on")
    assert set(numbers).isdisjoint(desk.did("begin"))

    assert desk.control.resume("third")
    desk.broker.join("third", timeout=30_000)
    assert [number for number in desk.did("begin") if number in numbers] == list(numbers)
    assert not desk.control.resume("third")


def test_an_ordered_queue_can_be_paused_and_nothing_of_it_revoked(desk: Desk) -> None:
    """A message of its log is skipped nowhere."""
    desk.control.pause("steps")
    desk.heard("steps", paused=True)
    step = desk.broker.get_actor("step")
    first = step.send(50)
    step.send(51)
    with pytest.raises(ControlRefused, match="is ordered"):
        desk.control.abort(queue="steps")
    with pytest.raises(ControlRefused, match="is ordered"):
        desk.control.revoke(actor="step")
    desk.control.revoke(first.message_id)  # nobody here can know of which queue it is
    desk.control.resume("steps")
    wait_until(lambda: 51 in desk.did("end"), 20, "the steps to be done")
    assert [line.number for line in desk.crew.lines() if line.what == "begin" and line.number in {50, 51}] == [50, 51]


def test_what_cannot_be_meant_is_refused(desk: Desk) -> None:
    """A pause of a misspelt queue would be silent for ever."""
    with pytest.raises(ControlRefused, match="there is no queue 'frist'"):
        desk.control.pause("frist")
    with pytest.raises(ControlRefused, match="exactly one"):
        desk.control.revoke("id", actor="nap.first")


def ended(broker: KafkaBroker) -> list[bytes]:
    """What tombstones on the control topic are about."""
    records: list[Record] = []
    place = Place(broker.control_topic.name, from_start=True)
    reader = TopicReader(broker.client_settings, [place], records.append, timeout_s=10)
    assert reader.wait_caught_up(10)
    reader.close()
    return [(record.key or b"").rpartition(b"/")[0] for record in records if record.value is None]


def test_whoever_waits_for_a_revoked_message_is_told(kafka: str) -> None:
    """A failure, not a value: of one that waited, one that was delayed, and one that ran."""
    prefix = unique("told") + "-"
    broker = KafkaBroker(kafka, prefix=prefix, group_id=prefix + "workers")
    backend, began = StubBackend(), threading.Event()
    broker.add_middleware(Results(backend=backend))  # type: ignore[no-untyped-call]  # Dramatiq's gap

    @dramatiq.actor(broker=broker, store_results=True)
    def work() -> int:
        return 1

    @dramatiq.actor(broker=broker, store_results=True)
    def busy() -> None:
        began.set()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            time.sleep(0.01)

    late, waiting = work.send_with_options(delay=3_600_000), work.send()
    assert broker.control.revoke(late.message_id) == 1
    assert broker.control.revoke(waiting.message_id) == 0  # before any worker has begun
    assert broker.control.revoke("old", holds_s=0) == 0  # for a worker to clear away
    worker = Worker(broker, worker_timeout=100, worker_threads=1)
    worker.start()
    try:
        for message in (late, waiting):
            with pytest.raises(ResultFailure, match="revoked by id"):
                message.get_result(backend=backend, block=True, timeout=20_000)
        running = busy.send()
        assert began.wait(20)
        broker.control.abort(actor="busy")
        with pytest.raises(ResultFailure, match="Abort"):
            running.get_result(backend=backend, block=True, timeout=20_000)
        assert work.send().get_result(backend=backend, block=True, timeout=20_000) == 1
        broker.join("default", timeout=10_000)
        assert broker.topics.partitions(f"{prefix}default.XQ") is None
        wait_until(lambda: b"revoke/id/old" in ended(broker), 20, "what has expired to be cleared away")
        assert len(broker.control.orders().revocations) == 3
    finally:
        worker.stop()
        broker.close()
