"""Telling the cluster which periodic actors this process has: see `roster`."""

from __future__ import annotations

import inspect
import logging
import time
from typing import TYPE_CHECKING, Any

from dramatiq.errors import BrokerError

from brokers.delays import now_ms
from brokers.errors import WrongSchedule
from brokers.periodic import Cron, Every
from brokers.roster import RENEW_S, Declaration


if TYPE_CHECKING:
    from collections.abc import Callable

    import dramatiq

    from brokers.periodic import Schedule
    from brokers.producer import Pending
    from brokers.records import Outgoing
    from brokers.topics import Queue

logger = logging.getLogger("brokers.timers")

#: Seconds before a declaration that Kafka did not confirm is sent again.
AGAIN_S = 2.0


def schedule_of_actor(actor: dramatiq.Actor[Any, Any]) -> Schedule | None:
    """The actor option ``periodic``.

    Raises:
      WrongSchedule: it is no schedule, or the actor cannot be called without arguments.
    """
    schedule = actor.options.get("periodic")
    if schedule is None:
        return None
    if not isinstance(schedule, (Cron, Every)):
        raise WrongSchedule(
            f"actor {actor.actor_name!r}: periodic={schedule!r} is no schedule; use brokers.cron or brokers.every"
        )
    if not actor.options.get("batch"):
        try:
            inspect.signature(actor.fn).bind()
        except TypeError as exc:
            raise WrongSchedule(
                f"actor {actor.actor_name!r} is periodic and is called without arguments, which it does not take: {exc}"
            ) from exc
    return schedule


class Declarations:
    """The periodic actors of the queues that this process works on.

    *actors*, by name, outlive a fork; what a process works on does not.  `add` and `work_on` may be called from any
    thread, `renew` from one.
    """

    def __init__(
        self, post: Callable[[Outgoing], Pending], topic: str, actors: dict[str, tuple[Queue, Schedule]]
    ) -> None:
        self._post = post
        self._topic = topic
        self._actors = actors
        self._queues: set[str] = set()
        self._since_ms = now_ms()
        self._sent: list[Pending] = []
        self._not_before = 0.0

    def add(self, actor: str, queue: Queue, schedule: Schedule) -> None:
        """This process knows that periodic actor; it counts once the process works on its queue.

        Raises:
          WrongSchedule: an ordered queue is worked on already, by a worker that did not know that it fires something.
        """
        if queue.ordered and queue.name in self._queues and not self._has_periodic(queue.name):
            raise WrongSchedule(f"actor {actor!r} is periodic: declare it before the worker of {queue.name!r} starts")
        self._actors[actor] = queue, schedule
        self._not_before = 0.0

    def work_on(self, queue: str) -> bool:
        """This process works on *queue*; whether there is a periodic actor on it."""
        self._queues.add(queue)
        self._not_before = 0.0
        return self._has_periodic(queue)

    def _has_periodic(self, queue: str) -> bool:
        return any(theirs.name == queue for theirs, _ in list(self._actors.values()))

    def renew(self) -> None:
        """Declare all of them, when it is time to.  Waits for nothing: what was not confirmed is sent again soon."""
        now = time.monotonic()
        if any(pending.error is not None for pending in self._sent):
            logger.warning("kafka_periodic_not_declared reason=Kafka did not confirm it")
            self._sent, self._not_before = [], now + AGAIN_S
        if now < self._not_before:
            return
        self._not_before = now + RENEW_S
        try:
            self._sent = [self._post(declaration.record(self._topic)) for declaration in self._declarations()]
        except BrokerError as exc:
            logger.warning("kafka_periodic_not_declared reason=%s", exc)
            self._not_before = now + AGAIN_S

    def _declarations(self) -> list[Declaration]:
        return [
            Declaration(queue.topic.name, queue.name, actor, schedule.text, schedule.grace_s, self._since_ms)
            for actor, (queue, schedule) in list(self._actors.items())
            if queue.name in self._queues
        ]
