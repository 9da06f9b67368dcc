"""What people are told of snapshots."""

from __future__ import annotations

from ops.snapshots import Compared
from replica.snapshot_catalogue import SnapshotRow


def side(offset: int | None, digest: str = "d") -> dict[str, object]:
    """One of two graphs."""
    position = None if offset is None else {"topic": "command", "topic_id": "id", "partition": 0, "offset": offset}
    return {"nodes": 1, "relationships": 0, "digest": digest, "position": position}


def test_graphs_of_different_commands_are_not_said_to_differ() -> None:
    """Nothing is known then; only of one command the difference is one."""
    assert "cannot be compared: the snapshot is of command 8, and the replica is at command 9" in (
        Compared(side(8), side(9, "e")).as_text()
    )
    assert "the replica is at no command" in Compared(side(8), side(None)).as_text()
    assert Compared(side(8), side(8)).as_text() == "The replica's graph is the snapshot's."
    assert Compared(side(8), side(8, "e")).as_text() == (
        "The replica's graph is another one. Snapshot and replica: nodes: 1 and 1; relationships: 0 and 0; "
        "digest: d and e"
    )


def test_a_row_has_times_that_can_be_given_back_and_a_size_that_is_not_nothing() -> None:
    """`--to-time` takes what `list` prints."""
    at = "2026-11-30T01:00:48+00:00"
    row = SnapshotRow("name", 1387, "command", "id", 8, at, "2026.04.0", 5000, 0, verified_at=at)
    assert row.cells() == ("name", 8, "2026-11-30T01:00:48Z", "5,000", "0", "< 0.1", "2026-11-30T01:00:48Z")
    assert SnapshotRow("name", 2_000_000, created_at=at).cells()[-2:] == ("2.0", "never")
    assert SnapshotRow("name", 1, problem="broken").cells()[-1] == "broken"
