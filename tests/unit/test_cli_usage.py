from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner, Result

import cli


if TYPE_CHECKING:
    from collections.abc import Iterator


def run(*arguments: str, **environment: str) -> Result:
    """Run the program in this process."""
    return CliRunner().invoke(cli.main, arguments, env=environment)


def commands(group: click.Group) -> Iterator[tuple[str, click.Command]]:
    """Every command, also those of groups inside *group*."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command)
        else:
            yield name, command


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["enqueue-command"], "either the text of one command, or --file"),
        (["enqueue-command", "RETURN 1", "--file", "-"], "either the text of one command, or --file"),
        (["enqueue-command", "--file", "-", "-p", "a=1"], "belong to one command"),
        (["enqueue-command", "--file", "-", "--key", "k"], "belong to one command"),
        (["enqueue-command", "--file", "-", "--when", "RETURN true"], "belong to one command"),
        (["enqueue-command", "--file", "-", "--id", "order-1"], "belong to one command"),
        (["enqueue-command", "--file", "no-such-file"], "No such file"),
        (["enqueue-command", "RETURN 1", "--wait", "some"], "'some' is not one of"),
        (["enqueue-command", "RETURN 1", "--timeout", "0"], "0"),
        (["enqueue-query"], "Missing argument 'TEXT'"),
        (["enqueue-query", "RETURN 1", "--max-rows", "0"], "0"),
        (["enqueue-query", "RETURN 1", "--format", "xml"], "'xml' is not one of"),
        (["demo", "--replicas", "1"], "1"),
        (["dead", "list", "--error", "E"], "Name the queue"),
        (["dead", "list", "q", "--since", "soon"], "'soon' is no time"),
        (["dead", "show", "q"], "Missing argument"),
        (["dead", "replay", "q"], "say which letters"),
        (["dead", "replay", "q", "--all", "1/1"], "say which letters"),
        (["dead", "purge", "q", "--rate", "1"], "No such option"),
        (["control", "revoke"], "exactly one of"),
        (["control", "abort", "id", "--actor", "work"], "exactly one of"),
        (["control", "unrevoke", "--actor", "work", "--queue", "q"], "exactly one of"),
        (["control", "pause"], "Missing argument 'QUEUE'"),
        (["control", "inspect", "--timeout", "0"], "0"),
        (["replica", "pause", "replica-1"], "Missing option '--reason'"),
        (["replica", "quarantine", "replica-1"], "Give --reason, or --lift with --force"),
        (["replica", "quarantine", "replica-1", "--lift"], "Give --reason, or --lift with --force"),
        (["replica", "quarantine", "replica-1", "--force", "--reason", "r"], "Give --reason, or --lift with --force"),
        (["replica", "add", "--name", "replica-4"], "Missing option '--neo4j-uri'"),
        (["replica", "add", "--name", "orders/replica-4", "--neo4j-uri", "bolt://x:1"], "has no slash"),
        (["delayed", "cancel"], "Give ids, --queue or --actor"),
        (["delayed", "list", "--limit", "-1"], "-1"),
    ],
)
def test_wrong_usage_is_exit_code_two_and_says_what_is_wrong(arguments: list[str], says: str) -> None:
    """Before anything is sent."""
    result = run(*arguments)
    assert result.exit_code == 2
    assert says in result.stderr


@pytest.mark.parametrize("arguments", [["enqueue-command", "RETURN 1"], ["enqueue-query", "RETURN 1"], ["init"]])
def test_a_wrong_setting_is_named(arguments: list[str]) -> None:
    """One line: which variable, and what is wrong with it."""
    result = run(*arguments, BROKERS="localhost")
    assert result.exit_code == 2
    assert result.stderr == "BROKERS: Value error, 'localhost' is not host:port\n"


def test_a_wrong_setting_is_an_object_with_json() -> None:
    """For programs, too."""
    result = run("worker", "--json", BROKERS="localhost")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["error"]["message"] == "BROKERS: Value error, 'localhost' is not host:port"


def test_every_command_takes_json() -> None:
    """As the README says."""
    for name, command in commands(cli.main):
        assert any("--json" in parameter.opts for parameter in command.params), name


def test_a_result_without_a_store_names_the_setting() -> None:
    """And is wrong usage: nothing was asked."""
    done = run("result", "some-id", "--state-dir", "no-such-stack", BROKERS="localhost:1", REDIS_URL="")

    assert done.exit_code == 2
    assert "set REDIS_URL" in done.output
