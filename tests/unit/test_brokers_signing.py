"""Signatures: what they cover, and everything that is refused."""

from __future__ import annotations

import base64
import dataclasses
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from brokers.delays import delayed, entry_of
from brokers.errors import BadSignature, UnknownKey, Unsigned, WrongSetting
from brokers.keyring import Ed25519Key, HmacKey, KeyRing, _Ed25519, _ed25519, new_key
from brokers.records import Outgoing, Record
from brokers.signing import COVERED, SIGNATURE, SKEW_S, Signing, canonical
from brokers.topics import TopicSpec


few = settings(max_examples=100, deadline=None)

SECRET = bytes(range(32))
HMAC = HmacKey(SECRET)
ED25519 = _ed25519(_Ed25519().private.from_private_bytes(SECRET))
KEYS: dict[str, HmacKey | Ed25519Key] = {"hmac-sha256": HMAC, "ed25519": ED25519}

HEADERS = {"message_id": b"m1", "actor": b"a", "attempt": b"1"}
OUT = Outgoing("q", b'{"args":[1]}', b"k", HEADERS)


def signing(key: HmacKey | Ed25519Key = HMAC, **options: Any) -> Signing:
    """A ring of one key, that signs."""
    return Signing(KeyRing().with_key(key), **options)


def arrived(out: Outgoing, **changes: Any) -> Record:
    """What is sent, as it is read."""
    return replace(Record(out.topic, 0, 7, 0, out.key, out.value, dict(out.headers)), **changes)


def test_the_signed_bytes_are_these() -> None:
    """Senders in other languages build them from this: each part with its length, eight bytes, before it."""
    assert canonical("q", b"k", None, {"actor": b"a", "other": b"not covered"}).hex() == (
        "0000000000000015" + b"neo4j-kafka message 1".hex() + "0000000000000001" + b"q".hex()
        # a key, no value, one header
        + "01" + "0000000000000001" + b"k".hex() + "00" + "0000000000000001"
        + "0000000000000005" + b"actor".hex() + "0000000000000001" + b"a".hex()
    )  # fmt: skip


@pytest.mark.parametrize(
    ("key", "key_id", "signature"),
    [
        (HMAC, "aa28431c97b3350e", "U9nuZnaykMMf4PjqgQcl75cgzKP1hrrTIST/g1CeRVE="),
        (
            ED25519,
            "5384ec04d5c9d89a",
            "Loq9F6PmDGrK6LrplJpsu5uviSCDdvrQdVZO1FcW82olweB3xHurwG0wmjo8T42e6Wbo+kRV25Vz0NKjx74WCg==",
        ),
    ],
)
def test_a_signature_is_always_the_same(key: Any, key_id: str, signature: str) -> None:
    """Test vectors: the secret, or private key, is the bytes 0 to 31."""
    signed = signing(key).sign(OUT)
    assert signed.headers["sig.key"] == key_id.encode()
    assert signed.headers["sig"] == signature.encode()


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_what_is_signed_is_read(key: Any) -> None:
    """Headers that nobody gives a meaning to may come and go on the way."""
    signed = signing(key).sign(OUT)
    signing(key).verify(arrived(signed))
    signing(key).verify(arrived(signed, headers={**signed.headers, "traceparent": b"00-1-2-01"}))


PLACES = ("key", "value", *HEADERS, "sig.key", SIGNATURE)


@few
@given(st.sampled_from(sorted(KEYS)), st.sampled_from(PLACES), st.integers(0), st.binary(min_size=1), st.binary())
def test_any_flipped_bit_is_refused(algorithm: str, place: str, bit: int, value: bytes, key: bytes) -> None:
    """Wherever it is."""
    one = signing(KEYS[algorithm])
    signed = one.sign(replace(OUT, value=value, key=b"k" + key))
    record = arrived(signed)
    if place in {"key", "value"}:
        field: Any = {place: flipped(getattr(record, place), bit)}
        changed = replace(record, **field)
    elif place == SIGNATURE:
        raw = flipped(base64.b64decode(record.headers[place]), bit)
        changed = replace(record, headers={**record.headers, place: base64.b64encode(raw)})
    else:
        changed = replace(record, headers={**record.headers, place: flipped(record.headers[place], bit)})
    with pytest.raises((BadSignature, UnknownKey)):
        one.verify(changed)
    one.verify(record)


def flipped(data: bytes, bit: int) -> bytes:
    """*data* with one bit otherwise."""
    place, mask = divmod(bit % (8 * len(data)), 8)
    return data[:place] + bytes([data[place] ^ (1 << mask)]) + data[place + 1 :]


parts = st.tuples(
    st.text("qk", max_size=2),
    st.none() | st.binary(max_size=3),
    st.none() | st.binary(max_size=3),
    st.dictionaries(st.sampled_from(COVERED), st.binary(max_size=3), max_size=3),
)


