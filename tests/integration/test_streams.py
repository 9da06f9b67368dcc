"""Two logical databases on one Kafka: each has its log, its replicas and its answers, and nothing crosses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from confluent_kafka.admin import AdminClient

import cli
from tests.replicas import Replicas, replicas_of, value
from tests.support import unique, wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Neo4jServer

COUNT = "MATCH (i:Item) RETURN count(i) AS items"


class Streams:
    """The two: one replica each, of the same name, in a group of the same name, under one prefix."""

    def __init__(self, orders: Replicas, stock: Replicas) -> None:
        self.both = {"orders": orders, "stock": stock}

    def env(self) -> dict[str, str]:
        """Of a person who has not said which stream."""
        env = self.both["orders"].env(1)
        return {name: text for name, text in env.items() if name != "STREAM"}

    def run(self, *arguments: str, exit_code: int = 0) -> Any:
        """The command line; its JSON."""
        result = CliRunner().invoke(cli.main, [*arguments, "--json"], env=self.env())
        assert result.exit_code == exit_code, result.output
        return json.loads(result.stdout)


@pytest.fixture(scope="module")
def streams(
    kafka: str, neo4j_servers: tuple[Neo4jServer, ...], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Streams]:
    """Both at work."""
    first, second, _ = neo4j_servers
    with (
        replicas_of(kafka, [first], tmp_path_factory.mktemp("orders"), STREAM="orders", started=False) as orders,
        replicas_of(kafka, [second], tmp_path_factory.mktemp("stock"), STREAM="stock", started=False) as stock,
    ):
        stock.prefix = orders.prefix
        for one in (orders, stock):
            one.start(1)
        for one in (orders, stock):
            one.app().run_command.send("MERGE (:Ready)").wait(applied="all", timeout=60)
        yield Streams(orders, stock)


def test_a_command_reaches_the_replicas_of_its_stream_alone(streams: Streams) -> None:
    """From Python and from the command line; each log counts for itself."""
    for number, (name, replicas) in enumerate(streams.both.items(), 1):
        for item in range(number):
            replicas.apps[0].run_command.send("CREATE (:Item {of: $of, n: $n})", of=name, n=item)
        told = streams.run("enqueue-command", f"CREATE (:Item {{of: '{name}'}})", "--stream", name, "--wait", "all")
        assert told["offset"] == 1 + number
        assert told["applied_by"] == [f"{replicas.prefix}replica-1"]
    for number, (name, replicas) in enumerate(streams.both.items(), 1):
        assert value(replicas.servers[0], "MATCH (i:Item) RETURN count(i)") == 1 + number
        assert value(replicas.servers[0], "MATCH (i:Item) RETURN collect(DISTINCT i.of)") == [name]


def test_a_query_is_answered_by_its_stream_on_its_own_response_topic(streams: Streams) -> None:
    """Also where another client asks, under one key in both; the groups have the same name and share nothing."""
    key = unique("query")
    for name, replicas in streams.both.items():
        there = value(replicas.servers[0], COUNT)
        for _ in range(5):
            assert list(replicas.apps[0].run_query.send(COUNT).get(timeout=30)) == [{"items": there}]
        assert streams.run("enqueue-query", COUNT, "--stream", name, "--linearizable")["rows"] == [{"items": there}]
        replicas.produce(f"{name}.request", json.dumps({"to": "response", "with_key": key, "command": COUNT}).encode())
    for name, replicas in streams.both.items():
        [answer] = wait_until(lambda: answers(replicas, f"{name}.response", key), 30)  # noqa: B023 - waited for at once
        assert answer["rows"] == [[value(replicas.servers[0], COUNT)]]


def answers(replicas: Replicas, topic: str, key: str) -> list[Any]:
    """Everything under *key*."""
    return [json.loads(each.value() or b"") for each in replicas.read(topic) if each.key() == key.encode()]


def test_no_topic_and_no_group_is_shared(streams: Streams, kafka: str) -> None:
    """What the two have made under their prefix: each has its name in it."""
    prefix = streams.both["orders"].prefix
    key = unique("query")
    for name, replicas in streams.both.items():
        replicas.produce(f"{name}.request", json.dumps({"to": "response", "with_key": key, "command": COUNT}).encode())
    admin = AdminClient({"bootstrap.servers": kafka})

    def made() -> set[str]:
        topics = {name for name in admin.list_topics(timeout=10).topics if name.startswith(prefix)}
        return topics if {f"{prefix}{name}.response" for name in streams.both} <= topics else set()

    topics = wait_until(made, 30, "both to have answered")
    of = {name: {topic for topic in topics if topic.startswith(f"{prefix}{name}.")} for name in streams.both}
    assert topics == of["orders"] | of["stock"]
    assert {topic.replace("orders.", "stock.", 1) for topic in of["orders"]} & of["stock"] >= {
        f"{prefix}stock.{name}" for name in ("command", "request", "response", "outcomes", "replicas")
    }
    groups = {group.group_id for group in admin.list_consumer_groups().result(10).valid if prefix in group.group_id}
    timers = {f"{prefix}{name}.delayed.timers" for name in streams.both}
    assert groups == timers | {f"{name}/{prefix}{group}" for name in streams.both for group in ("replica-1", "queries")}


def test_the_streams_are_listed_with_their_replicas(streams: Streams) -> None:
    """Whichever stream the settings name, or none."""
    replica = f"{streams.both['orders'].prefix}replica-1"
    for arguments in ((), ("--state-dir", "nowhere")):
        found = {row["stream"]: row for row in streams.run("streams", *arguments)["streams"]}
        assert found.keys() == {"orders", "stock"}
        for name, row in found.items():
            assert row["topic"] == f"{streams.both[name].prefix}{name}.command"
            assert row["commands"] == row["replicas"][replica] + 1
    for name, replicas in streams.both.items():
        [row] = streams.run("replica", "list", "--stream", name)["replicas"]
        assert (row["name"], row["state"]) == (replica, "applying")
        assert row["neo4j_uri"] == replicas.servers[0].uri


def test_a_database_of_one_stream_is_refused_to_another(streams: Streams) -> None:
    """Its graph has a position in another log; applying a second one to it is never begun by mistake."""
    replicas = streams.both["orders"]
    lost = Replicas(replicas.kafka, streams.both["stock"].servers, replicas.logs, STREAM="orders")
    lost.prefix = replicas.prefix
    try:
        lost.environment["GROUP_ID"] = f"{replicas.prefix}lost"
        lost.start(1, "--queues", "command")
        log = lost.log(1)
        wait_until(lambda: "it follows" in log.read_text() and "stock.command/0" in log.read_text(), 40)
    finally:
        lost.close()
