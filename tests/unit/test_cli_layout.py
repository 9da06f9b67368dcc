"""How rows are drawn on a terminal."""

from __future__ import annotations

from typing import Any

import click
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from ops.layout import Layout


def drawn(rows: list[dict[str, Any]], terminal: int, sample: int | None = None) -> list[str]:
    """The lines of a table of *rows*, of which the first *sample* decide how wide it is."""
    layout = Layout(list(rows[0]), rows[:sample], terminal)
    return click.unstyle(layout.head() + "".join(map(layout.row, rows))).splitlines()


def test_a_table_has_numbers_at_the_right_and_a_rule_below_its_head() -> None:
    """It is as wide as its cells."""
    rows = [{"name": "ann", "age": 5, "knows": None}, {"name": "bartholomew", "age": 12345, "knows": "[:KNOWS]"}]
    assert drawn(rows, 80) == [
        "name           age  knows",
        "───────────  ─────  ────────",
        "ann              5  NULL",
        "bartholomew  12345  [:KNOWS]",
    ]


def test_the_widest_columns_give_way_and_nothing_is_cut_off() -> None:
    """A cell that is too wide goes on in the next line, from a space on where there is one."""
    rows = [{"n": 1, "text": "some words that are many", "long": "y" * 25}]
    assert drawn(rows, 36) == [
        " n  text             long",
        "──  ───────────────  ───────────────",
        " 1  some words that  yyyyyyyyyyyyyyy",
        "    are many         yyyyyyyyyy",
    ]


def test_rows_that_come_later_keep_to_the_columns() -> None:
    """The last column has what is left of the line."""
    rows = [{"a": "x", "b": "y"}, {"a": "abcd", "b": "a sentence of some length"}]
    assert drawn(rows, 40, sample=1) == [
        "a   b",
        "──  ──",
        "x   y",
        "ab  a sentence of some length",
        "cd",
    ]


def test_too_many_columns_make_blocks_of_lines() -> None:
    """One for each row."""
    rows = [{f"column {n}": "x" * 12 for n in range(8)}] * 2
    lines = drawn(rows, 40)
    assert lines[0] == "─ row 1 " + "─" * 32
    assert lines[1] == "column 0  xxxxxxxxxxxx"
    assert lines[9].startswith("─ row 2 ─")
    assert len(lines) == 18


def test_without_columns_there_is_nothing_to_draw() -> None:
    """`MATCH (n) FINISH` has none."""
    assert Layout([], [], 80).head() == ""


TEXTS = st.text(st.characters(exclude_categories=["Cc", "Cs", "M", "Cf", "Zl", "Zp"]) | st.sampled_from("界語 "))


@given(
    rows=st.integers(1, 6).flatmap(
        lambda columns: st.lists(
            st.fixed_dictionaries({f"c{n}": TEXTS | st.integers() | st.none() for n in range(columns)}), min_size=1
        )
    ),
    terminal=st.integers(20, 60),
    sample=st.integers(0, 3),
)
def test_no_line_is_wider_than_the_terminal_and_no_letter_is_lost(
    rows: list[dict[str, Any]], terminal: int, sample: int
) -> None:
    """Whatever the cells are, and however few of them were known when the widths were chosen."""
    lines = drawn(rows, terminal, sample)
    assert all(cell_len(line) <= terminal for line in lines)
    letters = sorted(letter for line in lines for letter in line if letter in "界語")
    assert letters == sorted(c for row in rows for v in row.values() if isinstance(v, str) for c in v if c in "界語")
