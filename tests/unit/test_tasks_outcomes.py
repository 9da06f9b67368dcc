from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from replica.statement import Outcome
from tasks import outcomes
from tasks.outcomes import Ledger, Rejection, Report


def report(replica: str, first: int, last: int, *rejected: int) -> Report:
    """What *replica* says of some offsets."""
    rejections = tuple(Rejection(offset, "Code", f"because {offset}") for offset in rejected)
    return Report(replica=replica, topic_id="t", first=first, last=last, rejected=rejections)


def test_a_replica_has_passed_what_its_last_report_ends_with() -> None:
    """Before that there is no outcome; at it and below it there is one."""
    ledger = Ledger()
    ledger.add(report("r1", 0, 9, 4))

    assert ledger.position("r1") == 9
    assert ledger.position("r2") == -1
    assert ledger.outcome("r1", 10) is None
    assert ledger.outcome("r1", 9) == Outcome(9, applied=True)
    assert ledger.outcome("r1", 4) == Outcome(4, applied=False, code="Code", message="because 4")


def test_an_outcome_from_before_the_first_report_is_not_known() -> None:
    """That the replica is past it is known, what it did is not: the reader has to go further back."""
    ledger = Ledger()
    ledger.add(report("r1", 50, 60))

    assert not ledger.knows("r1", 49)
    assert ledger.knows("r1", 50)
    assert not ledger.knows("r1", 61)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=20), st.sets(st.integers(0, 100)), st.randoms())
def test_repeated_and_reordered_reports_say_the_same(sizes: list[int], bad: set[int], random: object) -> None:
    """A worker that was killed reports again; a reader that starts earlier reads again."""
    reports, first = [], 0
    for size in sizes:
        reports.append(report("r1", first, first + size - 1, *(o for o in bad if first <= o < first + size)))
        first += size
    again = [*reports, *reports]
    random.shuffle(again)  # type: ignore[attr-defined]  # hypothesis types it as object

    ledger = Ledger()
    for each in again:
        ledger.add(each)

    found = [ledger.outcome("r1", offset) for offset in range(first)]
    assert [outcome is not None and outcome.applied for outcome in found] == [o not in bad for o in range(first)]


def test_old_rejections_are_forgotten_and_said_to_be_unknown() -> None:
    """Memory is bounded, and a forgotten rejection is never taken for an applied command."""
    ledger = Ledger()
    ledger.add(report("r1", 0, outcomes.REMEMBERED, *range(outcomes.REMEMBERED + 1)))

    assert not ledger.knows("r1", 0)
    assert ledger.knows("r1", 1)


def test_a_report_survives_the_wire_and_garbage_is_no_report() -> None:
    """Anybody may write to a topic."""
    sent = report("r1", 3, 9, 5)

    assert outcomes.decode(msgspec.json.encode(sent), Report) == sent
    for garbage in (None, b"", b"[]", b"\xff", b'{"replica": 1}', b'{"replica": "x"}'):
        assert outcomes.decode(garbage, Report) is None
