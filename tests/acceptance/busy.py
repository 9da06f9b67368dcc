"""Threads that do something again and again until the time is up."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from collections.abc import Sequence


class Busy(threading.Thread):
    """Steps, one after the other, until the time is up; *done* counts what they were, in words of the subclass."""

    def __init__(self, name: str, until: float) -> None:
        super().__init__(name=name)
        self.done: Counter[str] = Counter()
        self.failure: BaseException | None = None
        self._until = until

    def run(self) -> None:
        """As it says; what goes wrong ends it and is kept."""
        try:
            try:
                while time.monotonic() < self._until:
                    self.step()
            finally:
                self.end()
        except BaseException as exc:  # noqa: BLE001 - told by `finished`
            self.failure = exc

    def step(self) -> None:
        """Once more."""
        raise NotImplementedError

    def end(self) -> None:
        """The time is up, or a step has failed."""


def finished(threads: Sequence[Busy]) -> None:
    """Start them all and wait for their ends; none may have failed."""
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [thread.failure for thread in threads if thread.failure] == []
