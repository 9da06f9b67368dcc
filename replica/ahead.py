"""Make the next item while the last one is being used."""

from __future__ import annotations

import queue
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar


if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")

#: Items that may lie ready.
_READY: Final = 2
#: Seconds after which a full queue is tried again, to see whether the items are still wanted.
_POLL_S: Final = 0.1


class _End:
    """No more items; *error* says why, unless it is simply the end."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


@contextmanager
def ahead(items: Iterable[T]) -> Iterator[Iterator[T]]:
    """Iterate over *items*, which a thread of its own makes: some in advance, in order, few at a time.

    What making them raises is raised by the iterator.  At the end of the block the thread has ended.
    """
    ready: queue.Queue[T | _End] = queue.Queue(_READY)
    unwanted = threading.Event()

    def put(item: T | _End) -> None:
        while not unwanted.is_set():
            try:
                return ready.put(item, timeout=_POLL_S)
            except queue.Full:
                continue
        return None

    def make() -> None:
        try:
            for item in items:
                put(item)
                if unwanted.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - raised where the items are used
            put(_End(error))
        else:
            put(_End())

    def made() -> Iterator[T]:
        while True:
            item = ready.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item

    thread = threading.Thread(target=make, name="snapshot-reader", daemon=True)
    thread.start()
    try:
        yield made()
    finally:
        unwanted.set()
        thread.join()
