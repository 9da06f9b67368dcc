from __future__ import annotations

import csv
import io
import json
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from neo4j.spatial import CartesianPoint, WGS84Point
from neo4j.time import Date, DateTime, Duration, Time

from ops import rendering, showing
from ops.forms import form_of
from replica.values import Node, Path, Relationship
from tasks.answers import Answer, Ending
from tasks.results import Rows, Summary


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
    assert showing.footer(found) == says


def test_the_footer_says_that_there_is_more() -> None:
    """A cut answer is not taken for the whole."""
    assert "there are more (--max-rows" in showing.footer(rows({"a": 1}, truncated=True))


def test_the_footer_has_the_level_and_the_time() -> None:
    """Where they are known."""
    header = Answer("id", "run", 0, end=False, replica="replica-2", level="max_lag=5")
    ending = Ending(rows=1200, took_ms=3.7)
    last = Answer("id", "run", 1, end=True, replica="replica-2", position=41, summary=ending)
    told = showing.footer(Summary(header, last), 12.3)
    assert told == "1,200 rows from replica-2, at command 41, max_lag=5, in 12 ms (4 ms on the replica)"


@pytest.mark.parametrize("form", ["table", "json", "jsonl", "csv"])
@given(sizes=st.lists(st.integers(0, 3), max_size=5))
def test_every_form_is_the_same_however_the_rows_come(form: str, sizes: list[int]) -> None:
    """In whichever batches, also empty ones; and each can be read by what it is for."""
    found = iter(range(sum(sizes)))
    batches = [[{"n": next(found), "text": "a\tb"} for _ in range(size)] for size in sizes]
    together = [row for batch in batches for row in batch]
    write = form_of(form, None)
    text = "".join(write(["n", "text"], batches))
    assert text == "".join(write(["n", "text"], [together]))
    assert _read(form, text) == together


def _read(form: str, text: str) -> list[dict[str, Any]]:
    if form == "json":
        return list(json.loads(text))
    if form == "jsonl":
        return [json.loads(line) for line in text.splitlines()]
    rows = list(csv.DictReader(io.StringIO(text), dialect="excel-tab" if form == "table" else "excel"))
    return [{"n": int(row["n"]), "text": row["text"].replace("\\x09", "\t")} for row in rows]


def test_csv_has_a_header_and_quotes_what_needs_it() -> None:
    """As spreadsheets read it; NULL is an empty field."""
    found = rows({"a": 'x,"y"', "b": None, "c": ANN}, {"a": "", "b": 1.5, "c": [1]})
    text = "".join(form_of("csv", None)(found.columns, [found]))
    assert text == 'a,b,c\n"x,""y""",,"(:User {name: ""x""})"\n,1.5,[1]\n'


def test_json_rows_are_typed_json() -> None:
    """A number is a number, and a date can be told from a text."""
    text = "".join(form_of("jsonl", None)(["a", "b"], [[{"a": 1, "b": Date(2024, 2, 29)}]]))
    assert json.loads(text) == {"a": 1, "b": {"$type": "Date", "_value": "2024-02-29"}}


def test_nothing_is_an_empty_list_and_a_line_of_columns() -> None:
    """So that it can be told from no answer at all."""
    texts = {form: "".join(form_of(form, None)(["a", "b"], [[]])) for form in ("table", "json", "jsonl", "csv")}
    assert texts == {"table": "a\tb\n", "json": "[]\n", "jsonl": "", "csv": "a,b\n"}
    assert click.unstyle("".join(form_of("table", 80)(["a", "b"], [[]]))) == "a   b\n──  ──\n"
