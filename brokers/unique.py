"""One message at a time of those that mean the same.

The lock is a counter of Dramatiq's `RateLimiterBackend`, taken by the sender in one atomic step.  Such a backend can
say neither who holds a key nor give it back to its holder alone; so the message carries how long its lock is its own,
and a second key says that it has given it back already.
"""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING, Any

from dramatiq.message import get_encoder
from dramatiq.middleware import Middleware

from brokers.delays import now_ms
from brokers.errors import DeliveryUnknown, Duplicate, LimitsUnreachable, WrongOption
from brokers.options import option, positive


if TYPE_CHECKING:
    import dramatiq
    from dramatiq.rate_limits import RateLimiterBackend

logger = logging.getLogger("brokers.unique")

#: The option that a message carries which holds a lock: its key, and until when, in milliseconds of the wall clock.
LOCK = "unique_lock"

UNTIL = ("done", "window")

#: Milliseconds that a key outlives its release; until then it counts as free all the same.
FREED_MS = 1000


class Unique(Middleware):
    """A message that means the same as one that is known already is not sent: `Duplicate` is raised.

    Options of an actor or a message: ``unique_for``, the window in milliseconds, from the first send;
    ``unique_key``, what equal messages have in common (without it the actor and its arguments);
    ``unique_until``: ``done`` (the default: the window ends when the message has succeeded, or failed for good) or
    ``window``.

    Retries, delays and a second send of the same message are no duplicates of it.  When a worker is killed, or a
    delayed message cancelled elsewhere, the window's end frees the key.

    Parameters:
      backend: one of `dramatiq.rate_limits.backends`.
      namespace: put before every key.
    """

    def __init__(self, backend: RateLimiterBackend, *, namespace: str = "unique") -> None:
        self._backend: Any = backend  # Dramatiq does not annotate it
        self._namespace = namespace
        self._fresh: set[str] = set()  # ids of messages whose lock was taken, and whose send has not ended

    @property
    def actor_options(self) -> set[str]:
        """Options that actors may have."""
        return {"unique_for", "unique_until"}

    def before_declare_actor(self, broker: dramatiq.Broker, actor: dramatiq.Actor[Any, Any]) -> None:
        """Refuse what makes no sense.  Raises `WrongOption`."""
        name = f"of actor {actor.actor_name!r}"
        _check_until(actor.options.get("unique_until"), name)
        if actor.options.get("unique_for") is not None:
            positive(actor.options["unique_for"], f"unique_for {name}", "milliseconds")
            _refuse_ordered(actor)

    # Sending.

    def before_enqueue(self, broker: dramatiq.Broker, message: dramatiq.Message[Any], delay: int | None) -> None:
        """Take the lock.

        Raises:
          Duplicate: somebody has it.
          LimitsUnreachable, WrongOption: see `brokers.errors`.
        """
        window = option(broker, message, "unique_for")
        if window is None and "unique_key" in message.options:
            raise WrongOption(f"message {message.message_id} has a unique_key: say unique_for, the window in ms, too")
        if window is None or LOCK in message.options:  # with a lock it has been sent before: a retry
            return
        window = positive(window, f"unique_for of message {message.message_id}", "milliseconds")
        _check_until(message.options.get("unique_until"), f"of message {message.message_id}")
        actor = broker.actors.get(message.actor_name)
        if actor is not None:
            _refuse_ordered(actor)
        key = self._key(message)
        if not self._take(key, window):
            logger.info("kafka_duplicate_refused actor=%s key=%s", message.actor_name, key)
            raise Duplicate(f"a message like {message} was sent within the last {window} ms", key=key)
        message.options[LOCK] = [key, now_ms() + window]
        self._fresh.add(message.message_id)

    def after_enqueue(self, broker: dramatiq.Broker, message: dramatiq.Message[Any], delay: int | None) -> None:
        """It is in the log."""
        self._fresh.discard(message.message_id)

    def after_enqueue_failed(self, broker: dramatiq.Broker, message: dramatiq.Message[Any], error: Exception) -> None:
        """Free the key of a message that is surely not in the log (a hook of `KafkaBroker` alone)."""
        if message.message_id in self._fresh:
            self._fresh.discard(message.message_id)
            if not isinstance(error, DeliveryUnknown):
                self._free(message)
                del message.options[LOCK]

    def _key(self, message: dramatiq.Message[Any]) -> str:
        own = message.options.get("unique_key")
        if own is not None:
            if not isinstance(own, str):
                raise WrongOption(f"unique_key of message {message.message_id} is {own!r}: it has to be a text")
            return f"{self._namespace}:{message.actor_name}:={own}"
        meaning = get_encoder().encode({"args": list(message.args), "kwargs": dict(sorted(message.kwargs.items()))})
        return f"{self._namespace}:{message.actor_name}:{hashlib.sha256(meaning).hexdigest()}"

    def _take(self, key: str, window_ms: int) -> bool:
        try:
            return bool(self._backend.add(key, 1, window_ms) or self._backend.incr(key, 1, maximum=1, ttl=window_ms))
        except Exception as exc:
            raise LimitsUnreachable(f"whether a message is a duplicate cannot be found out: {exc}") from exc

    # Being done.

    def after_process_message(
        self,
        broker: dramatiq.Broker,
        message: dramatiq.MessageProxy,
        *,
        result: object = None,
        exception: BaseException | None = None,
    ) -> None:
        """It has succeeded, or is going to be tried again."""
        if exception is None:
            self._done(broker, message)

    def after_skip_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
        """It was skipped for good, unless it was only put off."""
        if not (message.failed or getattr(message, "put_off", False)):
            self._done(broker, message)

    def after_nack(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
        """It has failed for good, or was dropped."""
        self._done(broker, message)

    def _done(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
        if message.options.get(LOCK) and option(broker, message, "unique_until") in {None, "done"}:
            self._free(message)

    def _free(self, message: dramatiq.Message[Any] | dramatiq.MessageProxy) -> None:
        """Once, and only while the lock is the message's own: after its window, somebody else may have it."""
        key, until_ms = message.options[LOCK]
        left_ms = int(until_ms) - now_ms()
        if left_ms <= 0:
            return
        try:
            if self._backend.add(f"{key}:{message.message_id}", 1, left_ms):
                self._backend.decr(key, 1, minimum=0, ttl=min(left_ms, FREED_MS))
        except Exception as exc:  # noqa: BLE001 - the message is done all the same, and the window's end frees the key
            logger.warning("kafka_unique_not_freed key=%s reason=%s", key, exc)


def _check_until(value: object, name: str) -> None:
    if value is not None and value not in UNTIL:
        raise WrongOption(f"unique_until {name} is {value!r}: it has to be 'done' or 'window'")


def _refuse_ordered(actor: dramatiq.Actor[Any, Any]) -> None:
    if actor.options.get("ordered"):
        raise WrongOption(f"actor {actor.actor_name!r} is ordered: each of its messages counts, so none is a duplicate")
