"""Ending what takes long on the server, where several wait for it and could go on without it.  Any thread."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Seconds that queries which were asked for together may take; what goes together with others takes a hundredth of it.
PATIENCE_S: Final = 0.1

#: Seconds after which the thread that looks ends, when nothing was under way.
QUIET_S: Final = 1.0


class Patience:
    """Calls *end* with the tag of what is under way for longer than *patience_s*, until it is over.

    One thread looks, and only while there is something to look at: a thread for each would cost more than what it
    watches.
    """

    def __init__(self, end: Callable[[str], object], patience_s: float = PATIENCE_S, quiet_s: float = QUIET_S) -> None:
        self._end = end
        self._patience_s = patience_s
        self._quiet_s = quiet_s
        self.looking = False  #: whether the thread runs
        self._lock = threading.Lock()
        self._since: dict[str, float] = {}  # by tag
        self._busy_at = 0.0

    @contextmanager
    def watched(self, tag: str) -> Iterator[None]:
        """Within, *tag* is under way."""
        with self._lock:
            self._busy_at = self._since[tag] = time.monotonic()
            if not self.looking:
                self.looking = True
                threading.Thread(target=self._look, name="query-patience", daemon=True).start()
        try:
            yield
        finally:
            with self._lock:
                self._since.pop(tag, None)

    def _look(self) -> None:
        while True:
            time.sleep(self._patience_s / 2)
            now = time.monotonic()
            with self._lock:
                late = [tag for tag, since in self._since.items() if now - since > self._patience_s]
                if not self._since and now - self._busy_at > self._quiet_s:
                    self.looking = False
                    return
            for tag in late:
                self._end(tag)
