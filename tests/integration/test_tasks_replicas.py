"""Commands with receipts and queries with answers, on real servers and real worker processes."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import dramatiq
import pytest
from neo4j.time import Date

from replica.statement import Statement
from tasks import answers
from tasks.errors import ArgumentRefused, CommandRejected, QueryFailed, WaitTimeout
from tests.replicas import Replicas, replicas_of, value
from tests.support import unique, wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tasks.app import App
    from tests.conftest import Neo4jServer
    from tests.integration.actors import Actors


@pytest.fixture(scope="module")
def replicas(
    kafka: str, neo4j_servers: tuple[Neo4jServer, ...], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Replicas]:
    """Two replicas whose workers run both roles, in two processes each, and know a query function."""
    with replicas_of(kafka, neo4j_servers[:2], tmp_path_factory.mktemp("replicas"), started=False) as found:
        for number in (1, 2):
            found.start(number, modules=("tasks", "tests.integration.actors"), processes=2)
        yield found


@pytest.fixture(scope="module")
def app(replicas: Replicas) -> App:
    """A caller's app, once both replicas have registered and applied a first command."""
    app = replicas.app()
    first = app.run_command.send("CREATE CONSTRAINT user_name IF NOT EXISTS FOR (u:User) REQUIRE u.name IS UNIQUE")
    assert first.wait(applied=2, timeout=60).keys() == {replicas.env(n)["GROUP_ID"] for n in (1, 2)}
    return app


@pytest.fixture(scope="module")
def actors(app: App) -> Actors:
    """The query functions of the workers, as the caller knows them."""
    from tests.integration.actors import make

    return make(app)


def test_a_command_is_on_all_replicas_when_its_receipt_says_so(app: App, replicas: Replicas) -> None:
    """The outcome names each replica, and each database has the data at once."""
    receipt = app.run_command.send(
        "MERGE (u:User {name: $name}) SET u.born = $born", name="a", born=dt.date(1990, 1, 2)
    )

    outcomes = receipt.wait(applied="all")

    assert all(outcome.applied and outcome.offset == receipt.position() for outcome in outcomes.values())
    for server in replicas.servers:
        assert value(server, "MATCH (u:User {name: 'a'}) RETURN u.born") == Date(1990, 1, 2)


def test_statements_of_a_command_are_applied_together_or_not_at_all(app: App, replicas: Replicas) -> None:
    """The second one fails on every replica, so the first one leaves nothing."""
    app.run_command.send("MERGE (u:User {name: 'taken'})")
    receipt = app.run_command.send(
        [Statement("CREATE (:Half)"), Statement("CREATE (:User {name: $n})", {"n": "taken"})]
    )

    with pytest.raises(CommandRejected, match="already exists") as failure:
        receipt.wait(applied="all")

    assert failure.value.code == "Neo.ClientError.Schema.ConstraintValidationFailed"
    assert failure.value.offset == receipt.position()
    for server in replicas.servers:
        assert value(server, "MATCH (n:Half) RETURN count(n)") == 0


def test_an_old_receipt_can_still_be_waited_for(app: App) -> None:
    """Outcomes are read from the log, so that it does not matter when the wait begins, or in which process."""
    good = app.run_command.send("MERGE (u:User {name: 'early'})")
    bad = app.run_command.send("CREATE (:User {name: 'early'})")
    for n in range(20):
        last = app.run_command.send("MERGE (u:User {name: $name})", name=f"later-{n}")
    last.wait(applied="all")

    app.follower.close()

    assert good.wait(applied="any")[app.settings.group_id].applied
    with pytest.raises(CommandRejected):
        bad.wait(applied="any")


def test_many_commands_are_confirmed_together_and_applied_in_order(app: App, replicas: Replicas) -> None:
    """A chain that only works in order: each command reads what the one before it wrote."""
    app.run_command.send("CREATE (:Chain {n: 0})")
    with app.broker.batching():
        receipts = [app.run_command.send("MATCH (c:Chain {n: $n}) SET c.n = $n + 1", n=n) for n in range(1500)]

    assert [receipt.position() for receipt in receipts] == sorted(receipt.position() for receipt in receipts)
    receipts[-1].wait(applied="all", timeout=60)
    for server in replicas.servers:
        assert value(server, "MATCH (c:Chain) RETURN c.n") == 1500


