"""Places in a program where it ends, as by ``kill -9``."""

from __future__ import annotations

import functools
import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Place:
    """Where a method, or a module's function, is called, or where it has just returned."""

    owner: Any
    name: str
    has_returned: bool

    def die_here(self) -> None:
        """SIGKILL for this process, as soon as it comes here."""
        setattr(self.owner, self.name, self._dying(getattr(self.owner, self.name)))

    def _dying(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def die(*args: Any, **kwargs: Any) -> None:
            if self.has_returned:
                function(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGKILL)

        return die


def before(owner: Any, name: str) -> Place:
    """Where it is called."""
    return Place(owner, name, has_returned=False)


def after(owner: Any, name: str) -> Place:
    """Where it has returned."""
    return Place(owner, name, has_returned=True)
