"""The shell's prompt, typed at: keys go in through a pipe, and what it runs is written down."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Any, cast

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from ops.errors import InputUnusable
from ops.shell import Left, level
from ops.shell_lines import Directive, Item, Statement
from ops.shell_prompt import _Words, converse
from ops.shell_words import Vocabulary
from tasks.errors import LevelRefused


if TYPE_CHECKING:
    from pathlib import Path


class Written:
    """A shell that writes down what it is to run."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.looked = 0

    def run(self, item: Item) -> None:
        if isinstance(item, Directive) and item.name == "quit":
            raise Left
        self.items.append(item)
        if isinstance(item, Statement) and item.text == "RETURN interrupted":
            raise KeyboardInterrupt
        if isinstance(item, Statement) and item.text == "RETURN wrong":
            raise InputUnusable("that was wrong")
        if isinstance(item, Statement) and item.text == "RETURN defect":
            raise ZeroDivisionError

    def names(self) -> Vocabulary:
        return Vocabulary(labels=("User",))

    def look_up(self) -> None:
        self.looked += 1


def typed(keys: str, history: Path | None = None) -> list[str]:
    """The texts of the statements that *keys* have run, when the conversation has ended by itself."""
    shell = Written()
    with create_pipe_input() as keyboard:
        keyboard.send_text(keys)
        converse(cast("Any", shell), history, input=keyboard, output=DummyOutput())
    return [item.text for item in shell.items if isinstance(item, Statement)]


def test_a_statement_goes_over_lines_until_its_semicolon() -> None:
    """Enter breaks the line of what is not complete."""
    assert typed("RETURN\r1;\rRETURN 2; RETURN 3;\r:quit\r") == ["RETURN\n1", "RETURN 2", "RETURN 3"]


def test_ctrl_d_ends_it() -> None:
    """On an empty line."""
    assert typed("RETURN 1;\r\x04") == ["RETURN 1"]


def test_ctrl_c_drops_what_is_typed_and_not_the_shell() -> None:
    """Also over several lines."""
    assert typed("RETURN\r1 +\x03RETURN 2;\r\x04") == ["RETURN 2"]


def test_ctrl_c_drops_what_is_waited_for_and_not_the_shell() -> None:
    """With what was to follow on the same line."""
    assert typed("RETURN interrupted; RETURN never;\rRETURN 2;\r\x04") == ["RETURN interrupted", "RETURN 2"]


def test_an_error_is_told_in_a_line_and_the_shell_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the error is; what follows it on the same line is not run."""
    keys = "RETURN wrong; RETURN never;\rRETURN defect;\r:nonsense\rRETURN 2;\r\x04"
    assert typed(keys) == ["RETURN wrong", "RETURN defect", "RETURN 2"]

    told = capsys.readouterr().err
    assert [line for line in told.splitlines() if line] == [
        "that was wrong",
        "ZeroDivisionError()",
        "line 1: there is no :nonsense; :help lists what there is",
    ]


def test_what_was_typed_is_remembered_for_its_owner_alone(tmp_path: Path) -> None:
    """A statement as a whole, and in a file that others cannot read."""
    file = tmp_path / "history"
    typed("RETURN\r1;\r\x04", file)

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "+RETURN\n+1;" in file.read_text()
    assert typed("\x1b[A\r\x04", file) == ["RETURN\n1"]  # the arrow up


def test_where_nothing_can_be_remembered_the_shell_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And says so."""
    assert typed("RETURN 1;\r\x04", tmp_path / "no" / "history") == ["RETURN 1"]
    assert "is not remembered" in capsys.readouterr().err


def test_the_words_at_the_cursor_are_offered() -> None:
    """In place of what was begun."""
    words = _Words(cast("Any", Written()))
    [found] = words.get_completions(Document("MATCH (u:us"), CompleteEvent())
    assert (found.text, found.start_position) == ("User", -2)


@pytest.mark.parametrize(
    ("argument", "options"),
    [
        ("session", None),
        ("any", {}),
        ("linearizable", {"linearizable": True}),
        ("max_lag 5s", {"max_lag_s": 5.0}),
        ("max_lag 100", {"max_lag": 100}),
        ("at_least 7", {"at_least": 7}),
        ("at_least nk1:log:7", {"at_least": "nk1:log:7"}),
    ],
)
def test_a_level_is_what_queries_call_it(argument: str, options: dict[str, Any] | None) -> None:
    """None for the session's."""
    assert level(argument) == options


@pytest.mark.parametrize("argument", ["newest", "any 5", "max_lag", "max_lag soon", "at_least", "at_least soon"])
def test_what_is_no_level_is_told(argument: str) -> None:
    """With those that there are, or how one is written."""
    with pytest.raises((InputUnusable, LevelRefused)):
        level(argument)
