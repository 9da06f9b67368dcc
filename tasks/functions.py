"""A query function as a worker runs it: what it is given is checked, and what it gives is counted."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

from dramatiq.middleware import CurrentMessage

from replica.errors import QueryRejected
from tasks.errors import ArgumentRefused


if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.arguments import Arguments

#: The codes of what is refused here; both are the caller's to mend.
ARGUMENT_REFUSED: Final = "Replica.ArgumentRefused"
TOO_MANY_ROWS: Final = "Replica.TooManyRows"


def on_worker(function: Callable[..., Any], arguments: Arguments) -> Callable[..., Any]:
    """*function*, for values as they come over the wire.  Raises `QueryRejected` besides what *function* raises."""

    @functools.wraps(function)
    def run(tx: Any, /, *args: Any, **kwargs: Any) -> Any:
        try:
            positional, named = arguments.converted(args, kwargs)
        except ArgumentRefused as exc:
            raise QueryRejected(ARGUMENT_REFUSED, str(exc)) from exc
        value = function(tx, *positional, **named)
        _refuse_more_than(_wanted(), value)
        return value

    return run


def _wanted() -> int | None:
    message = CurrentMessage.get_current_message()
    most = None if message is None else message.options.get("max_rows")
    return most if isinstance(most, int) else None


def _refuse_more_than(most: int | None, value: Any) -> None:
    """A list cannot say that it was cut, so it is refused."""
    if most is not None and isinstance(value, (list, tuple)) and len(value) > most:
        raise QueryRejected(
            TOO_MANY_ROWS, f"the function gives {len(value)} rows, and max_rows is {most}: let it ask for fewer"
        )
