"""What of the graph a text may see: the node that holds the position, or anything at all.  Pure, and conservative.

That node is visible to every pattern without a label.  Between two commands of one transaction it has other
properties (or is missing, after `MATCH (n) DETACH DELETE n`) than between two transactions, so a text that may see it
is applied in a transaction of its own; otherwise replicas that cut their batches differently would differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from replica.cypher import body, significant


if TYPE_CHECKING:
    from collections.abc import Sequence

    from replica.cypher import Token

#: Words after which a bracket may open a node pattern.  After any other bare name it is a function's.
_BEFORE_PATTERN: Final = frozenset(
    [
        *("MATCH", "CREATE", "MERGE", "INSERT", "WHERE", "AND", "OR", "XOR", "NOT", "EXISTS", "IN", "RETURN", "WITH"),
        *("THEN", "ELSE", "WHEN", "CASE", "ON", "BY", "SET", "DELETE", "DISTINCT", "AS", "UNWIND", "FOR", "LET"),
        *("ANY", "ALL", "SHORTEST", "PATH", "PATHS", "GROUP", "GROUPS", "WALK", "TRAIL", "SIMPLE", "ACYCLIC"),
        *("ELEMENTS", "ELEMENT", "RELATIONSHIPS", "RELATIONSHIP", "NODES", "NODE", "EDGES", "EDGE", "FILTER"),
    ]
)
#: Words that change which variables are in scope in ways this module does not follow.
_SCOPE: Final = frozenset(["WITH", "UNION", "CALL", "NEXT", "FOREACH", "LET", "FILTER", "WHEN"])
#: Full-text, vector and computed access read what a pattern does not show.
_OPAQUE: Final = frozenset(["SEARCH", "SHORTEST", "SHORTESTPATH", "ALLSHORTESTPATHS"])
#: Subqueries within an expression.
_SUBQUERIES: Final = frozenset(["EXISTS", "COUNT", "COLLECT"])
#: What stands between the nodes and relationships of a pattern.
_BETWEEN: Final = frozenset(",-<>")


def sees_any_node(text: str) -> bool:
    """Tell whether *text* may match a node without knowing its label; True where that is not certain."""
    found = significant(text)
    if any(token.word in _OPAQUE for token in found):
        return True
    labelled: set[str] = set()
    scoped = any(token.word in _SCOPE for token in found)
    depth = 0
    for index, token in enumerate(found):
        if token.text == "(" and _may_be_pattern(found, index):
            verdict, variable = _node(found, index + 1)
            if verdict == "labelled":
                if depth == 0 and variable:
                    labelled.add(variable)
            elif verdict == "any" or (verdict == "bare" and (scoped or depth or variable not in labelled)):
                return True
        depth += {"open": 1, "close": -1}.get(token.kind, 0)
    return False


def _may_be_pattern(found: Sequence[Token], index: int) -> bool:
    before = found[index - 1] if index else None
    if before is None or before.kind not in {"name", "quoted"}:
        return True
    return before.word in _BEFORE_PATTERN


def _node(found: Sequence[Token], index: int) -> tuple[str, str]:
    """What stands after a bracket: a node with labels, one without, a bare variable, or no node; and its variable."""
    variable = ""
    if index < len(found) and found[index].kind in {"name", "quoted"}:
        variable = found[index].name
        index += 1
    following = found[index] if index < len(found) else None
    if following is None:
        return "any", variable
    if following.text == ")":
        return ("bare" if variable else "any"), variable
    if following.text == ":" or (variable and following.word == "IS"):
        return ("labelled" if _plain_label(found, index + 1) else "any"), variable
    if following.text == "{" or following.word == "WHERE" or (following.kind == "parameter"):
        return "any", variable
    return "other", variable


def _plain_label(found: Sequence[Token], index: int) -> bool:
    """A label expression of plain names only, joined by : & or |."""
    while index < len(found) and found[index].kind in {"name", "quoted"}:
        index += 1
        if index < len(found) and found[index].text in {":", "&", "|"}:
            index += 1
            continue
        return index < len(found) and (
            found[index].text in {")", "{"} or found[index].word == "WHERE" or found[index].kind == "parameter"
        )
    return False


def only_creates(text: str) -> bool:
    """Tell whether *text* creates patterns and does nothing else, so that what is in the graph means nothing to it.

    False where it has a function, or a path's name, or anything else that takes more than a look.
    """
    found = significant(body(text))
    depth = 0
    for before, token in zip((None, *found), found, strict=False):
        if token.word in _SUBQUERIES or token.text == "|":
            return False
        if depth == 0 and not (token.word == "CREATE" if before is None else _goes_on(token)):
            return False
        if depth and before is not None and _looks(before, token):
            return False
        depth += {"open": 1, "close": -1}.get(token.kind, 0)
    return bool(found)


def _goes_on(token: Token) -> bool:
    """Outside of brackets."""
    return token.kind == "open" or token.text in _BETWEEN or token.word == "CREATE"


def _looks(before: Token, token: Token) -> bool:
    """Within brackets: a function that is called, or a pattern that may be found."""
    called = token.text == "(" and before.kind in {"name", "quoted"}
    return called or (before.text == ")" and token.text in _BETWEEN - {","})
