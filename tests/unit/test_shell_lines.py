"""What is typed into the shell, and what it is taken for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from neo4j.time import Date

from ops.errors import InputUnusable
from ops.shell_lines import (
    DIRECTIVES,
    HELP,
    Directive,
    Item,
    Statement,
    help_text,
    is_complete,
    kind_of,
    last,
    parameter,
    split,
)
from ops.shell_script import items


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("MATCH (n) RETURN n", "query"),
        ("MATCH (n) SET n.x = 1", "command"),
        ("MATCH (n) WHERE n.set = 1 RETURN n.create, {delete: 1} AS merge", "query"),
        ("RETURN 'CREATE (n)' AS `SET` // DELETE", "query"),
        ("  // a comment\nmerge (n:User) return n", "command"),
        ("CREATE INDEX x FOR (n:User) ON (n.name)", "command"),
        ("DROP CONSTRAINT x IF EXISTS", "command"),
        ("FOREACH (x IN [1] | CREATE (:N {x: x}))", "command"),
        ("MATCH (n) DETACH DELETE n", "command"),
        ("CALL (n) { CREATE (m) } IN TRANSACTIONS", "command"),
        ("SHOW INDEXES", "query"),
        ("EXPLAIN CREATE (n)", "query"),
        ("CALL db.labels()", "query"),
        ("CALL apoc.do.it()", "query"),
        ("UNWIND [1] AS x RETURN x", "query"),
        ("MATCH (n RETURN n", "query"),
        ("", "query"),
    ],
)
def test_a_statement_goes_where_its_words_say(text: str, kind: str) -> None:
    """Keywords count where they can be keywords; what cannot be judged is a query, which cannot do harm."""
    assert kind_of(text) == kind


@pytest.mark.parametrize(
    ("text", "found", "rest"),
    [
        ("RETURN 1;", [Statement(1, "RETURN 1")], ""),
        ("RETURN 1; RETURN\n2;\nRETURN 3", [Statement(1, "RETURN 1"), Statement(1, "RETURN\n2")], "RETURN 3"),
        ("RETURN ';' AS x, `;` // ;\n;", [Statement(1, "RETURN ';' AS x, `;` // ;")], ""),
        ("\n\n// begins\nRETURN 1;", [Statement(4, "RETURN 1")], ""),
        (";; ;", [], ""),
        (":params\n", [Directive(1, "params")], ""),
        (":params;", [Directive(1, "params")], ""),
        (":params", [], ":params"),
        (":param n  5 \nRETURN $n;", [Directive(1, "param", "n  5"), Statement(2, "RETURN $n")], ""),
        (":command RETURN\n1;", [Statement(1, "RETURN\n1", "command")], ""),
        (":query CREATE", [], ":query CREATE"),
        ("RETURN 1;\n:quit\n", [Statement(1, "RETURN 1"), Directive(2, "quit")], ""),
        ("RETURN {a\n:params}", [], "RETURN {a\n:params}"),
    ],
)
def test_statements_end_with_a_semicolon_and_directives_with_their_line(
    text: str, found: list[Item], rest: str
) -> None:
    """A semicolon in a text, a name or a comment ends nothing, nor is every colon a directive."""
    assert split(text) == (found, rest)


def test_a_directive_that_there_is_not_is_told_with_one_that_there_is() -> None:
    """And with its line."""
    with pytest.raises(InputUnusable, match=r"line 3: there is no :parms; did you mean :params\? :help lists"):
        split("RETURN 1;\n\n:parms\n")


def test_what_is_forced_goes_there_whatever_it_looks_like() -> None:
    """Both ways."""
    assert Statement(1, "RETURN 1", "command").kind == "command"
    assert Statement(1, "CREATE (n)", "query").kind == "query"
    assert Statement(1, "CREATE (n)", "explain").kind == "command"


def test_enter_sends_what_is_complete_and_breaks_the_line_of_what_is_not() -> None:
    """What is wrong is sent, so that it is told."""
    assert all(map(is_complete, ("", "RETURN 1;", ":help", ":nonsense", ["RETURN 1;", " x"][0])))
    assert not any(map(is_complete, ("RETURN 1", "RETURN ';", ":query RETURN 1", "RETURN 1; RETURN 2")))


def test_the_end_of_a_file_ends_a_statement() -> None:
    """But not a text, a name or a comment that was left open."""
    assert last("RETURN 1 // x", 7) == [Statement(7, "RETURN 1 // x")]
    assert last(":quit", 7) == [Directive(7, "quit")]
    assert last(" // only this\n", 7) == []
    for text in ("RETURN 'x", "RETURN `x", "/* RETURN 1;"):
        with pytest.raises(InputUnusable, match=r"line 7: a quote or comment .* never closed"):
            last(text, 7)


@given(st.lists(st.sampled_from(["RETURN 1", ";", "\n", ":params\n", "// c\n", "';'", ":query ", " "]), max_size=12))
def test_a_script_is_the_same_read_at_once_or_line_by_line(pieces: list[str]) -> None:
    """With the same lines, too."""
    text = "".join(pieces)

    def read(lines: list[str]) -> tuple[list[Item], str]:
        found: list[Item] = []
        try:
            found.extend(items(lines))
        except InputUnusable as error:
            return found, str(error)
        return found, ""

    whole, told = read([text])
    in_lines, told_in_lines = read(text.splitlines(keepends=True))
    assert told == told_in_lines
    assert whole == (in_lines if not told else in_lines[: len(whole)])


@pytest.mark.parametrize(
    ("argument", "found"),
    [
        ("age 30", ("age", 30)),
        ("age=30", ("age", 30)),
        ("age => 30", ("age", 30)),
        ("age: 30", ("age", 30)),
        ("$age 30", ("age", 30)),
        ('zip "30"', ("zip", "30")),
        ("name user_1", ("name", "user_1")),
        ("name a = b", ("name", "a = b")),
        ("list [1, null]", ("list", [1, None])),
        ('day {"$type": "Date", "_value": "2024-02-29"}', ("day", Date(2024, 2, 29))),
    ],
)
def test_a_parameter_is_json_or_else_a_text(argument: str, found: tuple[str, object]) -> None:
    """In any of the ways in which people write it."""
    assert parameter(argument) == found


@pytest.mark.parametrize("argument", ["", "age", "age ", "=5", 'day {"$type": "Date", "_value": "soon"}'])
def test_what_is_no_parameter_is_told(argument: str) -> None:
    """With how it is done."""
    with pytest.raises(InputUnusable):
        parameter(argument)


def test_every_directive_has_its_help() -> None:
    """And nothing else has."""
    assert HELP.keys() == DIRECTIVES.keys()
    text = help_text()
    assert all(f"  :{name}" in text for name in HELP)
    assert max(map(len, text.splitlines())) <= 80
