"""Conditions of commands: a query that decides, in the command's own transaction, whether it is applied.  Pure.

    met        at least one row whose only column is `true`
    not met    no row is: no rows, `false`, null; the command is rejected with `NOT_MET`
    unclear    another number of columns, or a value of another type in any row; rejected with `UNCLEAR`

All rows are looked at, in whatever order they come, so that the order is no part of the meaning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from replica import cypher
from replica.outcomes import MESSAGE_LIMIT
from replica.reading import Reading
from replica.remembering import remembered
from replica.statement import Outcome


if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from replica.statement import Command

#: Our own codes.
NOT_MET: Final = "Replica.ConditionNotMet"
UNCLEAR: Final = "Replica.ConditionUnclear"

#: What a server says of a text that writes nothing.
READS: Final = "r"


class ConditionWrote(Exception):
    """The server says that a condition is no query, though its text was read as one; the transaction is rolled back."""


@remembered
def refusal(text: str) -> str | None:
    """Why *text* must not run as a condition, or None: it has to read, and nothing else.  The same on every replica."""
    forms = dict.fromkeys((text, cypher.unescape(text)) if cypher.has_unicode_escape(text) else (text,))
    return next((reason for form in forms if (reason := _form_refusal(form))), None)


def _form_refusal(text: str) -> str | None:
    if reason := cypher.refusal(text):
        return reason
    if not cypher.is_balanced(cypher.significant(text)):
        return "a string, a comment, a quoted name or a bracket does not end"
    reading = Reading(text)
    writes = [reading.found[index].text for index in reading.writes]
    writes += ["DROP"] if "DROP" in reading.words else []  # wherever it stands: a prefix may hide the beginning
    return f"it only reads, and {writes[0]} may write" if writes else None


def judged(command: Command, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Outcome | None:
    """What the *rows* that the condition of *command* gives decide: None where it is met; else how the command ends.

    Reads *rows* to their end, since an error in the last one counts.
    """
    met, wrong = False, "" if len(columns) == 1 else f"{len(columns)} columns"
    for row in rows:
        value = row[0] if len(row) == 1 else None
        met = met or value is True
        if not wrong and value is not None and not isinstance(value, bool):
            wrong = f"a value of the type {type(value).__name__}"
    if wrong:
        return _rejected(command, UNCLEAR, f"a condition gives one column of true, false or null, and not {wrong}")
    return None if met else _rejected(command, NOT_MET, "the condition is not met")


def _rejected(command: Command, code: str, reason: str) -> Outcome:
    text = "" if command.when is None else command.when.text
    return Outcome(command.offset, applied=False, code=code, message=f"{reason}: {text}"[:MESSAGE_LIMIT])
