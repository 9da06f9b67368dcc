"""Tables on terminals of any width."""

from __future__ import annotations

import sys

import click
import pytest

from ops.console import print_table


TITLES = ("name", "last command", "why")
ROWS = [("a-long-name-that-names-it", 13, "some words that say why"), ("b", 8, "")]


def printed(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rows: object = ROWS
) -> list[str]:
    """What stands on a terminal of that width, without what is empty."""
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_table(TITLES, rows)  # type: ignore[arg-type]
    lines = [line.rstrip() for line in click.unstyle(capsys.readouterr().out).splitlines()]
    assert all(len(line) <= width for line in lines)
    return [" ".join(line.split()) for line in lines if line]


def test_a_pipe_gets_everything_between_tabs(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the width is."""
    print_table(TITLES, ROWS)
    first, second, _ = capsys.readouterr().out.splitlines()
    assert first.split("\t") == list(TITLES)
    assert second.split("\t") == [str(cell) for cell in ROWS[0]]


@pytest.mark.parametrize("width", range(52, 80))
def test_no_word_is_cut(width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Cells go on below, but for the one that names the row."""
    lines = printed(width, monkeypatch, capsys)
    assert any(line.startswith("a-long-name-that-names-it 13 some") for line in lines)
    words = " ".join(lines).split()
    assert all(word in words for word in ("last", "command", "some", "words", "that", "say", "why"))


def test_rows_that_do_not_fit_stand_below_each_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each value beside its title; what is empty is left out."""
    assert printed(45, monkeypatch, capsys, ROWS) == [
        "name a-long-name-that-names-it",
        "last command 13",
        "why some words that say why",
        "name b",
        "last command 8",
    ]


def test_a_table_without_rows_has_its_titles(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And brackets in cells are no markup."""
    assert printed(80, monkeypatch, capsys, [])[0] == "name last command why"
    assert "x [red] y" in printed(80, monkeypatch, capsys, [("x", "[red]", "y")])
