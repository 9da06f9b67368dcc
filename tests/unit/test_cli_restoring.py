"""Which command a restore goes on to, and what is said where it cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ops.errors import InputUnusable
from ops.restoring import Goal
from replica import snapshot_catalogue
from replica.errors import SnapshotUnknown
from replica.snapshot_catalogue import SnapshotRow, newest


if TYPE_CHECKING:
    from tasks.replaying import Log

ROWS = [SnapshotRow(f"at-{offset}", 1, "command", "id", offset) for offset in (8, 11)]


class FakeStore:
    """Where all snapshots are that there are."""

    url = "file:///there"


def log(first: int, end: int, before: int) -> Log:
    """A log from *first* on, whose last command before any time is *before*."""

    class Fake:
        topic = "command"

        def bounds(self) -> tuple[int, int]:
            return first, end

        def before(self, _: int) -> int:
            return before

    fake: Any = Fake()
    return fake  # type: ignore[no-any-return]


def test_a_time_means_the_last_command_before_it() -> None:
    """The first one that the log has is not one that is gone: a snapshot at its place may be newer than the time."""
    assert Goal(time_ms=1).last(log(14, 20, 14)) == 14
    with pytest.raises(InputUnusable, match="begins at command 14, and none of it is that old"):
        Goal(time_ms=1).last(log(14, 20, 13))
    with pytest.raises(InputUnusable, match="begins at command 0, and none"):
        Goal(time_ms=1).last(log(0, 20, -1))


@pytest.mark.parametrize(
    ("log_start", "at_most", "why"),
    [
        (0, 5, "fits: the log is to be applied up to 5; there are: at-8 at 8, at-11 at 11"),
        (20, None, "fits: the log begins at command 20; there"),
        (10, 8, "fits: the log begins at command 10 and is to be applied up to 8; there"),
    ],
)
def test_why_no_snapshot_fits_is_said(
    monkeypatch: pytest.MonkeyPatch, log_start: int, at_most: int | None, why: str
) -> None:
    """With what there is instead."""
    monkeypatch.setattr(snapshot_catalogue, "listed", lambda _: ROWS)
    store: Any = FakeStore()
    with pytest.raises(SnapshotUnknown) as error:
        newest(store, "command", "id", log_start=log_start, at_most=at_most)
    assert why in str(error.value)
    assert newest(store, "command", "id", log_start=9, at_most=10).offset == 8
