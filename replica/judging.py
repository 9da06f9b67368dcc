"""Which rules a Cypher text touches.  Pure; no clock, no randomness, no values: see `replica.determinism`.

Findings name a rule of `replica.rules`, and those that can be mended say how the text changes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from replica import cypher, lists
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
    from collections.abc import Iterator, Sequence

    from replica.cypher import Token
    from replica.reading import Call

#: A string that the temporal functions take for the clock.
HIDDEN_CLOCK: Final = "DEFAULT_TEMPORAL_ARGUMENT"
_ENTERPRISE: Final = (("NODE", "KEY"), ("RELATIONSHIP", "KEY"), ("REL", "KEY"), ("IS", "KEY"), ("NOT", "NULL"))
#: What opens a CYPHER prefix' options or ends them: `CYPHER 25 runtime = slotted`.
_OPTION: Final = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that a text touches, and what in the text does so."""

    rule: str
    what: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """Everything about one text that does not depend on values.

    *edits* are texts for pieces (tokens with spaces and comments) that freezing replaces; one that begins with a
    dollar sign is the name of a parameter.  *open_clock*: a temporal function gets what only values can tell.
    """

    findings: tuple[Finding, ...]
    edits: tuple[tuple[int, str], ...] = ()
    #: Parameters that must be strings: they name time zones.
    zones: frozenset[str] = frozenset()
    #: Parameters that are the whole argument of a temporal function.
    inputs: frozenset[str] = frozenset()
    open_clock: bool = False
    temporal: bool = False
    #: The text without its CYPHER prefix.
    bare: str = ""


@dataclass(slots=True)
class _Notes:
    """What is gathered on the way through the calls of a text."""

    findings: list[Finding] = field(default_factory=list)
    edits: dict[int, str] = field(default_factory=dict)
    zones: set[str] = field(default_factory=set)
    inputs: set[str] = field(default_factory=set)
    open_clock: bool = False
    temporal: bool = False
    drawn: int = 0

    def add(self, rule: str, what: str) -> None:
        self.findings.append(Finding(rule, what))


def judge(text: str) -> Judgement:
    """Judge *text*; never raises."""
    if reason := unreadable(text):
        return Judgement((Finding(*reason),))
    bare = without_prefix(text)
    if reason := _refused_kind(bare):
        return Judgement((Finding(*reason),))
    reading = Reading(text)
    notes = _Notes()
    for call in reading.calls:
        _judge_call(reading, call, notes)
    if cypher.is_schema(bare):
        if bare != text:
            notes.add("prefixed-schema", "CYPHER")
        notes.findings += _schema(cypher.words(cypher.significant(bare)))
    else:
        notes.findings += [*_clauses(reading), *(Finding(*found) for found in lists.found_in(reading))]
    if notes.temporal:
        notes.findings += _hidden_clocks(reading, open_clock=notes.open_clock)
    edits = tuple(sorted(notes.edits.items()))
    return Judgement(
        tuple(dict.fromkeys(notes.findings)),
        edits,
        frozenset(notes.zones),
        frozenset(notes.inputs),
        notes.open_clock,
        notes.temporal,
        bare,
    )


def without_prefix(text: str) -> str:
    """*text* without `CYPHER 25 option=value` in front, which hides what kind of statement it is."""
    pieces = list(cypher.tokens(text))
    places = [i for i, piece in enumerate(pieces) if piece.kind not in {"space", "comment"}]
    found = [pieces[place] for place in places]
    if not found or found[0].word != "CYPHER":
        return text
    at = 2 if len(found) > 1 and found[1].kind == "number" else 1
    while at + 1 < len(found) and found[at].kind in {"name", "quoted"} and found[at + 1].text == "=":
        at += _OPTION
    return "".join(piece.text for piece in pieces[places[at] :]) if at < len(places) else ""


