"""Python's collector of cycles, and what it need not look at.

What a worker process has imported stays as long as it runs: some hundred thousand objects, which the collector would
look through again and again while commands or answers are made, for 30 ms each time.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

from dramatiq.middleware import Middleware


if TYPE_CHECKING:
    import dramatiq


class LongLived(Middleware):
    """Takes what is there when a worker process has booted out of the collector's sight."""

    def after_process_boot(self, broker: dramatiq.Broker) -> None:
        """What is garbage by then goes first."""
        gc.collect()
        gc.freeze()
