"""What replicas say when their whole graphs are compared: the records, and the comparison.  Pure.

A comparison is a command like any other to whoever does not know it; its options say that it is one.  Each replica
reads its graph just after it, while its applier waits, and answers on a topic of its own.
"""

from __future__ import annotations

import base64
import json
import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import msgspec

from replica.checksum import BUCKETS, FORM, KINDS, LISTED, Checksum
from tasks import outcomes


if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

#: The message option that makes a command a comparison.
OPTION: Final = "verify"
#: The text of such a command: it does nothing.
TEXT: Final = "RETURN true AS verified"

#: Buckets of each kind whose elements are asked for.
WANTED: Final = 64
#: Characters of an element; and elements, or characters of them, that one record holds.
ELEMENT_CHARS: Final = 2000
_RECORD_CHARS: Final = 400_000

_packed = struct.Struct(f"!{BUCKETS}Q")


class Request(msgspec.Struct, frozen=True):
    """The value of the option.  *pause_s*: how long appliers wait at most.  *wanted*: buckets to list elements of.

    *followed*: where graphs differ another one follows, which asks for the elements, and before it nobody draws a
    conclusion: a replica in quarantine would not see it.
    """

    id: str
    pause_s: float
    wanted: dict[str, list[int]] = {}
    followed: bool = False


class Reading(msgspec.Struct, frozen=True, tag="reading"):
    """A replica has read *done* of *total* elements."""

    id: str
    replica: str
    done: int
    total: int


class Listed(msgspec.Struct, frozen=True, tag="listed"):
    """Some elements of the buckets that were asked for: hash, and the element as JSON, cut where it is long."""

    id: str
    replica: str
    kind: str
    elements: list[tuple[int, str]]


class Verified(msgspec.Struct, frozen=True, tag="verified"):
    """A replica has read its graph at *offset*; fields as those of `replica.checksum.Checksum`."""

    id: str
    replica: str
    topic_id: str
    offset: int
    seconds: float
    form: int
    digest: str
    nodes: int
    relationships: int
    named: dict[str, dict[str, tuple[int, int]]]
    buckets: dict[str, str]
    schema: tuple[str, ...]

    @property
    def unexplained(self) -> tuple[int, int] | None:
        """Not known from a checksum."""
        return None

    def differences(self, other: Verified, /) -> list[str]:
        """In words; nothing where the two cannot be compared."""
        if self.form != other.form or self.digest == other.digest:
            return []
        sizes = (("nodes", self.nodes, other.nodes), ("relationships", self.relationships, other.relationships))
        found = [f"{name}: {mine} and {theirs}" for name, mine, theirs in sizes if mine != theirs]
        return found or ["checksum of the whole graph"]


class Unverified(msgspec.Struct, frozen=True, tag="unverified"):
    """A replica could not read its graph, or not in time."""

    id: str
    replica: str
    reason: str


Answer: TypeAlias = Reading | Listed | Verified | Unverified


def answer_of(value: bytes | None) -> Answer | None:
    """A record of the topic; none where it is something else."""
    found: Answer | None = outcomes.decode(value, Answer)
    return found


def request_of(options: Mapping[str, Any]) -> Request | None:
    """The request that a command's options carry; none for every other command."""
    try:
        return msgspec.convert(options[OPTION], Request) if OPTION in options else None
    except msgspec.ValidationError:
        return None


def verified(request: Request, replica: str, topic_id: str, found: Checksum, seconds: float) -> Verified:
    """A checksum as it travels."""
    return Verified(
        id=request.id,
        replica=replica,
        topic_id=topic_id,
        offset=-1 if found.position is None else found.position.offset,
        seconds=round(seconds, 3),
        form=FORM,
        digest=found.digest,
        nodes=found.nodes,
        relationships=found.relationships,
        named={kind: dict(parts) for kind, parts in found.named.items()},
        buckets={kind: base64.b64encode(_packed.pack(*sums)).decode() for kind, sums in found.buckets.items()},
        schema=found.schema,
    )


def listings(request: Request, replica: str, found: Checksum) -> Iterable[Listed]:
    """The elements that were asked for, in records of a bounded size."""
    for kind, elements in found.listed.items():
        part: list[tuple[int, str]] = []
        room = _RECORD_CHARS
        for one in elements:
            text = json.dumps(one.element, sort_keys=True, ensure_ascii=False)[:ELEMENT_CHARS]
            part.append((one.code, text))
            room -= len(text.encode()) + 30
            if room < 0:
                yield Listed(request.id, replica, kind, part)
                part, room = [], _RECORD_CHARS
        if part:
            yield Listed(request.id, replica, kind, part)


