"""Transactions under way: the next one waits in the server already while it works on the one in front.

The driver's calls return when the server has answered, so each flight has a thread that waits for it.  One more is
ready here, and goes when the first has ended, whatever else the applier's thread does at that moment.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar


if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from replica.advance import Advance, Ended

T = TypeVar("T")

#: Transactions under way: one that the server works on, one that waits there, and one that waits for the first.
IN_FLIGHT: Final = 3


@dataclass(frozen=True, slots=True)
class Flight:
    """An `Advance` that is under way; *begun* is set when the server has begun with it, or it has ended."""

    advance: Advance
    begun: threading.Event
    _future: Future[Ended]

    def wait(self) -> None:
        """Until it has ended, however."""
        self._future.exception()

    def lasts(self, seconds: float) -> bool:
        """Whether it has not ended after so many *seconds* more."""
        return bool(wait([self._future], seconds).not_done)

    def ended(self) -> Ended:
        """How it has ended; raises what `Writer.write` does."""
        return self._future.result()


def in_thread(task: Callable[[], T]) -> Future[T]:
    """Run *task* in a thread of its own, which does not keep the process from ending, whatever it waits for."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(task())
        except BaseException as exc:  # noqa: BLE001 - whoever waits for it is told
            future.set_exception(exc)

    threading.Thread(target=run, name="applier", daemon=True).start()
    return future


class Ahead(Generic[T]):
    """An iterable whose next item may be asked for before it is taken."""

    def __init__(self, items: Iterable[T]) -> None:
        self._items = iter(items)
        self._next: T | None = None
        self._error: Exception | None = None

    def pull(self) -> None:
        """Ask for the next one, unless it is there; what comes instead of it ends the iteration."""
        if self._next is None and self._error is None:
            try:
                self._next = next(self._items, None)
            except Exception as exc:  # noqa: BLE001 - see `check`
                self._error = exc

    def take(self) -> T | None:
        """The next one; None when there is none."""
        self.pull()
        item, self._next = self._next, None
        return item

    def check(self) -> None:
        """Raise what came instead of an item."""
        if self._error is not None:
            raise self._error
