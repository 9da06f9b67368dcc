"""Rate limits that make messages wait in the log, and not threads.

Dramatiq's own way is to acquire a limiter in the actor, whose error is then a failed attempt: it burns retries, and a
message over its limit for long ends among the dead letters.  Here the limiter is asked before the message begins; over
the limit, a copy with the same id and age goes to the delayed topic, and the message is acknowledged when Kafka has it.
"""

from __future__ import annotations

import logging
import random
import re
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dramatiq.middleware import Middleware
from dramatiq.rate_limits import ConcurrentRateLimiter, WindowRateLimiter

from brokers.clients import Seldom
from brokers.errors import PutOff, WrongOption
from brokers.options import option, positive


if TYPE_CHECKING:
    import dramatiq
    from dramatiq.rate_limits import RateLimiterBackend

logger = logging.getLogger("brokers.limits")

#: How often a message was put off.
TIMES = "put_off"

#: Seconds in the units of a rate.
UNITS = {"s": 1, "m": 60}

#: Widest window in seconds: Dramatiq's limiter reads a key for each of them at every message.
WIDEST_S = 600

#: Milliseconds after which a message that waits for a free slot is tried again, on average.
SLOT_MS = 2000

#: Milliseconds that a slot outlives the time limit of the actor which holds it, when its process is killed.
GRACE_MS = 60_000

#: Dramatiq's own time limit, in milliseconds.
DEFAULT_LIMIT_MS = 600_000

#: Milliseconds that a slot is held by an actor without a time limit.
LONGEST_MS = 86_400_000

_rate = re.compile(r"([1-9]\d*)/([1-9]\d*)?([sm])")


@dataclass(frozen=True, slots=True)
class Rate:
    """So many messages in any *window_s* seconds."""

    limit: int
    window_s: int


def rate(text: object, name: str) -> Rate:
    """The rate that ``10/s``, ``100/m`` or ``5/30s`` says.

    Raises:
      WrongOption: it says none.
    """
    match = _rate.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise WrongOption(f"rate_limit of {name} is {text!r}: write '10/s', '100/m' or '5/30s'")
    limit, count, unit = match.groups()
    window_s = int(count or 1) * UNITS[unit]
    if window_s > WIDEST_S:
        raise WrongOption(f"rate_limit of {name} is {text!r}: the window may have {WIDEST_S} seconds at the most")
    return Rate(int(limit), window_s)


