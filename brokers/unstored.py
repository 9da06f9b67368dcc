"""Results that could not be stored: the ack of their message waits for them.

Dramatiq logs an error inside middleware and acks, and whoever waits for the result waits in vain.  Storing it needs no
second run: it is tried again before the ack, until the backend is back.  What the backend could never take (a value
that cannot be encoded) parks the message.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from dramatiq.results import Results

from brokers.errors import ResultLost, ResultUnstored
from brokers.hooks import call


if TYPE_CHECKING:
    from dramatiq import Broker

    from brokers.hooks import Acting
    from brokers.reader import KafkaMessageProxy

logger = logging.getLogger("brokers.kafka")

#: The hooks in which the middleware stores a result, while the ack is still to come.
STORING = frozenset({"after_process_message", "after_skip_message"})


def emit_after(broker: Broker, acting: Acting, hook: str, args: Any, kwargs: dict[str, Any]) -> None:
    """As Dramatiq's; what `Results` could not store for a message in flight is left with the message."""
    for middleware in reversed(acting):
        try:
            call(getattr(middleware, hook), broker, args, kwargs)
        except Exception as exc:
            logger.critical("Unexpected failure in %s of %r.", hook, middleware, exc_info=True)
            if isinstance(middleware, Results) and hook in STORING:
                _remember(args[0], middleware, partial(getattr(middleware, hook), broker, *args, **kwargs), exc)


def _remember(message: KafkaMessageProxy, middleware: Results, call: partial[None], error: Exception) -> None:
    try:
        middleware.backend.encoder.encode({"result": call.keywords.get("result")})
    except Exception:  # noqa: BLE001 - encoders raise what they like
        message.send_error = ResultLost(f"its result cannot be encoded: {error!r}")
    else:
        message.unstored = partial(_store, call)


def _store(call: partial[None]) -> None:
    try:
        call()
    except Exception as exc:
        raise ResultUnstored(f"the result cannot be stored just now: {exc!r}") from exc
