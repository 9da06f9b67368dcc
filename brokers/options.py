"""Options that an actor has, or one of its messages: how middleware reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from brokers.errors import WrongOption


if TYPE_CHECKING:
    import dramatiq


def option(broker: dramatiq.Broker, message: dramatiq.Message[Any] | dramatiq.MessageProxy, name: str) -> Any:
    """The message's own, else its actor's, else none."""
    if name in message.options:
        return message.options[name]
    actor = broker.actors.get(message.actor_name)
    return None if actor is None else actor.options.get(name)


def positive(value: object, name: str, unit: str) -> int:
    """*value*, which has to be a whole number above zero.

    Raises:
      WrongOption: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise WrongOption(f"{name} is {value!r}: it has to be a whole number above zero, in {unit}")
    return value
