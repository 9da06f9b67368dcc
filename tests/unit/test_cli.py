from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import cli
from ops.console import EXIT_CODES, Group, exit_code, json_option
from ops.errors import NotInStack, ServerSilent, StackBusy


ROOT = Path(__file__).parents[2]


@click.group(cls=Group)
@click.option("--debug", is_flag=True)
def group(*, debug: bool) -> None:
    """A command line like ours."""


@group.command()
@click.argument("name")
@json_option
def fail(*, name: str, as_json: bool) -> None:
    """Raise one of these."""
    raise {"gone": NotInStack("no neo4j-9."), "late": StackBusy("later."), "defect": KeyError("x")}[name]


@pytest.mark.parametrize(("name", "code"), [("gone", 1), ("late", 3)])
def test_an_expected_error_is_one_line_and_an_exit_code(name: str, code: int) -> None:
    """No traceback for what a user can mend."""
    result = CliRunner().invoke(group, ["fail", name])
    assert result.exit_code == code
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1


def test_with_json_an_error_is_an_object_on_stdout() -> None:
    """A program reads one object in every case."""
    result = CliRunner().invoke(group, ["fail", "gone", "--json"])
    assert json.loads(result.stdout) == {"error": {"type": "NotInStack", "message": "no neo4j-9.", "exit_code": 1}}
    assert result.stderr == ""


def test_lists_of_commands_cut_no_sentence() -> None:
    """At the top and in every group."""
    groups = [(), *((name,) for name, one in cli.main.commands.items() if isinstance(one, Group))]
    for path in groups:
        told = CliRunner().invoke(cli.main, [*path, "--help"]).stdout.partition("Commands:")[2]
        assert told, path
        assert "..." not in told


def test_debug_shows_the_traceback() -> None:
    """Whoever wants to know more gets the exception itself."""
    result = CliRunner().invoke(group, ["--debug", "fail", "gone"])
    assert isinstance(result.exception, NotInStack)


def test_a_defect_of_ours_is_not_hidden() -> None:
    """What nobody expected is shown whole, for the report."""
    assert isinstance(CliRunner().invoke(group, ["fail", "defect"]).exception, KeyError)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["fail"], 2), (["fail", "gone", "--nonsense"], 2), (["nonsense"], 2), (["fail", "gone"], 1)],
)
def test_wrong_usage_is_exit_code_two(arguments: list[str], code: int) -> None:
    """As every program of Click's does."""
    assert CliRunner().invoke(group, arguments).exit_code == code


def test_an_error_that_is_also_a_time_out_counts_as_one() -> None:
    """A caller that may wait longer can tell."""
    assert exit_code(ServerSilent("neo4j-1")) == 3
    assert exit_code(TimeoutError()) == 3
    assert exit_code(ValueError()) is None


@pytest.mark.parametrize("name", EXIT_CODES)
def test_every_error_with_an_exit_code_exists(name: str) -> None:
    """They are known by name only, and names change."""
    module, _, cls = name.rpartition(".")
    error = getattr(importlib.import_module(module), cls)
    assert issubclass(error, BaseException)
    assert f"{error.__module__}.{error.__qualname__}" == name


def test_help_imports_nothing_heavy() -> None:
    """`--help`, and completion in a shell, answer at once."""
    heavy = ("confluent_kafka", "dramatiq", "jgo", "neo4j", "psutil", "pydantic", "redis", "rich")
    code = f"import sys, cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_every_command_says_what_it_does() -> None:
    """The first line of its help is a sentence."""
    for command in cli.main.commands.values():
        assert command.help is not None
        assert command.help.splitlines()[0].endswith(".")


def test_status_of_nothing_says_how_to_begin(tmp_path: Path) -> None:
    """A new user is told the next command."""
    result = CliRunner().invoke(cli.main, ["status", "--state-dir", str(tmp_path)])
    assert result.exit_code == 0
    assert "neo4j-kafka up" in result.output


def test_json_of_nothing_is_still_an_object(tmp_path: Path) -> None:
    """Empty lists, not prose."""
    for command, key in (("status", "servers"), ("down", "stopped")):
        result = CliRunner().invoke(cli.main, [command, "--state-dir", str(tmp_path), "--json"])
        assert json.loads(result.stdout)[key] == []
