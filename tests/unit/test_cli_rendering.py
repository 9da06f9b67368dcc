from __future__ import annotations

import io
from typing import Any

import pytest
from neo4j.spatial import CartesianPoint, WGS84Point
from neo4j.time import Date, DateTime, Duration, Time
from rich.console import Console

from ops import rendering, tables
from replica.values import Node, Path, Relationship
from tasks.answers import Answer
from tasks.results import Rows


ANN = Node("n1", frozenset(["User"]), {"name": "x"})
BOB = Node("n2", frozenset(["User", "Admin"]), {})
KNOWS = Relationship("r1", "n1", "n2", "KNOWS", {"since": 2020})
BACK = Relationship("r2", "n1", "n2", "LIKES", {})


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "NULL"),
        (True, "true"),
        (3, "3"),
        (1.5, "1.5"),
        ("a b", "a b"),
        ("", ""),
        ([1, "a", None], '[1, "a", NULL]'),
        ({"a b": {"c": 'say "x"'}}, '{`a b`: {c: "say \\"x\\""}}'),
        (ANN, '(:User {name: "x"})'),
        (BOB, "(:Admin:User)"),
        (Node("n", frozenset(), {}), "()"),
        (Node("n", frozenset(["two words"]), {}), "(:`two words`)"),
        (KNOWS, "[:KNOWS {since: 2020}]"),
        (BACK, "[:LIKES]"),
        (Path((ANN, BOB), (KNOWS,)), '(:User {name: "x"})-[:KNOWS {since: 2020}]->(:Admin:User)'),
        (Path((BOB, ANN), (BACK,)), '(:Admin:User)<-[:LIKES]-(:User {name: "x"})'),
        (CartesianPoint((1.0, 2.0)), "point({x: 1.0, y: 2.0})"),
        (WGS84Point((-112.5, 36.0)), "point({longitude: -112.5, latitude: 36.0})"),
        (Date(2024, 2, 29), "2024-02-29"),
        (DateTime(2024, 2, 29, 12), "2024-02-29T12:00:00.000000000"),
        (Time(12, 0, 1), "12:00:01.000000000"),
        (Duration(months=14, days=3, seconds=4), "P1Y2M3DT4S"),
        (b"\x00\xff", "0x00ff"),
    ],
)
def test_a_value_is_shown_as_people_read_it(value: Any, shown: str) -> None:
    """Nearly as Cypher would write it."""
    assert rendering.cell(value) == shown


def test_data_cannot_command_the_terminal() -> None:
    """Colours, cursor movements and line breaks are shown, not obeyed, wherever they stand."""
    bad = "a\x1b[2Jb\nc\x9b"
    for value in (bad, [bad], {bad: 1}, Node("n", frozenset([bad]), {bad: bad})):
        assert not set("\x1b\n\x9b") & set(rendering.cell(value))


def rows(*found: dict[str, Any], truncated: bool = False, position: int | None = 41) -> Rows:
    """An answer."""
    last = Answer("id", "run", 0, end=True, replica="replica-2", position=position, truncated=truncated)
    return Rows(found, last, tuple(found[0]) if found else ("a",))


def drawn(found: Rows, width: int = 60) -> list[str]:
    """The lines of the table."""
    file = io.StringIO()
    Console(file=file, width=width).print(tables.table_of(found))
    return [line.rstrip() for line in file.getvalue().splitlines() if line.strip()]


def test_a_table_has_numbers_at_the_right_and_fits_the_terminal() -> None:
    """What is too wide goes on in the next line; nothing is cut off."""
    found = rows({"name": "[:KNOWS]", "n": 5}, {"name": "y" * 80, "n": 12345}, {"name": None, "n": None})
    lines = drawn(found, width=40)
    assert all(len(line) <= 40 for line in lines)
    assert sum(line.count("y") for line in lines) == 80
    assert [line[-5:] for line in lines if "[:KNOWS]" in line] == ["    5"]
    assert any("NULL" in line for line in lines)


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (rows({"a": 1}), "1 row from replica-2, at command 41"),
        (rows(), "0 rows from replica-2, at command 41"),
        (rows({"a": 1}, {"a": 2}, position=None), "2 rows from replica-2, with no command applied yet"),
    ],
)
def test_the_footer_says_how_many_from_whom_and_how_new(found: Rows, says: str) -> None:
    """A reader can judge the answer."""
    assert tables.footer(found) == says


def test_the_footer_says_that_there_is_more() -> None:
    """A cut answer is not taken for the whole."""
    assert "there are more (--max-rows" in tables.footer(rows({"a": 1}, truncated=True))


def test_csv_has_a_header_and_quotes_what_needs_it() -> None:
    """As spreadsheets read it; NULL is an empty field."""
    found = rows({"a": 'x,"y"', "b": None, "c": ANN}, {"a": "", "b": 1.5, "c": [1]})
    assert rendering.as_csv(found.columns, found) == ('a,b,c\n"x,""y""",,"(:User {name: ""x""})"\n,1.5,[1]\n')


def test_json_rows_are_typed_json() -> None:
    """A number is a number, and a date can be told from a text."""
    assert rendering.plain(rows({"a": 1, "b": Date(2024, 2, 29)})) == [
        {"a": 1, "b": {"$type": "Date", "_value": "2024-02-29"}}
    ]
