from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from brokers.offsets import (
    MAGIC,
    METADATA_LIMIT,
    AckTracker,
    Run,
    UnknownMap,
    decode,
    encode,
    resumed,
    union,
)


few = settings(max_examples=60, deadline=None)


@st.composite
def runs_above(draw: st.DrawFn) -> tuple[int, list[Run]]:
    """A base and finished runs above it: ascending, apart."""
    base = draw(st.integers(0, 2**40))
    lengths = draw(st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), max_size=40))
    runs, cursor = [], base
    for gap, length in lengths:
        runs.append(Run(cursor + gap, cursor + gap + length))
        cursor += gap + length
    return base, runs


def offsets_of(runs: list[Run]) -> set[int]:
    """All offsets in *runs*."""
    return {offset for start, end in runs for offset in range(start, end)}


@few
@given(runs_above())
@example((0, [Run(1, 2)]))
def test_a_map_reads_back_as_it_was_written(written: tuple[int, list[Run]]) -> None:
    """The next owner skips exactly what was finished."""
    base, runs = written
    text = encode(base, runs)
    assert decode(base, text) == runs
    assert text.isascii()


def test_no_finished_runs_need_no_map() -> None:
    """An idle partition commits a bare offset."""
    assert encode(7, []) == ""
    assert decode(7, "") == decode(7, None) == []


def test_a_trailing_nul_of_another_client_is_no_part_of_the_map() -> None:
    """Kafka hands back what a C client wrote, with the NUL that ended its string."""
    text = encode(5, [Run(7, 9)])
    assert decode(5, text + "\0") == [Run(7, 9)]


def test_the_smallest_of_the_encodings_wins() -> None:
    """Long runs, single gaps and regular patterns each cost what their shape deserves."""
    one_stuck = encode(0, [Run(1, 100_000)])
    every_other = encode(0, [Run(n, n + 1) for n in range(1, 4000, 2)])
    assert len(one_stuck) < 16
    assert len(every_other) < 100


@pytest.mark.parametrize(
    "text",
    ["{}", "nk2rAAA", "nk1", "nk1x00000", "nk1r\u00e9", "nk1R00000", "nk1r" + "~", "nk1B!!!"],
)
def test_what_another_program_wrote_is_told_apart(text: str) -> None:
    """Metadata that is no map of ours is an error, never a set of finished offsets."""
    with pytest.raises(UnknownMap):
        decode(0, text)


@few
@given(st.text(max_size=30))
def test_reading_garbage_raises_nothing_but_unknown_map(garbage: str) -> None:
    """Whatever lies in the metadata, the consumer goes on."""
    for text in (garbage, MAGIC + garbage):
        with suppress(UnknownMap):
            assert all(run.start <= run.end for run in decode(100, text))


class Log:
    """A partition's records with gaps between them, acked in some order, watched through its commits."""

    def __init__(self, offsets: list[int]) -> None:
        self.offsets = offsets
        self.ran: list[int] = []

    def run(self, tracker: AckTracker, acked: list[int]) -> None:
        """Deliver everything; finish *acked*, in that order, and check every commit on the way."""
        begun = {offset for offset in self.offsets if tracker.begin(offset)}
        self.ran += [offset for offset in acked if offset in begun]
        last = -1
        for offset in acked:
            tracker.done(offset)
            commit = tracker.snapshot()
            unfinished = [o for o in self.offsets if o not in self.ran]
            if unfinished:
                assert commit.offset <= unfinished[0]
            assert commit.offset >= last
            last = commit.offset


