"""What is checked when queues and actors are declared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dramatiq.common import q_name

from brokers.batches import shared
from brokers.errors import WrongTopic
from brokers.share import limit_time


if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    import dramatiq

    from brokers.topics import Queue

#: Actor options that describe the queue, not the actor.
QUEUE_OPTIONS = frozenset({"ordered", "batch", "max_priority", "share"})

#: Actor options that would make a failed message leave its place.
RETRY_OPTIONS = ("max_retries", "retry_when", "on_retry_exhausted")


def agree(known: Queue, given: Mapping[str, object]) -> None:
    """Refuse what contradicts the declaration of *known*."""
    different = [name for name, value in given.items() if value is not None and value != getattr(known, name)]
    if different:
        raise WrongTopic(f"queue {known.name!r} is declared already, with another {' and '.join(different)}: {known}")


def refuse_taken(queue: Queue, others: Iterable[Queue], own: Collection[str]) -> None:
    """Refuse a *queue* whose topics belong to *others* of its group, or are the broker's *own*."""
    if q_name(queue.name) != queue.name:
        raise WrongTopic(f"queue {queue.name!r} cannot be declared: .DQ and .XQ at the end belong to other queues")
    topics = {level.topic.name for level in queue.levels}
    for name in topics.intersection(own):
        raise WrongTopic(f"queue {queue.name!r} cannot be declared: topic {name!r} is the broker's own")
    for other in others:
        taken = topics.intersection(level.topic.name for level in other.levels)
        if taken and other.group_id == queue.group_id:
            raise WrongTopic(
                f"queue {queue.name!r} would share topic and group with {other.name!r}: each would get a part"
            )


def fit(actor: dramatiq.Actor[Any, Any], queue: Queue) -> None:
    """Make *actor* one of *queue*, or refuse it."""
    if queue.ordered:
        _pin(actor)
    elif queue.batch is not None:
        actor.fn = shared(actor.fn)
    if queue.share:
        limit_time(actor)


def _pin(actor: dramatiq.Actor[Any, Any]) -> None:
    """An ordered message is repeated in place by the consumer; a retry would put a copy behind its successors."""
    asked = [name for name in RETRY_OPTIONS if actor.options.get(name)]
    if asked:
        raise WrongTopic(
            f"actor {actor.actor_name!r} is ordered: a failed message is held and repeated in its place,"
            f" so take out {' and '.join(asked)}"
        )
    actor.options |= {"max_retries": 0, "retry_when": None}  # said, so that the middleware's own defaults do not count
