"""The file of keys, and what is wrong with one."""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING, Any

import pytest

from brokers.errors import WrongSetting
from brokers.keyring import Ed25519Key, KeyRing, describe, dumped, load, new_key, save


if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def ring() -> KeyRing:
    """One key of each kind; the first one signs."""
    return KeyRing().with_key(new_key("hmac-sha256")).with_key(new_key("ed25519"))


def test_a_ring_is_read_as_it_was_written(ring: KeyRing, tmp_path: Path) -> None:
    """And nobody else can read it."""
    path = tmp_path / "keys.json"
    save(ring, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["keys.json"]
    read = load(path)
    assert dumped(read) == dumped(ring)
    for name, key in ring.keys.items():
        assert read.keys[name].verify(key.sign(b"data"), b"data")
        assert not read.keys[name].verify(key.sign(b"data"), b"date")


def test_the_public_half_verifies_and_cannot_sign(tmp_path: Path) -> None:
    """It is what workers need that send nothing."""
    whole = KeyRing().with_key(new_key("ed25519"))
    save(whole.public(), tmp_path / "keys.json")
    read = load(tmp_path / "keys.json")
    [key] = read.keys.values()
    assert (read.sign_with, key.can_sign) == (None, False)
    assert key.verify(whole.signing_key().sign(b"data"), b"data")
    with pytest.raises(WrongSetting, match="cannot sign"):
        key.sign(b"data")
    assert isinstance(key, Ed25519Key)


def test_a_shared_secret_has_no_public_half(ring: KeyRing) -> None:
    """Who verifies with it can sign."""
    with pytest.raises(WrongSetting, match="can sign: use ed25519"):
        ring.public()


def test_a_description_has_no_secrets(ring: KeyRing) -> None:
    """It is printed."""
    refusing = KeyRing(ring.keys, ring.sign_with, frozenset({"0123456789abcdef"}))
    rows = describe(refusing)
    assert [(row["algorithm"], row["signs"]) for row in rows] == [
        ("hmac-sha256", True),
        ("ed25519", False),
        ("refused", False),
    ]
    secrets = [value for one in json.loads(dumped(ring))["keys"] for name, value in one.items() if name != "id"]
    assert not any(secret in str(rows) for secret in secrets if len(secret) > 20)


def changed(ring: KeyRing, **changes: Any) -> bytes:
    """The file of *ring* with its first key changed."""
    stored = json.loads(dumped(ring))
    stored["keys"][0] |= changes
    return json.dumps(stored).encode()


BROKEN = {
    "no JSON": lambda ring: dumped(ring)[:-3],
    "another id": lambda ring: changed(ring, id="0" * 16),
    "another algorithm": lambda ring: changed(ring, algorithm="ed25519"),
    "unknown algorithm": lambda ring: changed(ring, algorithm="none"),
    "short secret": lambda ring: changed(ring, secret="c2hvcnQ="),
    "no base64": lambda ring: changed(ring, secret="?"),
    "two halves": lambda ring: changed(ring, public="c2hvcnQ="),
    "unknown field": lambda ring: changed(ring, comment="mine"),
    "unknown signer": lambda ring: dumped(ring).replace(b'"sign_with": "', b'"sign_with": "0'),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_broken_ring_is_refused(ring: KeyRing, tmp_path: Path, broken: Any) -> None:
    """With the reason; a ring that is half understood would sign with the wrong key."""
    path = tmp_path / "keys.json"
    path.write_bytes(broken(ring))
    with pytest.raises(WrongSetting, match="key"):
        load(path)


def test_a_ring_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """By its path."""
    with pytest.raises(WrongSetting, match="nowhere"):
        load(tmp_path / "nowhere")


def test_a_key_is_not_both_known_and_refused(ring: KeyRing) -> None:
    """One of the two is a mistake."""
    with pytest.raises(WrongSetting, match="refuses"):
        KeyRing(ring.keys, None, frozenset(ring.keys))