@st.composite
def a_log_and_acks(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Offsets with gaps between them, and some of them in the order in which they end."""
    gaps = draw(st.lists(st.integers(1, 3), min_size=1, max_size=60))
    offsets = [sum(gaps[: n + 1]) - 1 for n in range(len(gaps))]
    acked = draw(st.permutations(offsets))
    return offsets, acked[: draw(st.integers(0, len(acked)))]


@few
@given(a_log_and_acks(), st.integers(0, 5), st.lists(st.integers(0, 30), max_size=3))
def test_many_begin_as_one_after_the_other(
    log_and_acks: tuple[list[int], list[int]], before: int, finished: list[int]
) -> None:
    """Also those that were delivered before, and those that an earlier owner has finished."""
    offsets, _ = log_and_acks
    runs = union([Run(offset, offset + 1) for offset in finished], [])
    many, single = resumed(0, runs), resumed(0, runs)
    for tracker in (many, single):
        for offset in offsets[:before]:
            tracker.begin(offset)
    assert many.begin_all(offsets) == [single.begin(offset) for offset in offsets]
    assert (many.snapshot(), many.finished(), many.next, many.unfinished) == (
        *(single.snapshot(), single.finished()),
        *(single.next, single.unfinished),
    )


@few
@given(a_log_and_acks(), st.data())
def test_many_end_as_one_after_the_other(log_and_acks: tuple[list[int], list[int]], data: st.DataObject) -> None:
    """Whether they are the first ones or not, were handed out or not, and ended before or not."""
    offsets, acked = log_and_acks
    many, single = AckTracker(0), AckTracker(0)
    for tracker in (many, single):
        tracker.begin_all(offsets)
        for offset in acked:
            tracker.done(offset)
    start = data.draw(st.integers(0, len(offsets)))
    together = offsets[start : data.draw(st.integers(start, len(offsets)))]
    together += data.draw(st.sampled_from([[], [offsets[-1] + 5]]))
    many.done_all(together)
    for offset in together:
        single.done(offset)
    assert (many.snapshot(), many.finished(), many.highest_done, many.unfinished) == (
        single.snapshot(),
        single.finished(),
        single.highest_done,
        single.unfinished,
    )


@few
@given(a_log_and_acks(), st.data())
def test_a_handover_at_any_moment_runs_exactly_what_was_unfinished(
    log_and_acks: tuple[list[int], list[int]], data: st.DataObject
) -> None:
    """Offset and map say, in any state and through any number of owners, which records are left."""
    offsets, acked = log_and_acks
    log = Log(offsets)
    tracker = AckTracker(0)
    log.run(tracker, acked)
    while len(set(log.ran)) < len(offsets):
        commit = tracker.snapshot()
        tracker = resumed(commit.offset, decode(commit.offset, commit.metadata))
        left = [o for o in offsets if o not in log.ran]
        order = data.draw(st.permutations(left))
        log.run(tracker, order[: data.draw(st.integers(1, len(order)))])
    assert sorted(log.ran) == offsets
    assert tracker.snapshot().offset == offsets[-1] + 1


@few
@given(a_log_and_acks(), st.integers(1, 59))
def test_a_handover_in_the_middle_of_delivery_keeps_what_lies_ahead(
    log_and_acks: tuple[list[int], list[int]], delivered: int
) -> None:
    """An owner that leaves before it was handed everything passes on what its predecessor had finished beyond."""
    offsets, acked = log_and_acks
    first = AckTracker(0)
    Log(offsets).run(first, acked)
    commit = first.snapshot()
    second = resumed(commit.offset, decode(commit.offset, commit.metadata))
    for offset in offsets[:delivered]:
        second.begin(offset)
    commit = second.snapshot()
    third = resumed(commit.offset, decode(commit.offset, commit.metadata))
    assert [o for o in offsets if third.begin(o)] == [o for o in offsets if o not in acked]


def test_a_commit_is_news_until_kafka_has_confirmed_it() -> None:
    """What failed to be committed is committed again; what stands is not."""
    tracker = AckTracker(3)
    first = tracker.to_commit()
    assert first == (3, "")
    assert tracker.to_commit() == first
    tracker.committed(first)
    assert tracker.to_commit() is None
    tracker.begin(3)
    assert tracker.to_commit() is None
    tracker.done(3)
    assert tracker.to_commit() == (4, "")


def test_markers_at_the_end_of_the_log_count_as_read() -> None:
    """A transaction's marker is never delivered; only the end of the partition says that it is passed."""
    tracker = AckTracker(0)
    tracker.begin(0)
    tracker.reached(2)
    assert tracker.snapshot().offset == 0
    tracker.done(0)
    assert tracker.snapshot().offset == 2
    tracker.reached(1)
    assert tracker.next == 2


def test_a_second_delivery_and_a_second_ack_change_nothing() -> None:
    """A fetch that was under way at a seek, or a late ack, must not count."""
    tracker = AckTracker(10)
    assert tracker.begin(10)
    assert not tracker.begin(10)
    assert not tracker.begin(9)
    tracker.done(10)
    tracker.done(10)
    tracker.done(99)
    assert tracker.snapshot() == (11, "")
    assert tracker.unfinished == 0


@few
@given(a_log_and_acks())
def test_what_a_tracker_knows_to_be_finished_is_what_was_acked(log_and_acks: tuple[list[int], list[int]]) -> None:
    """After a partition was lost and came back, nothing that was done here runs again."""
    offsets, acked = log_and_acks
    tracker = AckTracker(0)
    Log(offsets).run(tracker, acked)
    again = resumed(0, tracker.finished())
    assert [o for o in offsets if again.begin(o)] == [o for o in offsets if o not in acked]


@few
@given(runs_above(), runs_above())
def test_a_union_holds_the_offsets_of_both(some: tuple[int, list[Run]], others: tuple[int, list[Run]]) -> None:
    """Runs that touch or overlap become one; none is lost."""
    left, right = [[Run(r.start - base, r.end - base) for r in runs] for base, runs in (some, others)]
    joined = union(left, right)
    assert offsets_of(joined) == offsets_of(left) | offsets_of(right)
    assert all(one.end < other.start for one, other in pairwise(joined))


def test_a_stuck_record_in_front_of_a_hundred_thousand_costs_two_numbers() -> None:
    """One slow task does not fill the room of the metadata."""
    tracker = AckTracker(0)
    for offset in range(5000):
        tracker.begin(offset)
    for offset in range(1, 5000):
        tracker.done(offset)
    commit = tracker.snapshot()
    assert commit.offset == 0
    assert len(commit.metadata) < 20
    assert len(commit.metadata) < METADATA_LIMIT