def _refused_kind(bare: str) -> tuple[str, str] | None:
    """The rule for what is no command at all, whatever it calls, and what in the text is at fault."""
    found = cypher.significant(bare)
    seen = cypher.words(found)
    pairs = set(pairwise(seen))
    first = seen[0] if seen else ""
    cases = (
        ("unreadable", "no statement, or two prefixes", first in {"", "CYPHER"}),
        ("load-csv", "LOAD CSV", ("LOAD", "CSV") in pairs),
        ("own-transactions", "IN TRANSACTIONS", cypher.runs_in_transactions(seen) or ("PERIODIC", "COMMIT") in pairs),
        ("explain", first, first in {"EXPLAIN", "PROFILE"}),
        ("local-facts", "SHOW", first == "SHOW"),
        ("other-graph", "USE", any(word == "USE" and _may_use(found, i) for i, word in enumerate(seen))),
        ("definition", "DEFINE", bool({("DEFINE", "FUNCTION"), ("DEFINE", "PROCEDURE")} & pairs)),
    )
    return next(((rule, what) for rule, what, broken in cases if broken), None) or _refused_by_replicas(bare)


def _refused_by_replicas(bare: str) -> tuple[str, str] | None:
    """What a replica would reject anyway: too complex for the server's parser, administration, the marker's label."""
    if (reason := cypher.refusal(bare)) is None:
        return None
    if cypher.MARKER_LABEL in reason:
        return "reserved-label", cypher.MARKER_LABEL
    return ("too-complex" if "never answer" in reason else "administration"), reason


def _may_use(found: Sequence[Token], index: int) -> bool:
    if index == 0:
        return True
    before = found[index - 1]
    names = index + 1 < len(found) and found[index + 1].kind in {"name", "quoted"}
    return names and (before.text in {"{", "}"} or before.word in {"UNION", "ALL", "DISTINCT", "NEXT"})


def _schema(seen: Sequence[str]) -> Iterator[Finding]:
    pairs = set(pairwise(seen))
    if "REQUIRE" in seen and (pairs & set(_ENTERPRISE) or (":", ":") in pairs or "TYPED" in seen):
        yield Finding("enterprise-constraint", "REQUIRE")


def _clauses(reading: Reading) -> Iterator[Finding]:
    for index, word in enumerate(reading.words):
        if word in LIMITS and _begins_expression(reading, index + 1):
            yield from _limit(reading, index)
        elif word == "SEARCH" and reading.is_name(index + 1):
            yield Finding("approximate-index", "SEARCH")
        elif word == "SHORTEST" or (word == "ANY" and _selects_path(reading, index)):
            yield Finding("shortest-path", word)
        elif word == "USING" and reading.word(index + 1):
            yield Finding("index-hint", f"USING {reading.words[index + 1]}")
        elif word == "SET" and _copies_from_rows(reading, index):
            yield Finding("last-row-wins", "SET")


def _begins_expression(reading: Reading, index: int) -> bool:
    return index < len(reading.found) and reading.at(index) not in {*")]},.=<>*/%^|;", "AS"}


def _limit(reading: Reading, index: int) -> Iterator[Finding]:
    inner = reading.enclosing[index] >= 0 and bool(reading.writes)
    before_write = bool(reading.writes) and reading.writes[-1] > index
    if reading.is_ordered(index):
        if inner or before_write:
            yield Finding("ties", reading.words[index])
    elif inner or before_write:
        yield Finding("unordered-limit", reading.words[index])
    else:
        yield Finding("limit-in-result", reading.words[index])


def _selects_path(reading: Reading, index: int) -> bool:
    """`MATCH ANY (a)-->(b)`, not the quantifier `any(x IN xs WHERE ...)`."""
    before = reading.word(index - 1) == "MATCH" or reading.at(index - 1) in {"=", ","}
    return before and not (reading.at(index + 1) == "(" and reading.word(index + 3) == "IN")


