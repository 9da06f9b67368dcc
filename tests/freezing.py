"""Freezing at one instant, for tests."""

from __future__ import annotations

import datetime as dt
from random import Random
from typing import Any, Final

from replica.determinism import Frozen, freeze
from replica.statement import Statement


NOW: Final = dt.datetime(2024, 2, 29, 13, 4, 5, 678901, tzinfo=dt.timezone(dt.timedelta(hours=1)))


def frozen(text: str, parameters: dict[str, Any] | None = None, *, seed: int = 1) -> Frozen:
    """Freeze at one instant."""
    return freeze(Statement(text, parameters or {}), now=NOW, random=Random(seed))
