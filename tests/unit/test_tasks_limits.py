"""What `tasks` adds for actors of one's own."""

from __future__ import annotations

from typing import Any

import dramatiq
import pytest

from settings import Settings
from tasks.app import App


OPTIONS: dict[str, Any] = {"unique_for": 1000, "rate_limit": "1/s", "max_concurrent": 1}


def test_limits_are_there_where_redis_is() -> None:
    """Without connecting to anything; expiry needs no Redis."""
    app = App(Settings(REDIS_URL="redis://localhost:1/0"))

    @dramatiq.actor(broker=app.broker, expires_in=1000, **OPTIONS)
    def work() -> None: ...

    assert app.broker.actors["work"] is work


def test_without_redis_an_actor_that_needs_it_is_refused() -> None:
    """By name, when it is declared: not by being ignored."""
    app = App(Settings(REDIS_URL=None))
    with pytest.raises(ValueError, match=r"options are undefined.*unique_for"):

        @dramatiq.actor(broker=app.broker, **OPTIONS)
        def work() -> None: ...