def test_a_wait_that_is_not_over_in_time_says_for_whom(app: App, replicas: Replicas) -> None:
    """More replicas than there are: the text names both and where they stand."""
    receipt = app.run_command.send("MERGE (u:User {name: 'three'})")

    with pytest.raises(
        WaitTimeout, match=f"not applied by 3 replicas within 2 s: .*{replicas.prefix}replica-1 is at"
    ) as failure:
        receipt.wait(applied=3, timeout=2)

    assert f"{replicas.prefix}replica-2 is at {receipt.position()}" in str(failure.value)


def test_rows_come_back_with_their_columns_types_and_origin(app: App) -> None:
    """Values arrive as the driver would give them, and say which replica gave them and how new they are."""
    receipt = app.run_command.send("MERGE (u:User {name: 'typed'})")
    receipt.wait(applied="all")

    rows = app.run_query.send(
        "MATCH (u:User {name: $n}) RETURN u, date('2024-02-29') AS day, [1, 2.5, null] AS list", n="typed"
    ).get(10)

    assert rows.columns == ("u", "day", "list")
    assert rows[0]["u"].labels == {"User"}
    assert rows[0]["u"].properties == {"name": "typed"}
    assert rows[0]["day"] == Date(2024, 2, 29)
    assert rows[0]["list"] == [1, 2.5, None]
    assert rows.replica.startswith(app.settings.topic_prefix)
    assert rows.position >= receipt.position()
    assert not rows.truncated


def test_a_relationship_names_both_its_ends_also_without_them(app: App) -> None:
    """Its end nodes come as shells without properties when they are not asked for."""
    app.run_command.send("CREATE (:Left)-[:TO {n: 1}]->(:Right)").wait(applied="all")

    [row] = app.run_query.send("MATCH (l:Left)-[r:TO]->(t:Right) RETURN r, elementId(l) AS l, elementId(t) AS t").get(
        10
    )

    assert (row["r"].start_element_id, row["r"].end_element_id) == (row["l"], row["t"])
    assert row["r"].properties == {"n": 1}


def test_an_answer_larger_than_a_record_comes_in_parts(app: App) -> None:
    """Two megabytes of rows: all of them, once, in order."""
    rows = app.run_query.send("UNWIND range(1, 10000) AS n RETURN n, $pad + toString(n) AS text", pad="x" * 200).get(30)

    assert [row["n"] for row in rows] == list(range(1, 10001))
    assert rows[-1]["text"] == "x" * 200 + "10000"
    assert not rows.truncated


def test_a_limit_cuts_an_answer_and_says_so(app: App) -> None:
    """The caller's limit and the server's."""
    few = app.run_query.send_with_options(args=("UNWIND range(1, 100) AS n RETURN n",), max_rows=10).get(10)
    many = app.run_query.send("UNWIND range(1, 10001) AS n RETURN n").get(30)

    assert (len(few), few.truncated) == (10, True)
    assert (len(many), many.truncated) == (10_000, True)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("MATCH (n RETURN n", "Neo.ClientError.Statement.SyntaxError"),
        ("CREATE (:Evil)", "Replica.QueryNotReadOnly"),
        ("LOAD CSV FROM 'file:///etc/passwd' AS line RETURN line", "Replica.QueryForbidden"),
        ("RETURN $missing", "Neo.ClientError.Statement.ParameterMissing"),
    ],
)
def test_a_query_at_fault_is_answered_with_the_reason(app: App, text: str, code: str) -> None:
    """At once, and by a replica that is named."""
    with pytest.raises(QueryFailed) as failure:
        app.run_query.send(text).get(10)

    assert failure.value.code == code
    assert not failure.value.retryable


def test_a_query_function_runs_on_a_replica(app: App, actors: Actors) -> None:
    """It gets a read transaction and typed arguments; its value comes back typed; its own error too."""
    app.run_command.send("MERGE (u:User {name: 'fn', born: $born})", born=dt.date(2000, 1, 1)).wait(applied="all")

    assert actors.born.send("fn", since=dt.date(1999, 1, 1)).get(10) == {"name": "fn", "born": Date(2000, 1, 1)}
    with pytest.raises(QueryFailed, match="no such user"):
        actors.born.send("nobody", since=dt.date(1999, 1, 1)).get(10)
    with pytest.raises(QueryFailed, match="AccessMode"):
        actors.writes.send().get(10)


