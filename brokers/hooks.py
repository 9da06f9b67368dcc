"""Which middleware has anything to do at a signal.

Of Dramatiq's default middleware only one in six has, at most signals none; calling the empty methods of the others
takes a tenth of what a message costs altogether.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dramatiq.middleware import Middleware


if TYPE_CHECKING:
    from dramatiq import Broker

    #: The middleware that acts at one hook, in order.
    Acting = tuple[Any, ...]


def call(method: Any, broker: Broker, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """``method(broker, *args, **kwargs)``; Python takes ten times as long for the stars as for a plain call."""
    if len(args) == 1 and not kwargs:
        method(broker, args[0])
    elif len(args) == len(kwargs) == 1 and "result" in kwargs:
        method(broker, args[0], result=kwargs["result"])
    else:
        method(broker, *args, **kwargs)


class Hooks:
    """The middleware of one broker, by hook.  Any thread.

    Middleware is looked through again when it is no more the same, and never for a method that is put on it later where
    it had none.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._known: tuple[list[Any], dict[str, Acting]] = ([], {})

    def of(self, hook: str) -> Acting:
        """The middleware whose *hook* (``before_ack``) does anything, in order."""
        seen, by_hook = self._known
        if seen != self._broker.middleware:  # compares identities, and costs a tenth of a microsecond
            by_hook = {}
            self._known = list(self._broker.middleware), by_hook
        found = by_hook.get(hook)
        if found is None:
            found = by_hook[hook] = tuple(
                middleware for middleware in self._broker.middleware if _acts(middleware, hook)
            )
        return found


def _acts(middleware: Any, hook: str) -> bool:
    empty = getattr(Middleware, hook, None)
    return empty is None or getattr(getattr(middleware, hook, None), "__func__", None) is not empty
