"""Python's collector of cycles, and what it need not look at.

What a worker process has imported stays as long as it runs: some hundred thousand objects, which the collector would
look through again and again while commands or answers are made, for 30 ms each time.  What is made for a message is in
no cycle, and gone before it is looked for: so it is looked for seldom.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

from dramatiq.middleware import Middleware


if TYPE_CHECKING:
    import dramatiq


#: Objects that are made before the youngest are looked through; Python's own 700 are eighty commands, and took a worker
#: a twelfth of its time.
YOUNGEST = 20_000


class LongLived(Middleware):
    """Takes what is there when a worker process has booted out of the collector's sight, and lets it look seldom."""

    def after_process_boot(self, broker: dramatiq.Broker) -> None:
        """What is garbage by then goes first."""
        gc.collect()
        gc.freeze()
        _, *older = gc.get_threshold()
        gc.set_threshold(YOUNGEST, *older)
