"""Whatever lies on a topic, the next good message is processed, and what was bad is found with its reason."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public there, though not marked so
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from tests.replicas import Replicas, replicas_of, value
from tests.support import wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator

    from tasks.app import App
    from tests.conftest import Neo4jServer

FIVE_MEGABYTES = b"x" * 5_000_000


def message(actor_name: str, **fields: Any) -> bytes:
    """A message as Dramatiq writes it, with some fields otherwise."""
    usual = {"queue_name": "q", "actor_name": actor_name, "args": [], "kwargs": {}, "options": {}}
    return json.dumps(usual | {"message_id": "m", "message_timestamp": 1} | fields).encode()


BAD: dict[str, bytes | None] = {
    "garbage bytes": b"\x00\x01\x02\xff\xfe",
    "a JSON list": b'[{"command": "RETURN 1"}]',
    "an unknown actor": message("nobody"),
    "five megabytes": FIVE_MEGABYTES,
    "a command that is a number": b'{"command": 5}',
    "broken UTF-8": b'{"command": "RETURN \xc3\x28"}',
    "no value": None,
    "no options": message("run_query", options=None),
    "arguments that are no list": message("run_command", args={}),
    "no arguments": message("run_command"),
    "an eta": message("run_command", args=["RETURN 1"], options={"eta": "soon"}),
    "a query of two texts": message("run_query", args=["RETURN 1", "RETURN 2"]),
    "a time-out that is a word": message("run_query", args=["RETURN 1"], options={"timeout": "long"}),
    "deep nesting": b"[" * 50_000,
}


@pytest.fixture(scope="module")
def replicas(
    kafka: str, neo4j_servers: tuple[Neo4jServer, ...], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Replicas]:
    """One replica, and topics that take large records, as an operator may allow."""
    with replicas_of(kafka, neo4j_servers[:1], tmp_path_factory.mktemp("bad"), started=False) as found:
        app = found.app()
        for spec in app.topics:
            app.broker.topics.ensure(spec)
        allow_large_records(kafka, *(spec.name for spec in app.topics))
        found.start(1)
        app.run_command.send("CREATE (:Begin)").wait(applied=1, timeout=60)
        yield found


def allow_large_records(kafka: str, *topics: str) -> None:
    """Raise the limit of some topics to 10 MB."""
    admin = AdminClient({"bootstrap.servers": kafka})
    entry = ConfigEntry("max.message.bytes", "10000000", incremental_operation=AlterConfigOpType.SET)
    resources = [ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry]) for topic in topics]
    for future in admin.incremental_alter_configs(resources).values():
        future.result(10)


@pytest.fixture(scope="module")
def app(replicas: Replicas) -> App:
    """The caller's app."""
    return replicas.apps[0]


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_a_bad_command_is_rejected_in_its_place(app: App, replicas: Replicas, bad: bytes | None) -> None:
    """It has an outcome with a reason, unless it is a good command after all, and the next one is applied."""
    replicas.produce("command", bad)

    after = app.run_command.send("MERGE (c:Good) SET c.n = coalesce(c.n, 0) + 1 RETURN c.n")

    after.wait(applied="all", timeout=30)
    outcome = app.follower._ledger.outcome(replicas.env(1)["GROUP_ID"], after.position() - 1)
    assert outcome is not None
    assert outcome.applied == (bad == BAD["an eta"])
    assert outcome.applied or outcome.message
    assert worker_is_whole(replicas)


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_a_bad_request_is_parked_or_answered(app: App, replicas: Replicas, bad: bytes | None) -> None:
    """It is found on the dead-letter topic with its reason, unless somebody can be answered; the next one runs."""
    before = len(replicas.read("request.XQ"))
    replicas.produce("request", bad)

    assert app.run_query.send("RETURN 1 AS one").get(30) == [{"one": 1}]

    if bad not in {BAD["a time-out that is a word"], BAD["an eta"]}:
        letters = wait_until(lambda: replicas.read("request.XQ")[before:], 30, "the letter")
        assert dict(letters[0].headers() or [])["xq.reason"]
    assert worker_is_whole(replicas)


@pytest.mark.parametrize("topic", ["response.callers", "outcomes", "replicas"])
def test_callers_pass_over_what_is_none_of_theirs(app: App, replicas: Replicas, topic: str) -> None:
    """Answers and outcomes still arrive when anybody writes anything beside them."""
    keep = app.run_command.send("MERGE (:Here)")
    keep.wait(applied="all")
    compacted = topic == "replicas"  # takes no record without a key
    replicas.produce(topic, *(bad for bad in BAD.values()), key=b"foreign" if compacted else None)

    assert app.run_query.send("RETURN 1 AS one").get(30) == [{"one": 1}]
    app.run_command.send("MERGE (:StillHere)").wait(applied="all", timeout=30)


def worker_is_whole(replicas: Replicas) -> bool:
    """The worker's process lives, and none of its threads has died of an error."""
    log = replicas.log(1).read_text()
    assert replicas.workers[1].poll() is None
    assert "Exception in thread" not in log
    assert "You've found a bug" not in log
    assert "unexpected error" not in log
    return bool(value(replicas.servers[0], "MATCH (b:Begin) RETURN count(b)") == 1)
