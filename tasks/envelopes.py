"""What the settings say about signatures and large messages, as the broker takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from brokers import keyring
from brokers.envelope import Envelope
from brokers.signing import Signing
from brokers.stores import FileStore, RedisStore


if TYPE_CHECKING:
    from brokers.claims import ClaimStore
    from settings import Settings

#: Seconds that Redis may take for one content; above it counts as away.
REDIS_TIMEOUT_S = 10.0

FILE = "file://"


def envelope_of(settings: Settings, command_topic: str) -> Envelope:
    """The envelope of all messages.  Connects to nothing; reads the key ring.

    Raises:
      WrongSetting: the key ring cannot be used.
    """
    return Envelope(
        signing=_signing(settings, command_topic),
        claims=None if settings.claim_store is None else store_of(settings.claim_store),
        record_bytes=settings.max_message_bytes,
    )


def _signing(settings: Settings, command_topic: str) -> Signing | None:
    if settings.signing_keys is None:
        return None
    first = settings.commands_signed_from
    since = {} if first is None else {command_topic: first}
    return Signing(keyring.load(settings.signing_keys), required=settings.signing == "required", since=since)


def store_of(url: str) -> ClaimStore:
    """The claim store at *url*, ``file:///folder`` or ``redis://...``."""
    if url.startswith(FILE):
        return FileStore(url.removeprefix(FILE))
    import redis  # noqa: PLC0415 - only where it is wanted

    return RedisStore(redis.Redis.from_url(url, socket_timeout=REDIS_TIMEOUT_S, socket_connect_timeout=REDIS_TIMEOUT_S))
