"""Which middleware is called at a signal: whatever does anything there, and what is there just now."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from dramatiq.middleware import Middleware

from brokers.hooks import Hooks


if TYPE_CHECKING:
    import dramatiq


class Acks(Middleware):
    """Does something at one signal."""

    def before_ack(self, broker: Any, message: Any) -> None:
        """Something."""


class Foreign:
    """No subclass, as Dramatiq allows."""

    def before_ack(self, broker: Any, message: Any) -> None:
        """Something."""

    def after_custom(self) -> None:
        """A signal that Dramatiq does not have."""


def hooks_of(middleware: list[Any]) -> Hooks:
    """Of a broker that has *middleware*, as it is just now."""
    return Hooks(cast("dramatiq.Broker", SimpleNamespace(middleware=middleware)))


def test_only_who_acts_is_called() -> None:
    """In order; a signal of somebody's own reaches everybody who has to know it."""
    acks, idle, foreign = Acks(), Middleware(), Foreign()
    hooks = hooks_of([acks, idle, foreign])
    assert hooks.of("before_ack") == (acks, foreign)
    assert hooks.of("after_ack") == (foreign,)
    assert hooks.of("after_custom") == (acks, idle, foreign)


def test_another_middleware_in_the_place_of_one_is_found() -> None:
    """The number of them says nothing."""
    middleware: list[Any] = [Acks()]
    hooks = hooks_of(middleware)
    assert hooks.of("before_ack") == (middleware[0],)
    middleware[0] = Middleware()
    assert hooks.of("before_ack") == ()
    middleware.append(Acks())
    assert hooks.of("before_ack") == (middleware[1],)


def test_a_method_of_the_instance_counts() -> None:
    """As a test's mock is put there."""
    idle = Middleware()
    idle.before_ack = print  # type: ignore[method-assign,assignment]
    assert hooks_of([idle]).of("before_ack") == (idle,)
