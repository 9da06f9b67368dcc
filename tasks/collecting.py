"""How Python runs a worker process: what its collector of cycles need not look at, and how its threads take turns.

What a worker process has imported stays as long as it runs: some hundred thousand objects, which the collector would
look through again and again while commands or answers are made, for 30 ms each time.

A thread that has something to hand over waits until the one that computes lets go of the interpreter: by default up to
5 ms, in which a database could apply hundreds of commands.
"""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING

from dramatiq.middleware import Middleware


if TYPE_CHECKING:
    import dramatiq


#: Seconds.
SWITCH_S = 0.0005


class LongLived(Middleware):
    """Takes what is there when a worker process has booted out of the collector's sight, and lets threads wait less."""

    def after_process_boot(self, broker: dramatiq.Broker) -> None:
        """What is garbage by then goes first."""
        sys.setswitchinterval(SWITCH_S)
        gc.collect()
        gc.freeze()
