"""What may stand where the cursor is: labels, types, property keys, keywords, parameters, directives.  Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ops.rendering import name as quoted
from ops.shell_lines import DIRECTIVES
from replica import cypher


if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from replica.cypher import Token

KEYWORDS: Final = (
    *("ALL", "AND", "ANY", "AS", "ASC", "BY", "CALL", "CASE", "CONSTRAINT", "CONTAINS", "COUNT", "CREATE", "DELETE"),
    *("DESC", "DETACH", "DISTINCT", "DROP", "ELSE", "END", "ENDS", "EXISTS", "FALSE", "FOR", "FOREACH", "IN", "INDEX"),
    *("IF", "IS", "LIMIT", "MATCH", "MERGE", "NONE", "NOT", "NULL", "ON", "OPTIONAL", "OR", "ORDER", "REMOVE"),
    *("REQUIRE", "RETURN", "SET", "SHOW", "SINGLE", "SKIP", "STARTS", "THEN", "TRUE", "UNION", "UNIQUE", "UNWIND"),
    *("WHEN", "WHERE", "WITH", "XOR", "YIELD"),
)

LEVELS: Final = ("session", "any", "linearizable", "max_lag", "at_least")

#: Between a label or type and the one before it.
_JOINS: Final = frozenset(":|&!")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The names that the graph and the shell know."""

    labels: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    parameters: tuple[str, ...] = field(default=())


def candidates(before: str, known: Vocabulary) -> tuple[int, list[str]]:
    """What the text *before* the cursor may go on with, and how many of its last characters that replaces."""
    begun = before.rsplit("\n", 1)[-1] if _at_start(before) else ""
    if begun.startswith(":") and " " not in begun:
        return len(begun) - 1, _beginning(DIRECTIVES, begun[1:])
    if begun.startswith(":level "):
        word = begun.rsplit(" ", 1)[-1]
        return len(word), _beginning(LEVELS, word)
    found = cypher.tokens(before)
    if found and found[-1].kind in {"string", "comment", "unterminated", "number"}:
        return 0, []
    return _in_statement(found, known)


def _at_start(before: str) -> bool:
    """Whether the last line begins a directive: nothing before it goes on."""
    head = before[: len(before) - len(before.rsplit("\n", 1)[-1])]
    means = cypher.significant(head)
    return not means or means[-1].text == ";" or head.lstrip().startswith(":")


def _in_statement(found: Sequence[Token], known: Vocabulary) -> tuple[int, list[str]]:
    word = ""
    if found and found[-1].kind in {"name", "parameter"}:
        word = found[-1].text
        found = found[:-1]
    if word.startswith("$") or (found and found[-1].text == "$" and not word):
        return len(word.removeprefix("$")), _beginning(known.parameters, word.removeprefix("$"))
    means = [token for token in found if token.kind not in {"space", "comment"}]
    before = means[-1].text if means else ""
    inside = _innermost(means)
    if before in _JOINS and inside != "{":
        return len(word), _names(known.types if inside == "[" else known.labels, word)
    if before == ".":
        return len(word), _names(known.keys, word)
    if inside == "{" and before in {"{", ","}:
        return len(word), _names(known.keys, word)
    if not word:
        return 0, []
    return len(word), _beginning(KEYWORDS, word)


def _innermost(found: Iterable[Token]) -> str:
    """The bracket that is open where the tokens end; empty for none."""
    stack: list[str] = []
    for token in found:
        if token.kind == "open":
            stack.append(token.text)
        elif token.kind == "close" and stack:
            stack.pop()
    return stack[-1] if stack else ""


def _names(names: Collection[str], word: str) -> list[str]:
    return [quoted(name) for name in _beginning(names, word)]


def _beginning(names: Iterable[str], word: str) -> list[str]:
    """Those of *names* that begin as *word* does, in whichever case."""
    return sorted(name for name in names if name.lower().startswith(word.lower()))
