"""The shell without a person: statements from a file or a pipe, until the first error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ops.console import exit_code, print_json, words_of
from ops.shell import Left
from ops.shell_lines import last, split


if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ops.shell import Shell
    from ops.shell_lines import Item


def run(shell: Shell, lines: Iterable[str], *, as_json: bool) -> bool:
    """Run what *lines* hold, as it comes; whether all of it went well.  What did not is told, with its line."""
    place = 1
    try:
        for item in items(lines):
            place = item.line
            shell.run(item)
    except Left:
        return True
    except Exception as error:
        code = exit_code(error)
        if code is None:
            raise
        _tell(error, place, as_json=as_json)
        return False
    return True


def items(lines: Iterable[str]) -> Iterator[Item]:
    """The statements and directives of *lines*, each as soon as it is complete.

    Raises:
      InputUnusable: what there is not, or is never closed.
    """
    text, line = "", 1
    for piece in lines:
        text += piece
        if ";" in piece or piece.lstrip().startswith(":"):  # else nothing can have ended, and looking costs
            found, rest = split(text, line)
            yield from found
            line += text[: len(text) - len(rest)].count("\n")
            text = rest
    yield from last(text, line)


def _tell(error: Exception, line: int, *, as_json: bool) -> None:
    said = words_of(error)
    if as_json:
        print_json({"error": {"type": type(error).__name__, "message": said, "line": line}})
    else:
        click.secho(said if said.startswith("line ") else f"line {line}: {said}", fg="red", err=True)
