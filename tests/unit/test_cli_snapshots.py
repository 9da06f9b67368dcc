"""Which database a command about snapshots means."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil
import pytest

from ops import snapshots
from ops.errors import InputUnusable, NotInStack
from ops.stack import Stack
from ops.state import Server, State, StateFile
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

    assert snapshots.settings_of(folder, None).neo4j_uri == "bolt://127.0.0.1:7001"
    assert snapshots.settings_of(folder, 2).neo4j_uri == "bolt://127.0.0.1:7002"
    assert snapshots.settings_of(folder, 2).neo4j_password == "secret"
    with pytest.raises(NotInStack):
        snapshots.settings_of(folder, 3)


def test_without_an_environment_the_stack_has_the_say(folder: Path) -> None:
    """Its first replica, or the one that is named."""
    assert snapshots.settings_of(folder, None).neo4j_uri == "bolt://127.0.0.1:7001"
    assert snapshots.settings_of(folder, 2).neo4j_uri == "bolt://127.0.0.1:7002"


def test_a_replica_of_no_stack_or_beside_another_kafka_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number would mean nothing."""
    monkeypatch.setenv("BROKERS", "elsewhere:9092")
    with pytest.raises(InputUnusable, match="elsewhere:9092: leave"):
        snapshots.settings_of(folder, 1)
    with pytest.raises(InputUnusable, match="set NEO4J_URI"):
        snapshots.settings_of(tmp_path / "none", 1)
