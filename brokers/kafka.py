"""`KafkaBroker`: the broker that Dramatiq's actors, `Worker` and command line see."""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING, Any

from dramatiq.common import q_name
from dramatiq.errors import ActorNotFound, QueueNotFound
from dramatiq.middleware import default_middleware

from brokers import clients
from brokers.async_sending import AsyncSending
from brokers.bounds import bounds, end_of
from brokers.clients import Health, base_config
from brokers.control import Control
from brokers.declarations import schedule_of_actor
from brokers.declaring import QUEUE_OPTIONS, agree, fit, refuse_taken
from brokers.delays import delayed_topic
from brokers.emitting import EmittingBroker
from brokers.envelope import Envelope
from brokers.errors import WrongTopic
from brokers.groups import Groups
from brokers.later import Later
from brokers.letterbox import DeadLetters, dead_letters
from brokers.orders import control_topic
from brokers.producer import Delivery, Producer
from brokers.reading import Reading
from brokers.running import interruptible
from brokers.sending import Sending
from brokers.share import require_client
from brokers.starts import ASK_KAFKA_S
from brokers.station import Station
from brokers.suspects import MAX_CRASHES
from brokers.topics import FOR_EVER, Queue, Topics, TopicSpec
from brokers.waiting import LISTED, silent


if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence
    from contextlib import AbstractContextManager

    import dramatiq
    from dramatiq.middleware import Middleware

    from brokers.assignment import Blocked
    from brokers.bounds import Place
    from brokers.periodic import Schedule
    from brokers.reader import Reader
    from brokers.records import Outgoing
    from brokers.topics import Compact, Decode, KindOf, Ready, Refused, Start
    from brokers.waiting import Progress, Waiting

#: Seconds within which Kafka has to confirm a send, unless the caller says otherwise.
DELIVERY_TIMEOUT_S = 8.0


