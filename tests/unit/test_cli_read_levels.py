"""How fresh an answer has to be, as it is said on the command line."""

from __future__ import annotations

from typing import Any

import click
import pytest
from click.testing import CliRunner

from ops.read_levels import level_options, query_options


def parsed(*arguments: str) -> tuple[dict[str, Any], str]:
    """The options that *arguments* mean, and what is said against them."""
    found: dict[str, Any] = {}

    @click.command()
    @level_options
    def command(**level: Any) -> None:
        found.update(query_options(**level))

    result = CliRunner().invoke(command, arguments)
    return found, result.output


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ([], {}),
        (["--at-least", "12"], {"at_least": 12}),
        (["--at-least", "nk1:log:12"], {"at_least": "nk1:log:12"}),
        (["--at-least", "last"], {"linearizable": True}),
        (["--linearizable", "--snapshot"], {"linearizable": True, "snapshot": True}),
        (["--max-lag", "5s"], {"max_lag_s": 5.0}),
        (["--max-lag", "500ms", "--max-lag", "0"], {"max_lag_s": 0.5, "max_lag": 0}),
        (["--max-lag", "2m", "--at-least", "0"], {"max_lag_s": 120.0, "at_least": 0}),
    ],
)
def test_options_become_a_level(arguments: list[str], options: dict[str, Any]) -> None:
    """As `send_with_options` takes it."""
    found, output = parsed(*arguments)

    assert output == ""
    assert found == options


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--max-lag", "soon"], "neither a time, such as 500ms, 5s or 2m, nor a number of offsets"),
        (["--max-lag", "-5s"], "neither a time"),
        (["--max-lag", "5s", "--max-lag", "1m"], "once as a time and once as a number of offsets"),
        (["--linearizable", "--at-least", "4"], "leave the other levels out"),
        (["--at-least", "last", "--max-lag", "5"], "leave the other levels out"),
    ],
)
def test_what_contradicts_itself_is_said(arguments: list[str], text: str) -> None:
    """Before anything is sent."""
    found, output = parsed(*arguments)

    assert found == {}
    assert text in " ".join(output.replace("│", " ").split())
