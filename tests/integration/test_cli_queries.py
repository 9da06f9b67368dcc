"""`enqueue-query` and `status` on real servers."""

from __future__ import annotations

import csv
import json
import re
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

import cli
from tests.replicas import Replicas, replicas_of
from tests.support import unique


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Neo4jServer

    Run = Callable[..., Result]


@pytest.fixture(scope="module")
def replicas(
    kafka: str, neo4j_servers: tuple[Neo4jServer, ...], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Replicas]:
    """Two replicas at work, with two users who know each other."""
    folder = tmp_path_factory.mktemp("cli")
    with replicas_of(kafka, neo4j_servers[:2], folder, QUERY_ALLOWED="db.info,dbms.components") as found:
        text = "CREATE (:User {name: 'ann', age: 30})-[:KNOWS {since: date('2020-01-01')}]->(:User {name: 'b;\"c\"'})"
        found.app().run_command.send(text).wait(applied=2, timeout=60)
        yield found


@pytest.fixture
def run(replicas: Replicas) -> Run:
    """Run `enqueue-query` as a user whose environment points at the first replica."""

    def run(*arguments: str, command: str = "enqueue-query", **environment: str) -> Result:
        env = {**replicas.env(1), **environment}
        return CliRunner().invoke(cli.main, [command, *arguments], env=env)

    return run


PAIR = "MATCH (a)-[r:KNOWS]->(b) RETURN a, r, b.name AS name, a.age AS age, null AS nothing"


def test_a_table_shows_rows_as_people_read_them(run: Run) -> None:
    """Columns in the order of the query; where the rows are from stands on standard error."""
    result = run(PAIR)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "a\tr\tname\tage\tnothing",
        '(:User {age: 30, name: "ann"})\t[:KNOWS {since: 2020-01-01}]\tb;"c"\t30\tNULL',
    ]
    assert result.stderr.startswith("1 row from ")
    assert re.search(r", at command 0, in [\d,]+ ms \([\d,]+ ms on the replica\)\n$", result.stderr)


def test_json_rows_are_a_list_of_objects(run: Run) -> None:
    """In typed JSON, so that nothing is lost."""
    [row] = json.loads(run(PAIR, "--format", "json").stdout)
    assert row["a"]["_value"]["_properties"] == {"name": "ann", "age": 30}
    assert row["r"]["_value"]["_properties"] == {"since": {"$type": "Date", "_value": "2020-01-01"}}
    assert (row["age"], row["nothing"]) == (30, None)


def test_json_lines_are_an_object_for_each_row(run: Run) -> None:
    """For programs that take one after the other."""
    result = run("UNWIND [1, 2] AS n RETURN n, date('2020-01-0' + n) AS day", "--format", "jsonl")
    assert [json.loads(line) for line in result.stdout.splitlines()] == [
        {"n": n, "day": {"$type": "Date", "_value": f"2020-01-0{n}"}} for n in (1, 2)
    ]
    assert result.stderr.startswith("2 rows from ")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--linearizable"], r"linearizable \(0\)"),
        (["--at-least", "0"], "at_least=0"),
        (["--at-least", "last"], r"linearizable \(0\)"),
        (["--max-lag", "60s"], "max_lag_s=60"),
        (["--max-lag", "60s", "--max-lag", "5"], "max_lag=5 and max_lag_s=60"),
        (["--snapshot", "--at-least", "0"], "at_least=0 and snapshot"),
        (["--snapshot"], "snapshot"),
    ],
)
def test_the_summary_has_the_level_that_was_asked_for(run: Run, options: list[str], told: str) -> None:
    """Whoever asked for one can see that it was kept."""
    result = run("RETURN 1 AS n", *options)
    assert result.exit_code == 0, result.stderr
    assert re.search(f", at command 0, {told}, in ", result.stderr), result.stderr


def test_no_replica_that_is_fresh_enough_is_exit_code_three(run: Run) -> None:
    """The log has no such command yet; the text says how far it is."""
    result = run("RETURN 1 AS n", "--at-least", "1000", QUERY_WAIT_S="0.5")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "at_least=1000" in result.stderr


def test_what_the_server_warns_of_stands_beside_the_rows(run: Run) -> None:
    """A label that is written wrongly gives no rows, and nobody would know why."""
    result = run("MATCH (u:Usr) RETURN u.name AS name", "--format", "csv")
    assert (result.exit_code, result.stdout) == (0, "name\n")
    assert "label `Usr` does not exist" in result.stderr


def test_csv_rows_can_be_read_by_a_spreadsheet(run: Run) -> None:
    """A header, and quotes where a text needs them."""
    [row] = csv.DictReader(run(PAIR, "--format", "csv").stdout.splitlines())
    assert (row["name"], row["age"], row["nothing"]) == ('b;"c"', "30", "")


def test_json_is_the_whole_answer(run: Run, replicas: Replicas) -> None:
    """Columns, rows, who answered, and how new."""
    answer = json.loads(run("RETURN $x AS x", "-p", "x=[1]", "--json").stdout)
    assert answer.pop("replica") in {replicas.env(1)["GROUP_ID"], replicas.env(2)["GROUP_ID"]}
    assert answer == {"columns": ["x"], "rows": [{"x": [1]}], "truncated": False, "position": 0}


