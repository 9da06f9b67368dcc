"""What a letter says, which letters are meant, and what a replayed message carries."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokers.dead_letters import SETTLED, mark
from brokers.errors import DeliveryRefused
from brokers.letterbox import Outcome, _paced, _put_back
from brokers.letters import MAX_REPLAYS, Letter, Pile, Where, refusal, without_value
from brokers.records import Outgoing, Record
from brokers.replays import COUNT, HISTORY, HISTORY_ENTRIES, again, carried, history, number


if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from brokers.settling import Settling

HEADERS = {"message_id": b"m1", "actor": b"work", "xq.topic": b"p-q", "xq.error": b"E", "xq.reason": b"why"}


def letter(headers: Mapping[str, bytes] = HEADERS, **changes: Any) -> Letter:
    """A letter of queue ``p-q``."""
    fields: dict[str, Any] = {"partition": 3, "offset": 17, "parked_ms": 1000, "key": b"k", "value": b"v"}
    return Letter(topic="p-q.XQ", headers=headers, **(fields | changes))


def test_what_is_put_back_is_the_record_as_it_was_and_its_history() -> None:
    """Nothing of the letter's own headers, so that it can be parked again like any other."""
    back = letter({**HEADERS, "mine": b"1"}).again()
    assert (back.topic, back.key, back.value, back.partition) == ("p-q", b"k", b"v", None)
    assert {name for name in back.headers if name.startswith("xq.")} == set()
    assert (back.headers["mine"], back.headers[COUNT]) == (b"1", b"1")
    [entry] = json.loads(back.headers[HISTORY])
    assert (entry["error"], entry["reason"], entry["parked_ms"]) == ("E", "why", 1000)


def test_a_history_is_bounded() -> None:
    """The newest entries; and no reason longer than a line or two."""
    headers: dict[str, bytes] = {}
    for turn in range(HISTORY_ENTRIES + 5):
        headers = again(headers, {"reason": f"{turn} " + "x" * 5000})
    assert number(headers, COUNT) == HISTORY_ENTRIES + 5
    assert [entry["reason"].split()[0] for entry in history(headers)] == [str(n) for n in range(5, HISTORY_ENTRIES + 5)]
    assert len(headers[HISTORY]) < 5000


@given(st.binary(max_size=30))
def test_headers_of_anybodys_making_are_no_history(garbage: bytes) -> None:
    """A topic takes what anybody writes."""
    headers = {COUNT: garbage, HISTORY: garbage, **HEADERS}
    assert all(isinstance(entry, dict) for entry in history(headers))
    assert letter(headers).replayed >= 0
    assert letter(headers).again().value == b"v"


def test_a_retry_carries_on_what_the_replay_carried() -> None:
    """Else a poison with retries would be new each time."""
    cause = Record("q", 0, 0, 0, None, b"", {COUNT: b"2", HISTORY: b"[]", "other": b"x"})
    assert carried(Outgoing("q", b"", headers={"attempt": b"2"}), cause).headers == {
        "attempt": b"2",
        COUNT: b"2",
        HISTORY: b"[]",
    }
    plain = Outgoing("q", b"")
    assert carried(plain, Record("q", 0, 0, 0, None, b"")) is plain


@pytest.mark.parametrize(
    ("where", "meant"),
    [
        (Where(), True),
        (Where(frozenset({"3/17", "x"})), True),
        (Where(frozenset({"m1"})), True),
        (Where(frozenset({"17"})), False),
        (Where(error="E", actor="work"), True),
        (Where(error="e"), False),
        (Where(actor="play"), False),
        (Where(since_ms=1000, before_ms=1001), True),
        (Where(since_ms=1001), False),
        (Where(before_ms=1000), False),
    ],
)
def test_filters_narrow_down(where: Where, meant: bool) -> None:
    """All that are set have to hold."""
    assert where(letter()) == meant


def refused(headers: Mapping[str, bytes] = HEADERS, *, force: bool = False) -> str:
    """Why a letter is not put back, where ``p-steps`` is ordered and ``p-gone`` missing."""
    return refusal(letter(headers), {"p-gone"}, {"p-steps"}, force=force)


def test_what_would_do_harm_is_refused() -> None:
    """Only the guard against loops gives way to force."""
    assert refused() == ""
    assert "is ordered" in refused({"xq.ordered": b"1"}, force=True)
    assert "is ordered" in refused({"xq.topic": b"p-steps"}, force=True)
    assert "no topic 'p-gone'" in refused({"xq.topic": b"p-delayed", "xq.to": b"p-gone"}, force=True)
    assert "p-q/1@2" in refused({**HEADERS, "xq.cut": b"9 bytes", "xq.partition": b"1", "xq.offset": b"2"})
    often = {**HEADERS, COUNT: str(MAX_REPLAYS).encode()}
    assert "3 times" in refused(often)
    assert refused(often, force=True) == ""


def test_what_is_marked_waits_no_more() -> None:
    """On its own partition only; a mark of anybody's making harms nobody."""
    pile = Pile(Where(), without_value)
    for partition in (0, 1):
        for offset in range(3):
            pile.take(Record("p-q.XQ", partition, offset, 0, None, b""))
    made = mark("p-q.XQ", 1, [0, 2], "replayed")
    pile.take(Record("p-q.XQ", 1, 3, 0, None, None, made.headers))
    pile.take(Record("p-q.XQ", 0, 3, 0, None, None, {SETTLED: b",x,-1,9,\xff"}))
    assert [(one.partition, one.offset) for one in pile.waiting()] == [(0, 0), (0, 1), (0, 2), (1, 1)]
    assert pile.ends == {("p-q.XQ", 0): 4, ("p-q.XQ", 1): 4}


class Refusing:
    """Takes what is committed, unless a bad record is among it."""

    def __init__(self) -> None:
        self.taken: list[bytes | None] = []

    def commit(self, records: Sequence[Outgoing]) -> None:
        if any(record.value == b"bad" for record in records):
            raise DeliveryRefused("too large")
        self.taken += [record.value for record in records if record.value is not None]


def test_one_letter_that_kafka_refuses_does_not_keep_the_others() -> None:
    """Its batch goes one by one, and it is told about."""
    kafka, outcome = Refusing(), Outcome()
    batch = [letter(value=value) for value in (b"1", b"bad", b"2")]
    _put_back(cast("Settling", kafka), batch, outcome)
    assert kafka.taken == [b"1", b"2"]
    assert outcome.settled == 2
    assert outcome.refused == [(batch[1], "too large")]


def test_a_rate_is_kept_from_the_first_letter_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """In small transactions, so that it is even."""
    now = [0.0]
    monkeypatch.setattr("brokers.letterbox.time.monotonic", lambda: now[0])
    monkeypatch.setattr("brokers.letterbox.time.sleep", lambda s: now.__setitem__(0, now[0] + s))
    sizes = [len(batch) for batch in _paced([letter()] * 100, 50.0)]
    assert sizes == [5] * 20
    assert now[0] == pytest.approx(1.9)
    assert [len(batch) for batch in _paced([letter()] * 1200, None)] == [500, 500, 200]
