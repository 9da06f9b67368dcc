"""Cypher text, cut into tokens, and what must be known about it before a server sees it.  Pure.

Strings, comments and quoted names are seen for what they are, so no verdict falls for a keyword inside them.
Where a verdict is uncertain it errs on the side that costs speed, never meaning.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from replica.remembering import remembered, remembered_lately


if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

#: Names, parameters and columns that begin so are ours inside a rewritten text.
RESERVED_PREFIX: Final = "__"
#: Parameters that stand for a frozen clock or random value (see `replica.determinism`).
FROZEN: Final = re.compile(
    r"__(now_(?:date|time|localtime|datetime|localdatetime|timestamp)|rand_[1-9]\d*|uuid_[1-9]\d*)", re.ASCII
)
#: The label of the node that holds the position.  No command may name it.
MARKER_LABEL: Final = "_KafkaPosition"
#: 300 levels overflow the server's parser, and then it never answers; 200 were fine.
MAX_NESTING: Final = 100
#: Operators in one expression.  2,000 made the server silent; nobody writes 1,000 by hand.
MAX_CHAIN: Final = 1000

_TOKEN: Final = re.compile(
    r"""
      (?P<space>\s+)
    | (?P<comment>//[^\r\n]* | /\*.*?\*/)
    | (?P<string>'(?:[^'\\]|\\.)*' | "(?:[^"\\]|\\.)*")
    | (?P<quoted>`(?:[^`]|``)*`)
    | (?P<parameter>\$(?:`(?:[^`]|``)+`|\w+))
    | (?P<name>[^\W\d]\w*)
    | (?P<number>\d\w*(?:\.\d\w*)?)
    | (?P<open>[(\[{])
    | (?P<close>[)\]}])
    | (?P<unterminated>(?:['"`]|/\*).*)
    | (?P<punctuation>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_PAIRS: Final = {")": "(", "]": "[", "}": "{"}
_OPERATORS: Final = frozenset([*"+-*/%^", "AND", "OR", "XOR", "NOT"])
_CHAIN_ENDS: Final = frozenset([",", "|", ";", "SET", "MATCH", "MERGE", "CREATE", "WITH", "RETURN", "UNWIND", "DELETE"])
#: What stands beside a minus that is the arrow of a relationship.
_ARROW: Final = frozenset("[]-<>")
_INDEX_KINDS: Final = frozenset(["RANGE", "TEXT", "POINT", "LOOKUP", "FULLTEXT", "VECTOR", "BTREE"])
_UNWRAPPABLE_START: Final = frozenset(["EXPLAIN", "PROFILE", "CYPHER", "USE", "SHOW", "TERMINATE", "ALTER"])
_ADMINISTRATION: Final = frozenset(
    ["SHOW", "TERMINATE", "GRANT", "DENY", "REVOKE", "ALTER", "START", "STOP", "RENAME", "ENABLE", "DRYRUN"]
)
_ADMINISTERED: Final = frozenset(["USER", "ROLE", "DATABASE", "ALIAS"])


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of the text; *word* is its upper-case form where it is a bare name, else empty."""

    kind: str
    text: str
    word: str = ""

    @property
    def name(self) -> str:
        """What a name, quoted name or parameter calls, without quotes and dollar sign."""
        text = self.text.removeprefix("$") if self.kind == "parameter" else self.text
        return text[1:-1].replace("``", "`") if text.startswith("`") else text


@remembered_lately
def tokens(text: str) -> tuple[Token, ...]:
    """Cut *text* into tokens; their texts, joined, give it back.  Never raises."""
    found = ((match.lastgroup or "punctuation", match.group()) for match in _TOKEN.finditer(text))
    return tuple(Token(kind, piece, piece.upper() if kind == "name" else "") for kind, piece in found)


@remembered_lately
def significant(text: str) -> tuple[Token, ...]:
    """The tokens of *text* without spaces and comments."""
    return tuple(token for token in tokens(text) if token.kind not in {"space", "comment"})


def words(found: Sequence[Token]) -> tuple[str, ...]:
    """Keywords in upper case; everything that is no bare name keeps its text."""
    return tuple(token.word or token.text for token in found)


def has_unicode_escape(text: str) -> bool:
    r"""Tell whether *text* has a \uXXXX escape, which Cypher 5 resolves before it looks for quotes and keywords."""
    return "\\u" in text


def unescape(text: str) -> str:
    r"""Resolve \uXXXX escapes as Cypher 5 does, so that a check sees what the server will see."""
    return re.sub(r"\\u+([0-9a-fA-F]{4})", lambda found: chr(int(found.group(1), 16)), text)


def mentions_marker(text: str) -> bool:
    """Tell whether *text* could name the position's label, even in a string (labels may be computed)."""
    return MARKER_LABEL in text or (has_unicode_escape(text) and MARKER_LABEL in unescape(text))


def nesting_depth(text: str) -> int:
    """The deepest nesting of brackets in *text*, which need not be balanced."""
    depth = deepest = 0
    for token in tokens(text):
        if token.kind == "open":
            depth += 1
            deepest = max(deepest, depth)
        elif token.kind == "close":
            depth = max(0, depth - 1)
    return deepest


def chain_length(text: str) -> int:
    """The most operators between two commas or clauses: the depth of the tree that the server's parser builds."""
    seen = words(significant(text))
    length = longest = 0
    for index, word in enumerate(seen):
        if word in _CHAIN_ENDS:
            length = 0
        elif word in _OPERATORS and not (
            word == "-" and _ARROW & {*seen[index - 1 : index], *seen[index + 1 : index + 2]}
        ):
            length += 1
            longest = max(longest, length)
    return longest


def is_balanced(found: Sequence[Token]) -> bool:
    """Tell whether every bracket is closed by its partner, in order, and every string, name and comment ends."""
    stack: list[str] = []
    for token in found:
        if token.kind == "unterminated":
            return False
        if token.kind == "open":
            stack.append(token.text)
        elif token.kind == "close" and (not stack or stack.pop() != _PAIRS[token.text]):
            return False
    return not stack


@remembered
def body(text: str) -> str:
    """*text* without trailing semicolons, and with a line break after it in case it ends in a // comment."""
    pieces = tokens(text)
    last = len(pieces)
    for index in range(len(pieces) - 1, -1, -1):
        if pieces[index].text == ";":
            last = index
        elif pieces[index].kind not in {"space", "comment"}:
            break
    return "".join(piece.text for piece in pieces[:last]) + "\n"


def wrappable(text: str) -> bool:
    """Tell whether *text* may stand inside `CALL () { ... }` and mean what it means alone.

    Whether it also compiles there is for the server to say.
    """
    if has_unicode_escape(text) or mentions_marker(text):
        return False
    found = significant(body(text))
    if not found or not is_balanced(found) or found[0].word in _UNWRAPPABLE_START:
        return False
    if any(_reserved(token) for token in found):
        return False
    seen = words(found)
    return ";" not in seen and not is_schema(text) and not loads_csv(seen) and not runs_in_transactions(seen)


def _reserved(token: Token) -> bool:
    """A name that wrapping might bring in itself; those of frozen values are never among them."""
    if token.kind not in {"name", "quoted", "parameter"} or not token.name.startswith(RESERVED_PREFIX):
        return False
    return token.kind != "parameter" or not FROZEN.fullmatch(token.name)


def loads_csv(seen: Sequence[str]) -> bool:
    """Tell whether LOAD CSV stands among the words."""
    return any(pair == ("LOAD", "CSV") for pair in pairwise(seen))


def runs_in_transactions(seen: Sequence[str]) -> bool:
    """Tell whether a CALL subquery asks for transactions of its own."""
    return any(
        word == "}" and seen[index + 1 : index + 2] == ("IN",) and "TRANSACTIONS" in seen[index + 2 : index + 5]
        for index, word in enumerate(seen)
    )


def parameter_names(text: str) -> frozenset[str]:
    """The parameters that *text* uses."""
    return frozenset(token.name for token in tokens(text) if token.kind == "parameter")


@remembered
def sorted_parameters(text: str) -> tuple[str, ...]:
    """The same, in the order of their names."""
    return tuple(sorted(parameter_names(text)))


def parameters_to_row(text: str, row: str) -> str:
    """Replace every `$name` by the field *name* of the variable *row*.

    The blank in front keeps `RETURN$x` two words.
    """
    return with_parameters(text, lambda name: f"{row}.`{name.replace('`', '``')}`")


def parameters_to_columns(text: str, columns: str, names: Sequence[str], row: str) -> str:
    """Replace every `$name` by what the parameter *columns* has for the number *row*, in the order of *names*.

    The server reads a list of values in a fifth of the time of as many maps.
    """
    return with_parameters(text, lambda name: f"${columns}[{names.index(name)}][{row}]")


def with_parameters(text: str, expression: Callable[[str], str]) -> str:
    """Replace every `$name` by the *expression* for the name, behind a blank."""
    return "".join(f" {expression(token.name)}" if token.kind == "parameter" else token.text for token in tokens(text))


def is_schema(text: str) -> bool:
    """Tell whether *text* creates or drops an index or a constraint."""
    seen = words(significant(text)[:3])
    if seen[:1] not in {("CREATE",), ("DROP",)}:
        return False
    rest = seen[2:] if seen[1:2] and seen[1] in _INDEX_KINDS else seen[1:]
    return rest[:1] in {("INDEX",), ("CONSTRAINT",)}


def is_constraint(text: str) -> bool:
    """Tell whether a schema command is about a constraint, and not an index."""
    return next(token.word for token in significant(text) if token.word in {"INDEX", "CONSTRAINT"}) == "CONSTRAINT"


def schema_name(text: str, parameters: Mapping[str, object]) -> str | None:
    """The name that a schema command gives or drops; None where it leaves the name to the server."""
    found = significant(text)
    at = next((index for index, token in enumerate(found) if token.word in {"INDEX", "CONSTRAINT"}), len(found)) + 1
    if at >= len(found):
        return None
    token, following = found[at], words(found[at + 1 : at + 2])
    if (token.word, following) in {
        ("FOR", ("(",)),
        ("IF", ("NOT",)),
        ("ON", (":",)),
        ("ON", ("(",)),
        ("ON", ("EACH",)),
    }:
        return None
    if token.kind == "parameter":
        value = parameters.get(token.name)
        return value if isinstance(value, str) else None
    return token.name if token.kind in {"name", "quoted"} else None


def unnamed_schema(found: Sequence[Token]) -> int | None:
    """The index in *found* in front of which a CREATE of an index or a constraint lacks its name; None otherwise."""
    seen = words(found)
    if seen[:1] != ("CREATE",):
        return None
    at = next((index for index, word in enumerate(seen[:3]) if word in {"INDEX", "CONSTRAINT"}), len(seen)) + 1
    return at if seen[at : at + 2] in {("FOR", "("), ("IF", "NOT")} else None


def procedures(text: str) -> tuple[str, ...]:
    """The procedures that *text* calls, as written, with dots; a subquery is none."""
    found = significant(text)
    return tuple(
        _dotted(found, index + 1)
        for index, token in enumerate(found)
        if token.word == "CALL" and found[index + 1 : index + 2] and found[index + 1].kind in {"name", "quoted"}
    )


def _dotted(found: Sequence[Token], start: int) -> str:
    parts = []
    for index in range(start, len(found), 2):
        parts.append(found[index].name)
        if found[index + 1 : index + 2] != (Token("punctuation", "."),) or index + 2 >= len(found):
            break
    return ".".join(parts)


def deletes_without_detach(text: str) -> bool:
    """Tell whether *text* may delete a node without DETACH, which the server judges only at COMMIT.

    Deleting nothing but variables of relationship patterns is no such case.
    """
    found = significant(text)
    return any(
        token.word == "DELETE"
        and words(found[max(0, index - 1) : index]) not in {("DETACH",), (".",)}
        and not _only_relationships(found, index + 1)
        for index, token in enumerate(found)
    )


def _only_relationships(found: Sequence[Token], start: int) -> bool:
    """Every item after DELETE is a plain variable that this text binds by `-[name` and in no other way."""
    items: list[str] = []
    for index in range(start, len(found), 2):
        if found[index].kind not in {"name", "quoted"}:
            return False
        items.append(found[index].name)
        if words(found[index + 1 : index + 2]) != (",",):
            if index + 1 < len(found) and found[index + 1].kind != "name" and found[index + 1].text != ";":
                return False
            break
    seen = words(found)
    bound = {t.name for i, t in enumerate(found) if i > 1 and seen[i - 2 : i] == ("-", "[")}
    other = {
        t.name
        for i, t in enumerate(found)
        if i and (seen[i - 1] in {"(", "AS"} or (seen[i - 1] == "[" and seen[i - 2 : i] != ("-", "[")))
    }
    return bool(items) and all(item in bound and item not in other for item in items)


@dataclass(frozen=True, slots=True)
class Text:
    """What the applier asks about a text, found once."""

    wrappable: bool
    schema: bool
    #: May see or touch the node that holds the position, or is judged only at COMMIT: a transaction of its own.
    alone: bool
    parameters: frozenset[str]
    built_in_only: bool
    #: Why no replica may run it, whoever asks; that it commits in pieces is no such reason.
    refusal: str | None
    own_transactions: bool


@remembered
def analyse(text: str) -> Text:
    """Everything above about *text*; repeated texts cost a look-up."""
    from replica.footprint import sees_any_node  # noqa: PLC0415 - it reads tokens, so the import would be a circle

    called = procedures(text)
    return Text(
        wrappable=wrappable(text),
        schema=is_schema(text),
        alone=bool(called) or deletes_without_detach(text) or sees_any_node(text),
        parameters=parameter_names(text),
        built_in_only=bool(called) and all(name.lower().startswith("db.") for name in called),
        refusal=refusal(text, own_transactions=True),
        own_transactions=runs_in_transactions(words(significant(text))),
    )


#: Why a text that runs in transactions of its own is refused, unless its author says that it may be run again.
OWN_TRANSACTIONS: Final = (
    "IN TRANSACTIONS commits in pieces, so it cannot share a transaction with the position: send batches, or say"
    " idempotent=True if it may be run again after a part of it"
)


def refusal(text: str, *, own_transactions: bool = False) -> str | None:
    """Why *text* must not reach a server as a command, or None.  The same answer on every replica."""
    if nesting_depth(text) > MAX_NESTING:
        return f"nested deeper than {MAX_NESTING} levels; the server might never answer: pass data as parameters"
    if chain_length(text) > MAX_CHAIN:
        return f"more than {MAX_CHAIN} operators in one expression; the server might never answer: pass a list"
    if mentions_marker(text):
        return f"names {MARKER_LABEL}, the label of the node that holds the replica's position"
    return _refused_kind(words(significant(text)), own_transactions=own_transactions)


def _refused_kind(seen: Sequence[str], *, own_transactions: bool) -> str | None:
    if _administers(seen):
        return "administration of a server is not replicated: run it on each server"
    if seen[:1] in {("EXPLAIN",), ("PROFILE",)}:
        return "EXPLAIN and PROFILE are for a person at one server, not for the log"
    if seen[:1] == ("USE",):
        return "USE names another graph; a replica has one database"
    if loads_csv(seen):
        return "LOAD CSV reads what may differ between replicas: send the rows as a parameter, UNWIND $rows AS row"
    if not own_transactions and runs_in_transactions(seen):
        return OWN_TRANSACTIONS
    return None


def _administers(seen: Sequence[str]) -> bool:
    if seen[:1] in {("CREATE",), ("DROP",)}:
        return bool(_ADMINISTERED & set(seen[1:4])) and not {"(", "="} & set(seen[1:4])
    return bool(seen) and seen[0] in _ADMINISTRATION
