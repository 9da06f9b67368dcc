from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from replica import values
from tasks import answers
from tasks.answers import Answer, Failure


rows = st.lists(st.lists(st.integers(0, 9) | st.text(max_size=30), min_size=1, max_size=3), max_size=30)


@given(rows, st.integers(1, 200))
def test_chunks_hold_every_row_once_and_one_of_them_is_the_last(found: list[list[object]], limit: int) -> None:
    """Nothing is lost at a border; an empty answer has one chunk too; only a chunk of one row may be too large."""
    chunks = list(answers.chunks(found, limit))

    assert [row for chunk, _ in chunks for row in chunk] == found
    assert [last for _, last in chunks] == [False] * (len(chunks) - 1) + [True]
    for chunk, _ in chunks:
        assert len(chunk) <= 1 or sum(values.size(row) for row in chunk) <= limit


def test_an_answer_survives_the_wire_and_garbage_is_no_answer() -> None:
    """Late, foreign and broken records on the response topic are passed over."""
    sent = Answer("id", "run", 0, end=True, replica="r1", position=4, columns=("a",), rows=([1],), truncated=True)
    failed = Answer("id", "run", 0, end=True, replica="r1", error=Failure("Code", "text", retryable=True))

    assert answers.decode(answers.encode(sent)) == sent
    assert answers.decode(answers.encode(failed)) == failed
    for garbage in (None, b"", b"[]", b"\xff", b'{"id": 1}'):
        assert answers.decode(garbage) is None
