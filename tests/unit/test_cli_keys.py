"""``neo4j-kafka keys``: from the first key to its successor."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

import cli
from brokers.keyring import load


if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def ring(tmp_path: Path) -> Path:
    """A ring of one key."""
    path = tmp_path / "keys.json"
    keys("new", path)
    return path


def keys(command: str, path: Path, *arguments: str) -> dict[str, Any]:
    """Run one of the commands; what it says to programs."""
    result = CliRunner().invoke(cli.main, ["keys", command, *arguments, "--file", str(path), "--json"])
    assert result.exit_code == 0, result.output
    said: dict[str, Any] = json.loads(result.stdout)
    return said


def test_a_key_is_exchanged_for_another(ring: Path) -> None:
    """The first one signs from the start, the next one when it is told to."""
    first = load(ring).sign_with
    added = keys("new", ring, "--algorithm", "ed25519")["new"]
    assert load(ring).sign_with == first != added
    shown = keys("use", ring, added)["keys"]
    assert [(row["id"], row["signs"]) for row in shown] == [(first, False), (added, True)]
    assert load(ring).sign_with == added


def test_a_public_ring_is_written_for_those_who_only_verify(tmp_path: Path) -> None:
    """Of Ed25519's keys."""
    ring, public = tmp_path / "keys.json", tmp_path / "public.json"
    keys("new", ring, "--algorithm", "ed25519")
    [row] = keys("public", ring, str(public))["keys"]
    assert (row["signs"], row["can_sign"]) == (False, False)
    assert "private" not in public.read_text()


def test_a_table_shows_no_secret_and_warns_of_readers(ring: Path) -> None:
    """Who may read the file may sign."""
    ring.chmod(0o644)
    result = CliRunner().invoke(cli.main, ["keys", "list", "--file", str(ring)])
    assert result.exit_code == 0
    assert "signs" in result.stdout
    assert json.loads(ring.read_text())["keys"][0]["secret"] not in result.stdout
    assert "can be read by others" in result.stderr


@pytest.mark.parametrize("arguments", [("use", "nobody"), ("public", "out.json")])
def test_what_cannot_be_done_is_said_in_one_line(ring: Path, arguments: tuple[str, ...]) -> None:
    """And changes nothing."""
    before = ring.read_bytes()
    result = CliRunner().invoke(cli.main, ["keys", *arguments, "--file", str(ring)])
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert ring.read_bytes() == before