def _copies_from_rows(reading: Reading, index: int) -> bool:
    """`MATCH (a)-->(b) SET a.x = b.y`: one node may meet several rows."""
    if not any(word == "MATCH" and not reading.merge_action(i) for i, word in enumerate(reading.words[:index])):
        return False
    target = reading.at(index + 1)
    for i in range(index + 2, len(reading.found)):
        if reading.begins_clause(i):
            return False
        if reading.is_name(i) and reading.at(i) != target and reading.at(i + 1) == "." and reading.at(i - 1) != ",":
            return True
    return False


def _judge_call(reading: Reading, call: Call, notes: _Notes) -> None:
    base, _, form = call.name.partition(".")
    if call.procedure:
        if call.name not in PROCEDURES:
            notes.add(_rule_of(call.name, "procedure"), f"the procedure {call.name}")
    elif base in CLOCKS and form in {"", "truncate", *CLOCK_FORMS}:
        notes.temporal = True
        _clock(reading, call, notes)
    elif call.name == "timestamp":
        _timestamp(reading, call, notes)
    elif call.name in RANDOM:
        _random(reading, call, notes)
    elif call.name in IDS:
        notes.add("ids", f"{call.name}()")
    elif call.name not in FUNCTIONS:
        notes.add(_rule_of(call.name, "function"), f"the function {call.name}")
    elif call.name in SHORTEST:
        notes.add("shortest-path", f"{call.name}()")
    elif call.name in FLOAT_SUMS and reading.feeds_write(call.start):
        notes.add("float-sum", f"{call.name}()")


def _rule_of(name: str, otherwise: str) -> str:
    return next((rule for prefix, rule in PREFIXES if name.startswith(prefix)), otherwise)


def _replace(reading: Reading, first: int, last: int, text: str, notes: _Notes) -> None:
    """Put *text* where token *first* is, and nothing where the others are; what stands between them stays."""
    notes.edits.update({reading.places[i]: "" for i in range(first, last + 1)})
    notes.edits[reading.places[first]] = text


def _timestamp(reading: Reading, call: Call, notes: _Notes) -> None:
    if reading.arguments(call):
        notes.add("unreadable", "timestamp() with an argument")
        return
    notes.add("clock", "timestamp()")
    _replace(reading, call.start, call.end, "$__now_timestamp", notes)


def _random(reading: Reading, call: Call, notes: _Notes) -> None:
    if reading.arguments(call):
        if call.name != "uuid":
            notes.add("unreadable", f"{call.name}() with an argument")
        return
    if not reading.single(call.start):
        notes.add("random-rows", f"{call.name}()")
        return
    notes.add("random", f"{call.name}()")
    notes.drawn += 1
    if call.name == "rand":
        _replace(reading, call.start, call.end, f"$__rand_{notes.drawn}", notes)
    elif call.name == "randomuuid":
        _replace(reading, call.start, call.end, f"$__uuid_{notes.drawn}", notes)
    else:
        notes.edits[reading.places[call.end]] = f"$__uuid_{notes.drawn})"


def _clock(reading: Reading, call: Call, notes: _Notes) -> None:
    base, _, form = call.name.partition(".")
    arguments = reading.arguments(call)
    if form == "truncate":
        _truncate(reading, call, base, arguments, notes)
    elif form == "realtime" and not reading.single(call.start):
        notes.add("realtime-rows", f"{call.name}()")
    elif not arguments:
        notes.add("clock", f"{call.name}()")
        _replace(reading, call.start, call.end, f"$__now_{base}", notes)
    elif len(arguments) > 1:
        notes.add("unreadable", f"{call.name}() with several arguments")
    elif form:
        _zoned(reading, call, base, arguments[0], notes)
    else:
        _constructor(reading, call, arguments[0], notes)


def _truncate(reading: Reading, call: Call, base: str, arguments: list[tuple[int, int]], notes: _Notes) -> None:
    if not arguments:
        notes.add("unreadable", f"{call.name}() without an argument")
    elif len(arguments) == 1:
        notes.add("clock", f"{call.name}() without an input")
        notes.edits[reading.places[call.end]] = f", $__now_{base})"
    else:
        _input(reading, arguments[1], notes)


