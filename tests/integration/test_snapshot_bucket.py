"""Snapshots in a bucket, on a server that speaks S3 (moto, in a process of its own)."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ops import processes
from replica.errors import SnapshotStoreAway, SnapshotUnknown
from replica.snapshot_catalogue import listed
from replica.snapshot_stores import open_store
from tests.support import wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]

#: Uploads more than one part, says so, and never ends.
UPLOAD = """
import sys, time
from replica.snapshot_stores import open_store
with open_store(sys.argv[1]).write("killed.snapshot") as file:
    file.write(bytes(20_000_000))
    print("under way", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Where a server answers that has one bucket, ``snapshots``."""
    (port,) = processes.free_ports(1, set())
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", processes.HOST, "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: processes.is_open(port), 60, "moto to answer")
            url = f"http://{processes.HOST}:{port}"
            ask(f"{url}/snapshots", "PUT")
            yield url
        finally:
            process.terminate()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The store of one test; the environment names server and keys."""
    values = {"ENDPOINT_URL": server, "ALLOW_HTTP": "true", "REGION": "us-east-1"}
    for name, value in (values | {"ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret"}).items():
        monkeypatch.setenv(f"AWS_{name}", value)
    return f"s3://snapshots/{abs(hash(request.node.name))}"


def ask(url: str, method: str = "GET", body: bytes | None = None) -> str:
    """What the server says to one plain request."""
    headers = {"Content-Type": "text/plain"}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers, method=method), timeout=30) as answer:
        text: str = answer.read().decode()
        return text


def test_several_parts_come_back_as_they_were(bucket: str) -> None:
    """More than a part is long, read in pieces."""
    content = os.urandom(20_000_000)
    store = open_store(bucket)
    with store.write("large.snapshot") as target:
        target.write(content)

    with store.read("large.snapshot") as file:
        found = b"".join(iter(lambda: file.read(3_000_000), b""))

    assert (bytes(found) == content, store.size("large.snapshot")) == (True, len(content))


def test_an_upload_that_is_killed_leaves_no_snapshot(server: str, bucket: str) -> None:
    """Its parts lie there, under no name that anybody sees; the next one begins anew."""
    command = [sys.executable, "-c", UPLOAD, bucket]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "under way\n"
        process.kill()

    store = open_store(bucket)
    assert "killed.snapshot" in ask(f"{server}/snapshots?uploads")
    assert (store.names(), listed(store)) == ([], [])
    with pytest.raises(SnapshotUnknown):
        store.size("killed.snapshot")
    with store.write("killed.snapshot") as target:
        target.write(b"whole")
    assert store.size("killed.snapshot") == 5


def test_a_writer_that_fails_leaves_no_snapshot(bucket: str) -> None:
    """Whatever it was that failed."""
    store = open_store(bucket)

    def fail() -> None:
        with store.write("half.snapshot") as target:
            target.write(bytes(10_000_000))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert store.names() == []


@pytest.mark.parametrize(
    ("changed", "url", "advice"),
    [
        ({}, "s3://elsewhere/graphs", "no such bucket: make it, or correct SNAPSHOT_STORE"),
        ({"AWS_ALLOW_HTTP": "false"}, "s3://snapshots/graphs", "AWS_ALLOW_HTTP=true"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "s3://snapshots/graphs", "is AWS_ENDPOINT_URL right"),
    ],
)
def test_what_is_set_wrongly_is_named(
    changed: dict[str, str], url: str, advice: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Listing, looking for one, its mark and writing alike; none is taken for a store that is empty."""
    for name, value in changed.items():
        monkeypatch.setenv(name, value)
    store = open_store(url)

    for act in (store.names, lambda: store.size("a.snapshot"), lambda: store.mark("a.snapshot")):
        with pytest.raises(SnapshotStoreAway, match=advice):
            act()
    with pytest.raises(SnapshotStoreAway, match=advice), store.write("a.snapshot") as target:
        target.write(b"x")


def test_a_key_that_the_server_does_not_know_is_named(server: str, bucket: str) -> None:
    """The server checks keys from here on, and has none."""
    ask(f"{server}/moto-api/reset-auth", "POST", b"0")
    try:
        with pytest.raises(SnapshotStoreAway, match="does not know the key in AWS_ACCESS_KEY_ID"):
            open_store(bucket).names()
    finally:
        ask(f"{server}/moto-api/reset-auth", "POST", b"1000000")
