"""The stack with its quick servers, Kafka and Valkey; Neo4j takes part in tests/acceptance/test_up_down.py."""

from __future__ import annotations

import json
import os
import signal
import socket
from typing import TYPE_CHECKING

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from ops import launch, processes
from ops.errors import JarsUnavailable, NotInStack, PackageMissing, PortTaken, ServerDied, UnknownVersion
from ops.processes import HOST
from ops.progress import silent
from ops.servers import Redis
from ops.stack import Row, Stack
from tests.conftest import give_up


if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Stack]:
    """A stack that only this test uses."""
    stack = Stack(tmp_path / "stack")
    yield stack
    stack.down()


def _start(stack: Stack, *names: str) -> dict[str, Row]:
    try:
        stack.start(*names)
    except (JarsUnavailable, PackageMissing) as error:
        give_up(error)
    return {row.name: row for row in stack.status()}


def _topics(broker: str) -> set[str]:
    return set(AdminClient({"bootstrap.servers": broker}).list_topics(timeout=10).topics)


def test_a_killed_server_starts_again_on_its_port_with_its_data(own: Stack) -> None:
    """Clients, and positions in the log, find everything where it was; a second start of what runs changes nothing."""
    first = _start(own, "kafka", "redis")
    admin = AdminClient({"bootstrap.servers": first["kafka"].uri})
    admin.create_topics([NewTopic("kept", 1, 1)])["kept"].result()
    assert {row.state for row in first.values()} == {"answers"}
    assert {name: row.pid for name, row in _start(own, "redis", "kafka").items()} == {
        n: r.pid for n, r in first.items()
    }
    own.kill("kafka")
    assert {row.name: row.state for row in own.status()} == {"kafka": "down", "redis": "answers"}
    again = _start(own, "kafka")
    assert again["kafka"].uri == first["kafka"].uri
    assert again["kafka"].pid != first["kafka"].pid
    assert "kept" in _topics(again["kafka"].uri)
    assert own.down() == ["kafka", "redis"]
    assert [row.state for row in own.status()] == ["down", "down"]


def test_a_server_that_dies_at_start_takes_along_what_started_with_it(own: Stack) -> None:
    """The error ends with its last words; nothing half-started stays, and the other servers go on."""
    _start(own, "redis")
    data = own.folder / "kafka" / "data"
    data.mkdir(parents=True)
    (data / "meta.properties").write_text("version=1\ncluster.id=of-another\nnode.id=7\n")
    with pytest.raises(ServerDied, match="Stored node id 7 doesn't match"):
        own.start("kafka")
    assert {row.name: row.state for row in own.status()} == {"kafka": "down", "redis": "answers"}


def test_a_port_that_somebody_else_took_is_named(own: Stack) -> None:
    """With its owner, and with the way out."""
    port = _start(own, "redis")["redis"].ports["redis"]
    own.down()
    with (
        socket.create_server((HOST, port)),
        pytest.raises(PortTaken, match=rf"{port}, and process {os.getpid()} .* --fresh"),
    ):
        own.start("redis")


def test_a_server_whose_start_was_not_written_down_is_found(own: Stack) -> None:
    """The starter was killed between starting it and noting its id: the next one adopts it."""
    pid = _start(own, "redis")["redis"].pid
    path = own.folder / "state.json"
    state = json.loads(path.read_text())
    state["servers"]["redis"] |= {"pid": None, "started": 0.0, "starting": True}
    path.write_text(json.dumps(state))
    assert _start(own, "redis")["redis"].pid == pid


def test_a_server_that_runs_but_does_not_answer_is_replaced(own: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets its time first."""
    monkeypatch.setattr(launch, "PATIENCE_S", 0.1)
    pid = _start(own, "redis")["redis"].pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    monkeypatch.setattr(Redis, "start_timeout_s", 0.0)  # as if it had been started long ago
    monkeypatch.setattr(Redis, "stop_timeout_s", 0.1)
    assert [row.state for row in own.status()] == ["running but silent"]
    with own._file.lock(0):
        assert not launch.Launcher(own._file, own._file.read(), silent)._adopt("redis")
    monkeypatch.undo()
    assert _start(own, "redis")["redis"].pid != pid


def test_what_is_down_cannot_be_killed(own: Stack) -> None:
    """A test of chaos that killed nothing would show nothing."""
    _start(own, "redis")
    own.kill("redis")
    with pytest.raises(NotInStack, match="not running"):
        own.kill("redis")


def test_fresh_begins_with_other_ports_and_no_data(own: Stack) -> None:
    """And touches no file that is not the stack's."""
    _start(own, "redis")
    stranger = own.folder / "notes"
    stranger.mkdir()
    with own._file.lock(0):
        own._wipe(silent)
    assert own.status() == []
    assert stranger.is_dir()
    assert not (own.folder / "redis").exists()


def test_a_version_that_nobody_published_is_refused(own: Stack) -> None:
    """The message names the versions that are pinned."""
    with pytest.raises((UnknownVersion, JarsUnavailable), match=r"5\.999\.0") as refusal:
        own.up(replicas=1, neo4j_version="5.999.0")
    if isinstance(refusal.value, JarsUnavailable):
        give_up(refusal.value)
    assert "2026.04.0" in str(refusal.value)
    assert processes.find_marked({"NEO4J_KAFKA_SERVER": str(own.folder / "redis")}) == []
