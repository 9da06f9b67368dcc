"""The keys of signed messages, and the file that they stand in.

A key's id is a hash of its algorithm and of what verifies its signatures.  So an id says which algorithm it is, and no
two processes can have different keys under one id.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from brokers.errors import WrongSetting


if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

Algorithm: TypeAlias = Literal["hmac-sha256", "ed25519"]

#: Bytes of a secret, and of Ed25519's keys.
KEY_BYTES = 32

#: Bytes of an id.
ID_BYTES = 8


def key_id(algorithm: str, verifier: bytes) -> str:
    """The id of the key that *verifier* (a secret, or a public key) belongs to."""
    return hashlib.sha256(b"neo4j-kafka key 1\0" + algorithm.encode() + b"\0" + verifier).digest()[:ID_BYTES].hex()


class HmacKey:
    """HMAC-SHA256: whoever can verify can sign."""

    algorithm: Algorithm = "hmac-sha256"

    def __init__(self, secret: bytes) -> None:
        self.secret = secret
        self.id = key_id(self.algorithm, secret)
        self.can_sign = True

    def sign(self, data: bytes) -> bytes:
        """The signature of *data*."""
        return hmac.digest(self.secret, data, "sha256")

    def verify(self, signature: bytes, data: bytes) -> bool:
        """Whether *signature* is one of *data*; takes the same time however much of it is right."""
        return hmac.compare_digest(self.sign(data), signature)


class Ed25519Key:
    """Ed25519: with the public half alone a process can verify, and not sign."""

    algorithm: Algorithm = "ed25519"

    def __init__(self, public: Ed25519PublicKey, private: Ed25519PrivateKey | None = None) -> None:
        self._public, self._private = public, private
        self.public = public.public_bytes_raw()
        self.private = None if private is None else private.private_bytes_raw()
        self.id = key_id(self.algorithm, self.public)
        self.can_sign = private is not None

    def sign(self, data: bytes) -> bytes:
        """The signature of *data*."""
        if self._private is None:
            raise WrongSetting(f"key {self.id} has no private half: it verifies, and cannot sign")
        return self._private.sign(data)

    def verify(self, signature: bytes, data: bytes) -> bool:
        """Whether *signature* is one of *data*."""
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - an extra

        try:
            self._public.verify(signature, data)
        except InvalidSignature:
            return False
        return True


Key: TypeAlias = HmacKey | Ed25519Key


@dataclass(frozen=True, slots=True)
class KeyRing:
    """Keys by their id: one to sign with, all to verify with.

    *refused*: ids that are no keys of anybody's.  A replica holds what is signed with a key that it does not know,
    since another may know it; what is signed with one of these, all reject.
    """

    keys: Mapping[str, Key] = field(default_factory=dict)
    sign_with: str | None = None
    refused: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.sign_with is not None and not (self.sign_with in self.keys and self.keys[self.sign_with].can_sign):
            raise WrongSetting(f"the key ring has no key {self.sign_with!r} that can sign")
        both = self.refused & self.keys.keys()
        if both:
            raise WrongSetting(f"the key ring has, and refuses, {', '.join(sorted(both))}")

    def signing_key(self) -> Key:
        """The key to sign with.  Raises `WrongSetting` when there is none."""
        if self.sign_with is None:
            raise WrongSetting("this key ring only verifies, and messages have to be signed (SIGNING_KEYS)")
        return self.keys[self.sign_with]

    def with_key(self, key: Key) -> KeyRing:
        """The same with *key* to verify with, and, if it is the first that can, to sign with."""
        first = self.sign_with is None and key.can_sign
        return KeyRing({**self.keys, key.id: key}, key.id if first else self.sign_with, self.refused)

    def public(self) -> KeyRing:
        """What those need who only verify.

        Raises:
          WrongSetting: it has a key whose verifiers can sign.
        """
        secret = [key.id for key in self.keys.values() if isinstance(key, HmacKey)]
        if secret:
            raise WrongSetting(f"whoever verifies with {', '.join(secret)} (hmac-sha256) can sign: use ed25519")
        keys = {key.id: Ed25519Key(key._public) for key in self.keys.values() if isinstance(key, Ed25519Key)}  # noqa: SLF001
        return KeyRing(keys, None, self.refused)


def new_key(algorithm: Algorithm) -> Key:
    """A key of its own.

    Raises:
      WrongSetting: the package that it needs is not installed.
    """
    if algorithm == "hmac-sha256":
        return HmacKey(secrets.token_bytes(KEY_BYTES))
    return _ed25519(private=_Ed25519().private.generate())


class _Ed25519:
    """The package `cryptography`, which is an extra, at its first use."""

    def __init__(self) -> None:
        try:
            from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415 - as said
        except ImportError as exc:
            raise WrongSetting(f"{exc}: Ed25519 needs the extra `signing`, pip install '.[signing]'") from exc
        self.private, self.public = ed25519.Ed25519PrivateKey, ed25519.Ed25519PublicKey


def _ed25519(private: Ed25519PrivateKey) -> Ed25519Key:
    return Ed25519Key(private.public_key(), private)


# The file.


class _StoredKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    id: str
    algorithm: Algorithm
    secret: str | None = None
    private: str | None = None
    public: str | None = None

    def key(self) -> Key:
        """The key itself; raises ValueError."""
        made = self._made()
        if made.id != self.id:
            raise ValueError(f"the id of key {self.id!r} should be {made.id!r}: it was changed, or is another key's")
        return made

    def _made(self) -> Key:
        match self.algorithm, self.secret, self.private, self.public:
            case "hmac-sha256", str(secret), None, None:
                return HmacKey(_bytes(secret))
            case "ed25519", None, str(private), None:
                return _ed25519(_Ed25519().private.from_private_bytes(_bytes(private)))
            case "ed25519", None, None, str(public):
                return Ed25519Key(_Ed25519().public.from_public_bytes(_bytes(public)))
        raise ValueError(f"key {self.id!r} needs a secret (hmac-sha256), or private or public (ed25519), and no other")


class _Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sign_with: str | None
    keys: list[_StoredKey]
    refused: list[str] = []


def _bytes(text: str) -> bytes:
    decoded = base64.b64decode(text, validate=True)
    if len(decoded) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes; one here has {len(decoded)}")
    return decoded


def _text(key: bytes | None) -> str | None:
    return None if key is None else base64.b64encode(key).decode()


def _stored(key: Key) -> _StoredKey:
    if isinstance(key, HmacKey):
        return _StoredKey(key.id, key.algorithm, secret=_text(key.secret))
    public = None if key.private is not None else key.public
    return _StoredKey(key.id, key.algorithm, private=_text(key.private), public=_text(public))


def dumped(ring: KeyRing) -> bytes:
    """*ring* as its file."""
    stored = _Stored(ring.sign_with, [_stored(key) for key in ring.keys.values()], sorted(ring.refused))
    return msgspec.json.format(msgspec.json.encode(stored), indent=2) + b"\n"


def load(path: Path) -> KeyRing:
    """The key ring in a file.

    Raises:
      WrongSetting: it cannot be read, or is none.
    """
    try:
        stored = msgspec.json.decode(path.read_bytes(), type=_Stored)
        keys = [one.key() for one in stored.keys]
    except (OSError, ValueError) as exc:  # msgspec's errors and base64's are ValueErrors
        raise WrongSetting(f"the key ring {path} cannot be used: {exc}") from exc
    return KeyRing({key.id: key for key in keys}, stored.sign_with, frozenset(stored.refused))


def save(ring: KeyRing, path: Path) -> None:
    """Replace the file, which only its owner may read.  It is always whole."""
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(dumped(ring))
    scratch.replace(path)


def describe(ring: KeyRing) -> list[dict[str, Any]]:
    """Each key without its secrets: ``id``, ``algorithm``, ``signs`` (now), ``can_sign``; refused ids, too."""
    known = [
        {"id": key.id, "algorithm": key.algorithm, "signs": key.id == ring.sign_with, "can_sign": key.can_sign}
        for key in ring.keys.values()
    ]
    return known + [
        {"id": one, "algorithm": "refused", "signs": False, "can_sign": False} for one in sorted(ring.refused)
    ]
