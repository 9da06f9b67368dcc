"""Conditions and ids through Kafka: what a sender is told, from Python, from the command line, and from any client."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

import cli
from replica.conditions import NOT_MET
from replica.ids import DUPLICATE
from replica.statement import Statement
from tasks.errors import CommandRejected
from tests.replicas import Replicas, replicas_of, value
from tests.support import unique


if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Neo4jServer

TAKE = "MATCH (a:Account {id: $id}) SET a.balance = a.balance - $n"
ENOUGH = "MATCH (a:Account {id: $id}) WHERE a.balance >= $n RETURN true"


@pytest.fixture(scope="module")
def replicas(
    kafka: str, neo4j_servers: tuple[Neo4jServer, ...], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Replicas]:
    """Two replicas at work."""
    with replicas_of(kafka, neo4j_servers[:2], tmp_path_factory.mktemp("writers")) as found:
        found.app().run_command.send("MERGE (:Ready)").wait(applied=2, timeout=60)
        yield found


@pytest.fixture
def account(replicas: Replicas) -> str:
    """The id of an account with 100 in it."""
    name = unique("account")
    replicas.apps[0].run_command.send("CREATE (:Account {id: $id, balance: 100})", id=name).wait(timeout=30)
    return name


def balances(replicas: Replicas, account: str) -> list[Any]:
    """What each replica has in it."""
    text = "MATCH (a:Account {id: $id}) RETURN a.balance"
    return [value(server, text, id=account) for server in replicas.servers]


def test_of_writers_that_race_as_many_win_as_there_is_for(replicas: Replicas, account: str) -> None:
    """Nobody locks anything: the log has an order, and every replica decides in it."""
    app = replicas.apps[0]

    def take(_: int) -> str:
        receipt = app.run_command.send_with_options(args=(TAKE,), kwargs={"id": account, "n": 15}, when=ENOUGH)
        try:
            receipt.wait(applied="all", timeout=60)
        except CommandRejected as error:
            return error.code
        return "applied"

    with ThreadPoolExecutor(8) as pool:
        ends = list(pool.map(take, range(20)))
    assert (ends.count("applied"), ends.count(NOT_MET)) == (6, 14)
    assert balances(replicas, account) == [10, 10]


def test_a_command_that_is_sent_again_says_where_the_first_one_is(replicas: Replicas, account: str) -> None:
    """Both callers hear that it is applied; the second one also that it had been."""
    app, id_ = replicas.apps[0], unique("order")
    receipts = [
        app.run_command.send_with_options(args=(TAKE,), kwargs={"id": account, "n": 15}, id=id_) for _ in range(3)
    ]
    first, *others = (receipt.wait(applied="all", timeout=30) for receipt in receipts)
    assert {outcome.duplicate_of for outcome in first.values()} == {None}
    for found in others:
        assert len(found) == 2
        assert all(outcome.applied and outcome.code == DUPLICATE for outcome in found.values())
        assert {outcome.duplicate_of for outcome in found.values()} == {receipts[0].position()}
    assert balances(replicas, account) == [85, 85]


def test_a_rejected_command_may_be_sent_again_under_its_id(replicas: Replicas, account: str) -> None:
    """Its id is not used up."""
    app, id_ = replicas.apps[0], unique("order")

    def take() -> Any:
        options: dict[str, Any] = {"when": ENOUGH, "id": id_}
        return app.run_command.send_with_options(args=(TAKE,), kwargs={"id": account, "n": 150}, **options)

    with pytest.raises(CommandRejected, match=NOT_MET):
        take().wait(timeout=30)
    app.run_command.send("MATCH (a:Account {id: $id}) SET a.balance = 200", id=account)
    assert {each.duplicate_of for each in take().wait(applied="all", timeout=30).values()} == {None}
    assert balances(replicas, account) == [50, 50]


def test_several_statements_have_a_condition_with_parameters_of_its_own(replicas: Replicas, account: str) -> None:
    """Which travel beside it."""
    together = [
        Statement(TAKE, {"id": account, "n": 30}),
        Statement("CREATE (:Booked {account: $id})", {"id": account}),
    ]
    when = Statement(ENOUGH, {"id": account, "n": 60})
    ends = []
    for _ in range(3):
        receipt = replicas.apps[0].run_command.send_with_options(args=(together,), when=when)
        try:
            receipt.wait(applied="all", timeout=30)
            ends.append("applied")
        except CommandRejected as error:
            ends.append(error.code)
    assert ends == ["applied", "applied", NOT_MET]
    assert balances(replicas, account) == [40, 40]
    booked = "MATCH (b:Booked {account: $id}) RETURN count(b)"
    assert [value(server, booked, id=account) for server in replicas.servers] == [2, 2]


def test_any_kafka_client_may_say_when_and_which(replicas: Replicas, account: str) -> None:
    """In the plain body, with the command's parameters."""
    body = {"command": TAKE, "params": {"id": account, "n": 30}, "when": ENOUGH, "id": unique("order")}
    for _ in range(2):
        replicas.produce("command", json.dumps(body).encode())
    for _ in range(3):
        replicas.produce("command", json.dumps({**body, "id": unique("order")}).encode())
    replicas.produce("command", json.dumps({**body, "id": 5}).encode())
    replicas.apps[0].run_command.send("MERGE (:Ready)").wait(applied="all", timeout=30)
    assert balances(replicas, account) == [10, 10]


def test_the_command_line_says_both(replicas: Replicas, account: str) -> None:
    """Not met is exit code 4, a duplicate is 0 and says of what."""

    def run(n: int, *arguments: str) -> Result:
        given = ("enqueue-command", TAKE, "-p", f"id={account}", "-p", f"n={n}", *arguments, "--wait", "all")
        return CliRunner().invoke(cli.main, given, env=replicas.env(1))

    id_ = unique("order")
    first = run(60, "--when", ENOUGH, "--id", id_, "--json")
    assert first.exit_code == 0, first.output
    again = run(60, "--when", ENOUGH, "--id", id_, "--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["duplicate_of"] == json.loads(first.stdout)["offset"]
    assert "did nothing" in run(60, "--id", id_).stdout
    refused = run(60, "--when", ENOUGH)
    assert refused.exit_code == 4
    assert NOT_MET in refused.stderr
    assert balances(replicas, account) == [40, 40]