class KafkaBroker(EmittingBroker):
    """A Dramatiq broker on Apache Kafka.

    Constructing it does no I/O; clients are made at first use, and anew in a forked child.  A queue ``q`` is the topic
    ``<prefix>q``, made on first use; its failed messages are parked on ``<prefix>q.XQ``.

    Actor options: ``ordered=True`` (one message at a time, in log order, a failed one is held in place), ``batch=n``
    (the actor gets a list of up to n messages, consecutive ones on an ordered queue), ``max_priority=n`` (levels 0 to
    n, higher ones first; not for ordered queues) and ``share=True`` (the queue is read by a share group: short
    messages, any number of workers).  Message options: ``key`` (the messages of one key share a partition, and run in
    their order) and ``broker_priority`` (the level).

    Actor option ``periodic``: `brokers.cron` or `brokers.every`; the cluster calls the actor, without arguments, at
    those times, as long as a worker that has it is there.

    A delayed message lies on the topic ``<prefix>delayed`` until its time; any worker of the same prefix fires it.

    Limits: messages of ordered queues cannot be delayed; gevent is refused.

    Parameters:
      bootstrap_servers: ``host:port,host:port``.
      prefix: put before every topic name.
      group_id: the consumer group of queues that do not name their own.
      middleware: as in Dramatiq.
      delivery_timeout_s: seconds within which Kafka has to confirm a send.
      group_protocol: ``classic`` or ``consumer`` (KIP-848).
      max_crashes: how many processes a message of an unordered queue may end before it is parked; none for any number.
      envelope: signatures, where content lies that is too large for a record, and how messages are encoded.
      transactional: what middleware sends for a message (its retry, the next step of its pipeline, its callbacks), or
        its dead letter, and its ack go in one Kafka transaction: all of it or nothing.  What an actor sends itself is
        sent at once.
      client: further settings of the Kafka client, with ``_`` for ``.``: ``security_protocol="SASL_SSL"``.

    Raises:
      WrongSetting: gevent has replaced Python's threads.
    """

    producer: Producer
    topics: Topics
    control: Control  #: what can be said to all workers: `revoke`, `abort`, `pause`, `inspect`, ...

    def __init__(
        self,
        bootstrap_servers: str = "localhost:9092",
        *,
        prefix: str = "",
        group_id: str = "dramatiq",
        middleware: Sequence[Middleware] | None = None,
        delivery_timeout_s: float = DELIVERY_TIMEOUT_S,
        group_protocol: str = "classic",
        max_crashes: int | None = MAX_CRASHES,
        envelope: Envelope | None = None,
        transactional: bool = False,
        **client: Any,
    ) -> None:
        clients.refuse_gevent()
        super().__init__([m() for m in default_middleware] if middleware is None else middleware)
        self.prefix = prefix
        self.delayed_topic = delayed_topic(prefix)
        self.control_topic = control_topic(prefix)
        self.group_id = group_id
        self.envelope = envelope or Envelope()
        self.actor_options |= QUEUE_OPTIONS | {"periodic"}
        self._settings = {"bootstrap.servers": bootstrap_servers} | {k.replace("_", "."): v for k, v in client.items()}
        self._protocol = group_protocol
        self.transactional = transactional
        self._timeout_s = delivery_timeout_s
        self._max_crashes = max_crashes
        self._schedules: dict[str, tuple[Queue, Schedule]] = {}  # by actor
        self._begin_process()
        os.register_at_fork(after_in_child=_weakly(self._begin_process))

    def _begin_process(self) -> None:
        """Nothing of a parent process can be used in a forked child: not its clients, and not a lock that it held."""
        self._lock = threading.Lock()
        self._health = Health()
        self._admin_client: clients.AdminClient | None = None
        self.producer = Producer(self._settings, delivery_timeout_s=self._timeout_s, health=self._health)
        self.topics = Topics(self._admin, self._timeout_s, why=self._health.why)
        self._sending = Sending(self)
        self._async_sending = AsyncSending(self, self._sending)
        self._reading = Reading(
            self,
            admin=self._admin,
            bounds=self._bounds,
            health=self._health,
            protocol=self._protocol,
            max_crashes=self._max_crashes,
        )
        self._later = Later(
            self,
            health=self._health,
            protocol=self._protocol,
            bounds=lambda places: bounds(self._admin(), places, ASK_KAFKA_S, committed=True),
            timeout_s=self._timeout_s,
            schedules=self._schedules,
        )
        self._groups = Groups(self._admin, self.topics, self.delayed_topic, self._later, self._timeout_s)
        self._station = Station(self, lambda: self._reading.consumers, timeout_s=self._timeout_s)
        self.control = Control(self, self._admin, timeout_s=self._timeout_s)

    @property
    def client_settings(self) -> dict[str, Any]:
        """The Kafka client's settings, for clients beside the broker's own."""
        return dict(self._settings)

    # Declarations.

    def declare_queue(  # noqa: PLR0913 - one for each thing that a queue can be
        self,
        queue_name: str,
        *,
        topic: TopicSpec | None = None,
        group_id: str | None = None,
        ordered: bool = False,
        batch: int | None = None,
        start: Start | None = None,
        decode: Decode | None = None,
        compact: Compact | None = None,
        max_priority: int | None = None,
        refused: Refused | None = None,
        share: bool = False,
        ready: Ready | None = None,
        company: KindOf | None = None,
        repeatable: bool = False,
    ) -> None:
        """Declare a queue; again, with nothing or the same, changes nothing.

        Raises:
          WrongSetting: *share*, and the Kafka client at hand knows no share groups.
          WrongTopic: it is declared with other properties already; they do not fit together; its topic is taken.
        """
        options: dict[str, Any] = {"batch": batch, "start": start, "decode": decode, "max_priority": max_priority}
        known = self.queues.get(queue_name)
        if known is not None:
            given: dict[str, Any] = {"topic": topic, "group_id": group_id, "refused": refused, "ready": ready}
            given |= {"ordered": ordered or None, "share": share or None, "repeatable": repeatable or None}
            given |= {"compact": compact, "company": company}
            agree(known, options | given)
            return
        if share:
            require_client()
        if topic is None:
            full = self.prefix + queue_name
            topic = TopicSpec(full, 1, FOR_EVER, exact=True) if ordered else TopicSpec(full)
        group_id = group_id or (f"{self.group_id}.share" if share else self.group_id)
        options |= {"refused": refused, "ready": ready, "repeatable": repeatable, "compact": compact}
        options["company"] = company
        queue = Queue(queue_name, topic, group_id, ordered=ordered, share=share, **options)
        refuse_taken(queue, self.queues.values(), {self.control_topic.name, self.delayed_topic.name})
        self.emit_before("declare_queue", queue_name)
        self.queues[queue_name] = queue
        self.emit_after("declare_queue", queue_name)

    def declare_actor(self, actor: dramatiq.Actor[Any, Any]) -> None:
        """Declare *actor* and its queue.

        Raises:
          WrongTopic: its queue options contradict another actor's, or an ordered actor wants to be retried elsewhere in
            the log.
          WrongSchedule: what it has as ``periodic`` is no schedule, or it takes arguments.
        """
        schedule = schedule_of_actor(actor)
        self.emit_before("declare_actor", actor)
        options = {name: actor.options[name] for name in QUEUE_OPTIONS if name in actor.options}
        self.declare_queue(actor.queue_name, **options)
        queue = self.get_queue(actor.queue_name)
        fit(actor, queue)
        interruptible(actor, lambda: self._station.running)
        self.actors[actor.actor_name] = actor
        self.emit_after("declare_actor", actor)
        if schedule is not None:
            self._later.declarations.add(actor.actor_name, self.queues[actor.queue_name], schedule)

    def get_queue(self, queue_name: str) -> Queue:
        """The queue as declared.  Raises `QueueNotFound`."""
        queue: Queue | None = self.queues.get(queue_name) or self.queues.get(q_name(queue_name))
        if queue is None:
            raise QueueNotFound(queue_name)  # type: ignore[no-untyped-call]  # not annotated
        return queue

    def get_actor(self, actor_name: str) -> dramatiq.Actor[Any, Any]:
        """As Dramatiq's.  Where middleware looks for the actor of a callback, that there is none is not forgotten."""
        actor = self.actors.get(actor_name)
        if actor is not None:
            return actor
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
          QueueNotFound, Unreachable, DeliveryUnknown, DeliveryRefused, DelayRefused, WrongKey, WrongPriority,
            WrongTopic: see `brokers.errors`.
        """
        self._sending.message(message, delay)
        return message

    async def enqueue_async(self, message: dramatiq.Message[Any], *, delay: int | None = None) -> dramatiq.Message[Any]:
        """`enqueue` for asyncio: the event loop runs on until Kafka has confirmed.

        Messages go to Kafka in the order of the calls; many at once share a round trip.  Middleware runs in the loop's
        thread.  A call that is cancelled may have sent its message or not.  Raises as `enqueue` does.
        """
        await self._async_sending.message(message, delay)
        return message

    def batching(self) -> AbstractContextManager[None]:
        """Within, this thread's enqueues only post, some hundreds together; all are confirmed when it ends.

        The end raises the first error, unless the body has raised one of its own.
        """
        return self._sending.batching()

    def publish(self, record: Outgoing, spec: TopicSpec) -> Delivery:
        """Put a record that is no message on a topic of any kind, confirmed; raises as `enqueue` does."""
        return self._sending.record(record, spec)

    def post(self, record: Outgoing, spec: TopicSpec) -> Callable[[], Delivery]:
        """As `publish`, without waiting: Kafka has it when what is returned here was called and has returned."""
        return self._sending.posted(record, spec)

    # Reading.

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 30000) -> Reader:
        """A reader of the queue; *timeout* in milliseconds is how long its ``__next__`` waits.

        Raises:
          QueueNotFound, Unreachable, WrongTopic, WrongSetting: see `brokers.errors`.
        """
        queue = self.get_queue(queue_name)
        self._station.listen()
        self._later.work_on(queue)
        return self._reading.reader(
            queue,
            self._station.attend,
            envelope=self.envelope,
            park=self.publish,
            send=self._sending.late,
            prefetch=prefetch,
            timeout_s=timeout / 1000,
        )

    def stopped_by(self, stop: Callable[[], None]) -> AbstractContextManager[None]:
        """Within, in an actor: aborting its message calls *stop*, and raises nothing; see `Running.stopped_by`."""
        return self._station.running.stopped_by(stop)

    def reconsider(self, queue_name: str) -> None:
        """Ask the queue's ``ready``, or its ``start``, again about what waits in this process.  Any thread."""
        self._reading.reconsider(self.get_queue(queue_name))

    def unsubscribe(self, queue_name: str) -> None:
        """Take no more of the queue in this process, until `resubscribe`: others of its group get its partitions.

        What runs ends; what waits here is delivered to them.  Readers stay, and get nothing.  Any thread; does not
        wait.
        """
        self._reading.unsubscribe(self.get_queue(queue_name))

    def resubscribe(self, queue_name: str) -> None:
        """Undo `unsubscribe`."""
        self._reading.resubscribe(self.get_queue(queue_name))

    def holders(self, queue_name: str) -> set[str]:
        """The client ids of those who hold partitions of the queue, anywhere.  Raises `Unreachable`."""
        return self._groups.holders(self.get_queue(queue_name))

    def end_of(self, topic: TopicSpec) -> int:
        """The offset that the next record of the topic's only partition gets.

        It is that of the partition's leader at a moment during the call: what was confirmed before lies below.

        Raises:
          Unreachable: nobody answers.
          WrongTopic: see `Topics.ensure`.
        """
        self.topics.ensure(topic)
        return end_of(self._admin(), topic.name, self._timeout_s)

    def blocked(self) -> dict[str, Blocked]:
        """What this process holds and what does not go on, and why: ``topic/partition``, or ``topic/partition key``."""
        return self._reading.blocked()

    def delayed(
        self,
        limit: int = LISTED,
        *,
        ids: Iterable[str] = (),
        queue: str | None = None,
        actor: str | None = None,
        progress: Progress = silent,
    ) -> Waiting:
        """The *limit* soonest messages that wait for their time, the numbers of all, and the periodic actors.

        Of all queues of the prefix, or what fits all that is given.  Reads the whole topic: *progress* is told how far
        it is, in offsets.

        Raises:
          Unreachable, WrongTopic: see `brokers.errors`.
        """
        return self._later.waiting(limit, progress, ids=ids, queue=queue, actor=actor)

    def cancel(self, *ids: str, queue: str | None = None, actor: str | None = None, progress: Progress = silent) -> int:
        """Take back the delayed messages that fit all that is given; how many there were.

        What is due this moment may still run.  Periodic actors are not concerned: they end with their declarations.

        Raises:
          TypeError: nothing is given, and that would be all.
          Unreachable, DeliveryUnknown, WrongTopic: see `brokers.errors`; some may be cancelled.
        """
        return self._later.cancel(progress, ids=ids, queue=queue, actor=actor)

    def dead_letters(self, queue_name: str) -> DeadLetters:
        """What was parked of a queue, to list, replay or purge; the queue need not be declared here.

        Raises:
          Unreachable, WrongTopic: see `brokers.errors`.
        """
        return dead_letters(self, queue_name)

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
        self._later.close()
        self._reading.close()
        self._station.close()
        self.control.close()
        self.producer.close()
        with self._lock:
            self._admin_client = None  # now, and not when the interpreter ends and its threads find no Python

    def _bounds(self, places: Collection[Place]) -> dict[Place, tuple[int, int]]:
        return bounds(self._admin(), places, ASK_KAFKA_S)

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
