"""Signed messages: who may write to a topic is not yet who may have work done.

A signature covers the topic, the key, the value, and those headers that mean something; so a record cannot be changed,
nor moved to another queue, nor fired before its time.  What it does not prevent: that a record is deleted, held back,
or put on its own queue once more.  A queue runs a message at least once in any case.

Three headers: ``sig`` is the signature in base64, ``sig.key`` the id of the key, ``sig.eta_ms`` the time before which
a delayed message must not run.
"""

from __future__ import annotations

import base64
import binascii
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from brokers.errors import BadSignature, UnknownKey, Unsigned


if TYPE_CHECKING:
    from collections.abc import Mapping

    from brokers.keyring import KeyRing
    from brokers.records import Outgoing, Record

SIGNATURE = "sig"
KEY = "sig.key"
ETA = "sig.eta_ms"

#: The headers that mean something to a worker.  A name may be added; none may be taken away while its records last.
COVERED = ("actor", "attempt", "claim", "message_id", ETA, KEY)

#: Begins everything that is signed, so that a signature made for anything else is none here.
PURPOSE = b"neo4j-kafka message 1"

#: Seconds by which the clocks of a sender and a worker may differ.
SKEW_S = 60.0


def canonical(topic: str, key: bytes | None, value: bytes | None, headers: Mapping[str, bytes]) -> bytes:
    """The bytes that are signed.  Each part has its length before it, so that no two records have the same."""
    covered = [name for name in sorted(COVERED) if name in headers]
    parts = [_sized(PURPOSE), _sized(topic.encode()), _optional(key), _optional(value), len(covered).to_bytes(8)]
    for name in covered:
        parts += [_sized(name.encode()), _sized(headers[name])]
    return b"".join(parts)


def _sized(part: bytes) -> bytes:
    return len(part).to_bytes(8) + part


def _optional(part: bytes | None) -> bytes:
    return b"\0" if part is None else b"\1" + _sized(part)


def is_signed(record: Record) -> bool:
    """Whether *record* says that it is."""
    return SIGNATURE in record.headers or KEY in record.headers


@dataclass(frozen=True, slots=True)
class Signing:
    """Which signatures a broker makes and wants.

    *required*: unsigned records are refused.  Otherwise they are taken, and only what is signed has to be signed well:
    for the time in which senders learn to sign.
    *since*: for a topic, the offset from which on signatures are required, whatever *required* says.  Replicas of one
    log must agree on it: which records count may depend on nothing but the log.
    """

    ring: KeyRing
    required: bool = True
    since: Mapping[str, int] = field(default_factory=dict)

    def sign(self, record: Outgoing, eta_ms: int | None = None) -> Outgoing:
        """*record* with a signature; without a key to sign with, as it is, where signatures are not required.

        Raises:
          WrongSetting: they are required, and this process has no key to sign with.
        """
        if self.ring.sign_with is None and not (self.required or record.topic in self.since):
            return record
        key = self.ring.signing_key()
        headers = {KEY: key.id.encode()} | ({} if eta_ms is None else {ETA: str(eta_ms).encode()})
        signed = record.with_headers(headers)
        signature = key.sign(canonical(signed.topic, signed.key, signed.value, signed.headers))
        return signed.with_headers({SIGNATURE: base64.b64encode(signature)})

    def verify(self, record: Record, *, on_time: bool = True) -> None:
        """Return if *record* may be read.  *on_time*: and if it may run already.

        Raises:
          Unsigned, BadSignature, UnknownKey: it may not.
        """
        if not is_signed(record):
            if self._needed(record):
                raise Unsigned("it has no signature, and one is required here")
            return
        key_id = record.headers.get(KEY, b"").decode(errors="replace")
        if key_id in self.ring.refused:
            raise BadSignature(f"it is signed with the key {key_id!r}, which is refused")
        key = self.ring.keys.get(key_id)
        if key is None:
            raise UnknownKey(f"it is signed with the key {key_id!r}, which is not in this process's key ring")
        covered = canonical(record.topic, record.key, record.value, record.headers)
        if not key.verify(_signature(record), covered):
            raise BadSignature(f"its signature with the key {key_id!r} is not one of this record on this topic")
        if on_time:
            _refuse_early(record)

    def _needed(self, record: Record) -> bool:
        since = self.since.get(record.topic)
        return self.required if since is None else record.offset >= since


def _signature(record: Record) -> bytes:
    try:
        return base64.b64decode(record.headers.get(SIGNATURE, b""), validate=True)
    except binascii.Error:
        return b""  # no key takes that


def _refuse_early(record: Record) -> None:
    """A delayed message whose time was changed on its way, or that was taken off the delayed topic by hand."""
    eta_ms = record.headers.get(ETA, b"0")
    if not eta_ms.isdigit() or time.time() + SKEW_S < int(eta_ms) / 1000:
        raise BadSignature(f"it is signed for {eta_ms.decode(errors='replace')} ms of the wall clock, yet to come")
