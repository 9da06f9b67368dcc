"""Which database a command means."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil
import pytest
from confluent_kafka import KafkaError, KafkaException
from pydantic import ValidationError

from brokers.clients import AdminClient
from ops.connection import require_kafka, settings_for
from ops.errors import InputUnusable, KafkaAway, NotInStack
from ops.stack import Stack
from ops.state import Server, State, StateFile
from ops.targets import given
from settings import environment_names


if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stack of two replicas whose Kafka is, for all that anybody looks, this process; nothing in the environment."""
    for name in environment_names():
        monkeypatch.delenv(name, raising=False)
    process = psutil.Process()
    servers = {
        f"neo4j-{n}": Server(name=f"neo4j-{n}", kind="neo4j", version="", ports={"bolt": 7000 + n, "http": 1})
        for n in (1, 2)
    }
    kafka = Server(
        name="kafka", kind="kafka", version="", ports={"broker": 9000}, pid=process.pid, started=process.create_time()
    )
    StateFile(tmp_path).write(State(password="secret", servers={"kafka": kafka, **servers}))
    return tmp_path


def test_a_named_replica_is_meant_although_the_shell_points_at_another(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `eval "$(neo4j-kafka env)"`; without the option it is the shell's."""
    for name, value in Stack(folder).environment(1).items():
        monkeypatch.setenv(name, value)

    assert settings_for(folder, None).neo4j_uri == "bolt://127.0.0.1:7001"
    assert settings_for(folder, 2).neo4j_uri == "bolt://127.0.0.1:7002"
    assert settings_for(folder, 2).neo4j_password == "secret"
    assert settings_for(folder, 2).group_id == "replica-2"
    with pytest.raises(NotInStack):
        settings_for(folder, 3)


def test_without_an_environment_the_stack_has_the_say(folder: Path) -> None:
    """Its first replica, or the one that is named."""
    assert settings_for(folder, None).neo4j_uri == "bolt://127.0.0.1:7001"
    assert settings_for(folder, 2).neo4j_uri == "bolt://127.0.0.1:7002"


def test_a_replica_of_no_stack_or_beside_another_kafka_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number would mean nothing."""
    monkeypatch.setenv("BROKERS", "elsewhere:9092")
    with pytest.raises(InputUnusable, match="elsewhere:9092: leave"):
        settings_for(folder, 1)
    with pytest.raises(InputUnusable, match="set NEO4J_URI"):
        settings_for(tmp_path / "none", 1)


def test_a_named_replica_is_not_mixed_with_a_database_of_the_users_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the address nor the login of the environment's; what says nothing of a database stays."""
    for name, value in {
        "NEO4J_URI": "bolt://own:7687",
        "NEO4J_PASS": "own",
        "GROUP_ID": "own",
        "B_TOPIC_PREFIX": "p-",
    }.items():
        monkeypatch.setenv(name, value)

    of_the_stack, own = settings_for(folder, 1), settings_for(folder)
    assert (of_the_stack.neo4j_uri, of_the_stack.neo4j_password) == ("bolt://127.0.0.1:7001", "secret")
    assert (of_the_stack.group_id, of_the_stack.topic_prefix) == ("replica-1", "p-")
    assert (own.neo4j_uri, own.neo4j_password, own.group_id) == ("bolt://own:7687", "own", "own")
    assert own.brokers == of_the_stack.brokers == "127.0.0.1:9000"


@pytest.mark.parametrize("uri", ["localhost:7687", "http://localhost:7474", "bolt://", "127.0.0.1"])
def test_what_is_no_address_of_a_database_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    """As a setting, and as an option; nobody is shown the driver's traceback."""
    with pytest.raises(InputUnusable, match="no address of a database"):
        given(folder, "replica-4", uri, None)
    monkeypatch.setenv("NEO4J_URI", uri)
    with pytest.raises(ValidationError, match=r"NEO4J_URI[\s\S]*no address of a database"):
        settings_for(folder)


def test_who_has_said_nothing_of_a_kafka_is_told_how_to_come_by_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the wrong folder; whoever has named one knows."""

    def away(*_: object, **__: object) -> None:
        raise KafkaException(KafkaError(KafkaError._TRANSPORT))

    monkeypatch.setattr(AdminClient, "list_topics", away)
    with pytest.raises(KafkaAway, match="`neo4j-kafka up` starts one"):
        require_kafka(settings_for(folder / "elsewhere"))
    monkeypatch.setenv("BROKERS", "here:9092")
    with pytest.raises(KafkaAway, match=r"at here:9092[^;]*$"):
        require_kafka(settings_for(folder / "elsewhere"))


def test_the_line_that_starts_a_worker_says_that_it_needs_a_password(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one it would be refused by its database; the password itself is not shown."""
    assert given(folder, "replica-4", "bolt://own:7687", None).hint == (
        "GROUP_ID=replica-4 NEO4J_URI=bolt://own:7687 NEO4J_PASS=... neo4j-kafka worker"
    )
    monkeypatch.setenv("NEO4J_URI", "bolt://own:7687")
    assert "NEO4J_PASS" not in given(folder, "replica-4", "bolt://own:7687", None).hint
