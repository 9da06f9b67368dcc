"""The interface of the original project, spoken by a plain Kafka client: each row, and each of its known defects."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.replicas import Replicas, replicas_of, value, wait_for_value
from tests.support import unique, wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Neo4jServer


@pytest.fixture(scope="module")
def replicas(
    kafka: str, neo4j_servers: tuple[Neo4jServer, ...], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Replicas]:
    """Two replicas, each with a worker for both roles; the topics are made by them."""
    with replicas_of(kafka, neo4j_servers[:2], tmp_path_factory.mktemp("seed")) as found:
        found.app().broker.topics.ensure(found.app().response_topic)
        yield found


def body(**fields: Any) -> bytes:
    """A JSON body."""
    return json.dumps(fields).encode()


def command(replicas: Replicas, text: str, **fields: Any) -> None:
    """Put a command body on the command topic."""
    app = replicas.apps[0]
    app.broker.topics.ensure(app.command_topic)
    replicas.produce("command", body(with_key="command_key", command=text, **fields))


def answers(replicas: Replicas, key: str) -> list[dict[str, Any]]:
    """Every answer under *key* on the response topic."""
    found = [message for message in replicas.read("response") if message.key() == key.encode()]
    return [json.loads(message.value() or b"") for message in found]


def ask(replicas: Replicas, text: str, **fields: Any) -> dict[str, Any]:
    """Put a query body on the request topic and give the one answer to it."""
    app = replicas.apps[0]
    app.broker.topics.ensure(app.request_topic)
    key = unique("query")
    replicas.produce("request", body(to="response", with_key=key, command=text, **fields))
    [answer] = wait_until(lambda: answers(replicas, key), 40, f"the answer to {text}")
    return answer


def test_every_database_gets_every_command(replicas: Replicas) -> None:
    """``GROUP_ID`` is one per database: each applies the command, with its parameters."""
    command(replicas, 'MERGE (u:User {name:"user_1"}) ON MATCH SET u.password = "pass" ')
    command(replicas, "MERGE (u:User {name: $name}) SET u.age = $age", params={"name": "user_2", "age": 30})

    for server in replicas.servers:
        wait_for_value(server, "MATCH (u:User) WITH u ORDER BY u.name RETURN collect(u.name)", ["user_1", "user_2"], 40)
        wait_for_value(server, "MATCH (u:User {name: 'user_2'}) RETURN u.age", 30)


def test_a_request_is_answered_once_under_its_key(replicas: Replicas) -> None:
    """All query servers share a group; the answer names its columns, its replica, its position, and ends."""
    command(replicas, "MERGE (u:Reader {name: 'r'})")
    for server in replicas.servers:
        wait_for_value(server, "MATCH (u:Reader) RETURN count(u)", 1)

    answer = ask(replicas, 'MATCH (u:Reader {name:"r"}) return u.name AS name, 1 AS one')

    assert answer["columns"] == ["name", "one"]
    assert answer["rows"] == [["r", 1]]
    assert answer["end"] is True
    assert answer["replica"] in {replicas.env(1)["GROUP_ID"], replicas.env(2)["GROUP_ID"]}
    assert answer["position"] >= 0


def test_nodes_come_with_labels_and_without(replicas: Replicas) -> None:
    """A node without labels was a defect of the original."""
    command(replicas, "MERGE (:Labelled {kind: 'node'}) MERGE (n {kind: 'bare'})")
    for server in replicas.servers:
        wait_for_value(server, "MATCH (n {kind: 'bare'}) RETURN count(n)", 1)

    answer = ask(replicas, "MATCH (n) WHERE n.kind IN ['node', 'bare'] RETURN n ORDER BY n.kind")

    labels = [row[0]["_value"]["_labels"] for row in answer["rows"]]
    assert labels == [[], ["Labelled"]]


def test_an_empty_answer_is_an_answer(replicas: Replicas) -> None:
    """The original sent one reply a row, and none for no rows."""
    answer = ask(replicas, "MATCH (n:Nobody) RETURN n.name AS name, n.age AS age")

    assert answer["columns"] == ["name", "age"]
    assert answer["rows"] == []
    assert answer["end"] is True


@pytest.mark.parametrize("text", ["MATCH(n:Nobody)RETURN n", "match (n:Nobody) return n", "RETURN 'CREATE' AS word"])
def test_a_read_is_a_read_however_it_is_written(replicas: Replicas, text: str) -> None:
    """The original's guard refused ``MATCH(``."""
    assert "error" not in ask(replicas, text)


@pytest.mark.parametrize("text", ["CREATE (:Evil)", "MATCH (n) DETACH DELETE n", "RETURN 1;CREATE (:Evil)"])
def test_a_write_is_no_query(replicas: Replicas, text: str) -> None:
    """The original's guard let CREATE and DELETE through."""
    answer = ask(replicas, text)

    assert answer["error"]["code"]
    assert answer["end"] is True
    for server in replicas.servers:
        assert value(server, "MATCH (n:Evil) RETURN count(n)") == 0


