"""Threads that wait for a server, so that more than one transaction can be under way.

The driver's calls return when the server has answered.  While one transaction is applied, the next one is to be on its
way already: a server that has to wait for it has nothing to do.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Final, TypeVar


if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

#: Transactions under way: one that the server works on, and one that waits there.
IN_FLIGHT: Final = 2


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