@dataclass(frozen=True, slots=True)
class Part:
    """A label set or a type that is not the same everywhere; *counts*: replica → how many."""

    kind: str
    name: str
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class OnlyOn:
    """An element, or a line of the schema, that not every replica has as often; *counts*: replica → how often."""

    kind: str
    text: str
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Difference:
    """In what graphs differ.  *wanted*: the buckets in which the elements are that do."""

    parts: tuple[Part, ...] = ()
    schema: tuple[OnlyOn, ...] = ()
    wanted: Mapping[str, list[int]] = field(default_factory=dict)


Verdict: TypeAlias = Literal["same", "differ", "unverified"]


def verdict_of(found: Mapping[str, Verified], expected: Iterable[str]) -> Verdict:
    """Same only where every replica that is expected has answered, two or more, and all alike."""
    first = next(iter(found.values()), None)
    if first is not None and any(one.differences(first) for one in found.values()):
        return "differ"
    forms = {one.form for one in found.values()}
    complete = len(found) > 1 and found.keys() >= set(expected) and len(forms) == 1
    return "same" if complete else "unverified"


def difference(found: Mapping[str, Verified]) -> Difference:
    """What is not the same everywhere.

    Of the kinds only the plainest that differ count: where a node differs, so does everything that is tied to it.
    """
    kinds = [kind for kind in KINDS if len({one.buckets.get(kind) for one in found.values()}) > 1]
    plain = [kind for kind in kinds if kind in {"nodes", "relationships"}] or kinds[:1]
    parts = tuple(part for kind in plain for part in _parts(kind, found))
    wanted = {kind: _differing_buckets(kind, found) for kind in plain}
    lines = _only_on("schema", {replica: one.schema for replica, one in found.items()})
    return Difference(parts, lines, wanted)


def _parts(kind: str, found: Mapping[str, Verified]) -> Iterable[Part]:
    named = {replica: one.named.get(kind, {}) for replica, one in found.items()}
    for name in sorted(set().union(*named.values())):
        values = {replica: parts.get(name, (0, 0)) for replica, parts in named.items()}
        if len(set(values.values())) > 1:
            yield Part(kind, name, {replica: count for replica, (count, _) in values.items()})


def _differing_buckets(kind: str, found: Mapping[str, Verified]) -> list[int]:
    unpacked = [_packed.unpack(base64.b64decode(one.buckets[kind])) for one in found.values()]
    return [place for place, sums in enumerate(zip(*unpacked, strict=True)) if len(set(sums)) > 1][:WANTED]


def elements_that_differ(listed: Mapping[str, Sequence[Listed]], replicas: Iterable[str]) -> tuple[OnlyOn, ...]:
    """Elements that not every one of *replicas* has as often, of those that they listed."""
    texts: dict[tuple[str, int], str] = {}
    ends = _ends(listed)
    having: dict[str, Counter[tuple[str, int]]] = {replica: Counter() for replica in replicas}
    for replica, records in listed.items():
        for record in records:
            for code, text in record.elements:
                if code > ends.get(record.kind, code):
                    break  # not everybody has listed as far; a record is in the order of the hashes
                texts[record.kind, code] = text
                having[replica][record.kind, code] += 1
    found = []
    for (kind, code), text in texts.items():
        counts = {replica: counted[kind, code] for replica, counted in having.items()}
        if len(set(counts.values())) > 1:
            found.append(OnlyOn(kind, text, counts))
    return tuple(sorted(found, key=lambda one: (KINDS.index(one.kind), one.text)))


def _ends(listed: Mapping[str, Sequence[Listed]]) -> dict[str, int]:
    """Up to which hash of a kind everybody has listed everything; no entry where nobody had to stop."""
    ends: dict[str, int] = {}
    for records in listed.values():
        codes: dict[str, list[int]] = {}
        for record in records:
            codes.setdefault(record.kind, []).extend(code for code, _ in record.elements)
        for kind, found in codes.items():
            if len(found) >= LISTED:
                ends[kind] = min(ends.get(kind, max(found)), max(found))
    return ends


def _only_on(kind: str, lines: Mapping[str, Iterable[str]]) -> tuple[OnlyOn, ...]:
    counted = {replica: Counter(some) for replica, some in lines.items()}
    every: Counter[str] = sum(counted.values(), Counter())
    found = ((text, {replica: some[text] for replica, some in counted.items()}) for text in sorted(every))
    return tuple(OnlyOn(kind, text, counts) for text, counts in found if len(set(counts.values())) > 1)