def _constructor(reading: Reading, call: Call, argument: tuple[int, int], notes: _Notes) -> None:
    keys = _literal_keys(reading, argument)
    if keys == ["timezone"]:
        first, last = argument
        value = (first + 3, last - 1)
        _zoned(reading, call, call.name, value, notes)
    elif keys is None:
        _mind_zone(call, notes)
        _input(reading, argument, notes)
    else:
        _mind_zone(call, notes)


def _mind_zone(call: Call, notes: _Notes) -> None:
    """What has no zone of its own gets the server's."""
    if call.name in {"time", "datetime"}:
        notes.add("time-zone", f"{call.name}()")


def _literal_keys(reading: Reading, argument: tuple[int, int]) -> list[str] | None:
    """The keys of a map literal, in lower case as the server compares them; None if it is no such literal."""
    first, last = argument
    if reading.at(first) != "{" or reading.partner[first] != last:
        return None
    starts = [first + 1, *(i + 1 for i in range(first, last) if reading.at(i) == "," and reading.enclosing[i] == first)]
    return [reading.found[i].name.lower() for i in starts if reading.is_name(i) and reading.at(i + 1) == ":"]


def _zoned(reading: Reading, call: Call, base: str, value: tuple[int, int], notes: _Notes) -> None:
    """`f({timezone: z})` becomes f of one instant, which the server itself converts to the zone."""
    first, last = value
    token = reading.found[first] if first == last else None
    if token is None or token.kind not in {"string", "parameter"}:
        notes.add("clock-hidden", f"{call.name}() in a time zone that is computed")
        return
    if token.kind == "parameter":
        notes.zones.add(token.name)
    notes.add("clock", f"{call.name}() in a time zone")
    around = ("datetime(", ")") if base == "datetime" else (f"{base}(datetime(", "))")
    place = reading.places[first]
    _replace(reading, call.start, call.end, f"{around[0]}{{datetime: $__now_datetime, timezone: ", notes)
    del notes.edits[place]
    notes.edits[reading.places[call.end]] = "}" + around[1]


def _input(reading: Reading, argument: tuple[int, int], notes: _Notes) -> None:
    """What a temporal function gets: certainly no clock, a parameter to look at, or something open."""
    first, last = argument
    token = reading.found[first]
    if first == last and token.kind == "parameter":
        notes.inputs.add(token.name)
    elif not (first == last and token.kind == "string") and not _is_string(reading, first, last):
        notes.open_clock = True


def _is_string(reading: Reading, first: int, last: int) -> bool:
    return any(
        call.start == first and call.end == last and (call.name == "tostring" or call.name.partition(".")[0] in CLOCKS)
        for call in reading.calls
    )


def _hidden_clocks(reading: Reading, *, open_clock: bool) -> Iterator[Finding]:
    if any(HIDDEN_CLOCK in cypher.unescape(t.text) for t in reading.found if t.kind in {"string", "quoted"}):
        yield Finding("clock-hidden", f"the string {HIDDEN_CLOCK}")
    if open_clock and (any(call.name == "properties" for call in reading.calls) or _makes_zone_map(reading)):
        yield Finding("clock-hidden", "a map that may hold nothing but a time zone")


def _makes_zone_map(reading: Reading) -> bool:
    """A map with the single key `timezone`, or a projection that might be one, somewhere in the text."""
    return any(
        token.text == "{"
        and (_literal_keys(reading, (i, reading.partner[i])) == ["timezone"] or _projects(reading, i))
        and reading.functions.get(i - 1) not in CLOCKS
        for i, token in enumerate(reading.found)
    )


def _projects(reading: Reading, opened: int) -> bool:
    """`n {.timezone}`, `n {.*}`."""
    inside = range(opened + 1, reading.partner[opened])
    return any(
        reading.at(i) == "."
        and reading.at(i - 1) in {"{", ","}
        and (reading.at(i + 1) == "*" or (reading.is_name(i + 1) and reading.found[i + 1].name.lower() == "timezone"))
        for i in inside
    )