def test_arguments_are_what_the_function_says_on_both_sides(app: App, actors: Actors) -> None:
    """A native date arrives as one; what another client sends, and does not fit, is answered with the reason."""
    assert actors.given.send(dt.date(2024, 2, 29), {"a": [1, 2]}).get(10) == ["date", "2024-02-29", [1.0, 2.0]]
    assert actors.given.send(Date(2024, 2, 29), {}).get(10) == ["date", "2024-02-29", []]
    with pytest.raises(ArgumentRefused, match=r"'day' is datetime\.date"):
        actors.given.send("2024-02-29", {})

    waiter = app.replies.expect(unique())
    options = {"reply_to": app.callers_topic.name, "reply_partition": waiter.partition}
    app.broker.enqueue(dramatiq.Message("request", "given", ("x", {}), {}, options, waiter.correlation_id))
    record = waiter.get(10)
    waiter.close()
    assert record is not None
    answer = answers.decode(record.value)
    assert answer is not None
    assert answer.error is not None
    assert answer.error.code == "Replica.ArgumentRefused"
    assert "given: the argument 'day' is datetime.date, and 'x' (str) was given" in answer.error.message


def test_a_function_with_more_rows_than_the_caller_wants_fails(actors: Actors) -> None:
    """A list cannot say that it was cut.  The decorator's limit holds unless the call has another one."""
    assert actors.numbers.send(3).get(10) == [0, 1, 2]
    with pytest.raises(QueryFailed, match="gives 4 rows, and max_rows is 3"):
        actors.numbers.send(4).get(10)
    assert len(actors.numbers.send_with_options(args=(4,), max_rows=4).get(10)) == 4


def test_a_query_without_a_worker_times_out_with_its_name(app: App) -> None:
    """The text says what was asked, where the answer was awaited, and what may be missing."""

    @app.query
    def unknown_to_workers(tx: object) -> None:
        """Never runs."""

    with pytest.raises(WaitTimeout, match=r"\(unknown_to_workers\): no answer on .* within 2 s; is a worker"):
        unknown_to_workers.send().get(2)


def test_commands_make_a_group(app: App) -> None:
    """Their messages compose as Dramatiq's do, and keep their order."""
    names = [f"group-{n}" for n in range(5)]
    messages = [app.run_command.message("MERGE (u:User {name: $name})", name=name) for name in names]
    group = dramatiq.group(messages, broker=app.broker).run()  # type: ignore[no-untyped-call]  # Dramatiq's gap
    offset = group.children[-1].delivery.offset
    receipt = app.run_command.send("MERGE (u:User {name: 'after-group'})")
    assert receipt.position() > offset
    receipt.wait(applied="all")

    rows = app.run_query.send(
        "MATCH (u:User) WHERE u.name STARTS WITH 'group-' RETURN u.name AS name ORDER BY name"
    ).get(10)

    assert [row["name"] for row in rows] == names


def test_a_replica_whose_database_is_away_passes_queries_on(
    app: App, replicas: Replicas, request: pytest.FixtureRequest
) -> None:
    """Its worker takes queries and cannot answer them; the other one does.  Commands wait, and are then applied."""
    stack = request.getfixturevalue("stack")
    name = replicas.servers[1].name
    stack.kill(name)
    try:
        answers = [app.run_query.send("RETURN $n AS n", n=n) for n in range(12)]
        rows = [answer.get(30) for answer in answers]
        assert [row[0]["n"] for row in rows] == list(range(12))
        assert {row.replica for row in rows} == {replicas.env(1)["GROUP_ID"]}
        receipt = app.run_command.send("MERGE (u:User {name: 'while away'})")
        receipt.wait(applied="any")
        with pytest.raises(WaitTimeout, match=f"{replicas.prefix}replica-2 is at"):
            receipt.wait(applied="all", timeout=1)
    finally:
        stack.start(name)

    assert receipt.wait(applied="all", timeout=60).keys() == {replicas.env(n)["GROUP_ID"] for n in (1, 2)}


def test_a_new_replica_reads_all_history(
    app: App, replicas: Replicas, neo4j_servers: tuple[Neo4jServer, ...], tmp_path: Path
) -> None:
    """A third, empty database under a name of its own applies the log from its start and then counts as one of all."""
    with replicas_of(replicas.kafka, neo4j_servers[2:], tmp_path, started=False) as third:
        third.prefix = replicas.prefix
        third.environment = {"GROUP_ID": f"{replicas.prefix}replica-3"}
        third.start(1, "--queues", "command")

        receipt = app.run_command.send("MERGE (u:User {name: 'third'})")
        wait_until(lambda: len(app.follower.replicas(10)) == 3, 40, "the third replica to register")
        receipt.wait(applied="all", timeout=60)

        query = "MATCH (u:User) RETURN count(u)"
        assert value(neo4j_servers[2], query) == value(neo4j_servers[0], query)