@few
@given(parts, parts)
def test_two_records_never_have_the_same_bytes(one: Any, other: Any) -> None:
    """No byte can move from one part into the next; nothing and empty are two things."""
    assert (canonical(*one) == canonical(*other)) == (one == other)


@pytest.mark.parametrize(
    "changes",
    [
        {"topic": "elsewhere"},
        {"key": None},
        {"value": None},
        {"headers": {}},
        {"headers": {"sig": b"not base64!"}},
        {"headers": {"sig": b""}},
        {"headers": {"claim": b"{}"}},
        {"headers": {"sig.eta_ms": b"0"}},
    ],
    ids=str,
)
def test_what_was_moved_or_cut_is_refused(changes: dict[str, Any]) -> None:
    """Onto another queue; or with a claim on content that the sender never saw."""
    signed = signing().sign(OUT)
    if changes.get("headers"):
        changes = {"headers": {**signed.headers, **changes["headers"]}}
    with pytest.raises((BadSignature, Unsigned)):
        signing().verify(arrived(signed, **changes))


def test_unsigned_records_are_refused_where_signatures_are_required() -> None:
    """And taken while senders learn to sign; one whose signature is wrong is refused then, too."""
    with pytest.raises(Unsigned):
        signing().verify(arrived(OUT))
    signing(required=False).verify(arrived(OUT))
    signed = signing().sign(OUT)
    with pytest.raises(BadSignature):
        signing(required=False).verify(arrived(signed, value=b"other"))


@pytest.mark.parametrize("required", [True, False])
def test_a_log_has_a_place_from_which_on_signatures_are_required(required: bool) -> None:
    """So that all replicas come to the same verdict, whenever each of them is given its keys."""
    one = signing(required=required, since={"q": 7})
    one.verify(arrived(OUT, offset=6))
    with pytest.raises(Unsigned):
        one.verify(arrived(OUT, offset=7))


def test_a_key_that_is_not_here_is_another_matter_than_a_wrong_signature() -> None:
    """Another process may have it; unless the ring says that nobody has."""
    signed = signing(ED25519).sign(OUT)
    with pytest.raises(UnknownKey, match=ED25519.id):
        signing().verify(arrived(signed))
    refusing = Signing(KeyRing(refused=frozenset({ED25519.id})))
    with pytest.raises(BadSignature, match="refused"):
        refusing.verify(arrived(signed))


def test_keys_are_exchanged_without_a_gap() -> None:
    """First all can verify with the new one, then some sign with it, then the old one only verifies."""
    old, new = new_key("hmac-sha256"), new_key("ed25519")
    before = KeyRing().with_key(old)
    both = before.with_key(new)
    assert both.sign_with == old.id
    after = dataclasses.replace(both, sign_with=new.id)
    for sender in (before, both, after):
        for reader in (both, after):
            Signing(reader).verify(arrived(Signing(sender).sign(OUT)))


def test_who_has_no_key_to_sign_with_does_not_send_unsigned() -> None:
    """Where that would be refused; elsewhere it may."""
    only_reads = KeyRing().with_key(ED25519).public()
    with pytest.raises(WrongSetting, match="only verifies"):
        Signing(only_reads).sign(OUT)
    assert Signing(only_reads, required=False).sign(OUT) == OUT
    with pytest.raises(WrongSetting, match="only verifies"):
        Signing(only_reads, required=False, since={"q": 0}).sign(OUT)


def test_a_delayed_record_is_fired_with_its_signature() -> None:
    """The timer takes off what it has put on, and no more."""
    eta_ms = int(time.time() * 1000)
    signed = signing().sign(OUT, eta_ms)
    wrapped = delayed(signed, eta_ms, TopicSpec("delayed"))
    entry = entry_of(arrived(wrapped))
    assert entry is not None
    assert entry.due == signed
    signing().verify(arrived(entry.due))


def test_a_delayed_record_cannot_be_sent_elsewhere_or_earlier() -> None:
    """Whoever may write to the delayed topic can change where it goes and when; the signature says otherwise."""
    eta_ms = int((time.time() + 2 * SKEW_S) * 1000)
    wrapped = delayed(signing().sign(OUT, eta_ms), eta_ms, TopicSpec("delayed"))
    elsewhere = entry_of(arrived(wrapped, headers={**wrapped.headers, "delayed.topic": b"other"}))
    sooner = entry_of(arrived(wrapped, headers={**wrapped.headers, "delayed.eta_ms": b"1"}))
    assert elsewhere is not None
    assert sooner is not None
    with pytest.raises(BadSignature, match="not one of this record"):
        signing().verify(arrived(elsewhere.due), on_time=False)
    with pytest.raises(BadSignature, match="yet to come"):
        signing().verify(arrived(sooner.due))
