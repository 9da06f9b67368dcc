"""`KafkaBroker`: the broker that Dramatiq's actors, `Worker` and command line see."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import dramatiq
from dramatiq.common import q_name
from dramatiq.errors import ActorNotFound, QueueNotFound
from dramatiq.middleware import SkipMessage, default_middleware

from brokers import clients, unstored
from brokers.bounds import bounds
from brokers.clients import Health, base_config
from brokers.commits import Commits
from brokers.consumer import GroupConsumer
from brokers.delays import delayed_topic, parked_topic
from brokers.errors import WrongTopic
from brokers.forwarding import ForwardingReader
from brokers.groups import Groups
from brokers.producer import Delivery, Producer
from brokers.reader import KafkaMessageProxy, Reader
from brokers.records import Outgoing
from brokers.sending import Sending
from brokers.share import ShareGroup, limit_time, require_client
from brokers.starts import ASK_KAFKA_S
from brokers.timers import Timers
from brokers.topics import FOR_EVER, Queue, Topics, TopicSpec
from brokers.transactions import Transactions
from brokers.waiting import Waiting, waiting


if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from contextlib import AbstractContextManager

    from dramatiq.middleware import Middleware

    from brokers.assignment import Blocked
    from brokers.bounds import Place
    from brokers.topics import Decode, Start

logger = logging.getLogger("brokers.kafka")

#: Seconds within which Kafka has to confirm a send, unless the caller says otherwise.
DELIVERY_TIMEOUT_S = 8.0

#: Actor options that describe the queue, not the actor.
QUEUE_OPTIONS = frozenset({"ordered", "batch", "share"})

#: Actor options that would make a failed message leave its place.
RETRY_OPTIONS = ("max_retries", "retry_when", "on_retry_exhausted")


class KafkaBroker(dramatiq.Broker):
    """A Dramatiq broker on Apache Kafka.

    Constructing it does no I/O; clients are made at first use, and anew in a forked child.  A queue ``q`` is the topic
    ``<prefix>q``, made on first use; its failed messages are parked on ``<prefix>q.XQ``.

    Actor options: ``ordered=True`` (one message at a time, in log order, a failed one is held in place) and ``batch=n``
    (an ordered actor gets a list of up to n consecutive messages), ``share=True`` (its queue is read by a share group:
    short messages, any number of workers).  Message option: ``key`` (messages of one key share a partition).

    A delayed message lies on the topic ``<prefix>delayed`` until its time; any worker of the same prefix fires it.

    Limits: messages of ordered queues cannot be delayed; gevent is not supported.

    Parameters:
      bootstrap_servers: ``host:port,host:port``.
      prefix: put before every topic name.
      group_id: the consumer group of queues that do not name their own.
      middleware: as in Dramatiq.
      delivery_timeout_s: seconds within which Kafka has to confirm a send.
      group_protocol: ``classic`` or ``consumer`` (KIP-848).
      transactional: what middleware sends for a message (its retry, the next step of its pipeline, its callbacks), or
        its dead letter, and its ack go in one Kafka transaction: all of it or nothing.  What an actor sends itself is
        sent at once.
      client: further settings of the Kafka client, with ``_`` for ``.``: ``security_protocol="SASL_SSL"``.
    """

    producer: Producer
    topics: Topics

    def __init__(
        self,
        bootstrap_servers: str = "localhost:9092",
        *,
        prefix: str = "",
        group_id: str = "dramatiq",
        middleware: Sequence[Middleware] | None = None,
        delivery_timeout_s: float = DELIVERY_TIMEOUT_S,
        group_protocol: str = "classic",
        transactional: bool = False,
        **client: Any,
    ) -> None:
        super().__init__([m() for m in default_middleware] if middleware is None else list(middleware))
        self.prefix = prefix
        self.delayed_topic = delayed_topic(prefix)
        self.group_id = group_id
        self.actor_options |= QUEUE_OPTIONS
        self._settings = {"bootstrap.servers": bootstrap_servers} | {k.replace("_", "."): v for k, v in client.items()}
        self._protocol = group_protocol
        self._transactional = transactional
        self._timeout_s = delivery_timeout_s
        self._begin_process()
        os.register_at_fork(after_in_child=_weakly(self._begin_process))

    def _begin_process(self) -> None:
        """Nothing of a parent process can be used in a forked child: not its clients, and not a lock that it held."""
        self._lock = threading.Lock()
        self._health = Health()
        self._admin_client: clients.AdminClient | None = None
        self._consumers: dict[str, GroupConsumer] = {}  # by group
        self._share_groups: dict[str, ShareGroup] = {}
        self._timers: Timers | None = None
        self.producer = Producer(self._settings, delivery_timeout_s=self._timeout_s, health=self._health)
        self.topics = Topics(self._admin, self._timeout_s)
        self._sending = Sending(self)
        self._groups = Groups(self._admin, self.topics, self.delayed, self._timeout_s)

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
        share: bool = False,
    ) -> None:
        """Declare a queue; again, with nothing or the same, changes nothing.

        Raises:
          WrongSetting: *share*, and the Kafka client at hand knows no share groups.
          WrongTopic: it is declared with other properties already; they do not fit together; its topic is taken.
        """
        known = self.queues.get(queue_name)
        if known is not None:
            given = {"topic": topic, "group_id": group_id, "batch": batch, "start": start, "decode": decode}
            _agree(known, given | {"ordered": ordered or None, "share": share or None})
            return
        if share:
            require_client()
        if topic is None:
            full = self.prefix + queue_name
            topic = TopicSpec(full, 1, FOR_EVER, exact=True) if ordered else TopicSpec(full)
        group_id = group_id or (f"{self.group_id}.share" if share else self.group_id)
        queue = Queue(
            queue_name, topic, group_id, ordered=ordered, batch=batch, start=start, decode=decode, share=share
        )
        self._refuse_taken(queue)
        self.emit_before("declare_queue", queue_name)
        self.queues[queue_name] = queue
        self.emit_after("declare_queue", queue_name)

    def _refuse_taken(self, queue: Queue) -> None:
        if q_name(queue.name) != queue.name:
            raise WrongTopic(f"queue {queue.name!r} cannot be declared: .DQ and .XQ at the end belong to other queues")
        for other in self.queues.values():
            if (other.topic.name, other.group_id) == (queue.topic.name, queue.group_id):
                raise WrongTopic(
                    f"queue {queue.name!r} would share topic and group with {other.name!r}: each would get a part"
                )

    def declare_actor(self, actor: dramatiq.Actor[Any, Any]) -> None:
        """Declare *actor* and its queue.

        Raises:
          WrongTopic: its queue options contradict another actor's, or an ordered actor wants to be retried elsewhere in
            the log.
        """
        options = {name: actor.options[name] for name in QUEUE_OPTIONS if name in actor.options}
        self.declare_queue(actor.queue_name, **options)
        if self.queues[actor.queue_name].ordered:
            _pin(actor)
        if self.queues[actor.queue_name].share:
            limit_time(actor)
        super().declare_actor(actor)

    def get_queue(self, queue_name: str) -> Queue:
        """The queue as declared.  Raises `QueueNotFound`."""
        try:
            queue: Queue = self.queues[q_name(queue_name)]
        except KeyError:
            raise QueueNotFound(queue_name) from None  # type: ignore[no-untyped-call]  # not annotated
        return queue

    def get_actor(self, actor_name: str) -> dramatiq.Actor[Any, Any]:
        """As Dramatiq's.  Where middleware looks for the actor of a callback, that there is none is not forgotten."""
        try:
            return super().get_actor(actor_name)
        except ActorNotFound as exc:
            self._sending.missed(actor_name, exc)
            raise

    # Sending.

    def enqueue(self, message: dramatiq.Message[Any], *, delay: int | None = None) -> dramatiq.Message[Any]:
        """Put *message* on its queue.

        When this returns, Kafka has it on all in-sync replicas; in `batching`, when that ends.  Middleware that sends
        for a message in flight (a retry, a callback) is the exception: when Kafka is away, that message's ack waits for
        what it sent.

        The message gets an attribute ``delivery``: where it is.

        Raises:
          QueueNotFound, Unreachable, DeliveryUnknown, DeliveryRefused, DelayRefused, WrongKey, WrongTopic: see
            `brokers.errors`.
        """
        self._sending.message(message, delay)
        return message

    def batching(self) -> AbstractContextManager[None]:
        """Within, this thread's enqueues only post; all are confirmed together at the end.

        The end raises the first error, unless the body has raised one of its own.
        """
        return self._sending.batching()

    def publish(self, record: Outgoing, spec: TopicSpec) -> Delivery:
        """Put a record that is no message on a topic of any kind, confirmed; raises as `enqueue` does."""
        return self._sending.record(record, spec)

    # Middleware.

    def emit_before(self, signal: str, *args: Any, **kwargs: Any) -> None:
        """As Dramatiq's.  A message that was recalled before it began is seen by no middleware, and does not run."""
        message = args[0] if args and isinstance(args[0], KafkaMessageProxy) else None
        if message is not None and signal == "process_message" and not message.begin():
            logger.info("kafka_message_recalled record=%s", message.record)
            raise SkipMessage("its partition has moved to another worker, which runs it")
        self._emit(super().emit_before, message, signal, *args, **kwargs)

    def emit_after(self, signal: str, *args: Any, **kwargs: Any) -> None:
        """As Dramatiq's; see `emit_before`."""
        message = args[0] if args and isinstance(args[0], KafkaMessageProxy) else None
        emit = super().emit_after if message is None else partial(unstored.emit_after, self)
        self._emit(emit, message, signal, *args, **kwargs)

    def _emit(self, emit: Callable[..., None], message: KafkaMessageProxy | None, *args: Any, **kwargs: Any) -> None:
        if message is None:
            emit(*args, **kwargs)
        elif not message.recalled:
            outer, self._sending.served = self._sending.served, message
            try:
                emit(*args, **kwargs)
            finally:
                self._sending.served = outer

    # Reading.

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 30000) -> Reader:
        """A reader of the queue; *timeout* in milliseconds is how long its ``__next__`` waits.

        Raises:
          QueueNotFound, Unreachable, WrongTopic, WrongSetting: see `brokers.errors`.
        """
        queue = self.get_queue(queue_name)
        self.topics.ensure(queue.topic)
        if not queue.ordered:
            self._start_timers()
        consumer = self._share_group(queue.group_id) if queue.share else self._consumer(queue.group_id)
        buffer, commits = consumer.open(queue), consumer.commits
        make = partial(ForwardingReader, end=commits.end) if isinstance(commits, Transactions) else Reader
        timeout_s = timeout / 1000
        return make(queue, buffer, park=self.publish, send=self._sending.late, prefetch=prefetch, timeout_s=timeout_s)

    def _start_timers(self) -> None:
        """This process takes its part in firing delayed messages, whatever queues it works on."""
        self.topics.ensure(self.delayed_topic)
        self.topics.ensure(parked_topic(self.delayed_topic))
        with self._lock:
            if self._timers is None or not self._timers.running:
                self._timers = Timers(
                    self._settings,
                    self.delayed_topic,
                    health=self._health,
                    protocol=self._protocol,
                    exists=lambda name: self.topics.partitions(name) is not None,
                )

    def _consumer(self, group_id: str) -> GroupConsumer:
        with self._lock:
            consumer = self._consumers.get(group_id)
            if consumer is None or not consumer.running:
                consumer = GroupConsumer(
                    group_id,
                    self._settings,
                    self._bounds,
                    health=self._health,
                    protocol=self._protocol,
                    commits=self._commits(group_id),
                )
                self._consumers[group_id] = consumer
        return consumer

    def _share_group(self, group_id: str) -> ShareGroup:
        admin = self._admin()
        with self._lock:
            group = self._share_groups.get(group_id)
            if group is None or not group.running:
                group = ShareGroup(group_id, self._settings, admin, self.publish, health=self._health)
                self._share_groups[group_id] = group
        return group

    def _commits(self, group_id: str) -> Commits:
        if not self._transactional:
            return Commits(group_id)
        return Transactions(group_id, self._settings, self._health, self.topics)

    def _bounds(self, places: Collection[Place]) -> dict[Place, tuple[int, int]]:
        return bounds(self._admin(), places, ASK_KAFKA_S)

    def blocked(self) -> dict[str, Blocked]:
        """The partitions held by this process that do not go on, by ``topic/partition``, and why."""
        return dict(chain.from_iterable(consumer.blocked().items() for consumer in list(self._consumers.values())))

    def delayed(self) -> Waiting:
        """The messages that wait for their time, of all queues of the prefix; reads the whole topic.

        Raises:
          Unreachable, WrongTopic: see `brokers.errors`.
        """
        partitions = self.topics.ensure(self.delayed_topic)
        return waiting(self._settings, self.delayed_topic, partitions, timeout_s=self._timeout_s)

    def cancel(self, message_id: str) -> int:
        """Take back every delayed message of that id; how many there were.  What is due this moment may still run."""
        found = [entry for entry in self.delayed().entries if entry.key.startswith(f"{message_id}/".encode())]
        for entry in found:
            self.publish(Outgoing(self.delayed_topic.name, None, entry.key), self.delayed_topic)
        return len(found)

    # Waiting and dropping, for tests.

    def join(self, queue_name: str, *, timeout: int | None = None) -> None:
        """Wait until the queue's group has finished all that is in the queue; *timeout* in milliseconds.

        Raises:
          QueueJoinTimeout, QueueNotFound.
          WrongTopic: it is read by a share group, of which nobody can say what it has done.
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
        with self._lock:
            consumers: list[GroupConsumer | ShareGroup] = [*self._consumers.values(), *self._share_groups.values()]
            self._consumers, self._share_groups = {}, {}
            timers, self._timers = self._timers, None
        if timers is not None:
            timers.close()
        for consumer in consumers:
            consumer.begin_close()
        for consumer in consumers:
            consumer.close()
        self.producer.close()
        with self._lock:
            self._admin_client = None  # now, and not when the interpreter ends and its threads find no Python

    def _admin(self) -> clients.AdminClient:
        with self._lock:  # one for all: the futures of a client that is gone never end
            if self._admin_client is None:
                self._admin_client = clients.opened(clients.AdminClient, base_config(self._settings, self._health))
            return self._admin_client


def _weakly(method: Callable[[], None]) -> Callable[[], None]:
    """*method*, as long as its object lives."""
    reference = weakref.WeakMethod(method)

    def call() -> None:
        alive = reference()
        if alive is not None:
            alive()

    return call


def _agree(known: Queue, given: Mapping[str, object]) -> None:
    different = [name for name, value in given.items() if value is not None and value != getattr(known, name)]
    if different:
        raise WrongTopic(f"queue {known.name!r} is declared already, with another {' and '.join(different)}: {known}")


def _pin(actor: dramatiq.Actor[Any, Any]) -> None:
    """An ordered message is repeated in place by the consumer; a retry would put a copy behind its successors."""
    asked = [name for name in RETRY_OPTIONS if actor.options.get(name)]
    if asked:
        raise WrongTopic(
            f"actor {actor.actor_name!r} is ordered: a failed message is held and repeated in its place,"
            f" so take out {' and '.join(asked)}"
        )
    actor.options |= {"max_retries": 0, "retry_when": None}  # said, so that the middleware's own defaults do not count