def test_rows_beyond_the_limit_are_cut_and_said_so(run: Run) -> None:
    """In every form."""
    text = "UNWIND range(1, 10) AS i RETURN i"
    for form in ("table", "json", "jsonl", "csv"):
        result = run(text, "--max-rows", "3", "--format", form)
        assert "3 rows, cut off: there are more" in result.stderr
    assert len(json.loads(run(text, "--max-rows", "3", "--json").stdout)["rows"]) == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("RETURN 1 +", "Neo.ClientError.Statement.SyntaxError: Invalid input"),
        ("CREATE (n) RETURN n", "send a command"),
        ("LOAD CSV FROM 'x' AS r RETURN r", "reads files"),
    ],
)
def test_an_error_is_exit_code_one_with_the_words_of_the_database(run: Run, text: str, says: str) -> None:
    """And the replica that said it."""
    result = run(text)
    assert result.exit_code == 1
    assert says in result.stderr
    assert "(answered by " in result.stderr


def test_an_error_has_the_places_of_the_text_as_it_was_typed(run: Run) -> None:
    """Although the server was asked to compile it first; so has the plan's."""
    text = "MATCH (u:User)\nRETURN u, missing"
    for options in ([], ["--explain"]):
        said = run(text, *options).stderr
        assert "(line 2, column 11 (offset: 25))" in said
        assert '"RETURN u, missing"\n           ^\n(answered by ' in said


def test_a_plan_is_shown_and_nothing_is_run(run: Run) -> None:
    """By the server that would run it, with what it warns of."""
    result = run("MATCH (u:User {name: $name}) RETURN u.age / 0, u.nme", "-p", "name=ann", "--explain")
    assert (result.exit_code, result.stderr) == (0, "")
    assert re.match(r"verdict   a query: .*\nasked     \S+, Neo4j/\S+\nwarning   .*nme", result.stdout), result.stdout
    assert "ProduceResults" in result.stdout

    told = json.loads(run("MATCH (u:User) RETURN u", "--explain", "--json").stdout)
    assert (told["refused"], told["warnings"]) == (None, [])
    assert "NodeByLabelScan" in told["plan"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("CREATE (n) RETURN n", "send a command"),
        ("LOAD CSV FROM 'x' AS r RETURN r", "reads files"),
        ("CALL apoc.cypher.doIt('CREATE (:X)', {})", "the procedure apoc.cypher.doIt is not on the list"),
    ],
)
def test_what_replicas_refuse_is_explained_with_exit_code_four(run: Run, text: str, says: str) -> None:
    """In their own words."""
    result = run(text, "--explain")
    assert result.exit_code == 4
    assert re.match(f"refused   .*{says}", result.stdout), result.stdout
    assert says in json.loads(run(text, "--explain", "--json").stdout)["refused"]


def test_what_the_operator_allows_is_called_and_nothing_else(run: Run) -> None:
    """The server still says what is no reading, and other procedures are refused as ever."""
    result = run("CALL db.info() YIELD name RETURN name")
    assert (result.exit_code, result.stdout.splitlines()[:2]) == (0, ["name", "neo4j"]), result.stderr
    assert "send a command" in run("CALL dbms.components() YIELD name RETURN name").stderr
    assert "QUERY_ALLOWED adds to it" in run("CALL dbms.listConfig() YIELD name RETURN name").stderr


def test_a_query_that_begins_with_explain_shows_its_plan(run: Run) -> None:
    """Beside the rows that it has not."""
    table, lines = (run("EXPLAIN MATCH (u:User) RETURN u", "--format", form) for form in ("table", "jsonl"))
    assert "NodeByLabelScan" in table.stdout
    assert lines.stdout == ""
    assert "NodeByLabelScan" in lines.stderr


def test_no_answer_in_time_is_exit_code_three(run: Run) -> None:
    """Nobody is at work on these topics."""
    result = run("RETURN 1", "--timeout", "1", B_TOPIC_PREFIX=unique() + "-")
    assert result.exit_code == 3
    assert "no answer" in result.stderr


def test_a_parameter_that_cannot_be_sent_is_exit_code_two(run: Run) -> None:
    """Nothing was asked."""
    assert run("RETURN $x", "-p", "x=99999999999999999999").exit_code == 2


def test_status_tells_how_far_each_replica_is(run: Run, replicas: Replicas, tmp_path: Path) -> None:
    """Its last command, and how many it has before it."""
    nothing = str(tmp_path)
    told = json.loads(run("--state-dir", nothing, "--json", command="status").stdout)
    names = [replicas.env(number)["GROUP_ID"] for number in (1, 2)]
    assert (told["servers"], told["problem"]) == ([], None)
    found = [(row["name"], row["position"], row["lag"], row["state"]) for row in told["replicas"]]
    assert found == [(name, 0, 0, "applying") for name in names]
    assert f"{names[0]}\t0\t0\t0\tapplying" in run("--state-dir", nothing, command="status").stdout


def test_status_counts_what_a_replica_has_not_applied(
    kafka: str, neo4j_servers: tuple[Neo4jServer, ...], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Here its worker is gone."""
    folder = tmp_path_factory.mktemp("lag")
    with replicas_of(kafka, neo4j_servers[2:], folder) as replicas:
        app = replicas.app()
        app.run_command.send("MERGE (:Ready)").wait(applied=1, timeout=60)
        replicas.kill(1)
        for _ in range(3):
            app.run_command.send("MERGE (:Ready)")
        result = CliRunner().invoke(cli.main, ["status", "--state-dir", str(folder), "--json"], env={**replicas.env(1)})
        [row] = json.loads(result.stdout)["replicas"]
        assert (row["position"], row["lag"], row["state"]) == (0, 3, "away")
