from __future__ import annotations

import msgspec
import pytest

from replica.checksum import BUCKETS, KINDS, Checksum, Element
from replica.statement import Position
from tasks import verified
from tasks.verified import Listed, Request, Verified


REQUEST = Request("id", 10.0)


def graph(
    *, nodes: dict[int, int] | None = None, around: dict[int, int] | None = None, schema: tuple[str, ...] = ()
) -> Checksum:
    """A checksum with these bucket sums, and as many nodes."""
    given = {"nodes": nodes or {}, "around": around or {}}
    buckets = {kind: tuple(given.get(kind, {}).get(place, 0) for place in range(BUCKETS)) for kind in KINDS}
    named = {kind: {"A:B": (len(sums), sum(sums.values()))} for kind, sums in given.items()}
    count = len(given["nodes"])
    position = Position("command", "topic", 0, 7)
    return Checksum(count, 0, repr((given, schema)), position, named, buckets, schema)


def said(**graphs: Checksum) -> dict[str, Verified]:
    """Each replica's answer, over the wire."""
    found = {}
    for replica, one in graphs.items():
        value = msgspec.json.encode(verified.verified(REQUEST, replica, "topic", one, 0.5))
        answer = verified.answer_of(value)
        assert isinstance(answer, Verified)
        found[replica] = answer
    return found


def test_same_is_said_only_of_all_that_are_expected() -> None:
    """One that is missing, or alone, or counts in another way, is not verified and never the same."""
    both = said(a=graph(nodes={1: 5}), b=graph(nodes={1: 5}))
    assert verified.verdict_of(both, ("a", "b")) == "same"
    assert verified.verdict_of(both, ("a", "b", "c")) == "unverified"
    assert verified.verdict_of(said(a=graph()), ("a",)) == "unverified"
    assert verified.verdict_of({}, ()) == "unverified"
    other_form = {**both, "b": msgspec.structs.replace(both["b"], form=1, digest="another")}
    assert verified.verdict_of(other_form, ("a", "b")) == "unverified"


def test_a_difference_is_said_though_somebody_is_missing() -> None:
    """What is known to be wrong is wrong."""
    found = said(a=graph(nodes={1: 5}), b=graph(nodes={1: 6}))
    assert verified.verdict_of(found, ("a", "b", "c")) == "differ"


def test_the_plainest_kind_that_differs_is_shown() -> None:
    """A node that differs makes everything differ that is tied to it."""
    found = said(a=graph(nodes={1: 5, 9: 1}, around={3: 1}), b=graph(nodes={1: 6, 9: 1}, around={3: 2}))
    difference = verified.difference(found)
    assert difference.wanted == {"nodes": [1]}
    assert [(part.kind, part.name, part.counts) for part in difference.parts] == [("nodes", "A:B", {"a": 2, "b": 2})]
    twins = said(a=graph(nodes={1: 5}, around={3: 1}), b=graph(nodes={1: 5}, around={3: 2}))
    assert verified.difference(twins).wanted == {"around": [3]}


def test_schema_that_not_all_have_is_named() -> None:
    """An index that was dropped on one of them."""
    found = said(a=graph(schema=("one", "two")), b=graph(schema=("one",)))
    [line] = verified.difference(found).schema
    assert (line.text, line.counts) == ("two", {"a": 1, "b": 0})


def test_elements_are_counted_by_replica() -> None:
    """Twins too: one has the element twice."""
    listed = {
        "a": [Listed("id", "a", "nodes", [(1, "same"), (2, "twin"), (2, "twin")])],
        "b": [Listed("id", "b", "nodes", [(1, "same"), (2, "twin"), (3, "changed")])],
    }
    found = verified.elements_that_differ(listed, ("a", "b"))
    assert [(one.text, one.counts) for one in found] == [("changed", {"a": 0, "b": 1}), ("twin", {"a": 2, "b": 1})]


def test_what_one_replica_had_no_room_for_is_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each lists the lowest hashes; beyond the end of the shortest list nothing is known."""
    monkeypatch.setattr(verified, "LISTED", 2)
    listed = {
        "a": [Listed("id", "a", "nodes", [(1, "one"), (2, "two")])],
        "b": [Listed("id", "b", "nodes", [(2, "two"), (3, "three")])],
    }
    assert [one.text for one in verified.elements_that_differ(listed, ("a", "b"))] == ["one"]


def test_listings_are_cut_into_records_of_a_bounded_size() -> None:
    """A record that Kafka refuses would hold the applier."""
    long = {"labels": ["A"], "properties": {"text": "ü" * 5000}}
    found = Checksum(0, 0, "", None, listed={"nodes": tuple(Element(code, long) for code in range(1000))})
    records = list(verified.listings(REQUEST, "a", found))
    assert sum(len(record.elements) for record in records) == 1000
    assert max(len(msgspec.json.encode(record)) for record in records) < 900_000


@pytest.mark.parametrize("value", [None, b"", b"[]", b'{"type": "verified"}', b"\xff"])
def test_foreign_records_are_no_answers(value: bytes | None) -> None:
    """Anybody may write to a topic."""
    assert verified.answer_of(value) is None


@pytest.mark.parametrize("option", [None, 1, {}, {"id": 1, "pause_s": 1}, {"id": "x", "pause_s": "y"}])
def test_a_request_that_cannot_be_read_is_none(option: object) -> None:
    """The command is applied, and nothing is read."""
    assert verified.request_of({verified.OPTION: option}) is None
    assert verified.request_of({}) is None
    assert verified.request_of({verified.OPTION: msgspec.to_builtins(REQUEST)}) == REQUEST
