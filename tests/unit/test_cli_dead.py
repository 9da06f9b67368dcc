from __future__ import annotations

import time

import pytest

from brokers.letters import Letter
from ops.dead import Selection, described, moment, whole
from ops.errors import InputUnusable


def test_a_time_is_an_age_or_a_date() -> None:
    """In milliseconds."""
    assert moment("2h") == pytest.approx((time.time() - 7200) * 1000, abs=2000)
    assert moment("2026-01-31T08:00+00:00") == 1_769_846_400_000
    assert moment("2026-01-31") % 1000 == 0


@pytest.mark.parametrize("text", ["", "soon", "2w", "-1h", "2026-13-01", "99999999999d"])
def test_anything_else_is_no_time(text: str) -> None:
    """And the error says what is."""
    with pytest.raises(InputUnusable, match="30m, 2h, 7d"):
        moment(text)


def test_all_has_to_be_said() -> None:
    """Nobody replays, or purges, everything by leaving something out."""
    assert Selection().required(everything=True) == Selection()
    assert Selection(("1/2",)).required(everything=False).where().ids == {"1/2"}
    for chosen, everything in ((Selection(), False), (Selection(error="E"), True)):
        with pytest.raises(InputUnusable):
            chosen.required(everything=everything)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, {"body": None}),
        (b'{"args": [1]}', {"body": {"args": [1]}}),
        (b"text", {"body": "text"}),
        (b"\xff\x00", {"body_base64": "/wA="}),
    ],
)
def test_a_body_is_shown_whatever_it_is(value: bytes | None, shown: dict[str, object]) -> None:
    """JSON, text or bytes."""
    found = whole(Letter("q.XQ", 0, 1, 0, None, value, {}))
    assert {name: found[name] for name in shown} == shown


def test_a_line_of_a_list_is_one_line() -> None:
    """However long a reason is, and whatever is missing."""
    letter = Letter("q.XQ", 0, 1, 0, None, b"", {"xq.reason": b"a\n" + b"b" * 500})
    line = described(letter)
    assert "\n" not in str(line[4])
    assert len(str(line[4])) <= 60
    assert line[6:] == ("", 0)
