"""Calls that read a clock or draw a random value, and how the text changes when they are frozen.  Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from replica import cypher
from replica.rules import CLOCKS


if TYPE_CHECKING:
    from collections.abc import Iterator

    from replica.reading import Call, Reading

#: A string that the temporal functions take for the clock.
HIDDEN_CLOCK: Final = "DEFAULT_TEMPORAL_ARGUMENT"


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that a text touches, what in the text does so, and at which character; -1 where that is all of it."""

    rule: str
    what: str
    at: int = -1


@dataclass(slots=True)
class Notes:
    """What is gathered on the way through the calls of a text."""

    findings: list[Finding] = field(default_factory=list)
    #: Texts for pieces (tokens with spaces and comments) that freezing replaces.
    edits: dict[int, str] = field(default_factory=dict)
    zones: set[str] = field(default_factory=set)
    inputs: set[str] = field(default_factory=set)
    open_clock: bool = False
    temporal: bool = False
    drawn: int = 0

    def add(self, rule: str, what: str, at: int) -> None:
        """Note that *what*, at character *at*, touches *rule*."""
        self.findings.append(Finding(rule, what, at))


def _replace(reading: Reading, first: int, last: int, text: str, notes: Notes) -> None:
    """Put *text* where token *first* is, and nothing where the others are; what stands between them stays."""
    notes.edits.update({reading.places[i]: "" for i in range(first, last + 1)})
    notes.edits[reading.places[first]] = text


def timestamp(reading: Reading, call: Call, notes: Notes) -> None:
    """`timestamp()`: one value for a whole statement."""
    if reading.arguments(call):
        notes.add("unreadable", "timestamp() with an argument", reading.offset(call.start))
        return
    notes.add("clock", "timestamp()", reading.offset(call.start))
    _replace(reading, call.start, call.end, "$__now_timestamp", notes)


def random(reading: Reading, call: Call, notes: Notes) -> None:
    """`rand()`, `randomUUID()` and `uuid()`: a value for each call, where a call is evaluated once."""
    if reading.arguments(call):
        if call.name != "uuid":
            notes.add("unreadable", f"{call.name}() with an argument", reading.offset(call.start))
        return
    if not reading.single(call.start):
        notes.add("random-rows", f"{call.name}()", reading.offset(call.start))
        return
    notes.add("random", f"{call.name}()", reading.offset(call.start))
    notes.drawn += 1
    if call.name == "rand":
        _replace(reading, call.start, call.end, f"$__rand_{notes.drawn}", notes)
    elif call.name == "randomuuid":
        _replace(reading, call.start, call.end, f"$__uuid_{notes.drawn}", notes)
    else:
        notes.edits[reading.places[call.end]] = f"$__uuid_{notes.drawn})"


def clock(reading: Reading, call: Call, notes: Notes) -> None:
    """The five temporal types: with no argument, with a time zone only, in three clocks, and truncated."""
    base, _, form = call.name.partition(".")
    arguments = reading.arguments(call)
    if form == "truncate":
        _truncate(reading, call, base, arguments, notes)
    elif form == "realtime" and not reading.single(call.start):
        notes.add("realtime-rows", f"{call.name}()", reading.offset(call.start))
    elif not arguments:
        notes.add("clock", f"{call.name}()", reading.offset(call.start))
        _replace(reading, call.start, call.end, f"$__now_{base}", notes)
    elif len(arguments) > 1:
        notes.add("unreadable", f"{call.name}() with several arguments", reading.offset(call.start))
    elif form:
        _zoned(reading, call, base, arguments[0], notes)
    else:
        _constructor(reading, call, arguments[0], notes)


def _truncate(reading: Reading, call: Call, base: str, arguments: list[tuple[int, int]], notes: Notes) -> None:
    if not arguments:
        notes.add("unreadable", f"{call.name}() without an argument", reading.offset(call.start))
    elif len(arguments) == 1:
        notes.add("clock", f"{call.name}() without an input", reading.offset(call.start))
        notes.edits[reading.places[call.end]] = f", $__now_{base})"
    else:
        _input(reading, arguments[1], notes)


def _constructor(reading: Reading, call: Call, argument: tuple[int, int], notes: Notes) -> None:
    keys = _literal_keys(reading, argument)
    if keys == ["timezone"]:
        first, last = argument
        value = (first + 3, last - 1)
        _zoned(reading, call, call.name, value, notes)
    elif keys is None:
        _mind_zone(reading, call, notes)
        _input(reading, argument, notes)
    else:
        _mind_zone(reading, call, notes)


def _mind_zone(reading: Reading, call: Call, notes: Notes) -> None:
    """What has no zone of its own gets the server's."""
    if call.name in {"time", "datetime"}:
        notes.add("time-zone", f"{call.name}()", reading.offset(call.start))


def _literal_keys(reading: Reading, argument: tuple[int, int]) -> list[str] | None:
    """The keys of a map literal, in lower case as the server compares them; None if it is no such literal."""
    first, last = argument
    if reading.at(first) != "{" or reading.partner[first] != last:
        return None
    starts = [first + 1, *(i + 1 for i in range(first, last) if reading.at(i) == "," and reading.enclosing[i] == first)]
    return [reading.found[i].name.lower() for i in starts if reading.is_name(i) and reading.at(i + 1) == ":"]


def _zoned(reading: Reading, call: Call, base: str, value: tuple[int, int], notes: Notes) -> None:
    """`f({timezone: z})` becomes f of one instant, which the server itself converts to the zone."""
    first, last = value
    token = reading.found[first] if first == last else None
    if token is None or token.kind not in {"string", "parameter"}:
        notes.add("clock-hidden", f"{call.name}() in a time zone that is computed", reading.offset(call.start))
        return
    if token.kind == "parameter":
        notes.zones.add(token.name)
    notes.add("clock", f"{call.name}() in a time zone", reading.offset(call.start))
    around = ("datetime(", ")") if base == "datetime" else (f"{base}(datetime(", "))")
    place = reading.places[first]
    _replace(reading, call.start, call.end, f"{around[0]}{{datetime: $__now_datetime, timezone: ", notes)
    del notes.edits[place]
    notes.edits[reading.places[call.end]] = "}" + around[1]


def _input(reading: Reading, argument: tuple[int, int], notes: Notes) -> None:
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


def hidden_clocks(reading: Reading, *, open_clock: bool) -> Iterator[Finding]:
    """What would make a temporal function read the clock though it has an argument."""
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
