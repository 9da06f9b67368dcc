from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replica import plan
from replica.digest import INTERVAL, KEPT, Checkpoint, Tally, kept
from replica.marker import Marker
from replica.statement import Command, Outcome, Statement


if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: What a command does: nodes that it creates, or nothing and an error.
DEEDS = st.one_of(st.integers(0, 3), st.sampled_from(["Neo.ClientError.Statement.TypeError", "Replica.NotACommand"]))


@st.composite
def logs(draw: st.DrawFn) -> list[tuple[int, int | str]]:
    """Commands with their offsets, with holes, over some segments."""
    gaps = draw(st.lists(st.sampled_from([1, 1, 1, 2, 100, 400, INTERVAL, 3000]), min_size=1, max_size=40))
    offset, found = draw(st.integers(-1, 1030)), []
    for gap in gaps:
        offset += gap
        found.append((offset, draw(DEEDS)))
    return found


def units(log: Sequence[tuple[int, int | str]], cuts: Iterable[int]) -> list[list[tuple[int, int | str]]]:
    """The log as one replica's transactions, cut where its batches end and where `plan` cuts."""
    deeds = dict(log)
    places = sorted({0, len(log), *(cut % (len(log) + 1) for cut in cuts)})
    commands = [Command(offset, (Statement("CREATE (:A)"),)) for offset, _ in log]
    return [
        [(command.offset, deeds[command.offset]) for command in unit.commands]
        for start, end in pairwise(places)
        for unit in plan.units(commands[start:end], batch=7)
    ]


def run(log: Sequence[tuple[int, int | str]], cuts: Iterable[int], *, crashes: Iterable[int] = ()) -> Marker:
    """What a graph says in the end; after each transaction of *crashes* the counters are read back, and so lost."""
    marker, nodes, lost = Marker("id", -1, -1), 1, set(crashes)
    for number, unit in enumerate(units(log, cuts)):
        if marker.tally.due(unit[0][0]):
            marker = marker.closed(unit[0][0], "Neo4j/1").counted(nodes, 0, 1)
        before = marker.tally
        created = sum(deed for _, deed in unit if isinstance(deed, int))
        rejected = [Outcome(offset, applied=False, code=deed) for offset, deed in unit if isinstance(deed, str)]
        marker = marker.moved(unit[-1][0], rejected, published=unit[-1][0], counted={"nodes_created": created})
        nodes += created
        if number in lost:
            written = marker.tally if rejected else before  # a rejection is written at once, counters with the next
            marker = Marker("id", marker.offset, marker.published, tally=Tally.parse(written.text(), marker.offset))
    return marker


@given(log=logs(), first=st.lists(st.integers(0, 40)), second=st.lists(st.integers(0, 40)))
def test_the_digest_does_not_depend_on_the_batches(
    log: list[tuple[int, int | str]], first: list[int], second: list[int]
) -> None:
    """For any two ways to cut the same commands: the same checkpoints, and the same tally."""
    one, other = run(log, first), run(log, second)
    assert one.checkpoints == other.checkpoints
    assert one.tally == other.tally
    assert all(checkpoint.unexplained == (0, 0) for checkpoint in one.checkpoints)


@given(log=logs(), cuts=st.lists(st.integers(0, 40)), crashes=st.sets(st.integers(0, 40)))
def test_a_crash_loses_counters_of_its_segment_and_never_tells_a_lie(
    log: list[tuple[int, int | str]], cuts: list[int], crashes: set[int]
) -> None:
    """Against a replica that never crashed there is no difference to find."""
    whole = {one.before: one for one in run(log, []).checkpoints}
    for checkpoint in run(log, cuts, crashes=crashes).checkpoints:
        if checkpoint.before in whole:
            assert checkpoint.differences(whole[checkpoint.before]) == []
            assert checkpoint.chain == whole[checkpoint.before].chain


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"nodes": 8}, "nodes: 7 and 8"),
        ({"relationships": 1}, "relationships: 0 and 1"),
        ({"chain": "other"}, "rejected commands (chain): chain and other"),
        ({"counters": {"properties_set": 4}}, "properties_set: 3 and 4"),
        ({"counters": {"properties_set": 3, "labels_added": 1}}, "labels_added: 0 and 1"),
    ],
)
def test_a_difference_is_said_in_words(change: dict[str, object], words: str) -> None:
    """Both values, the own one first."""
    known: dict[str, object] = {
        "before": 1024,
        "nodes": 7,
        "relationships": 0,
        "chain": "chain",
        "counters": {"properties_set": 3},
    }
    mine, theirs = Checkpoint(**known), Checkpoint(**{**known, **change})  # type: ignore[arg-type]  # fields by name
    assert mine.differences(theirs) == [words]
    assert mine.digest != theirs.digest
    assert mine.differences(mine) == []


def test_what_is_not_known_is_not_compared() -> None:
    """Counters lost in a crash, a graph restored without its digest, another version of the server."""
    whole = Checkpoint(1024, 7, 0, "chain", {"properties_set": 3}, server="Neo4j/1")
    assert whole.differences(Checkpoint(1024, 7, 0, None, None, server="Neo4j/1")) == []
    assert whole.differences(Checkpoint(1024, 7, 0, "other", {"properties_set": 4}, server="Neo4j/2")) == []
    assert whole.differences(Checkpoint(1024, 6, 0, None, None, server="Neo4j/2")) == ["nodes: 7 and 6"]
    assert whole.differences(Checkpoint(1024, None, None, "chain", None, server="Neo4j/1")) == []


def test_an_unpublished_checkpoint_is_kept_and_of_the_others_the_last() -> None:
    """A crash between commit and publication loses none."""
    many = [Checkpoint(number * INTERVAL, 1, 0, "", {}) for number in range(1, 21)]
    assert kept(many, published=-1) == tuple(many)
    assert kept(many, published=10**6) == tuple(many[-KEPT:])
    assert kept(many, published=5 * INTERVAL) == tuple(many[5:])


def test_texts_come_back_as_they_were() -> None:
    """From the graph's own node."""
    for checkpoint in (Checkpoint(1024, 7, 0, "c", {"a": 1}, (0, 1), "s"), Checkpoint(1024, 7, 0, None, None)):
        assert Checkpoint.parse(checkpoint.text()) == checkpoint
    tally = Tally(1030, 1024, "c", {"a": 1}, 5, 6)
    assert Tally.parse(tally.text(), 1030) == tally
    assert Tally.parse(tally.text(), 1031).counters is None
    assert Tally.parse(None, 2047) == Tally(2047, 2048, None, None)
