"""Telling all workers something, wherever they run: `KafkaBroker.control`."""

from __future__ import annotations

import logging
import time
import uuid
from typing import TYPE_CHECKING, Any, cast

import dramatiq

from brokers.delays import now_ms
from brokers.errors import ControlRefused, Revoked, Undecodable, Unreachable
from brokers.group_members import members
from brokers.inspection import Inspection, SilentMember, read_answer
from brokers.orders import Ended, Orders, Pause, Question, Revocation, Unreadable, answers_topic, end, read
from brokers.records import Outgoing, Record, decode
from brokers.replies import Replies, read_through
from brokers.topics import DAY_S


if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from confluent_kafka.admin import AdminClient

    from brokers.delays import Entry
    from brokers.inspection import WorkerState
    from brokers.kafka import KafkaBroker
    from brokers.orders import Kind

logger = logging.getLogger("brokers.control")

#: Seconds that a revocation holds unless it says otherwise: as long as a queue keeps its messages.
HOLDS_S = 7 * DAY_S

#: Seconds that workers have to answer.
ANSWER_S = 2.0

#: Delayed messages that are in memory at a time while they are cancelled.
CANCELLED_TOGETHER = 10_000


class Control:
    """What can be said to all workers of one prefix.  Any thread; every call costs network calls.

    What is said lies on a compacted topic: it holds for workers that start later too, and when no worker runs now.
    All methods raise `Unreachable`, `DeliveryUnknown` and `WrongTopic` as `KafkaBroker.enqueue` does.
    """

    def __init__(self, broker: KafkaBroker, admin: Callable[[], AdminClient], *, timeout_s: float) -> None:
        self._broker = broker
        self._admin = admin
        self._timeout_s = timeout_s
        self._replies = Replies(broker, answers_topic(broker.prefix), timeout_s=timeout_s)

    # Revocations.

    def revoke(
        self,
        message_id: str | None = None,
        *,
        actor: str | None = None,
        queue: str | None = None,
        holds_s: float = HOLDS_S,
        reason: str = "",
    ) -> int:
        """Take messages back: one by its id, or all of an actor or of a queue that were made until now.

        Those that wait are skipped when their turn comes, those delayed are cancelled; how many of these.  What runs
        goes on, and what is sent later is not meant.  It holds for *holds_s* seconds.

        Raises:
          ControlRefused: the queue is ordered, or not exactly one of the three is named.
        """
        return self._revoke(message_id, actor, queue, holds_s, reason, abort=False)

    def abort(
        self,
        message_id: str | None = None,
        *,
        actor: str | None = None,
        queue: str | None = None,
        holds_s: float = HOLDS_S,
        reason: str = "",
    ) -> int:
        """As `revoke`; and an actor that runs such a message gets an `Abort` raised, the next time it runs Python code.

        An aborted message is done: it is neither retried nor parked.
        """
        return self._revoke(message_id, actor, queue, holds_s, reason, abort=True)

    def stop(self, message_id: str, *, holds_s: float, reason: str = "") -> None:
        """As `abort` of a message that is not delayed: what waits for its time is not looked through."""
        self._order(Revocation("id", message_id, now_ms(), now_ms() + int(holds_s * 1000), abort=True, reason=reason))

    def _revoke(
        self, message_id: str | None, actor: str | None, queue: str | None, holds_s: float, reason: str, *, abort: bool
    ) -> int:
        kind, name = _one_of(message_id, actor, queue)
        self._refuse_ordered(kind, name)
        now = now_ms()
        revocation = Revocation(kind, name, now, now + int(holds_s * 1000), abort, reason)
        self._order(revocation)
        return self._cancel(revocation)

    def _order(self, revocation: Revocation) -> None:
        topic = self._broker.control_topic
        self._broker.publish(revocation.record(topic.name), topic)
        logger.info("kafka_revoked what=%s abort=%s reason=%s", revocation, revocation.abort, revocation.reason)

    def _refuse_ordered(self, kind: Kind, name: str) -> None:
        actor = self._broker.actors.get(name) if kind == "actor" else None
        queue = self._broker.queues.get(name if actor is None else actor.queue_name) if kind != "id" else None
        if queue is not None and queue.ordered:
            raise ControlRefused(
                f"queue {queue.name!r} is ordered: a message that other readers of its log apply cannot be taken back;"
                " send another one that undoes it, or pause the queue"
            )

    def _cancel(self, revocation: Revocation) -> int:
        """Take back what is delayed, since it may be for a time when nobody knows of the revocation any more."""
        if self._broker.topics.partitions(self._broker.delayed_topic.name) is None:
            return 0
        wanted: dict[str, Any] = (
            {"ids": [revocation.name]} if revocation.kind == "id" else {revocation.kind: revocation.name}
        )
        count = 0
        while True:
            waiting = self._broker.delayed(CANCELLED_TOGETHER, **wanted).entries
            cancelled = sum(self._cancel_one(entry, revocation) for entry in waiting)
            count += cancelled
            if not cancelled or len(waiting) < CANCELLED_TOGETHER:
                return count

    def _cancel_one(self, entry: Entry, revocation: Revocation) -> bool:
        message = self._message(entry)
        if message is None or not revocation.covers(message, revocation.at_ms):
            return False
        self._broker.publish(Outgoing(self._broker.delayed_topic.name, None, entry.key), self._broker.delayed_topic)
        self._tell(message, revocation)
        return True

    def _message(self, entry: Entry) -> dramatiq.Message[Any] | None:
        topics = {queue.topic.name: name for name, queue in self._broker.queues.items()}
        name = topics.get(entry.due.topic, entry.due.topic.removeprefix(self._broker.prefix))
        try:
            return decode(Record(entry.due.topic, 0, 0, entry.eta_ms, entry.due.key, entry.due.value), name)
        except Undecodable:
            return None

    def _tell(self, message: dramatiq.Message[Any], revocation: Revocation) -> None:
        """This process's middleware: whoever waits for the result, or has a key for the message."""
        proxy = dramatiq.MessageProxy(message)
        proxy.fail()
        proxy.stuff_exception(Revoked(f"revoked by {revocation}, before it was due"))
        self._broker.emit_after("skip_message", proxy)
        self._broker.emit_after("nack", proxy)

    def unrevoke(self, message_id: str | None = None, *, actor: str | None = None, queue: str | None = None) -> int:
        """End the revocations of that id, actor or queue; how many.  What was skipped or cancelled stays so."""
        about = _one_of(message_id, actor, queue)
        found = [one for one in self.orders().revocations if (one.kind, one.name) == about]
        topic = self._broker.control_topic
        for revocation in found:
            self._broker.publish(end(topic.name, revocation.key), topic)
        return len(found)

    # Pauses.

    def pause(self, queue: str, *, reason: str = "") -> None:
        """Workers hand out nothing more of the queue until `resume`; what runs ends.  Ordered queues too.

        Kafka's retention goes on: it deletes what waits longer, seven days by default.

        Raises:
          ControlRefused: there is no such queue.
        """
        declared = self._broker.queues.get(queue)
        name = self._broker.prefix + queue if declared is None else declared.topic.name
        if declared is None and self._broker.topics.partitions(name) is None:
            raise ControlRefused(f"there is no queue {queue!r}: nothing has declared it here, and no topic is {name!r}")
        topic = self._broker.control_topic
        self._broker.publish(Pause(queue, now_ms(), reason).record(topic.name), topic)

    def resume(self, queue: str) -> bool:
        """Undo `pause`; false when it was not paused."""
        pause = self.orders().pauses.get(queue)
        if pause is None:
            return False
        topic = self._broker.control_topic
        self._broker.publish(end(topic.name, pause.key), topic)
        return True

    # Questions.

    def orders(self) -> Orders:
        """What holds just now: ``pauses`` by queue, and ``revocations``; reads the whole control topic."""
        orders = Orders()

        def take(record: Record) -> None:
            try:
                orders.take(read(record))
            except Unreadable as exc:
                logger.warning("kafka_control_ignored record=%s reason=%s", record, exc)

        topic = self._broker.control_topic
        self._broker.topics.ensure(topic)
        read_through(self._broker.client_settings, topic.name, take, timeout_s=self._timeout_s)
        for revocation in orders.expired(now_ms()):
            orders.take(Ended(revocation.key))
        return orders

    def inspect(
        self, timeout_s: float = ANSWER_S, *, enough: Callable[[Collection[WorkerState]], bool] = lambda _: False
    ) -> Inspection:
        """Ask every worker what it does; takes *timeout_s* seconds, and some more where Kafka is slow.

        It ends sooner when those who have answered are *enough*.

        Members that did not answer are told as silent, of the groups of queues declared here and of whoever answered.
        Those that read only topics of another prefix are not meant.
        """
        workers = self._ask(timeout_s, enough)
        return Inspection(workers, self._silent(workers))

    def ping(self, timeout_s: float = ANSWER_S) -> list[str]:
        """Who answers, as ``host:pid``."""
        return [worker.name for worker in self._ask(timeout_s)]

    def _ask(
        self, timeout_s: float, enough: Callable[[Collection[WorkerState]], bool] = lambda _: False
    ) -> list[WorkerState]:
        topic = self._broker.control_topic
        self._broker.topics.ensure(topic)
        waiter = self._replies.expect(uuid.uuid4().hex)
        try:
            self._broker.publish(Question(waiter.correlation_id, now_ms()).record(topic.name), topic)
            deadline = time.monotonic() + timeout_s
            found: list[WorkerState] = []
            while not enough(found) and (record := waiter.get(deadline - time.monotonic())) is not None:
                state = read_answer(record)
                found += [] if state is None else [state]
        finally:
            waiter.close()
        return sorted(found, key=lambda one: (one.host, one.pid))

    def _silent(self, workers: Collection[WorkerState]) -> list[SilentMember]:
        groups = {self._broker.group_id, *(queue.group_id for queue in self._broker.queues.values())}
        groups |= {group for worker in workers for group in worker.groups}
        answered = {member for worker in workers for member in worker.groups.values()}
        joining = {group for worker in workers for group, member in worker.groups.items() if not member}
        members = [member for group in sorted(groups) for member in self._members(group)]
        silent = [one for one in members if one.member_id not in answered and self._may_be_ours(one)]
        # Whoever has answered and does not know its own name yet is one of those that hold nothing.
        return [one for one in silent if one.partitions or one.group not in joining]

    def _may_be_ours(self, member: SilentMember) -> bool:
        """A group may serve several prefixes, and whoever holds nothing may be of any of them."""
        topics = {name.rpartition("/")[0] for name in member.partitions}
        declared = {queue.topic.name for queue in self._broker.queues.values()}
        return not topics or any(name in declared or name.startswith(self._broker.prefix) for name in topics)

    def _members(self, group: str) -> list[SilentMember]:
        try:
            found = members(self._admin(), group, self._timeout_s)
        except Unreachable as exc:
            logger.info("kafka_group_not_described group=%s reason=%s", group, exc)
            return []
        return [
            SilentMember(
                group,
                member.member_id,
                member.client_id,
                member.host,
                sorted(f"{topic}/{partition}" for topic, partition in member.places),
            )
            for member in found
        ]

    def close(self) -> None:
        """Stop reading answers.  Idempotent."""
        self._replies.close()


def _one_of(message_id: str | None, actor: str | None, queue: str | None) -> tuple[Kind, str]:
    named = [(k, n) for k, n in zip(("id", "actor", "queue"), (message_id, actor, queue), strict=True) if n]
    if len(named) != 1:
        raise ControlRefused("name exactly one of: a message id, an actor, a queue")
    return cast("tuple[Kind, str]", named[0])
