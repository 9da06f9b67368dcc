"""`enqueue-query --explain`: whether replicas would answer a query, and by which plan."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ops.queries import GRACE_S, asked
from replica import compiling
from replica.query import FORBIDDEN, NOT_READ_ONLY
from tasks.errors import QueryFailed


if TYPE_CHECKING:
    from collections.abc import Iterator

    from ops.queries import Question
    from settings import Settings
    from tasks.results import Result

REFUSED = 4


@dataclass(frozen=True, slots=True)
class Told:
    """What one replica says of a query; *refused* is why none would run it."""

    replica: str
    refused: str | None = None
    server: str = ""
    plan: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """Not 0 when it is refused."""
        return REFUSED if self.refused else 0

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "replica": self.replica,
            "refused": self.refused,
            "server": self.server or None,
            "plan": self.plan or None,
            "warnings": list(self.warnings),
        }

    def as_text(self) -> str:
        """For people."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        if self.refused:
            yield f"refused   {self.refused}"
        else:
            yield "verdict   a query: any replica that is fresh enough answers it"
        yield f"asked     {self.replica}{f', {self.server}' if self.server else ''}"
        yield from (f"warning   {warning}" for warning in self.warnings)
        if self.plan:
            yield f"\n{self.plan.rstrip()}"


def explained(settings: Settings, question: Question) -> Told:
    """Let a replica compile the query; it runs nothing.

    Raises what sending and waiting raise, and `QueryFailed`: the text is wrong.
    """
    with asked(settings, replace(question, text=compiling.explained(question.text))) as (result, _):
        return told_of(result, question.timeout_s + GRACE_S)


def told_of(result: Result, timeout_s: float) -> Told:
    """What is answered to a text that is to be explained.  Raises as `explained` does."""
    try:
        summary = result.summary(timeout_s)
    except QueryFailed as error:
        if error.code in {FORBIDDEN, NOT_READ_ONLY}:
            return Told(error.replica, refused=error.message)
        said = compiling.as_written(error.message)
        raise type(error)(error.code, said, replica=error.replica, retryable=error.retryable) from error
    warnings = tuple(found["description"] for found in summary.notifications)
    return Told(summary.replica, None, summary.server, summary.plan, warnings)
