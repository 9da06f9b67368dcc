from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import answers
from tasks.answers import Answer, Ending, Failure
from tasks.errors import AnswerBroken
from tasks.parts import Parts


rows = st.lists(st.lists(st.integers(0, 9) | st.text(max_size=30), min_size=1, max_size=3), max_size=30)


@given(rows, st.integers(1, 200))
def test_chunks_hold_every_row_once_and_one_of_them_is_the_last(found: list[list[object]], limit: int) -> None:
    """Nothing is lost at a border; an empty answer has one chunk too; only a chunk of one row may be too large."""
    chunks = list(answers.chunks(found, limit))

    assert [msgspec.json.decode(row) for chunk, _ in chunks for row in chunk] == found
    assert [last for _, last in chunks] == [False] * (len(chunks) - 1) + [True]
    for chunk, _ in chunks:
        assert len(chunk) <= 1 or len(msgspec.json.encode(answers.together(chunk))) <= limit + 1


def test_a_chunk_is_measured_in_bytes_and_not_in_letters() -> None:
    """A letter may take six bytes of JSON: rows that look small would make a record that Kafka refuses."""
    chunks = list(answers.chunks([["\x01" * 1000]] * 10, 20_000))
    assert [len(chunk) for chunk, _ in chunks] == [3, 3, 3, 1]


def test_rows_that_come_slowly_are_sent_before_the_chunk_is_full() -> None:
    """So that who reads them as they come sees them; others get as few records as can be."""
    times = iter([0.0, 0.1, 0.2, 0.4, 0.4, 0.5])
    chunks = list(answers.chunks([[n] for n in range(4)], prompt_s=0.25, clock=lambda: next(times)))
    assert [len(chunk) for chunk, _ in chunks] == [3, 1]
    assert [len(chunk) for chunk, _ in answers.chunks([[n] for n in range(4)])] == [4]


def test_an_answer_survives_the_wire_and_garbage_is_no_answer() -> None:
    """Late, foreign and broken records on the response topic are passed over."""
    ending = Ending(rows=1, waited_ms=2, took_ms=0.5, query_type="r", notifications=({"gql_status": "01N50"},))
    sent = Answer("id", "run", 0, end=True, replica="r1", position=4, columns=("a",), rows=([1],), summary=ending)
    failed = Answer("id", "run", 0, end=True, replica="r1", error=Failure("Code", "text", retryable=True))

    assert answers.decode(answers.encode(sent)) == sent
    assert answers.decode(answers.encode(failed)) == failed
    for garbage in (None, b"", b"[]", b"\xff", b'{"id": 1}'):
        assert answers.decode(garbage) is None


def part(seq: int, run: str = "a", *, end: bool = False, error: Failure | None = None) -> Answer:
    """A part with its number as its only row."""
    return Answer("id", run, seq, end=end, replica=run, columns=("n",), rows=([seq],), error=error)


def taken(*given: Answer) -> Parts:
    """Those parts, in this order."""
    parts = Parts()
    for one in given:
        parts.take(one)
    return parts


def shown(parts: Parts) -> list[tuple[str, int]]:
    """Run and number of each part of the whole answer."""
    return [(one.run, one.seq) for one in parts.whole()]


def test_the_first_run_that_is_whole_is_the_answer() -> None:
    """A worker was killed after two parts; parts of different runs are never mixed, and what comes twice is dropped."""
    parts = taken(part(0), part(1), part(0, "b"), part(0, "b"), part(1, "b", end=True), part(2))
    assert shown(parts) == [("b", 0), ("b", 1)]
    assert parts.header == part(0, "b")


def test_a_run_with_a_gap_is_no_answer() -> None:
    """What lacks a part must not look whole."""
    parts = taken(part(0), part(2), part(3, end=True))
    assert parts.last is None
    parts.take(part(0, "b", end=True))
    assert shown(parts) == [("b", 0)]


def test_an_error_ends_a_run_whatever_was_lost_before_it() -> None:
    """A part that Kafka refused leaves a gap, and the error behind it says why."""
    failed = part(3, end=True, error=Failure("Code", "text"))
    assert taken(part(0), failed).last == failed
    assert taken(part(0), part(2), failed).last == failed


def test_parts_are_handed_out_in_their_order_and_only_once() -> None:
    """Memory holds what has come and was not taken."""
    parts = taken(part(0), part(1))
    assert [parts.hand_out(), parts.hand_out(), parts.hand_out()] == [part(0), part(1), None]
    parts.take(part(2, end=True))
    assert (parts.hand_out(), parts.hand_out()) == (part(2, end=True), None)
    assert parts.header == part(0)


def test_once_rows_were_handed_out_another_run_cannot_go_on_for_theirs() -> None:
    """Its rows may be in another order: whoever reads is told, and never sees rows twice or not at all."""
    parts = taken(part(0), part(1))
    parts.hand_out()
    parts.take(part(0, "b"))
    with pytest.raises(AnswerBroken, match="ask again"):
        parts.take(part(1, "b", end=True))


def test_a_gap_in_what_is_handed_out_is_told() -> None:
    """Answers are kept for an hour, and who reads too slowly may miss some."""
    parts = taken(part(0))
    parts.hand_out()
    with pytest.raises(AnswerBroken, match="part 1 of its answer is gone"):
        parts.take(part(2))
