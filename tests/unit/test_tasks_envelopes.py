"""Signatures and large messages, from the settings to the broker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from brokers.envelope import Envelope
from brokers.errors import WrongSetting
from brokers.keyring import KeyRing, load, new_key, save
from brokers.stores import FileStore, RedisStore
from settings import Settings
from tasks.app import App


if TYPE_CHECKING:
    from pathlib import Path


def app(**values: Any) -> App:
    """An app with these settings."""
    return App(Settings(BROKERS="localhost:1", **values))


def test_without_settings_messages_are_plain() -> None:
    """No signature, no store."""
    assert app().broker.envelope == Envelope()


def test_keys_and_the_first_signed_command_reach_the_broker(tmp_path: Path) -> None:
    """Under the full name of the topic."""
    path = tmp_path / "keys.json"
    save(KeyRing().with_key(new_key("hmac-sha256")), path)
    made = app(SIGNING_KEYS=path, SIGNING="accept", COMMANDS_SIGNED_FROM=7, B_TOPIC_PREFIX="p-")
    signing = made.broker.envelope.signing
    assert signing is not None
    assert (signing.required, signing.since) == (False, {"p-command": 7})
    assert signing.ring.keys.keys() == load(path).keys.keys()


def test_a_ring_that_cannot_be_used_is_a_wrong_setting(tmp_path: Path) -> None:
    """Nobody sends unsigned because a file is broken."""
    path = tmp_path / "keys.json"
    path.write_text("{}")
    with pytest.raises(WrongSetting, match=r"keys\.json"):
        app(SIGNING_KEYS=path, COMMANDS_SIGNED_FROM=0)


def test_a_store_is_made_without_asking_it(tmp_path: Path) -> None:
    """It connects at its first use."""
    folder = app(CLAIM_STORE=f"file://{tmp_path}", MAX_MESSAGE_BYTES=5000).broker.envelope
    assert isinstance(folder.claims, FileStore)
    assert (folder.claims.folder, folder.record_bytes) == (tmp_path, 5000)
    assert isinstance(app(CLAIM_STORE="redis://localhost:1/0").broker.envelope.claims, RedisStore)
