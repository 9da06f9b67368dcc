"""`KafkaBroker`: the broker that Dramatiq's actors, `Worker` and command line see."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import dramatiq
from confluent_kafka.admin import AdminClient
from dramatiq.common import q_name
from dramatiq.errors import QueueNotFound
from dramatiq.middleware import Middleware, default_middleware

from brokers import records
from brokers.clients import Health, base_config, client_logger
from brokers.consumer import GroupConsumer
from brokers.errors import DelayRefused, WrongTopic
from brokers.groups import Groups
from brokers.producer import Delivery, Pending, Producer
from brokers.reader import KafkaMessageProxy, Reader
from brokers.topics import FOR_EVER, Queue, Topics, TopicSpec


if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from brokers.assignment import Blocked
    from brokers.records import Outgoing
    from brokers.topics import Decode, Start

#: Seconds within which Kafka has to confirm a send, unless the caller says otherwise.
DELIVERY_TIMEOUT_S = 8.0

#: Actor options that describe the queue, not the actor.
QUEUE_OPTIONS = frozenset({"ordered", "batch"})


class KafkaBroker(dramatiq.Broker):
    """A Dramatiq broker on Apache Kafka.

    Constructing it does no I/O; clients are made at first use, in each process anew.  A queue ``q`` is the topic
    ``<prefix>q``, made on first use; its failed messages are parked on ``<prefix>q.XQ``.

    Actor options: ``ordered=True`` (one message at a time, in log order, a failed one is held in place) and ``batch=n``
    (an ordered actor gets a list of up to n consecutive messages).  Message option: ``key`` (messages of one key share
    a partition).

    Limits: no delayed messages, so a `Retries` backoff parks the message instead; gevent is not supported.

    Parameters:
      bootstrap_servers: ``host:port,host:port``.
      prefix: put before every topic name.
      group_id: the consumer group of queues that do not name their own.
      middleware: as in Dramatiq.
      delivery_timeout_s: seconds within which Kafka has to confirm a send.
      group_protocol: ``classic`` or ``consumer`` (KIP-848).
      client: further settings of the Kafka client, with ``_`` for ``.``: ``security_protocol="SASL_SSL"``.
    """

    def __init__(
        self,
        bootstrap_servers: str = "localhost:9092",
        *,
        prefix: str = "",
        group_id: str = "dramatiq",
        middleware: Sequence[Middleware] | None = None,
        delivery_timeout_s: float = DELIVERY_TIMEOUT_S,
        group_protocol: str = "classic",
        **client: Any,
    ) -> None:
        given = [m() for m in default_middleware] if middleware is None else middleware
        self._guard = _EnqueueGuard()
        super().__init__([self._guard, *given])
        self.prefix = prefix
        self.group_id = group_id
        self.actor_options |= QUEUE_OPTIONS
        self._settings = {"bootstrap.servers": bootstrap_servers} | {k.replace("_", "."): v for k, v in client.items()}
        self._protocol = group_protocol
        self._timeout_s = delivery_timeout_s
        self._lock = threading.RLock()
        self._health = Health()
        self._admins: dict[int, AdminClient] = {}  # by process; kept alive, since futures of a dropped one never end
        self._consumers: dict[tuple[int, str], GroupConsumer] = {}
        self._batches = threading.local()
        self.producer = Producer(self._settings, delivery_timeout_s=delivery_timeout_s)
        self.topics = Topics(self._admin, delivery_timeout_s)
        self._groups = Groups(self._admin, self.topics, delivery_timeout_s)

    @property
    def client_settings(self) -> dict[str, Any]:
        """The Kafka client's settings, for clients beside the broker's own."""
        return dict(self._settings)

    # Declarations.

    def declare_queue(
        self,
        queue_name: str,
        *,
        topic: TopicSpec | None = None,
        group_id: str | None = None,
        ordered: bool = False,
        batch: int | None = None,
        start: Start | None = None,
        decode: Decode | None = None,
    ) -> None:
        """Declare a queue; again with the same properties changes nothing.

        Raises:
          WrongTopic: it is declared with other properties already, or they do not fit together.
        """
        queue = self._queue(queue_name, topic, group_id, ordered=ordered, batch=batch)
        known = self.queues.get(queue_name)
        if known is not None:
            if queue not in (known, self._queue(queue_name)):
                raise WrongTopic(f"queue {queue_name!r} is declared already, as {known}")
            return
        self.emit_before("declare_queue", queue_name)
        self.queues[queue_name] = replace(queue, start=start, decode=decode)
        self.emit_after("declare_queue", queue_name)

    def _queue(
        self,
        name: str,
        topic: TopicSpec | None = None,
        group_id: str | None = None,
        *,
        ordered: bool = False,
        batch: int | None = None,
    ) -> Queue:
        if topic is None:
            full = self.prefix + name
            topic = TopicSpec(full, 1, FOR_EVER, exact=True) if ordered else TopicSpec(full)
        return Queue(name, topic, group_id or self.group_id, ordered=ordered, batch=batch)

    def declare_actor(self, actor: dramatiq.Actor[Any, Any]) -> None:
        """Declare *actor* and its queue.

        Raises:
          WrongTopic: its queue options contradict another actor's, or an ordered actor wants to be retried elsewhere in
            the log.
        """
        options = {name: actor.options[name] for name in QUEUE_OPTIONS if name in actor.options}
        if options or actor.queue_name not in self.queues:
            self.declare_queue(actor.queue_name, **options)
        if self.queues[actor.queue_name].ordered:
            self._pin(actor)
        super().declare_actor(actor)

    def _pin(self, actor: dramatiq.Actor[Any, Any]) -> None:
        """An ordered message is repeated in place by the consumer; a retry would put a copy behind its successors."""
        if actor.options.get("max_retries") or actor.options.get("retry_when"):
            raise WrongTopic(
                f"actor {actor.actor_name!r} is ordered: a failed message is held and repeated in its place,"
                " so take out max_retries and retry_when"
            )
        actor.options["max_retries"] = 0

    def get_queue(self, queue_name: str) -> Queue:
        """The queue as declared.  Raises `QueueNotFound`."""
        try:
            queue: Queue = self.queues[q_name(queue_name)]
        except KeyError:
            raise QueueNotFound(queue_name) from None  # type: ignore[no-untyped-call]  # not annotated
        return queue

    # Sending.

    def enqueue(self, message: dramatiq.Message[Any], *, delay: int | None = None) -> dramatiq.Message[Any]:
        """Put *message* on its queue.

        When this returns, Kafka has it on all in-sync replicas; in `batching`, when that ends.
        The message gets an attribute ``delivery``: where it is.

        Raises:
          QueueNotFound, Unreachable, DeliveryUnknown, DeliveryRefused, DelayRefused: see `brokers.errors`.
        """
        try:
            return self._enqueue(message, delay)
        except Exception as exc:
            self._guard.failed(exc)
            raise

    def _enqueue(self, message: dramatiq.Message[Any], delay: int | None) -> dramatiq.Message[Any]:
        queue = self.get_queue(message.queue_name)
        if delay is not None:
            raise DelayRefused(
                f"message {message.message_id} asks for a delay of {delay} ms, and this broker has no delayed messages"
            )
        self.topics.ensure(queue.topic)
        self.emit_before("enqueue", message, delay)
        pending = self.producer.post(records.encode(message, queue.topic.name))
        batch: list[tuple[dramatiq.Message[Any], Pending]] | None = getattr(self._batches, "open", None)
        if batch is not None:
            batch.append((message, pending))
            return message
        return self._confirmed(message, pending)

    def _confirmed(self, message: dramatiq.Message[Any], pending: Pending) -> dramatiq.Message[Any]:
        delivery = self.producer.confirm(pending)
        object.__setattr__(message, "delivery", delivery)  # the dataclass is frozen; this is no field of it
        self.emit_after("enqueue", message, None)
        return message

    @contextmanager
    def batching(self) -> Iterator[None]:
        """Within, this thread's enqueues only post; all are confirmed together at the end.

        The end raises the first error.
        """
        if getattr(self._batches, "open", None) is not None:
            yield  # the outer one confirms
            return
        batch: list[tuple[dramatiq.Message[Any], Pending]] = []
        self._batches.open = batch
        try:
            yield
        finally:
            self._batches.open = None
            self._confirm_all(batch)

    def _confirm_all(self, batch: list[tuple[dramatiq.Message[Any], Pending]]) -> None:
        errors: list[Exception] = []
        for message, pending in batch:
            try:
                self._confirmed(message, pending)
            except Exception as exc:  # noqa: BLE001 - the others still need their answer
                errors.append(exc)
        if errors:
            self._guard.failed(errors[0])
            raise errors[0]

    def publish(self, record: Outgoing, spec: TopicSpec) -> Delivery:
        """Put a record that is no message on a topic of any kind, confirmed; raises as `enqueue` does."""
        self.topics.ensure(spec)
        return self.producer.send(record)

    # Reading.

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 30000) -> Reader:
        """A reader of the queue; *timeout* in milliseconds is how long its ``__next__`` waits.

        Raises:
          QueueNotFound, Unreachable, WrongTopic: see `brokers.errors`.
        """
        queue = self.get_queue(queue_name)
        self.topics.ensure(queue.topic)
        buffer = self._consumer(queue.group_id).open(queue)
        return Reader(queue, buffer, self.publish, prefetch=prefetch, timeout_s=timeout / 1000)

    def _consumer(self, group_id: str) -> GroupConsumer:
        key = (os.getpid(), group_id)
        with self._lock:
            consumer = self._consumers.get(key)
            if consumer is None or not consumer.running:
                consumer = GroupConsumer(group_id, self._settings, protocol=self._protocol)
                self._consumers[key] = consumer
        return consumer

    def _running_consumers(self) -> list[GroupConsumer]:
        with self._lock:
            return [consumer for (pid, _), consumer in self._consumers.items() if pid == os.getpid()]

    def blocked(self) -> dict[str, Blocked]:
        """The partitions held by this process that do not go on, by ``topic/partition``, and why."""
        return dict(chain.from_iterable(consumer.blocked().items() for consumer in self._running_consumers()))

    # Waiting and dropping, for tests.

    def join(self, queue_name: str, *, timeout: int | None = None) -> None:
        """Wait until the queue's group has finished all that is in the queue; *timeout* in milliseconds.

        Raises:
          QueueJoinTimeout, QueueNotFound.
        """
        self._groups.join(self.get_queue(queue_name), None if timeout is None else timeout / 1000)

    def flush(self, queue_name: str) -> None:
        """Drop what waits in the queue, by moving the group's offsets to the end.

        The records stay in the log for other groups.

        Raises:
          WrongTopic: a worker of the group is reading the queue, here or elsewhere; or the queue has a start of its
            own.
        """
        queue = self.get_queue(queue_name)
        if queue.start is not None:
            raise WrongTopic(f"queue {queue_name!r} keeps its position elsewhere: its messages cannot be dropped")
        self._groups.skip_to_end(queue)

    def flush_all(self) -> None:
        """`flush` every declared queue."""
        for queue_name in self.queues:
            self.flush(queue_name)

    def close(self) -> None:
        """Finish what runs, commit, leave the groups, wait for what is being sent.

        Idempotent; the broker can be used again.
        """
        consumers = self._running_consumers()
        for consumer in consumers:
            consumer.close()
        with self._lock:
            self._consumers.clear()
        self.producer.close()

    def _admin(self) -> AdminClient:
        with self._lock:
            admin = self._admins.get(os.getpid())
            if admin is None:
                admin = AdminClient(base_config(self._settings, self._health), logger=client_logger())
                self._admins[os.getpid()] = admin
            return admin


class _EnqueueGuard(Middleware):
    """Remembers on a message that an enqueue failed while it ran.

    Dramatiq logs an error inside middleware and acks all the same; the retry, or the callback, would be lost.
    """

    def __init__(self) -> None:
        self._current = threading.local()

    def failed(self, error: Exception) -> None:
        message = getattr(self._current, "message", None)
        if message is not None:
            message.enqueue_error = error

    def before_process_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
        if isinstance(message, KafkaMessageProxy):
            message.enqueue_error = None
            self._current.message = message

    def after_process_message(
        self,
        broker: dramatiq.Broker,
        message: dramatiq.MessageProxy,
        *,
        result: object = None,
        exception: BaseException | None = None,
    ) -> None:
        self._current.message = None

    after_skip_message = after_process_message
