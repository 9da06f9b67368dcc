"""Let a server compile a text, and leave no trace of that in what it says about the text.  Pure."""

from __future__ import annotations

import re
from typing import Final


#: On a line of its own: then columns are right, and so are the lines that the server quotes.
_EXPLAIN: Final = "EXPLAIN\n"

_place: Final = re.compile(r"\(line (\d+), column (\d+) \(offset: (\d+)\)\)")


def explained(text: str) -> str:
    """The text by which a server compiles *text*, and does not run it."""
    return _EXPLAIN + text


def as_written(message: str) -> str:
    """What a server says about `explained` text, with the places of the text as it was written."""
    return _place.sub(_moved, message)


def _moved(place: re.Match[str]) -> str:
    line, column, offset = map(int, place.groups())
    return f"(line {line - 1}, column {column} (offset: {offset - len(_EXPLAIN)}))" if line > 1 else place[0]
