"""The calls of middleware: for a message in flight they are made on its behalf, and not at all once it was recalled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dramatiq
from dramatiq.middleware import MiddlewareError, SkipMessage

from brokers import unstored
from brokers.batches import BatchProxy
from brokers.hooks import Hooks, call
from brokers.reader import KafkaMessageProxy


if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dramatiq.middleware import Middleware

    from brokers.hooks import Acting
    from brokers.reading import Reading
    from brokers.sending import Sending
    from brokers.station import Station

    #: Calls a hook of the middleware that acts at it.
    Emit = Callable[["EmittingBroker", Acting, str, Any, dict[str, Any]], None]


class EmittingBroker(dramatiq.Broker):
    """The part of `KafkaBroker` that Dramatiq's worker tells of everything."""

    _sending: Sending
    _station: Station
    _reading: Reading

    def __init__(self, middleware: Sequence[Middleware]) -> None:
        super().__init__(list(middleware))
        self._hooks = Hooks(self)

    def emit_before(self, signal: str, *args: Any, **kwargs: Any) -> None:
        """As Dramatiq's.  A message that was recalled before it began is seen by no middleware, and does not run.

        Of a batch middleware sees each message for itself.
        """
        first = args[0] if args else None
        hook = f"before_{signal}"
        acting = self._hooks.of(hook)
        if isinstance(first, KafkaMessageProxy):
            try:
                if signal == "process_message":
                    self._station.begin(first)
                if acting:
                    self._emit(_before, first, acting, hook, args, kwargs)
            except SkipMessage as exc:
                self._station.skipped[type(exc).__name__] += 1
                raise
        elif isinstance(first, BatchProxy):
            first.before(signal, self.emit_before)
        else:
            if signal == "worker_boot" and first is not None:
                self._reading.note_worker(first)
            if acting:
                _before(self, acting, hook, args, kwargs)

    def emit_after(self, signal: str, *args: Any, **kwargs: Any) -> None:
        """As Dramatiq's; see `emit_before`."""
        first = args[0] if args else None
        hook = f"after_{signal}"
        acting = self._hooks.of(hook)
        if isinstance(first, KafkaMessageProxy):
            if signal in {"process_message", "skip_message"}:
                self._station.running.end()
            if acting:
                self._emit(unstored.emit_after, first, acting, hook, args, kwargs)
        elif isinstance(first, BatchProxy):
            first.after(signal, self.emit_after, **kwargs)
        elif acting:
            unstored.emit_after(self, acting, hook, args, kwargs)

    def _emit(
        self, emit: Emit, message: KafkaMessageProxy, acting: Acting, hook: str, args: Any, kwargs: dict[str, Any]
    ) -> None:
        if not message.recalled:
            sending = self._sending
            outer, sending.served = sending.served, message
            try:
                emit(self, acting, hook, args, kwargs)
            finally:
                sending.served = outer


def _before(broker: EmittingBroker, acting: Acting, hook: str, args: Any, kwargs: dict[str, Any]) -> None:
    for middleware in acting:
        try:
            call(getattr(middleware, hook), broker, args, kwargs)
        except MiddlewareError:
            raise
        except Exception:
            broker.logger.critical("Unexpected failure in %s of %r.", hook, middleware, exc_info=True)
