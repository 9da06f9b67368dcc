"""The claim check: content too large for a record lies in a store, and the record says where, how large, and its hash.

Only arguments are put away.  What a retry changes, the options, stays in the record; so all attempts of a message share
one content under one key, which is its hash.  The record has no arguments: a worker that knows nothing of claims parks
it instead of running an actor without them.

Content is stored before its record is sent.  A crash in between leaves content that nobody refers to, and no more.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from brokers.errors import ClaimBroken, ClaimGone, StoreAway, Undecodable


if TYPE_CHECKING:
    from collections.abc import Mapping

    from dramatiq.encoder import Encoder

    from brokers.records import Record

#: The header that says where the content is, as JSON.
HEADER = "claim"

#: What is put away of a message.
CONTENT = ("args", "kwargs")

FOR_EVER = float("inf")

_key = re.compile(r"(?!\.{1,2}/)[a-zA-Z0-9._-]{1,249}/[0-9a-f]{64}")


def require_key(key: str) -> None:
    """Raise ValueError unless *key* is ``<topic>/<hash>``: it becomes a path."""
    if not _key.fullmatch(key):
        raise ValueError(f"{key!r} is no key of a claim store")


class ClaimStore(Protocol):
    """Where large contents lie.  Any thread; for answers as well as for messages.

    *name* tells stores apart; *keeps_s* is how long content is kept at least, in seconds.
    """

    name: str
    keeps_s: float

    def put(self, key: str, content: bytes, *, longer_s: float = 0) -> None:
        """Keep *content*, for *keeps_s* and *longer_s* from now; content that is there already is only kept longer.

        Raises:
          StoreAway: it may or may not be there.
        """

    def get(self, key: str) -> bytes | None:
        """The content, or none where there is none any more.

        Raises:
          StoreAway: the store cannot say.
        """


class Claim(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the content of a message is, how many bytes it has, and their hash."""

    store: str
    key: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        require_key(self.key)


_decoder = msgspec.json.Decoder(Claim)


def claim_of(content: bytes, *, store: str, topic: str) -> Claim:
    """The claim on *content* of a message on *topic*; the same content has the same."""
    digest = hashlib.sha256(content).hexdigest()
    return Claim(store, f"{topic}/{digest}", len(content), digest)


def parted(message: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is put away of a message's fields, and what stays in the record."""
    stays = {name: value for name, value in message.items() if name not in CONTENT}
    return {name: message[name] for name in CONTENT}, stays


def read_claim(header: bytes) -> Claim:
    """The claim in a record's header.

    Raises:
      Undecodable: it is none.
    """
    try:
        return _decoder.decode(header)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise Undecodable(f"the header {HEADER!r} is no claim: {exc}") from exc


def fetched(claim: Claim, store: ClaimStore | None) -> bytes:
    """The content that *claim* stands for, verified.

    Raises:
      StoreAway: the store does not answer, or is another one than this process has.
      ClaimGone, ClaimBroken: it answers, and the content is not there any more, or is another one.
    """
    if store is None or store.name != claim.store:
        here = "none" if store is None else repr(store.name)
        raise StoreAway(f"the content lies in the claim store {claim.store!r}, and here is {here} (CLAIM_STORE)")
    content = store.get(claim.key)
    if content is None:
        raise ClaimGone(f"the content {claim.key} of {claim.size:,} bytes is no longer in the claim store")
    if len(content) != claim.size or hashlib.sha256(content).hexdigest() != claim.sha256:
        raise ClaimBroken(
            f"the claim store has {len(content):,} bytes as {claim.key}, and not those that were put there"
        )
    return content


def whole(record: Record, content: bytes, encoder: Encoder) -> Record:
    """*record* as it would be without a claim.

    Raises:
      Undecodable: record or content is no part of a message.
    """
    try:
        together = encoder.decode(record.value or b"") | encoder.decode(content)
        return record.with_value(encoder.encode(together))
    except Exception as exc:  # encoders raise what they like
        raise Undecodable(f"a message cannot be put together with its content: {exc!r}") from exc
