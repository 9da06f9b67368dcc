"""`enqueue-query`: ask, and end what nobody waits for any longer."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ops import parameters, rendering, showing
from ops.connection import connected
from tasks.errors import AnswerBroken, QueryCancelled, QueryFailed, WaitTimeout


if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from settings import Settings
    from tasks.results import Result, Rows

#: Seconds that an answer is waited for longer than the query may run, so that its own error comes first.
GRACE_S = 2.0

#: Seconds to wait for a query to end that was cancelled.  A person waits who wants to leave.
ENDED_S = 3.0


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: a text with parameters as they were typed, and *options* of `send_with_options`."""

    text: str
    pairs: Sequence[str]
    params: str | None
    timeout_s: float
    options: Mapping[str, Any]


def print_answer(settings: Settings, question: Question, form: str) -> None:
    """Ask any replica, or one that is as fresh as the options say, and print the rows as they come.

    Raises what `run_query.send` and `Result.stream` raise, `InputUnusable`, `OutputClosed`; KeyboardInterrupt as
    `until_left` does.
    """
    with asked(settings, question) as (result, began):
        showing.print_result(result, form, question.timeout_s + GRACE_S, began)


def whole(settings: Settings, question: Question) -> Rows:
    """As `print_answer`, all rows at once."""
    with asked(settings, question) as (result, _):
        return result.rows(question.timeout_s + GRACE_S)


@contextmanager
def asked(settings: Settings, question: Question) -> Iterator[tuple[Result, float]]:
    """The query on its way, and when that began."""
    given = parameters.parse(question.pairs, question.params)
    with connected(settings) as app:
        began = time.monotonic()
        result = app.run_query.send_with_options(
            args=(question.text,), kwargs=given, timeout=question.timeout_s, **question.options
        )
        with until_left(result):
            yield result, began


@contextmanager
def until_left(result: Result) -> Iterator[None]:
    """Whoever leaves before the answer has ended, for whatever reason, ends the query on its replica.

    Raises:
      KeyboardInterrupt: as raised within; its text says what became of the query.
    """
    try:
        with result:
            yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_end_of(result)) from None


def _end_of(result: Result) -> str:
    """What became of a query that was cancelled."""
    try:
        replica = result.summary(ENDED_S).replica
    except QueryCancelled as error:
        return f"Interrupted: the query was cancelled on {error.replica}."
    except QueryFailed as error:
        return f"Interrupted: the query had failed before: {error}"
    except (WaitTimeout, AnswerBroken):
        return f"Interrupted: query {result.message_id} is cancelled, and no replica has said yet that it has ended."
    return f"Interrupted: the query had ended on {replica} before it could be cancelled."


def as_object(rows: Rows) -> dict[str, Any]:
    """The whole answer as typed JSON."""
    return {
        "columns": list(rows.columns),
        "rows": [rendering.plain(row) for row in rows],
        "truncated": rows.truncated,
        "replica": rows.replica,
        "position": rows.position,
    }
