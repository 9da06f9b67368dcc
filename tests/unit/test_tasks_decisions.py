from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokers.records import Record
from tasks.decisions import KINDS, Decision, read, skip_target


def record(key: bytes | None, value: bytes | None) -> Record:
    """A record of the decisions topic."""
    return Record("decisions", 0, 7, 1_700_000_000_000, key, value)


@pytest.mark.parametrize(
    ("kind", "target"), [("pause", "replica-1"), ("quarantine", "a/b"), ("skip", skip_target("8Jk_t-1", 42))]
)
def test_a_decision_is_read_as_it_was_made(kind: str, target: str) -> None:
    """Whatever the replica's name is; without a value the decision is withdrawn."""
    decision = Decision(kind, target, "8Jk_t-1", "because", "ann@host", 5)  # type: ignore[arg-type]  # a kind, as text

    assert read(record(decision.key, msgspec.json.encode(decision))) == (kind, target, decision)
    assert read(record(decision.key, None)) == (kind, target, None)


@pytest.mark.parametrize("value", [b"", b"{}", b"\xff", b'{"kind": "skip"}'])
def test_what_cannot_be_read_keeps_a_replica_standing_and_skips_nothing(value: bytes) -> None:
    """Either loses nothing."""
    found = read(record(b"quarantine/replica-1", value))

    assert found is not None
    assert found[2] is not None
    assert (found[2].target, found[2].at_ms) == ("replica-1", 1_700_000_000_000)
    assert read(record(b"skip/t/42", value)) is None


def test_a_value_that_speaks_of_another_target_decides_nothing_there() -> None:
    """Key and value have to agree before a command is skipped."""
    other = Decision("skip", "t/41", "t", "because", "ann@host", 5)

    assert read(record(b"skip/t/42", msgspec.json.encode(other))) is None


@given(st.none() | st.binary(), st.none() | st.binary())
def test_anything_may_lie_on_the_topic(key: bytes | None, value: bytes | None) -> None:
    """It is read as a decision of a known kind, or passed over."""
    found = read(record(key, value))

    assert found is None or found[0] in KINDS
