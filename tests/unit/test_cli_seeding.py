"""What is said of a server that is not like the others'."""

from __future__ import annotations

from ops.seeding import told_apart


def test_replicas_that_differ_in_the_same_are_named_together() -> None:
    """One of nine servers that is otherwise set is no reason for nine times the same words."""
    found = {"a": ["version: 1, there 2", "x: 1, there 2"], "b": ["version: 1, there 3"], "c": ["version: 1, there 3"]}
    assert told_apart(found) == "a (version: 1, there 2, x: 1, there 2); b, c (version: 1, there 3)"
