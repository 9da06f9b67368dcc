"""A queue with records and a reader of it, whose two ways to Kafka are functions."""

from __future__ import annotations

from typing import Any

import dramatiq
from dramatiq.middleware import SkipMessage

from brokers.assignment import Assignment, Buffer
from brokers.offsets import AckTracker
from brokers.ordered import OrderedBuffer
from brokers.parallel import ParallelBuffer
from brokers.reader import KafkaMessageProxy, Reader
from brokers.records import Outgoing, Record, encode
from brokers.topics import Queue, TopicSpec


class Kafka:
    """Takes what is sent, until told to fail."""

    def __init__(self) -> None:
        self.parked: list[Outgoing] = []
        self.sent: list[tuple[str, int | None]] = []
        self.errors: list[Exception] = []

    def park(self, record: Outgoing, spec: TopicSpec) -> None:
        self._fail()
        assert record.topic == spec.name
        self.parked.append(record)

    def send(self, _served: KafkaMessageProxy, message: dramatiq.Message[Any], delay: int | None) -> None:
        self._fail()
        self.sent.append((message.actor_name, delay))

    def _fail(self) -> None:
        if self.errors:
            raise self.errors.pop(0)

    @property
    def told(self) -> list[tuple[str, str]]:
        return [(one.headers["xq.error"].decode(), one.headers["xq.reason"].decode()) for one in self.parked]


class Bench:
    """A queue with records, and a reader of it."""

    def __init__(
        self, *, ordered: bool = False, batch: int | None = None, decode: Any = None, refused: Any = None, **more: Any
    ) -> None:
        spec = TopicSpec("q", 1, exact=True) if ordered else TopicSpec("q")
        self.queue = Queue("q", spec, "g", ordered=ordered, batch=batch, decode=decode, refused=refused, **more)
        self.buffer: Buffer = OrderedBuffer(self.queue) if ordered else ParallelBuffer(self.queue)
        self.kafka = Kafka()
        self.assign()

    def assign(self) -> None:
        self.assignment = Assignment("q", 0, self.buffer, AckTracker(0), started=True, paused=False)
        if isinstance(self.buffer, OrderedBuffer):
            self.buffer.start_at(self.assignment, 0)

    def reader(self, prefetch: int = 9) -> Reader:
        park, send = self.kafka.park, self.kafka.send
        return Reader(self.queue, self.buffer, park=park, send=send, prefetch=prefetch, timeout_s=0)

    def deliver(self, *values: bytes | None) -> Bench:
        first = self.assignment.tracker.next
        records = [Record("q", 0, first + n, 0, None, value) for n, value in enumerate(values)]
        for record in records:
            self.assignment.tracker.begin(record.offset)
        self.buffer.deliver(self.assignment, records)
        return self

    @property
    def committed(self) -> int:
        return self.assignment.tracker.snapshot().offset


def value(actor: str = "a", **options: Any) -> bytes:
    """A message on the wire."""
    message: dramatiq.Message[Any] = dramatiq.Message("q", actor, (1,), {}, options)
    return encode(message, "q").value or b""


def work(broker: dramatiq.Broker, handed: dramatiq.MessageProxy) -> None:
    """Run a message, or several in one call, as Dramatiq's worker thread does; the ack is left."""
    try:
        broker.emit_before("process_message", handed)
        result = broker.get_actor(handed.actor_name)(*handed.args, **handed.kwargs)
        broker.emit_after("process_message", handed, result=result)
    except SkipMessage:
        broker.emit_after("skip_message", handed)
    except BaseException as exc:  # noqa: BLE001 - as Dramatiq's worker does
        handed.stuff_exception(exc)
        broker.emit_after("process_message", handed, exception=exc)


def taken(reader: Reader) -> KafkaMessageProxy:
    """The next message, begun."""
    message = next(reader)
    assert message is not None
    assert message.begin()
    return message


def failed(message: KafkaMessageProxy, error: BaseException) -> KafkaMessageProxy:
    """*message*, as Dramatiq leaves one that fails for good."""
    try:
        raise error
    except BaseException as exc:  # noqa: BLE001 - as Dramatiq's worker does
        message.stuff_exception(exc)
    message.fail()
    return message
