"""A Cypher text with its brackets matched and its calls found.  Pure.

There is no parser behind this: a word counts as a keyword wherever it could be one.  So a variable that is named like
a keyword may cost a refusal, but no keyword is missed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from replica import cypher
from replica.rules import BEFORE_BRACKET, CLAUSES, ROWS, WRITES


if TYPE_CHECKING:
    from collections.abc import Iterator

    from replica.cypher import Token

_NAMES: Final = frozenset(["name", "quoted"])
_NUMBER: Final = re.compile(r"0[xX][0-9a-fA-F_]+|0[oO][0-7_]+|\d[\d_]*(?:\.\d[\d_]*)?(?:[eE]\d*)?[dDfF]?", re.ASCII)
_ESCAPE: Final = re.compile(r"\\u+([0-9a-fA-F]{4})?")
#: A variable named `set` right after MATCH: `MATCH set = (a)` is no MERGE's ON MATCH SET.
_PATH: Final = ("=",)


@dataclass(frozen=True, slots=True)
class Call:
    """A function or procedure by its lower-case *name*; *start* to *end* are its tokens, *opened* its bracket.

    A procedure may come without brackets; then *opened* is None and *end* is its last name.
    """

    name: str
    start: int
    opened: int | None
    end: int
    procedure: bool


@dataclass(frozen=True)
class Reading:
    """One text, read; its tokens must be balanced.  Indexes count in `found`, which has no spaces and comments."""

    text: str
    #: What it returns decides about a write, so that all of it counts as written in the end.
    decides: bool = False

    @cached_property
    def pieces(self) -> tuple[Token, ...]:
        """Every token."""
        return cypher.tokens(self.text)

    @cached_property
    def places(self) -> tuple[int, ...]:
        """Where in `pieces` each of `found` is."""
        return tuple(i for i, piece in enumerate(self.pieces) if piece.kind not in {"space", "comment"})

    @cached_property
    def _offsets(self) -> tuple[int, ...]:
        return tuple(accumulate((len(piece.text) for piece in self.pieces), initial=0))

    def offset(self, index: int) -> int:
        """The character at which token *index* begins."""
        return self._offsets[self.places[index]]

    @cached_property
    def found(self) -> tuple[Token, ...]:
        """The tokens that mean something."""
        return tuple(self.pieces[place] for place in self.places)

    @cached_property
    def words(self) -> tuple[str, ...]:
        """Keywords, in upper case; empty for everything else, and for a word that can only be a name."""
        return tuple("" if self._names(i) else token.word for i, token in enumerate(self.found))

    @cached_property
    def _brackets(self) -> tuple[dict[int, int], tuple[int, ...]]:
        partner: dict[int, int] = {}
        enclosing: list[int] = []
        stack: list[int] = []
        for index, token in enumerate(self.found):
            if token.kind == "close" and stack:
                partner[index] = stack.pop()
                partner[partner[index]] = index
            enclosing.append(stack[-1] if stack else -1)
            if token.kind == "open":
                stack.append(index)
        return partner, tuple(enclosing)

    @property
    def partner(self) -> dict[int, int]:
        """The other bracket of a bracket."""
        return self._brackets[0]

    @property
    def enclosing(self) -> tuple[int, ...]:
        """The innermost bracket that is open around each token, or -1; a bracket is not inside itself."""
        return self._brackets[1]

    def at(self, index: int) -> str:
        """The text at *index*; empty outside."""
        return self.found[index].text if 0 <= index < len(self.found) else ""

    def word(self, index: int) -> str:
        """The keyword at *index*; empty outside and for everything else."""
        return self.words[index] if 0 <= index < len(self.found) else ""

    def is_name(self, index: int) -> bool:
        """Whether a bare or quoted name stands there."""
        return 0 <= index < len(self.found) and self.found[index].kind in _NAMES

    def _dot(self, index: int) -> bool:
        """A single dot, as in `n.name`; two are a range, and one after a number might be its own."""
        return (
            self.at(index) == "."
            and "." not in {self.at(index - 1), self.at(index + 1)}
            and (index == 0 or self.found[index - 1].kind != "number")
        )

    def _names(self, index: int) -> bool:
        return self._dot(index - 1) or self.at(index - 1) == ":" or self.at(index + 1) == ":"

    def around(self, index: int) -> Iterator[int]:
        """The brackets that are open around *index*, innermost first."""
        opened = self.enclosing[index]
        while opened >= 0:
            yield opened
            opened = self.enclosing[opened]

    def back(self, index: int) -> Iterator[int]:
        """Go back from *index*, past closed brackets, to the bracket that is open around."""
        index -= 1
        while index >= 0:
            if self.found[index].kind == "close":
                index = self.partner[index]
            elif self.found[index].kind == "open":
                return
            yield index
            index -= 1

    @cached_property
    def clauses(self) -> tuple[int, ...]:
        """For each token the word that begins the clause around it, within its brackets or outside them; or -1."""
        clauses: list[int] = []
        outside: list[int] = []
        current = -1
        for index, token in enumerate(self.found):
            if token.kind == "close":
                current = outside.pop()
            clauses.append(current)
            if token.kind == "open":
                outside.append(current)
            elif self.begins_clause(index):
                current = index
        return tuple(clauses)

    def begins_clause(self, index: int) -> bool:
        """Whether a clause may begin there; the WITH of STARTS WITH counts, for `starts` may be a variable."""
        return self.words[index] in CLAUSES

    def is_ordered(self, index: int) -> bool:
        """Whether ORDER BY stands between the beginning of the clause and *index*, outside brackets."""
        for i in self.back(index):
            if self.words[i] == "ORDER" and self.word(i + 1) == "BY":
                return True
            if self.begins_clause(i):
                return False
        return False

    @cached_property
    def first_match(self) -> int:
        """The first MATCH that is a clause; the end if there is none."""
        found = (i for i, word in enumerate(self.words) if word == "MATCH" and not self.merge_action(i))
        return next(found, len(self.found))

    def merge_action(self, index: int) -> bool:
        """Whether the word is CREATE or MATCH of a MERGE: ON CREATE SET, ON MATCH SET."""
        return (
            self.words[index] in {"CREATE", "MATCH"}
            and self.word(index - 1) == "ON"
            and self.word(index + 1) == "SET"
            and self.at(index + 2) not in _PATH
        )

    @cached_property
    def writes(self) -> tuple[int, ...]:
        """Where something is written; procedures count."""
        called = {call.start for call in self.calls if call.procedure}
        found = tuple(i for i, word in enumerate(self.words) if word in WRITES or i in called)
        return (*found, len(self.found)) if self.decides else found

    @cached_property
    def rows(self) -> int:
        """The first word, other than MERGE, that may make several rows of one; the end if there is none."""
        return next(
            (i for i, word in enumerate(self.words) if word in ROWS and not self.merge_action(i)), len(self.found)
        )

    @cached_property
    def result(self) -> int:
        """Where the last RETURN begins, if nothing is written after it; otherwise the end of the text."""
        returns = [i for i, word in enumerate(self.words) if word == "RETURN" and self.enclosing[i] < 0]
        last = returns[-1] if returns else len(self.found)
        return len(self.found) if self.writes and self.writes[-1] > last else last

    def feeds_write(self, index: int) -> bool:
        """Whether what stands at *index* may end in the graph."""
        return bool(self.writes) and index < self.result

    @cached_property
    def calls(self) -> tuple[Call, ...]:
        """Every call of a function or a procedure, in order."""
        return tuple(sorted([*self._functions(), *self._procedures()], key=lambda call: call.start))

    @cached_property
    def functions(self) -> dict[int, str]:
        """The name of the function that opens a bracket."""
        return {call.opened: call.name for call in self.calls if call.opened is not None and not call.procedure}

    @cached_property
    def starts(self) -> frozenset[int]:
        """Where a call begins."""
        return frozenset(call.start for call in self.calls)

    def _functions(self) -> Iterator[Call]:
        for opened, token in enumerate(self.found):
            last = opened - 1
            if token.text != "(" or not self.is_name(last):
                continue
            start = self._chain_start(last)
            bare = start == last and not self._dot(last - 1)
            if (
                (bare and self.found[last].word in BEFORE_BRACKET)
                or self._hint(start)
                or self.word(start - 1) == "CALL"
            ):
                continue
            yield Call(self._chain(start, last), start, opened, self.partner[opened], procedure=False)

    def _chain_start(self, last: int) -> int:
        while self._dot(last - 1) and self.is_name(last - 2):
            last -= 2
        return last

    def _chain(self, start: int, last: int) -> str:
        name = ".".join(self.found[i].name for i in range(start, last + 1, 2))
        return ("." + name if self._dot(start - 1) else name).lower()

    def _hint(self, start: int) -> bool:
        """The label of `USING INDEX n:Label(property)`."""
        before = {self.word(start - 3), self.word(start - 4)} & {"INDEX", "SEEK"}
        return self.at(start - 1) == ":" and bool(before) and "USING" in self.words[max(0, start - 7) : start]

    def _procedures(self) -> Iterator[Call]:
        for index, word in enumerate(self.words):
            if word == "CALL" and self.is_name(index + 1):
                last = index + 1
                while self._dot(last + 1) and self.is_name(last + 2):
                    last += 2
                opened = last + 1 if self.at(last + 1) == "(" else None
                end = last if opened is None else self.partner[opened]
                yield Call(self._chain(index + 1, last), index + 1, opened, end, procedure=True)

    @cached_property
    def several(self) -> frozenset[int]:
        """Brackets with IN or | directly inside: what stands in them may be evaluated more than once."""
        return frozenset(
            self.enclosing[i] for i, token in enumerate(self.found) if token.word == "IN" or token.text == "|"
        )

    def single(self, index: int) -> bool:
        """Whether what stands at *index* is certainly evaluated once."""
        if self.rows < index or any(opened in self.several for opened in self.around(index)):
            return False
        merges = self._merges[:2]
        if not merges or merges[0] > index:
            return True
        return (len(merges) == 1 or merges[1] > index) and self._within_merge(merges[0], index)

    @cached_property
    def _merges(self) -> tuple[int, ...]:
        return tuple(i for i, word in enumerate(self.words) if word == "MERGE")

    def _within_merge(self, merge: int, index: int) -> bool:
        """In its pattern or its ON CREATE SET: of one row, that is evaluated at most once."""
        actions = [i for i in range(merge + 1, index) if self.begins_clause(i)]
        if any(self.words[i] != "SET" and not self.merge_action(i) for i in actions):
            return False
        sets = [i for i in actions if self.words[i] == "SET"]
        return all(self.merge_action(i - 1) for i in sets) and (not sets or self.words[sets[-1] - 1] == "CREATE")

    def arguments(self, call: Call) -> list[tuple[int, int]]:
        """The first and last token of each argument."""
        if call.opened is None or call.opened + 1 == call.end:
            return []
        commas = [i for i in range(call.opened + 1, call.end) if self.at(i) == "," and self.enclosing[i] == call.opened]
        starts, ends = [call.opened + 1, *(i + 1 for i in commas)], [*(i - 1 for i in commas), call.end - 1]
        return list(zip(starts, ends, strict=True))


def unreadable(text: str) -> tuple[str, str] | None:
    """The rule and the reason why *text* cannot be judged, before anything else is asked about it; or None."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "unreadable", "a lone surrogate, which is not valid Unicode"
    pieces = cypher.tokens(text)
    if "\\u" in text and (reason := next(filter(None, map(_escape, pieces)), None)):
        return "escape", reason
    found = [piece for piece in pieces if piece.kind not in {"space", "comment"}]
    if not found or all(piece.text == ";" for piece in found):
        return "unreadable", "the text holds no statement"
    if not cypher.is_balanced(found):
        return "unreadable", "a string, a comment, a quoted name or a bracket does not end"
    reason = next(filter(None, map(_strange, pieces)), None) or _misplaced(pieces)
    return ("unreadable", reason) if reason else None


