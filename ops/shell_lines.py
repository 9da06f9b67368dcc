"""What is typed into the shell: statements that a semicolon ends, and lines that begin with a colon.  Pure."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import click
import msgspec

from ops.errors import InputUnusable
from replica import cypher, values
from replica.errors import ValueNotDecodable
from replica.reading import Reading
from replica.rules import WRITES


Kind: TypeAlias = Literal["query", "command"]

#: Directives and what they take; the first three go before a statement, and end with it.
DIRECTIVES: Final = {
    "query": "STATEMENT;",
    "command": "STATEMENT;",
    "explain": "STATEMENT;",
    "param": "NAME VALUE",
    "params": "[clear]",
    "level": "[session | any | linearizable | max_lag 5s|100 | at_least OFFSET|TOKEN]",
    "status": "",
    "help": "",
    "quit": "",
}
BEFORE_STATEMENTS: Final = frozenset({"query", "command", "explain"})

HELP: Final = {
    "query": "ask this, whatever it looks like",
    "command": "put this into the log, whatever it looks like",
    "explain": "what would go into the log, and how replicas would apply it, or a query's plan; runs nothing",
    "param": "set $NAME for the statements that follow; VALUE is JSON, typed JSON, or else a text",
    "params": "the parameters that are set, or clear them",
    "level": "how fresh answers have to be; session: as new as my own writes and earlier answers",
    "status": "the replicas, and how far each is",
    "help": "this",
    "quit": "leave; so does Ctrl-D",
}

#: Letters of a line of help: a terminal has 80.
_WIDTH: Final = 78


def help_text() -> str:
    """All directives, for a terminal."""
    words = click.HelpFormatter(width=_WIDTH)
    words.write_text("Statements end with ; and may go over many lines.")
    words.write_text("What writes goes into the log, what reads to a replica.")
    with words.indentation():
        words.write_dl([(f":{name} {takes}".rstrip(), HELP[name]) for name, takes in DIRECTIVES.items()], col_max=22)
    return words.getvalue().rstrip()


_parameter: Final = re.compile(
    r"\$?(?:`(?P<quoted>[^`]+)`|(?P<name>\w+))(?:\s*(?:=>|=|:)\s*|\s+)(?P<value>\S.*)", re.DOTALL
)

#: Words with which a text begins that is not for replicas to apply alike, though no word in it says so.
_WRITING_STARTS: Final = frozenset(["DROP", "ALTER", "GRANT", "DENY", "REVOKE", "RENAME", "START", "STOP", "ENABLE"])


@dataclass(frozen=True, slots=True)
class Statement:
    """A text for the replicas.  *directive* is ``query``, ``command`` or ``explain`` where one stands before it."""

    line: int
    text: str
    directive: str = ""

    @property
    def kind(self) -> Kind:
        """Where it goes."""
        if self.directive in {"query", "command"}:
            return "command" if self.directive == "command" else "query"
        return kind_of(self.text)


@dataclass(frozen=True, slots=True)
class Directive:
    """A line for the shell itself."""

    line: int
    name: str
    argument: str = ""


Item: TypeAlias = Statement | Directive


def kind_of(text: str) -> Kind:
    """Whether *text* writes, as far as its words tell.  In doubt it is a query, which is refused if it would write."""
    found = cypher.significant(text)
    if not cypher.is_balanced(found):
        return "query"
    reading = Reading(text)
    first = found[0].word if found else ""
    words = reading.words
    writes = any(word in WRITES and words[index - 1] != "AS" for index, word in enumerate(words)) and first not in {
        "EXPLAIN",
        "SHOW",
    }
    return "command" if writes or first in _WRITING_STARTS or cypher.is_schema(text) else "query"


def split(text: str, line: int = 1) -> tuple[list[Item], str]:
    """What is complete in *text*, whose first line has the number *line*, and the rest, which may go on.

    Raises:
      InputUnusable: a directive that there is not.
    """
    items: list[Item] = []
    rest = text
    while True:
        blank = _blank(rest)
        line += rest[:blank].count("\n")
        rest = rest[blank:]
        item, length = _directive(rest, line) if rest.startswith(":") else _statement(rest, line, "")
        if item is None:
            return items, rest
        line += rest[:length].count("\n")
        rest = rest[length:]
        if not isinstance(item, Statement) or cypher.significant(item.text):
            items.append(item)


def last(rest: str, line: int) -> list[Item]:
    """What *rest*, which `split` gave, means when nothing comes any more: a semicolon may be missing."""
    if any(token.kind == "unterminated" for token in cypher.tokens(rest)):
        raise InputUnusable(f"line {line}: a quote or comment that begins here or below is never closed")
    items, left = split(f"{rest}\n;" if rest.strip() else "", line)
    return items if not left.strip() else []


def is_complete(text: str) -> bool:
    """Whether Enter at the end of *text* sends it: nothing in it waits for a semicolon."""
    try:
        return not split(text + "\n")[1].strip()
    except InputUnusable:
        return True  # so that it is told


def parameter(argument: str) -> tuple[str, Any]:
    """Name and value of ``:param NAME VALUE``; also ``NAME=VALUE`` and ``NAME => VALUE``, as others write it.

    Raises:
      InputUnusable: it is neither.
    """
    found = _parameter.fullmatch(argument.strip())
    if found is None:
        raise InputUnusable(":param NAME VALUE sets a parameter: `:param age 30`, `:param name user_1`")
    return found["quoted"] or found["name"], _value(found["value"])


def _value(text: str) -> Any:
    try:
        return values.decode(msgspec.json.decode(text))
    except msgspec.MsgspecError:
        return text
    except ValueNotDecodable as error:
        raise InputUnusable(f"the value is no typed JSON: {error}") from error


def _blank(text: str) -> int:
    """The length of what is before the first token that means something."""
    length = 0
    for token in cypher.tokens(text):
        if token.kind not in {"space", "comment"}:
            break
        length += len(token.text)
    return length


def _statement(text: str, line: int, directive: str) -> tuple[Statement | None, int]:
    """The statement at the start of *text*, without its semicolon, and the length of both; none when it goes on."""
    length = 0
    for token in cypher.tokens(text):
        length += len(token.text)
        if token.text == ";":
            return Statement(line, text[: length - 1].strip(), directive), length
    return None, 0


def _directive(text: str, line: int) -> tuple[Item | None, int]:
    whole, newline, _ = text.partition("\n")
    if not newline and not whole.rstrip().endswith(";"):
        return None, 0
    name, _, argument = whole[1:].strip().rstrip(";").partition(" ")
    if name not in DIRECTIVES:
        near = difflib.get_close_matches(name, DIRECTIVES, 1)
        raise InputUnusable(
            f"line {line}: there is no :{name}; {f'did you mean :{near[0]}? ' if near else ''}:help lists what there is"
        )
    if name in BEFORE_STATEMENTS:
        begin = 1 + len(name)
        statement, length = _statement(text[begin:], line, name)
        return statement, begin + length
    return Directive(line, name, argument.strip()), len(whole) + len(newline)
