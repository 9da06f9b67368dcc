"""Commands out of a file: statements between semicolons, or a JSON object on each line.

Read piece by piece, so that the file may be larger than memory.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from ops import parameters
from ops.errors import InputUnusable
from replica import cypher
from replica.errors import ValueNotDecodable
from replica.statement import Statement


if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

#: Characters read at a time.
PIECE = 65_536

#: Characters of one statement.  Kafka takes a megabyte; more means that a quote is never closed.
LONGEST = 4_000_000


@dataclass(frozen=True, slots=True)
class Item:
    """One command of a file, the line on which it begins, and what `send_with_options` is told about it."""

    line: int
    statement: Statement
    options: Mapping[str, Any] = field(default_factory=dict)


class Readable(Protocol):
    """A file of bytes."""

    def read(self, size: int, /) -> bytes:
        """Up to *size* bytes, none at the end."""


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    command: str
    params: dict[str, Any] = {}
    with_key: str | None = None
    when: str | None = None
    id: str | None = None


def read(file: Readable) -> Iterator[Item]:
    """The commands of *file*, whose first character other than a blank tells which of the two forms it has.

    Raises:
      InputUnusable: says the line, and what is wrong there.
    """
    pieces = _decoded(file)
    first = ""
    while not first.strip():
        piece = next(pieces, None)
        if piece is None:
            return
        first += piece
    rest = chain([first], pieces)
    yield from _bodies(rest) if first.lstrip().startswith("{") else _statements(rest)


def _decoded(file: Readable) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    line = 1
    while True:
        data = file.read(PIECE)
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            line += error.object[: error.start].count(b"\n")
            raise InputUnusable(f"line {line}: not UTF-8 ({error.reason})") from error
        if text:
            line += text.count("\n")
            yield text
        if not data:
            return


def _bodies(pieces: Iterable[str]) -> Iterator[Item]:
    for number, line in enumerate(_lines(pieces), 1):
        if line.strip():
            yield _body(number, line)


def _lines(pieces: Iterable[str]) -> Iterator[str]:
    number, line = 1, ""
    for piece in pieces:
        *whole, line = (line + piece).split("\n")
        yield from whole
        number += len(whole)
        _require_end(number, line, "line break")
    yield line


def _body(number: int, line: str) -> Item:
    try:
        body = msgspec.json.decode(line, type=_Body)
        options = {"key": body.with_key, "when": body.when, "id": body.id}
        given = {name: value for name, value in options.items() if value is not None}
        return Item(number, Statement(body.command, parameters.decoded(body.params)), given)
    except (msgspec.MsgspecError, ValueNotDecodable) as error:
        raise InputUnusable(f"line {number}: {error}") from error


def _statements(pieces: Iterable[str]) -> Iterator[Item]:
    text, line, enough = "", 1, 0
    for piece in pieces:
        text += piece
        if len(text) >= enough:
            whole, text = _cut(text)
            yield from _items(line, whole)
            line += sum(statement.count("\n") for statement in whole)
            _require_end(line, text, "';'")
            enough = 2 * len(text)  # else a long statement would be cut into tokens again with every piece
    whole, text = _cut(text)
    if any(token.kind == "unterminated" for token in cypher.tokens(text)):
        raise InputUnusable(f"line {line}: a quote or comment that begins here or below is never closed")
    yield from _items(line, [*whole, text])


def _cut(text: str) -> tuple[list[str], str]:
    """The statements of *text* that a semicolon ends, and what may go on."""
    whole = []
    begin = at = 0
    for token in cypher.tokens(text):
        at += len(token.text)
        if token.text == ";":
            whole.append(text[begin:at])
            begin = at
    return whole, text[begin:]


def _items(line: int, statements: Iterable[str]) -> Iterator[Item]:
    for text in statements:
        statement = text.strip().removesuffix(";")
        if cypher.significant(statement):
            yield Item(line + _lines_before(text), Statement(statement.strip()))
        line += text.count("\n")


def _lines_before(text: str) -> int:
    """Lines of blanks and comments before the statement proper."""
    passed = 0
    for token in cypher.tokens(text):
        if token.kind not in {"space", "comment"}:
            break
        passed += token.text.count("\n")
    return passed


def _require_end(line: int, text: str, end: str) -> None:
    if len(text) > LONGEST:
        raise InputUnusable(f"line {line}: no {end} within {LONGEST:,} characters")
