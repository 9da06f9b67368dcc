from __future__ import annotations

import hashlib
import re
import zipfile
from typing import TYPE_CHECKING

import pytest

from ops import jars, servers
from ops.jars import Jar


if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("pin", jars.PINNED)
def test_every_pinned_server_is_in_the_lock_file_with_all_its_jars(pin: tuple[str, str]) -> None:
    """A version that is called pinned can be fetched without resolving anything."""
    server, version = pin
    locked = {jar.coordinate for jar in jars.load_lock()[pin]}
    for coordinate in jars.coordinates(server, version).split("+"):
        group, artifact, number = coordinate.split(":")
        assert f"{group}:{artifact}:jar:{number}" in locked


def test_the_lock_file_names_no_host() -> None:
    """Where jars come from is the user's business: their jgo settings say so."""
    text = jars.LOCK_FILE.read_text()
    assert "://" not in text
    assert "www." not in text


def test_every_locked_jar_has_a_size_and_a_hash() -> None:
    """A line without them would let any file through."""
    for locked in jars.load_lock().values():
        for jar in locked:
            assert jar.size > 0
            assert re.fullmatch("[0-9a-f]{64}", jar.sha256)
            assert Jar.parse(str(jar)) == jar


def test_a_jar_with_one_changed_byte_is_not_the_jar(tmp_path: Path) -> None:
    """Size alone does not vouch for a file."""
    path = tmp_path / "a.jar"
    path.write_bytes(b"content")
    jar = Jar("g:a:jar:1", 7, hashlib.sha256(b"content").hexdigest())
    assert jar.is_at(path)
    path.write_bytes(b"Content")
    assert not jar.is_at(path)
    path.write_bytes(b"conten")
    assert not jar.is_at(path)
    assert not jar.is_at(tmp_path / "absent.jar")


def test_the_first_password_is_written_as_neo4j_admin_writes_it() -> None:
    """The line was made by `neo4j-admin dbms set-initial-password abcd1234` of 2026.04.0."""
    salt = bytes.fromhex("582e8e1cab7f3ffb88bb18248f318d05aba0b7aa417e460be70281b855262dc7")
    digest = "142cc9479506eec3f5291f896feae9a0fa7d93b75aca04f1f5b27d01d066d6ee"
    assert servers.credential("neo4j", "abcd1234", salt) == f"neo4j:SHA-256,{digest},{salt.hex()},1024:\n"


def test_a_cluster_id_is_never_taken_for_an_option() -> None:
    """One random id in 64 would begin with a dash, and Kafka's tool would refuse it."""
    for _ in range(500):
        assert re.fullmatch(r"A[\w-]{21}", servers.cluster_id())


@pytest.mark.parametrize("name", ["Neo4jCommunity", "CommunityEntryPoint"])
def test_the_main_class_is_the_one_in_the_jar(tmp_path: Path, name: str) -> None:
    """Neo4j renamed it, and a version outside the lock file may have either."""
    jar = tmp_path / "neo4j-7.1.jar"
    with zipfile.ZipFile(jar, "w") as classes:
        classes.writestr(f"org/neo4j/server/{name}.class", b"")
    assert servers.main_class("7.1", [tmp_path / "neo4j-kernel-7.1.jar", jar]) == f"org.neo4j.server.{name}"
