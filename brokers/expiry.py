"""Messages that make no sense any more when they begin too late.

Dramatiq's `AgeLimit` does half of it: an age counts from when the message was made, and what is too old is a failure
that somebody finds among the dead letters.  Here the sender says until when, the record carries it, and what comes too
late is dropped.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from dramatiq.middleware import Middleware

from brokers.delays import now_ms
from brokers.errors import Expired, WrongOption
from brokers.options import option, positive


if TYPE_CHECKING:
    import dramatiq

logger = logging.getLogger("brokers.expiry")

#: The option that the record carries: milliseconds of the wall clock.
AT = "expires_at"


class Expires(Middleware):
    """Messages that have not begun in time are dropped: not run, not parked, a failure for whoever waits.

    Option ``expires_in`` of an actor or a message: milliseconds, counted from the first send, a delay included.  Option
    ``expires_at`` of a message: milliseconds of the wall clock, as the record carries it.  It holds for retries and
    copies of the message; in a pipeline each message counts from when its turn comes.  What has begun is not
    interrupted: that is Dramatiq's ``time_limit``.
    """

    @property
    def actor_options(self) -> set[str]:
        """Options that actors may have."""
        return {"expires_in"}

    def before_declare_actor(self, broker: dramatiq.Broker, actor: dramatiq.Actor[Any, Any]) -> None:
        """Refuse what makes no sense.  Raises `WrongOption`."""
        given = actor.options.get("expires_in")
        if given is not None:
            positive(given, f"expires_in of actor {actor.actor_name!r}", "milliseconds")
            _refuse_ordered(actor)

    def before_enqueue(self, broker: dramatiq.Broker, message: dramatiq.Message[Any], delay: int | None) -> None:
        """Say in the message until when it may begin.  Raises `WrongOption`."""
        at, given = message.options.get(AT), option(broker, message, "expires_in")
        if at is None and given is None:
            return
        actor = broker.actors.get(message.actor_name)
        if actor is not None:
            _refuse_ordered(actor)
        if at is not None:
            positive(at, f"{AT} of message {message.message_id}", "milliseconds since 1970")
            return
        wait = positive(given, f"expires_in of message {message.message_id}", "milliseconds")
        if delay and delay >= wait:
            raise WrongOption(
                f"message {message.message_id} would expire after {wait} ms, and is delayed by {delay} ms"
            )
        message.options[AT] = now_ms() + wait

    def before_process_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
        """Drop what comes too late.  Raises `Expired`."""
        at = message.options.get(AT)
        if not isinstance(at, (int, float)) or getattr(message, "ordered", False):
            return
        late_ms = now_ms() - at
        if late_ms >= 0:
            message.fail()
            logger.warning("kafka_message_expired message_id=%s late_ms=%d", message.message_id, late_ms)
            raise Expired(f"it could begin until {late_ms:.0f} ms ago")


def _refuse_ordered(actor: dramatiq.Actor[Any, Any]) -> None:
    if actor.options.get("ordered"):
        raise WrongOption(f"actor {actor.actor_name!r} is ordered: none of its messages is skipped, so none can expire")