def test_a_failed_command_is_rejected_in_its_place_and_the_next_one_is_applied(replicas: Replicas) -> None:
    """The original passed over it and tried it again later, out of order."""
    command(replicas, "CREATE (:Step {n: 1})")
    command(replicas, "CREATE (:Step {n: 2, x: 1 / 0})")
    command(replicas, "CREATE (:Step {n: 3})")

    for server in replicas.servers:
        wait_for_value(server, "MATCH (s:Step) WITH s ORDER BY s.n RETURN collect(s.n)", [1, 3])


def test_bad_json_does_not_end_the_loop(replicas: Replicas) -> None:
    """On the command topic it is a rejected command, on the request topic it is parked with its reason."""
    replicas.produce("command", b"{not json", b"\xff\xfe", b"[]", b'{"command": 5}')
    command(replicas, "MERGE (:After {bad: 'json'})")
    parked = len(replicas.read("request.XQ"))
    replicas.produce("request", b"{not json", b"\xff\xfe", b"[]", b'{"command": 5}')

    for server in replicas.servers:
        wait_for_value(server, "MATCH (n:After) RETURN count(n)", 1)
    assert ask(replicas, "RETURN 1 AS one")["rows"] == [[1]]
    letters = wait_until(
        lambda: replicas.read("request.XQ")[parked:][3:] and replicas.read("request.XQ"), 20, "4 letters"
    )
    reasons = [dict(letter.headers() or [])["xq.reason"] for letter in letters[parked:]]
    assert len(reasons) == 4
    assert all(reasons)


def test_answers_go_to_allowed_topics_only(replicas: Replicas) -> None:
    """A request must not be able to write a command."""
    replicas.produce("request", body(to="command", with_key="k", command="RETURN 1"))

    def reasons() -> list[Any]:
        return [dict(m.headers() or [])["xq.reason"] for m in replicas.read("request.XQ")]

    wait_until(lambda: any(b"answers may go to" in reason for reason in reasons()), 20, "the request to be parked")


def test_offset_0_is_applied_and_a_late_replica_reads_history(
    kafka: str, neo4j_servers: tuple[Neo4jServer, ...], tmp_path: Path
) -> None:
    """The original never sought offset 0, and a new replica began at the end of the log."""
    with replicas_of(kafka, neo4j_servers[2:], tmp_path, started=False) as replicas:
        app = replicas.app()
        app.broker.topics.ensure(app.command_topic)
        replicas.produce("command", *(body(command="CREATE (:History {n: $n})", params={"n": n}) for n in range(3)))

        replicas.start(1)

        wait_for_value(replicas.servers[0], "MATCH (h:History) WITH h ORDER BY h.n RETURN collect(h.n)", [0, 1, 2], 40)
        assert value(replicas.servers[0], "MATCH (m:_KafkaPosition) RETURN m.offset") == 2


def test_the_topics_have_the_names_of_the_settings(
    kafka: str, neo4j_servers: tuple[Neo4jServer, ...], tmp_path: Path
) -> None:
    """``COMMAND_TOPIC``, ``REQUEST_TOPIC``, ``RESPONSE_TOPIC``; the queues of ``dramatiq tasks --queues`` keep theirs.

    The command topic has one partition, request and response have three, and each role can run alone.
    """
    names = {"COMMAND_TOPIC": "writes", "REQUEST_TOPIC": "asks", "RESPONSE_TOPIC": "says", "REPLY_TOPICS": "elsewhere"}
    with replicas_of(kafka, neo4j_servers[2:], tmp_path, started=False, **names) as replicas:
        app = replicas.app()
        made = {spec.name: app.broker.topics.ensure(spec) for spec in app.topics}
        assert made[replicas.prefix + "writes"] == 1
        assert made[replicas.prefix + "asks"] == made[replicas.prefix + "says"] == 3
        replicas.produce("writes", body(command="CREATE (:Named)"))
        replicas.produce("asks", body(to="elsewhere", with_key="k", command="RETURN 1 AS one"))

        replicas.start(1, "--queues", "command")
        wait_for_value(replicas.servers[0], "MATCH (n:Named) RETURN count(n)", 1, 40)
        assert replicas.read("elsewhere") == []
        assert replicas.stop(1) == 0

        replicas.start(1, "--queues", "request", processes=2)
        [answer] = wait_until(lambda: replicas.read("elsewhere"), 40, "an answer on the topic that was asked for")
        assert json.loads(answer.value() or b"")["rows"] == [[1]]
        assert replicas.stop(1) == 0