class RateLimits(Middleware):
    """Actors that may not begin too often, or too often at once, over all workers.

    Actor options: ``rate_limit="100/m"`` (so many messages in any minute; ``10/s``, ``5/30s``), and
    ``max_concurrent=3`` (so many run at once).  A message over its limit comes again later: no attempt is counted, and
    no thread waits.  When it comes again is spread at random, and sooner for those that were put off before, so that
    newcomers do not overtake them for ever; but there is no order.

    A killed worker's slot is free again a minute after the actor's ``time_limit``.  While the backend is away nothing
    of a limited actor begins.

    Parameters:
      backend: one of `dramatiq.rate_limits.backends`.
      namespace: put before every key.
    """

    def __init__(self, backend: RateLimiterBackend, *, namespace: str = "limit") -> None:
        self._backend = backend
        self._namespace = namespace
        self._held = threading.local()  # the slot of what runs in a thread
        self._seldom = Seldom()

    @property
    def actor_options(self) -> set[str]:
        """Options that actors may have."""
        return {"rate_limit", "max_concurrent"}

    def before_declare_actor(self, broker: dramatiq.Broker, actor: dramatiq.Actor[Any, Any]) -> None:
        """Refuse what makes no sense.  Raises `WrongOption`."""
        options, name = actor.options, f"actor {actor.actor_name!r}"
        if options.get("rate_limit") is not None:
            rate(options["rate_limit"], name)
        if options.get("max_concurrent") is not None:
            positive(options["max_concurrent"], f"max_concurrent of {name}", "messages")
        limited = [key for key in sorted(self.actor_options) if options.get(key) is not None]
        if limited and options.get("ordered"):
            raise WrongOption(f"{name} is ordered: its messages wait for nothing but each other; take out {limited[0]}")

    def before_process_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
        """Let it begin, or put it off.  Raises `PutOff`."""
        actor = broker.actors.get(message.actor_name)
        if actor is None:
            return
        again_ms = self._wait_ms(actor, option(broker, message, "time_limit") or DEFAULT_LIMIT_MS)
        if again_ms is not None:
            self._put_off(broker, message, again_ms)
            raise PutOff(f"over the limit of actor {actor.actor_name!r}")

    def _wait_ms(self, actor: dramatiq.Actor[Any, Any], limit_ms: float) -> int | None:
        """None when it may begin; else the milliseconds after which, on average, it is worth a try."""
        slots, limit = actor.options.get("max_concurrent"), actor.options.get("rate_limit")
        if slots is None and limit is None:
            return None
        with ExitStack() as held:
            try:
                if slots is not None and not self._slot(actor, slots, limit_ms, held):
                    return SLOT_MS
                if limit is not None and not self._in_time(actor, rate(limit, actor.actor_name)):
                    return rate(limit, actor.actor_name).window_s * 1000
            except Exception as exc:  # noqa: BLE001 - whatever a backend raises: nobody knows the limit now
                if self._seldom.due(actor.actor_name):
                    logger.warning("kafka_limit_unknown actor=%s reason=%s", actor.actor_name, exc)
                return SLOT_MS
            self._held.slot = held.pop_all()
        return None

    def _in_time(self, actor: dramatiq.Actor[Any, Any], wanted: Rate) -> bool:
        key = f"{self._namespace}:{actor.actor_name}:rate"
        limiter = WindowRateLimiter(self._backend, key, limit=wanted.limit, window=wanted.window_s)  # type: ignore[no-untyped-call]  # Dramatiq's gap
        with limiter.acquire(raise_on_failure=False) as acquired:
            return bool(acquired)

    def _slot(self, actor: dramatiq.Actor[Any, Any], slots: int, limit_ms: float, held: ExitStack) -> bool:
        """One limiter for each slot: a common counter would keep the slot of a killed worker as long as others work."""
        ttl = LONGEST_MS if limit_ms == float("inf") else int(limit_ms) + GRACE_MS
        for number in random.sample(range(slots), slots):
            key = f"{self._namespace}:{actor.actor_name}:slot:{number}"
            limiter = ConcurrentRateLimiter(self._backend, key, limit=1, ttl=ttl)  # type: ignore[no-untyped-call]  # as above
            if held.enter_context(limiter.acquire(raise_on_failure=False)):
                return True
        return False

    def _put_off(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy, again_ms: int) -> None:
        times = int(message.options.get(TIMES) or 0)
        delay = pause_ms(again_ms, times, random.random())
        copy = message.copy(options={TIMES: times + 1})
        message.put_off = True  # type: ignore[attr-defined]  # for other middleware: it is not done
        message.options["store_results"] = False  # of a skipped message Dramatiq would store None as its result
        try:
            broker.enqueue(copy, delay=delay)
        except Exception as exc:  # noqa: BLE001 - `KafkaBroker` has noted it: the message is parked, and does not run
            logger.error("kafka_put_off_failed message_id=%s reason=%s", message.message_id, exc)
        else:
            logger.debug("kafka_message_put_off message_id=%s delay_ms=%d times=%d", message.message_id, delay, times)

    def after_process_message(
        self,
        broker: dramatiq.Broker,
        message: dramatiq.MessageProxy,
        *,
        result: object = None,
        exception: BaseException | None = None,
    ) -> None:
        """Free the slot."""
        slot, self._held.slot = getattr(self._held, "slot", None), None
        if slot is not None:
            slot.close()

    after_skip_message = after_process_message


def pause_ms(mean_ms: int, times: int, chance: float) -> int:
    """Milliseconds until a message that was put off *times* times before is tried again; *chance* is within 0 and 1.

    Half to one and a half of the mean; for one that was put off before, half of that: the old ones try twice as often.
    """
    spread = mean_ms * (0.5 + chance)
    return max(int(spread if times == 0 else spread / 2), 1)