def _escape(piece: Token) -> str | None:
    if piece.text != "\\" and "\\u" not in piece.text:
        return None
    if piece.kind != "string":
        return "a \\u escape outside of a string"
    for match in _ESCAPE.finditer(piece.text):
        character = chr(int(match[1], 16)) if match[1] else ""
        if not character or not (character.isalnum() or ord(character) > 127):  # noqa: PLR2004 - the end of ASCII
            return "a \\u escape for a character that may end a string"
    return None


def _strange(piece: Token) -> str | None:
    if piece.kind == "number" and not _NUMBER.fullmatch(piece.text):
        return f"the number {piece.text}"
    if piece.kind == "punctuation" and (piece.text == "\\" or not piece.text.isascii() or not piece.text.isprintable()):
        return f"the character {piece.text!r} outside of strings"
    if piece.kind == "name" and not piece.text.isascii() and _folded(piece.text).isascii():
        return f"the name {piece.text}, which is plain ASCII in the other case"
    if piece.kind == "space" and "\x85" in piece.text:
        return "the character NEL, which is no space in Cypher"
    return None


def _folded(name: str) -> str:
    return min((name.upper(), name.lower(), name.casefold()), key=lambda form: not form.isascii())


def _misplaced(pieces: tuple[Token, ...]) -> str | None:
    for index, piece in enumerate(pieces):
        if piece.text == "$" and [following.text for following in pieces[index + 1 : index + 2]] != ["("]:
            return "a dollar sign without a name"
    rest = [piece.text for piece in pieces if piece.kind not in {"space", "comment"}]
    while rest and rest[-1] == ";":
        rest.pop()
    return "more than one statement in a text" if ";" in rest else None
