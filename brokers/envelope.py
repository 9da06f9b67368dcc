"""What is put around a message on its way out, and taken off again on its way in.

Out: Dramatiq's encoding, the claim on content that is too large, the signature.  In: the signature first, so that
nothing unsigned is fetched or decoded; then the content; then the message.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from dramatiq.encoder import JSONEncoder
from dramatiq.message import get_encoder

from brokers import claims, records, signing
from brokers.errors import TooLarge, UnknownKey, WrongSetting
from brokers.received import header_names


if TYPE_CHECKING:
    from collections.abc import Sequence

    import dramatiq
    from dramatiq.encoder import Encoder

    from brokers.claims import ClaimStore
    from brokers.records import Outgoing, Record
    from brokers.signing import Signing
    from brokers.topics import Queue, TopicSpec

#: Bytes of value, key and headers that a message's record may have.  Kafka's own limit for a topic is 1,048,588.
RECORD_BYTES = 1_000_000

#: The headers of a record with something around its message.
AROUND = frozenset({claims.HEADER, signing.SIGNATURE, signing.KEY})

#: What Kafka adds to a record, and we to a delayed one, rounded up far.
ROOM_BYTES = 48_588


@dataclass(frozen=True, slots=True)
class Envelope:
    """How one broker's messages become records, and back.

    *signing*: which signatures are made and wanted; none without it.
    *claims*: where content lies that is too large for a record; without it such messages are refused.
    *record_bytes*: the largest record of a topic whose declaration does not say how much it takes.
    *any_encoder*: trust whatever encoder the application has given Dramatiq.  One that can run code, as pickle can,
    runs what anybody who may write to a topic wants; so without this only JSON is sent and read.
    """

    signing: Signing | None = None
    claims: ClaimStore | None = None
    record_bytes: int = RECORD_BYTES
    any_encoder: bool = False

    def close(self, message: dramatiq.Message[Any], topic: TopicSpec, eta_ms: int | None = None) -> Outgoing:
        """The record of *message* for *topic*, at once or at *eta_ms* of the wall clock.  What does not fit is stored.

        Raises:
          TooLarge, WrongKey, WrongSetting, StoreAway: see `brokers.errors`.
        """
        self._sending_encoder()
        record = records.encode(message, topic.name, uniform=topic.uniform)
        limit = self._limit(topic)
        if len(record.value or b"") > limit // 2 and record.size > limit:
            record = self._claimed(message, record, topic, 0 if eta_ms is None else eta_ms / 1000 - time.time())
        return record if self.signing is None else self.signing.sign(record, eta_ms)

    def _limit(self, topic: TopicSpec) -> int:
        return self.record_bytes if topic.max_message_bytes is None else topic.max_message_bytes - ROOM_BYTES

    def _claimed(self, message: dramatiq.Message[Any], record: Outgoing, topic: TopicSpec, in_s: float) -> Outgoing:
        store = self._store(message, record, topic)
        encoder = get_encoder()
        content, stays = claims.parted(message.asdict())
        encoded = encoder.encode(content)
        claim = claims.claim_of(encoded, store=store.name, topic=topic.name)
        about = msgspec.json.encode(claim)
        stays["claim"] = msgspec.to_builtins(claim)  # for people; the header counts
        small = msgspec.structs.replace(record, value=encoder.encode(stays)).with_headers({claims.HEADER: about})
        if small.size > self._limit(topic):
            raise TooLarge(
                f"message {message.message_id} has {small.size:,} bytes without its arguments, more than the"
                f" {self._limit(topic):,} of a record of {topic.name!r}: its options are too large"
            )
        store.put(claim.key, encoded, longer_s=max(in_s, 0))
        return small

    def _store(self, message: dramatiq.Message[Any], record: Outgoing, topic: TopicSpec) -> ClaimStore:
        """The store, if content there lasts as long as the record."""
        store = self.claims
        too_large = (
            f"message {message.message_id} makes a record of {record.size:,} bytes for {topic.name!r}, more than the"
            f" {self._limit(topic):,} that fit"
        )
        if store is None:
            raise TooLarge(
                f"{too_large}: send a reference to its content instead, or configure a claim store (CLAIM_STORE), or"
                " raise MAX_MESSAGE_BYTES together with the topic's max.message.bytes"
            )
        if store.keeps_s < (claims.FOR_EVER if topic.retention_s < 0 else topic.retention_s):
            raise TooLarge(
                f"{too_large}; the claim store {store.name!r} keeps content for {store.keeps_s:,.0f} s, and the topic"
                " its records for longer: use a store that keeps it as long (CLAIM_STORE=file:///...)"
            )
        return store

    def open(self, record: Record, queue: Queue) -> Record:
        """*record* as it can be decoded: its signature is good, and its content at hand.

        Raises:
          Unsigned, BadSignature, UnknownKey, ClaimGone, ClaimBroken, Undecodable, StoreAway: see `brokers.errors`.
        """
        if self.signing is not None:
            self.signing.verify(record, on_time=not queue.ordered)
        elif queue.refused is not None and signing.is_signed(record):
            # Another replica may refuse it: this one must not apply what it cannot judge.
            raise UnknownKey("it is signed, and this process has no keys (SIGNING_KEYS)")
        header = record.headers.get(claims.HEADER)
        if header is None:
            return record
        content = claims.fetched(claims.read_claim(header), self.claims)
        return claims.whole(record, content, self._reading_encoder())

    def holds_bare(self, records: Sequence[Record]) -> bool:
        """Whether `open` gives each of *records* as it is, for certain."""
        return self.signing is None and AROUND.isdisjoint(header_names(records))

    def decode(self, record: Record, queue_name: str) -> dramatiq.Message[Any]:
        """The message of an opened record.  Raises `Undecodable`."""
        return records.decode(record, queue_name, self._reading_encoder())

    def _reading_encoder(self) -> Encoder:
        encoder = get_encoder()
        return encoder if self.any_encoder or isinstance(encoder, JSONEncoder) else records.JSON

    def _sending_encoder(self) -> None:
        encoder = get_encoder()
        if not (self.any_encoder or isinstance(encoder, JSONEncoder)):
            raise WrongSetting(
                f"messages would be encoded by {type(encoder).__name__}, and this broker reads nothing but JSON: with"
                " some encoders, pickle above all, whoever may write to a topic could run code.  If yours is safe, say"
                " KafkaBroker(envelope=Envelope(any_encoder=True))"
            )
