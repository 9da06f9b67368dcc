"""Workers, readers, joining and flushing: as Dramatiq's documentation promises it of every broker."""

from __future__ import annotations

from collections import Counter
from threading import Event, Timer
from typing import TYPE_CHECKING

import dramatiq
import pytest
from dramatiq.errors import QueueJoinTimeout
from dramatiq.middleware import AsyncIO

from tests.support import wait_until


if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.contract.conftest import Desk

Worker = dramatiq.Worker


def taken(reader: dramatiq.Consumer) -> dramatiq.MessageProxy:
    """The next message, whenever it comes."""
    message = wait_until(lambda: next(reader), what="a message")
    assert message is not None
    return message


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

    desk.broker.close()  # what another test's worker has read may still lie in this process
    for _ in range(5):
        note.send("dropped")
    desk.broker.flush("default")
    note.send("dropped too")
    desk.broker.flush_all()
    note.send("kept")
    work()
    desk.join()
    assert ran == ["kept"]


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

    first, second = taken(consumer), taken(consumer)
    assert next(consumer) is None
    consumer.ack(first)
    assert {first.args, second.args, taken(consumer).args} == {(0,), (1,), (2,)}
    consumer.close()


def test_what_had_not_begun_at_a_shutdown_is_not_lost(desk: Desk, work: Callable[..., Worker]) -> None:
    """The one that runs is finished; what was fetched goes back to its queue, and the next worker runs it."""
    if desk.stub:
        pytest.skip("StubBroker's reader does not requeue: Dramatiq's default for that is to reject")
    ran: Counter[int] = Counter()
    begun, go_on = Event(), Event()

    @dramatiq.actor
    def slow(number: int) -> None:
        begun.set()
        go_on.wait(20)
        ran[number] += 1

    for number in range(6):
        slow.send(number)
    worker = work(threads=1)
    assert begun.wait(20)
    wait_until(lambda: worker.work_queue.qsize() == 1, what="another to be fetched")
    Timer(0.1, go_on.set).start()
    worker.stop()
    assert ran.total() == 1
    work()
    desk.join()
    assert ran == Counter(range(6))


def test_several_workers_share_a_broker(desk: Desk, work: Callable[..., Worker]) -> None:
    """Each message runs in one of them, once."""
    ran: Counter[int] = Counter()

    @dramatiq.actor
    def count(number: int) -> None:
        ran[number] += 1

    # Dramatiq's AsyncIO knows one event loop a process, and would leave the other one running for ever.
    desk.broker.middleware = [one for one in desk.broker.middleware if not isinstance(one, AsyncIO)]
    work()
    work()
    for number in range(60):
        count.send(number)
    desk.join()
    assert ran == Counter(range(60))


def test_a_worker_may_be_told_which_queues_to_read(desk: Desk) -> None:
    """It leaves the others alone."""
    ran: list[str] = []

    @dramatiq.actor(queue_name="read")
    def here() -> None:
        ran.append("here")

    @dramatiq.actor(queue_name="unread")
    def there() -> None:
        ran.append("there")

    there.send()
    here.send()
    worker = Worker(desk.broker, queues={"read"}, worker_timeout=100)
    worker.start()
    desk.join("read")
    with pytest.raises(QueueJoinTimeout):
        desk.join("unread", timeout=200)
    worker.stop()
    assert ran == ["here"]


def test_joining_waits_for_what_is_sent_meanwhile(desk: Desk, worker: Worker) -> None:
    """A message that sends others to its own queue is not the last one."""
    ran: list[int] = []

    @dramatiq.actor
    def count_down(number: int) -> None:
        ran.append(number)
        if number:
            count_down.send(number - 1)

    count_down.send(5)
    desk.join()
    assert ran == [5, 4, 3, 2, 1, 0]


def test_a_rejected_message_is_a_dead_letter_whoever_rejects_it(desk: Desk) -> None:
    """Also without a worker: a reader of ones own acks and rejects."""

    @dramatiq.actor
    def idle(number: int) -> None: ...

    sent = {idle.send(number).message_id for number in range(2)}
    reader = desk.broker.consume("default", prefetch=2, timeout=200)
    messages = [taken(reader) for _ in sent]
    reader.ack(messages[0])
    reader.nack(messages[1])
    desk.join()
    reader.close()
    assert {message.message_id for message in messages} == sent
    assert [message.message_id for message in desk.dead_letters()] == [messages[1].message_id]


def test_a_reader_without_messages_answers_in_time(desk: Desk) -> None:
    """With nothing, after its time-out: Dramatiq looks only then whether it should pause."""
    desk.broker.declare_queue("empty")
    reader = desk.broker.consume("empty", prefetch=1, timeout=50)
    assert next(reader) is None
    reader.close()


def test_messages_that_a_reader_gives_back_are_read_again(desk: Desk) -> None:
    """First, and in their order; nothing of them counts as done."""
    if desk.stub:
        pytest.skip("StubBroker's reader does not requeue: Dramatiq's default for that is to reject")

    @dramatiq.actor
    def idle(number: int) -> None: ...

    for number in range(3):
        idle.send(number)
    reader = desk.broker.consume("default", prefetch=3, timeout=200)
    first = [taken(reader) for _ in range(3)]
    reader.requeue(first)
    again = [taken(reader) for _ in range(3)]
    assert [message.args for message in again] == [message.args for message in first]
    for message in again:
        reader.ack(message)
        reader.ack(message)  # twice is as good as once
    desk.join()
    reader.close()
