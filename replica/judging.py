"""Which rules a Cypher text touches.  Pure; no clock, no randomness, no values: see `replica.determinism`.

Findings name a rule of `replica.rules`, and those that can be mended say how the text changes.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from replica import batching, clocks, conditions, cypher, lists
from replica.clocks import Finding, Notes
from replica.reading import Reading, unreadable
from replica.rules import (
    CLOCK_FORMS,
    CLOCKS,
    FLOAT_SUMS,
    FUNCTIONS,
    IDS,
    LIMITS,
    PREFIXES,
    PROCEDURES,
    RANDOM,
    SHORTEST,
)


if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from replica.cypher import Token
    from replica.reading import Call

_ENTERPRISE: Final = (("NODE", "KEY"), ("RELATIONSHIP", "KEY"), ("REL", "KEY"), ("IS", "KEY"), ("NOT", "NULL"))
_OURS: Final = re.compile(r"\$(__[a-z]+_\w+)", re.ASCII)
_WORD_ENDS: Final = re.compile(r"[\w$`]\Z")
_WORD_BEGINS: Final = re.compile(r"[\w$`]")
#: Tokens of an option in a CYPHER prefix: `CYPHER 25 runtime = slotted`.
_OPTION: Final = 3


@dataclass(frozen=True, slots=True)
class Judgement:
    """Everything about one text that does not depend on values.

    *open_clock*: a temporal function gets what only values can tell.
    """

    findings: tuple[Finding, ...]
    #: The text with everything frozen.
    text: str = ""
    #: The parameters that freezing brings in, in the order of the text.
    needed: tuple[str, ...] = ()
    #: Parameters that must be strings: they name time zones.
    zones: frozenset[str] = frozenset()
    #: Parameters that are the whole argument of a temporal function.
    inputs: frozenset[str] = frozenset()
    open_clock: bool = False
    temporal: bool = False
    schema: bool = False


def judge(text: str, *, idempotent: bool = False, condition: bool = False) -> Judgement:
    """Judge *text*, of which its author may have said that it is *idempotent*; never raises.

    As the *condition* of a command it only reads, and whatever it returns decides what is written.
    """
    if reason := unreadable(text):
        return Judgement((Finding(*reason),))
    bare = without_prefix(text)
    if reason := _refused_kind(bare, idempotent=idempotent):
        return Judgement((Finding(*reason, _place(text, *reason)),))
    if condition and (writes := conditions.refusal(text)):
        return Judgement((Finding("condition", writes),))
    reading = Reading(text, decides=condition)
    notes = Notes()
    for call in reading.calls:
        _judge_call(reading, call, notes)
    if cypher.is_schema(bare):
        if bare != text:
            notes.add("prefixed-schema", "CYPHER", reading.offset(0))
        notes.findings += _schema(reading)
        _name_schema(reading, notes)
    else:
        notes.findings += [*_clauses(reading), *(Finding(*found) for found in lists.found_in(reading))]
        notes.findings += batching.found_in(reading)
    if notes.temporal:
        notes.findings += clocks.hidden_clocks(reading, open_clock=notes.open_clock)
    return Judgement(
        tuple(dict.fromkeys(notes.findings)),
        _rewritten(reading, notes.edits),
        tuple(dict.fromkeys(name for _, edit in sorted(notes.edits.items()) for name in _OURS.findall(edit))),
        frozenset(notes.zones),
        frozenset(notes.inputs),
        notes.open_clock,
        notes.temporal,
        cypher.is_schema(bare),
    )


def _rewritten(reading: Reading, edits: Mapping[int, str]) -> str:
    """The text with the edits done; a blank where a parameter would grow together with a word beside it."""
    parts = [""]
    edited = False
    for index, token in enumerate(reading.pieces):
        piece = edits.get(index, token.text)
        if piece:
            if (edited or index in edits) and _WORD_ENDS.search(parts[-1]) and _WORD_BEGINS.match(piece):
                parts.append(" ")
            parts.append(piece)
            edited = index in edits
    return "".join(parts)


def without_prefix(text: str) -> str:
    """*text* without `CYPHER 25 option=value` in front, which hides what kind of statement it is."""
    pieces = cypher.tokens(text)
    places = [i for i, piece in enumerate(pieces) if piece.kind not in {"space", "comment"}]
    found = [pieces[place] for place in places]
    if not found or found[0].word != "CYPHER":
        return text
    at = 2 if len(found) > 1 and found[1].kind == "number" else 1
    while at + 1 < len(found) and found[at].kind in {"name", "quoted"} and found[at + 1].text == "=":
        at += _OPTION
    return "".join(piece.text for piece in pieces[places[at] :]) if at < len(places) else ""


def _refused_kind(bare: str, *, idempotent: bool) -> tuple[str, str] | None:
    """The rule for what is no command at all, whatever it calls, and what in the text is at fault."""
    found = cypher.significant(bare)
    seen = cypher.words(found)
    pairs = set(pairwise(seen))
    first = seen[0] if seen else ""
    cases = (
        ("unreadable", "no statement, or two prefixes", first in {"", "CYPHER"}),
        ("load-csv", "LOAD CSV", ("LOAD", "CSV") in pairs),
        ("own-transactions", "IN TRANSACTIONS", cypher.runs_in_transactions(seen) and not idempotent),
        ("own-transactions", "PERIODIC COMMIT", ("PERIODIC", "COMMIT") in pairs),
        ("explain", first, first in {"EXPLAIN", "PROFILE"}),
        ("local-facts", "SHOW", first == "SHOW"),
        ("other-graph", "USE", any(word == "USE" and _may_use(found, i) for i, word in enumerate(seen))),
        ("definition", "DEFINE", bool({("DEFINE", "FUNCTION"), ("DEFINE", "PROCEDURE")} & pairs)),
    )
    return next(((rule, what) for rule, what, broken in cases if broken), None) or _refused_by_replicas(bare)


def _refused_by_replicas(bare: str) -> tuple[str, str] | None:
    """What a replica would reject anyway: too complex for the server's parser, administration, the marker's label."""
    if (reason := cypher.refusal(bare, own_transactions=True)) is None:
        return None
    if cypher.MARKER_LABEL in reason:
        return "reserved-label", cypher.MARKER_LABEL
    what, too_complex, _ = reason.partition("; the server might never answer")
    return ("too-complex", what) if too_complex else ("administration", cypher.significant(bare)[0].text)


def _place(text: str, rule: str, what: str) -> int:
    """The character where the word that says it best stands, the last one of *what*; -1 if there is no such word."""
    if rule in {"unreadable", "too-complex"}:
        return -1  # they are about the whole text, and *what* is prose
    at = 0
    for token in cypher.tokens(text):
        if what.split()[-1:] in ([token.word], [token.name]):
            return at
        at += len(token.text)
    return -1


def _may_use(found: Sequence[Token], index: int) -> bool:
    if index == 0:
        return True
    before = found[index - 1]
    names = index + 1 < len(found) and found[index + 1].kind in {"name", "quoted"}
    return names and (before.text in {"{", "}"} or before.word in {"UNION", "ALL", "DISTINCT", "NEXT"})


def _schema(reading: Reading) -> Iterator[Finding]:
    seen = cypher.words(reading.found)
    pairs = set(pairwise(seen))
    if "REQUIRE" in seen and (pairs & set(_ENTERPRISE) or (":", ":") in pairs or "TYPED" in seen):
        yield Finding("enterprise-constraint", "REQUIRE", reading.offset(seen.index("REQUIRE")))


def _name_schema(reading: Reading, notes: Notes) -> None:
    """Give what has no name one that depends on nothing but the statement, so that all replicas drop the same thing."""
    at = cypher.unnamed_schema(reading.found)
    if at is None:
        return
    what = reading.found[at - 1].word.lower()
    rest = [token.word or token.text for token in reading.found[at:] if token.text != ";"]
    if rest[:3] == ["IF", "NOT", "EXISTS"]:
        del rest[:3]  # with and without it, the same thing is meant
    kind = cypher.words(reading.found[1 : at - 1])
    digest = hashlib.blake2b(" ".join((*kind, *rest)).encode(), digest_size=6).hexdigest()
    notes.add("generated-name", f"a new {what} without a name", reading.offset(at - 1))
    notes.edits[reading.places[at]] = f"auto_{what}_{digest} {reading.at(at)}"


def _clauses(reading: Reading) -> Iterator[Finding]:
    for index, word in enumerate(reading.words):
        if word in LIMITS and _begins_expression(reading, index + 1):
            yield from _limit(reading, index)
        elif word == "SEARCH" and reading.is_name(index + 1):
            yield Finding("approximate-index", "SEARCH", reading.offset(index))
        elif word == "SHORTEST" or (word == "ANY" and _selects_path(reading, index)):
            yield Finding("shortest-path", word, reading.offset(index))
        elif word == "USING" and reading.word(index + 1):
            yield Finding("index-hint", f"USING {reading.words[index + 1]}", reading.offset(index))
        elif word == "SET" and _copies_from_rows(reading, index):
            yield Finding("last-row-wins", "SET", reading.offset(index))


def _begins_expression(reading: Reading, index: int) -> bool:
    return index < len(reading.found) and reading.at(index) not in {*")]},.=<>*/%^|;", "AS"}


def _limit(reading: Reading, index: int) -> Iterator[Finding]:
    word, at = reading.words[index], reading.offset(index)
    inner = reading.enclosing[index] >= 0 and bool(reading.writes)
    before_write = bool(reading.writes) and reading.writes[-1] > index
    if reading.is_ordered(index):
        if inner or before_write:
            yield Finding("ties", word, at)
    elif inner or before_write:
        yield Finding("unordered-limit", word, at)
    else:
        yield Finding("limit-in-result", word, at)


def _selects_path(reading: Reading, index: int) -> bool:
    """`MATCH ANY (a)-->(b)`, not the quantifier `any(x IN xs WHERE ...)`."""
    before = reading.word(index - 1) == "MATCH" or reading.at(index - 1) in {"=", ","}
    return before and not (reading.at(index + 1) == "(" and reading.word(index + 3) == "IN")


def _copies_from_rows(reading: Reading, index: int) -> bool:
    """`MATCH (a)-->(b) SET a.x = b.y`: one node may meet several rows."""
    if index < reading.first_match:
        return False
    target = reading.at(index + 1)
    for i in range(index + 2, len(reading.found)):
        if reading.begins_clause(i):
            return False
        other = reading.is_name(i) and reading.at(i) != target and i not in reading.starts
        if other and reading.at(i + 1) == "." and reading.at(i - 1) not in {",", "."}:
            return True
    return False


def _judge_call(reading: Reading, call: Call, notes: Notes) -> None:
    base, _, form = call.name.partition(".")
    at = reading.offset(call.start)
    if call.procedure:
        if call.name not in PROCEDURES:
            notes.add(_rule_of(call.name, "procedure"), f"the procedure {call.name}", at)
    elif base in CLOCKS and form in {"", "truncate", *CLOCK_FORMS}:
        notes.temporal = True
        clocks.clock(reading, call, notes)
    elif call.name == "timestamp":
        clocks.timestamp(reading, call, notes)
    elif call.name in RANDOM:
        clocks.random(reading, call, notes)
    elif call.name in IDS:
        notes.add("ids", f"{call.name}()", at)
    elif call.name not in FUNCTIONS:
        notes.add(_rule_of(call.name, "function"), f"the function {call.name}", at)
    elif call.name in SHORTEST:
        notes.add("shortest-path", f"{call.name}()", at)
    elif call.name in FLOAT_SUMS and reading.feeds_write(call.start):
        notes.add("float-sum", f"{call.name}()", at)


def _rule_of(name: str, otherwise: str) -> str:
    return next((rule for prefix, rule in PREFIXES if name.startswith(prefix)), otherwise)
