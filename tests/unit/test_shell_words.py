"""What the shell offers where the cursor is."""

from __future__ import annotations

import pytest

from ops.shell_words import Vocabulary, candidates


KNOWN = Vocabulary(("User", "Uni Town"), ("FOLLOWS", "FLIES"), ("name", "born"), ("age", "limit"))


@pytest.mark.parametrize(
    ("before", "replaced", "found"),
    [
        ("ma", 2, ["MATCH"]),
        ("RET", 3, ["RETURN"]),
        ("", 0, []),
        ("MATCH (u:", 0, ["`Uni Town`", "User"]),
        ("MATCH (u:us", 2, ["User"]),
        ("MATCH (u:User|", 0, ["`Uni Town`", "User"]),
        ("MATCH (u)-[r:F", 1, ["FLIES", "FOLLOWS"]),
        ("MATCH (u)-[:FOLLOWS|fo", 2, ["FOLLOWS"]),
        ("MATCH (u)-[:FOLLOWS]->(x:U", 1, ["`Uni Town`", "User"]),
        ("MATCH (u) SET u:U", 1, ["`Uni Town`", "User"]),
        ("MATCH (u) WHERE u.n", 1, ["name"]),
        ("MATCH (u) WHERE u.", 0, ["born", "name"]),
        ("MATCH (u {na", 2, ["name"]),
        ("MATCH (u {name: 'x', b", 1, ["born"]),
        ("MATCH (u {name: ", 0, []),
        ("RETURN $", 0, ["age", "limit"]),
        ("RETURN $li", 2, ["limit"]),
        ("RETURN 'ma", 0, []),
        ("RETURN 1 // ma", 0, []),
        ("RETURN 12", 0, []),
        (":pa", 2, ["param", "params"]),
        (":", 0, ["command", "explain", "help", "level", "param", "params", "query", "quit", "status"]),
        (":level li", 2, ["linearizable"]),
        ("RETURN 1;\n:st", 2, ["status"]),
        (":explain ma", 2, ["MATCH"]),
        ("MATCH (n\n:us", 2, ["User"]),
    ],
)
def test_what_may_go_on_is_offered(before: str, replaced: int, found: list[str]) -> None:
    """Names after what names them, with quotes where they need them; keywords elsewhere; nothing inside a text."""
    assert candidates(before, KNOWN) == (replaced, found)
