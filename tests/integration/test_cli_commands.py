"""`enqueue-command` on real servers: what it prints, and every exit code."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

import cli
from tests.replicas import Replicas, replicas_of, value, wait_for_value
from tests.support import unique


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Neo4jServer

    Run = Callable[..., Result]

TAGGED = "CREATE (:CliItem {tag: $tag})"


@pytest.fixture(scope="module")
def replicas(
    kafka: str, neo4j_servers: tuple[Neo4jServer, ...], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Replicas]:
    """Two replicas at work."""
    with replicas_of(kafka, neo4j_servers[:2], tmp_path_factory.mktemp("cli")) as found:
        found.app().run_command.send("MERGE (:Ready)").wait(applied=2, timeout=60)
        yield found


@pytest.fixture
def run(replicas: Replicas) -> Run:
    """Run `enqueue-command` as a user whose environment points at the first replica."""

    def run(*arguments: str, stdin: str = "", **environment: str) -> Result:
        env = {**replicas.env(1), **environment}
        return CliRunner().invoke(cli.main, ["enqueue-command", *arguments], input=stdin, env=env)

    return run


def count(replicas: Replicas, tag: str) -> int:
    """Items with this tag in the first database."""
    return int(value(replicas.servers[0], "MATCH (i:CliItem {tag: $tag}) RETURN count(i)", tag=tag))


def test_a_command_is_confirmed_by_its_offset(run: Run, replicas: Replicas) -> None:
    """It is in the log when the program ends."""
    before = len(replicas.read("command"))
    result = run(TAGGED, "-p", f"tag={unique()}", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["offset"] == before
    assert len(replicas.read("command")) == before + 1


@pytest.mark.parametrize(("wait", "least"), [("any", 1), ("all", 2)])
def test_waiting_ends_when_replicas_have_applied_it(run: Run, replicas: Replicas, wait: str, least: int) -> None:
    """And says which ones have."""
    result = run("MERGE (:Waited)", "--wait", wait, "--json")
    assert result.exit_code == 0, result.output
    applied = json.loads(result.stdout)["applied_by"]
    assert len(applied) >= least
    assert set(applied) <= {replicas.env(1)["GROUP_ID"], replicas.env(2)["GROUP_ID"]}


def test_people_read_a_sentence(run: Run) -> None:
    """Offset and replicas."""
    result = run("MERGE (:Waited)", "--wait", "all")
    assert "is in the log, applied by " in result.stdout


def test_parameters_keep_their_types(run: Run, replicas: Replicas) -> None:
    """Numbers, texts, lists, and what only typed JSON can say."""
    tag = unique()
    text = "CREATE (:CliItem {tag: $tag, n: $n, l: $l, d: $d})"
    typed = '{"d": {"$type": "Date", "_value": "2024-02-29"}, "n": 1}'
    pairs = ("-p", f"tag={tag}", "-p", "n=2", "-p", 'l=["a"]')
    assert run(text, "--params", typed, *pairs, "--wait", "all").exit_code == 0
    found = value(replicas.servers[1], "MATCH (i:CliItem {tag: $tag}) RETURN [i.n, i.l[0], toString(i.d)]", tag=tag)
    assert found == [2, "a", "2024-02-29"]


def test_a_key_is_the_key_of_the_record(run: Run, replicas: Replicas) -> None:
    """For whoever looks for a command in the log."""
    assert run("MERGE (:Waited)", "--key", "order-7").exit_code == 0
    assert replicas.read("command")[-1].key() == b"order-7"


def test_a_rejected_command_is_exit_code_four(run: Run) -> None:
    """With the code and the words of the database."""
    result = run("CREATE (:CliItem {tag: 1}) RETRUN 1", "--wait", "all")
    assert result.exit_code == 4
    assert "Neo.ClientError.Statement.SyntaxError: Invalid input" in result.stderr


@pytest.mark.parametrize("text", ["LOAD CSV FROM 'x' AS row RETURN row", "  ", "CREATE USER ann SET PASSWORD 'x'"])
def test_a_refused_command_is_exit_code_four_and_not_in_the_log(run: Run, replicas: Replicas, text: str) -> None:
    """No replica could apply it, so it is not sent."""
    before = len(replicas.read("command"))
    assert run(text).exit_code == 4
    assert len(replicas.read("command")) == before


@pytest.mark.parametrize("pair", ["x=99999999999999999999", 'x={"$type": "Date", "_value": "?"}', "x"])
def test_a_parameter_that_cannot_be_sent_is_exit_code_two(run: Run, pair: str) -> None:
    """And is named."""
    result = run("RETURN $x", "-p", pair)
    assert result.exit_code == 2
    assert "x" in result.stderr


def test_a_command_larger_than_kafka_takes_is_exit_code_one(run: Run) -> None:
    """The text says how large it was."""
    result = run("RETURN $x", "-p", f"x={'y' * 2_000_000}")
    assert result.exit_code == 1
    assert "2,000," in result.stderr


def test_an_answer_that_does_not_come_is_exit_code_three(run: Run) -> None:
    """The text says who was waited for: here nobody is at work."""
    result = run("MERGE (:Waited)", "--wait", "all", "--timeout", "1", B_TOPIC_PREFIX=unique() + "-")
    assert result.exit_code == 3
    assert "no replica has registered" in result.stderr


def test_statements_come_from_standard_input(run: Run, replicas: Replicas) -> None:
    """Semicolons end them, but not those within texts and comments."""
    tag = unique()
    text = f"CREATE (:CliItem {{tag: '{tag}', a: ';'}}); // one; two\nCREATE (:CliItem {{tag: '{tag}'}});\n"
    result = run("--file", "-", "--wait", "all", stdin=text)
    assert result.exit_code == 0, result.output
    assert "2 commands are in the log" in result.stdout
    assert count(replicas, tag) == 2


def test_a_file_of_json_lines_is_applied_in_its_order(run: Run, replicas: Replicas, tmp_path: Path) -> None:
    """More of them than are confirmed together; keys are kept."""
    tag, many = unique(), 2500
    lines = [
        json.dumps({"command": f"MERGE (i:CliItem {{tag: '{tag}'}}) SET i.n = $n", "params": {"n": n}, "with_key": "k"})
        for n in range(many)
    ]
    file = tmp_path / "commands.jsonl"
    file.write_text("\n".join(lines))
    told = json.loads(run("--file", str(file), "--wait", "all", "--timeout", "60", "--json").stdout)
    assert (told["commands"], told["last"] - told["first"], told["rejected"]) == (many, many - 1, 0)
    assert value(replicas.servers[0], "MATCH (i:CliItem {tag: $tag}) RETURN i.n", tag=tag) == many - 1
    assert replicas.read("command")[-1].key() == b"k"


def test_rejected_commands_of_a_file_are_counted(run: Run, replicas: Replicas) -> None:
    """And shown; what comes after them is applied."""
    tag = unique()
    text = f"NONSENSE; CREATE (:CliItem {{tag: '{tag}'}}); RETURN 1 +;"
    result = run("--file", "-", "--wait", "all", stdin=text)
    assert result.exit_code == 4
    assert "2 of them were rejected" in result.stdout
    assert "Neo.ClientError.Statement.SyntaxError" in result.stdout
    assert count(replicas, tag) == 1


def test_a_bad_line_before_anything_was_sent_is_exit_code_two(run: Run, replicas: Replicas) -> None:
    """The lines before it are not sent either, if they are few enough to be confirmed together."""
    before = len(replicas.read("command"))
    result = run("--file", "-", stdin='{"command": "MERGE (:Waited)"}\n{"no": 1}')
    assert result.exit_code == 2
    assert "line 2" in result.stderr
    assert len(replicas.read("command")) == before


@pytest.mark.parametrize("bad", ['{"no": 1}', '{"command": " "}', '{"command": "RETURN $x", "params": {"x": 1e400}}'])
def test_a_bad_line_after_others_were_sent_is_exit_code_one(run: Run, replicas: Replicas, bad: str) -> None:
    """The text says which line, and how many are in the log."""
    before = len(replicas.read("command"))
    result = run("--file", "-", stdin='{"command": "MERGE (:Waited)"}\n' * 1000 + bad)
    assert result.exit_code == 1
    assert "line 1001" in result.stderr
    assert f"1,000 commands are in the log, the last one at offset {before + 999}" in result.stderr


def test_a_line_that_kafka_refuses_is_named(run: Run, replicas: Replicas) -> None:
    """Those beside it went with it and are in the log."""
    tag = unique()
    small = json.dumps({"command": TAGGED, "params": {"tag": tag}})
    large = json.dumps({"command": TAGGED, "params": {"tag": "y" * 2_000_000}})
    result = run("--file", "-", stdin=f"{small}\n{large}\n{small}\n", MAX_MESSAGE_BYTES="3900000")
    assert result.exit_code == 1
    assert "not confirmed: line 2;" in result.stderr
    wait_for_value(replicas.servers[0], f"MATCH (i:CliItem {{tag: '{tag}'}}) RETURN count(i)", 2)


def test_an_empty_file_is_no_mistake(run: Run) -> None:
    """There is nothing to do."""
    result = run("--file", "-", "--wait", "all", stdin="// nothing\n")
    assert (result.exit_code, result.stdout) == (0, "No command in it.\n")
