"""Contents too large for a record: what lies in the store, what in the record, and what can be wrong with either."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import threading
import time
from typing import TYPE_CHECKING, Any

import dramatiq
import msgspec
import pytest
from dramatiq.encoder import Encoder, JSONEncoder, PickleEncoder
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from brokers import claims
from brokers.claims import Claim, claim_of
from brokers.envelope import Envelope
from brokers.errors import ClaimBroken, ClaimGone, StoreAway, TooLarge, Undecodable, WrongSetting
from brokers.keyring import KeyRing, new_key
from brokers.records import Outgoing, Record
from brokers.signing import Signing
from brokers.stores import MARKER, FileStore, RedisStore
from brokers.topics import DAY_S, FOR_EVER, Queue, TopicSpec
from tests.support import wait_until


if TYPE_CHECKING:
    from pathlib import Path

few = settings(max_examples=50, deadline=None)

SPEC = TopicSpec("p-q")
QUEUE = Queue("q", SPEC, "g")
LIMIT = 2000


class Redis:
    """What a store asks of Redis."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.ends_ms: dict[str, int] = {}
        self.sets = 0
        self.away = False

    def get(self, key: str) -> bytes | None:
        self._answer()
        return self.values.get(key)

    def set(self, key: str, value: bytes, px: int) -> None:
        self._answer()
        self.sets += 1
        self.values[key], self.ends_ms[key] = value, px

    def pttl(self, key: str) -> int:
        self._answer()
        return self.ends_ms.get(key, -2)

    def pexpire(self, key: str, ms: int) -> bool:
        self._answer()
        if key in self.values:
            self.ends_ms[key] = ms
        return key in self.values

    def _answer(self) -> None:
        if self.away:
            raise RuntimeError("connection refused")


@pytest.fixture(params=["file", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Each kind of store."""
    return FileStore(tmp_path) if request.param == "file" else RedisStore(Redis())


def message(*args: Any, **options: Any) -> dramatiq.Message[Any]:
    """A message of an actor with these arguments."""
    return dramatiq.Message("q", "a", args, {}, options)


def arrived(out: Outgoing, offset: int = 0) -> Record:
    """What is sent, as it is read."""
    return Record(out.topic, 0, offset, 0, out.key, out.value, dict(out.headers))


LARGE = "x" * 3 * LIMIT


# The stores.


def test_what_is_put_is_there(store: Any) -> None:
    """Once more is the same; what was never put is not there."""
    claim = claim_of(b"content", store=store.name, topic="q")
    assert claim == claim_of(b"content", store=store.name, topic="q")
    for _ in range(2):
        store.put(claim.key, b"content")
    assert store.get(claim.key) == b"content"
    assert store.get(claim_of(b"other", store=store.name, topic="q").key) is None


def test_content_in_redis_ends_and_never_earlier_than_somebody_wants() -> None:
    """A retry does not send it again, and a message for next year keeps it till then."""
    client = Redis()
    store = RedisStore(client, keeps_s=100)
    key = claim_of(b"content", store="redis", topic="q").key
    store.put(key, b"content", longer_s=50)
    store.put(key, b"content")
    assert (client.sets, client.ends_ms) == (1, {f"claim:{key}": 150_000})
    store.put(key, b"content", longer_s=100)
    assert (client.sets, client.ends_ms) == (1, {f"claim:{key}": 200_000})


def test_a_store_that_is_away_says_so(tmp_path: Path) -> None:
    """A folder that is not mounted looks empty, and what is in the store is not gone for that."""
    client = Redis()
    client.away = True
    key = claim_of(b"content", store="x", topic="q").key
    for store in (RedisStore(client), FileStore(tmp_path / "not mounted")):
        with pytest.raises(StoreAway):
            store.put(key, b"content")
        with pytest.raises(StoreAway):
            store.get(key)
    with pytest.raises(StoreAway, match="not mounted"):
        FileStore(tmp_path).get(key)


def test_a_broken_file_is_written_anew(tmp_path: Path) -> None:
    """The next time that its content is sent."""
    store = FileStore(tmp_path)
    key = claim_of(b"content", store="file", topic="q").key
    store.put(key, b"content")
    [path] = tmp_path.glob("q/*/*")
    path.write_bytes(b"conten")
    store.put(key, b"content")
    assert store.get(key) == b"content"
    assert {p.name for p in tmp_path.iterdir()} == {"q", MARKER}


HASH = "0" * 64


OUTSIDE = ["../" + HASH, "./" + HASH, f"q/../{HASH}", f"/{HASH}", f"q/{HASH[1:]}.", "q", f"a/b/{HASH}", f"q/{HASH}\n"]


@pytest.mark.parametrize("key", OUTSIDE)
def test_no_key_leads_out_of_the_folder(tmp_path: Path, key: str) -> None:
    """Neither from a record nor from a caller."""
    with pytest.raises(ValueError, match="no key"):
        FileStore(tmp_path).get(key)
    header = json.dumps({"store": "file", "key": key, "size": 1, "sha256": HASH}).encode()
    with pytest.raises(Undecodable, match="no claim"):
        claims.read_claim(header)


def test_pruning_takes_what_nobody_has_wanted_for_so_long(tmp_path: Path) -> None:
    """What a delayed message will want stays, and what another topic's messages want."""
    store = FileStore(tmp_path)
    old, fresh, later = (claim_of(text, store="file", topic="q").key for text in (b"old", b"fresh", b"later"))
    store.put(old, b"old")
    store.put(fresh, b"fresh")
    store.put(later, b"later", longer_s=100 * DAY_S)
    store.put(old.replace("q/", "other/"), b"old")
    past = time.time() - 50 * DAY_S
    for path in tmp_path.glob("*/*/*"):
        os.utime(path, (path.stat().st_atime - 50 * DAY_S, path.stat().st_mtime - 50 * DAY_S))
    store.put(fresh, b"fresh")
    left_behind = tmp_path / "q" / old[2:4] / ".left-behind-by-a-crash"
    left_behind.write_bytes(b"12345")
    os.utime(left_behind, (past, past))
    assert store.topics() == ["other", "q"]
    assert store.prune("q", older_than_s=40 * DAY_S) == (2, 8)
    assert [store.get(key) for key in (old, fresh, later)] == [None, b"fresh", b"later"]
    assert store.get(old.replace("q/", "other/")) == b"old"


def test_nobody_prunes_what_somebody_has_just_put(tmp_path: Path) -> None:
    """One sends old contents again while another prunes, over and over: what was put is there."""
    store = FileStore(tmp_path)
    keys = [claim_of(bytes([n]), store="file", topic="q").key for n in range(20)]
    done = threading.Event()

    def prune() -> None:
        while not done.is_set():
            store.prune("q", older_than_s=1000)

    thread = threading.Thread(target=prune)
    thread.start()
    try:
        for _ in range(20):
            for number, key in enumerate(keys):
                store.put(key, bytes([number]))
            wait_until(lambda: all(store.get(key) for key in keys))  # it may be back in a moment
            for path in tmp_path.glob("q/*/[0-9a-f]*"):
                with contextlib.suppress(FileNotFoundError):
                    os.utime(path, (0, 0))
    finally:
        done.set()
        thread.join()


# Messages.


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@few
@given(json_values, st.dictionaries(st.text(), json_values, max_size=3))
def test_a_large_message_arrives_as_it_was_sent(value: Any, options: dict[str, Any]) -> None:
    """Whatever is in it; options stay in the record, and have to fit."""
    options.pop("key", None)
    options.pop("retries", None)
    assume(len(json.dumps(options)) < LIMIT // 2)
    envelope = Envelope(claims=RedisStore(Redis()), record_bytes=LIMIT)
    sent = message(LARGE, value, **options)
    out = envelope.close(sent, SPEC)
    assert out.size <= LIMIT
    assert envelope.decode(envelope.open(arrived(out), QUEUE), "q") == sent


def test_a_small_message_is_not_put_away(store: Any) -> None:
    """Its record is as ever."""
    out = Envelope(claims=store, record_bytes=LIMIT).close(message("small"), SPEC)
    assert claims.HEADER not in out.headers
    assert json.loads(out.value or b"")["args"] == ["small"]


def test_who_knows_nothing_of_claims_does_not_run_an_actor_without_arguments(store: Any) -> None:
    """Such a record is no message by itself."""
    out = Envelope(claims=store, record_bytes=LIMIT).close(message(LARGE), SPEC)
    with pytest.raises(Undecodable, match="args"):
        Envelope().decode(arrived(out), "q")


def test_a_retry_has_the_same_content() -> None:
    """Only options change; nothing is sent to the store again."""
    client = Redis()
    envelope = Envelope(claims=RedisStore(client), record_bytes=LIMIT)
    first = envelope.close(message(LARGE, {"a": [1.5, None]}, message_id="m"), SPEC)
    read = envelope.decode(envelope.open(arrived(first), QUEUE), "q")
    again = envelope.close(read.copy(options={"retries": 3}), SPEC)
    assert again.headers["claim"] == first.headers["claim"]
    assert again.value != first.value
    assert client.sets == 1


def test_without_a_store_the_ways_out_are_named() -> None:
    """Before anything is sent, with the sizes."""
    with pytest.raises(TooLarge, match=r"6,\d{3} bytes for 'p-q'.* 2,000 that fit.*CLAIM_STORE.*MAX_MESSAGE_BYTES"):
        Envelope(record_bytes=LIMIT).close(message(LARGE), SPEC)


def test_a_topic_that_takes_more_is_given_more() -> None:
    """Its declaration says so."""
    spec = TopicSpec("p-q", max_message_bytes=2_000_000)
    assert Envelope().close(message("x" * 1_900_000), spec).size > 1_900_000
    with pytest.raises(TooLarge):
        Envelope().close(message("x" * 1_960_000), spec)


def test_options_cannot_be_put_away(store: Any) -> None:
    """They say what becomes of the message, and stay with it; nothing is stored for what is not sent."""
    with pytest.raises(TooLarge, match="options"):
        Envelope(claims=store, record_bytes=LIMIT).close(message("x", pipe_target=LARGE), SPEC)


def test_content_has_to_last_as_long_as_its_record(tmp_path: Path) -> None:
    """A log that is kept for ever would lead into nothing."""
    for_ever = TopicSpec("log", 1, FOR_EVER, exact=True)
    with pytest.raises(TooLarge, match="for longer"):
        Envelope(claims=RedisStore(Redis()), record_bytes=LIMIT).close(message(LARGE), for_ever)
    with pytest.raises(TooLarge, match="for longer"):
        Envelope(claims=RedisStore(Redis(), keeps_s=DAY_S), record_bytes=LIMIT).close(message(LARGE), SPEC)
    Envelope(claims=FileStore(tmp_path), record_bytes=LIMIT).close(message(LARGE), for_ever)


def test_a_delayed_messages_content_is_kept_till_then() -> None:
    """And as long as any other from then on."""
    client = Redis()
    eta_ms = int((time.time() + 60 * DAY_S) * 1000)
    Envelope(claims=RedisStore(client), record_bytes=LIMIT).close(message(LARGE), SPEC, eta_ms)
    [end_ms] = client.ends_ms.values()
    assert 104 * DAY_S < end_ms / 1000 <= 105 * DAY_S


def test_content_that_is_gone_broken_or_elsewhere_is_told_apart(store: Any) -> None:
    """What is away comes back, what is gone does not."""
    envelope = Envelope(claims=store, record_bytes=LIMIT)
    record = arrived(envelope.close(message(LARGE), SPEC))
    with pytest.raises(StoreAway, match="CLAIM_STORE"):
        Envelope().open(record, QUEUE)
    claim = msgspec.json.decode(record.headers["claim"], type=Claim)
    other = claim_of(b"other", store=store.name, topic="p-q")
    store.put(other.key, b"other")
    with pytest.raises(ClaimBroken):
        claims.fetched(msgspec.structs.replace(claim, key=other.key), store)
    missing = claim_of(b"never put", store=store.name, topic="p-q")
    with pytest.raises(ClaimGone):
        claims.fetched(missing, store)


@few
@given(st.binary(max_size=60))
def test_no_claim_raises_anything_else(header: bytes) -> None:
    """Whatever stands in the header."""
    with pytest.raises(Undecodable):
        Envelope().open(Record("p-q", 0, 0, 0, None, b"{}", {"claim": header}), QUEUE)


@pytest.mark.parametrize("value", [None, b"", b"[]", b"garbage"])
def test_a_claim_on_something_that_is_no_message_is_undecodable(store: Any, value: bytes | None) -> None:
    """The claim may be good all the same."""
    envelope = Envelope(claims=store, record_bytes=LIMIT)
    record = arrived(envelope.close(message(LARGE), SPEC))
    with pytest.raises(Undecodable):
        envelope.open(Record("p-q", 0, 0, 0, None, value, record.headers), QUEUE)


def test_nothing_unsigned_is_fetched() -> None:
    """The signature comes first, and covers the claim, which covers the content."""
    ring = KeyRing().with_key(new_key("hmac-sha256"))
    client = Redis()
    envelope = Envelope(Signing(ring), RedisStore(client), LIMIT)
    record = arrived(envelope.close(message(LARGE), SPEC))
    assert envelope.open(record, QUEUE).size > LIMIT
    client.away = True
    with pytest.raises(Undecodable):
        envelope.open(Record("p-q", 0, 0, 0, None, record.value, {**record.headers, "sig": b""}), QUEUE)


# Encoders.


class Bomb:
    """Does something when it is unpickled."""

    went_off = False

    def __reduce__(self) -> Any:
        return setattr, (Bomb, "went_off", True)


@pytest.fixture
def encoder() -> Any:
    """Give Dramatiq an encoder, and take it away again."""
    before = dramatiq.get_encoder()
    yield dramatiq.set_encoder
    dramatiq.set_encoder(before)


def test_nothing_is_unpickled(encoder: Any) -> None:
    """Not even where the application has chosen pickle for other brokers; and it is told when it sends."""
    encoder(PickleEncoder())
    with pytest.raises(Undecodable):
        Envelope().decode(Record("p-q", 0, 0, 0, None, pickle.dumps(Bomb())), "q")
    assert not Bomb.went_off
    with pytest.raises(WrongSetting, match="PickleEncoder"):
        Envelope().close(message(1), SPEC)


class Reversed(Encoder):
    """An encoder of an application's own."""

    def encode(self, data: Any) -> bytes:
        return JSONEncoder().encode(data)[::-1]

    def decode(self, data: bytes) -> Any:
        return JSONEncoder().decode(data[::-1])


def test_an_encoder_that_is_trusted_is_used(encoder: Any, store: Any) -> None:
    """For messages, and for what is put away of them."""
    encoder(Reversed())
    envelope = Envelope(claims=store, record_bytes=LIMIT, any_encoder=True)
    for sent in (message("small"), message(LARGE)):
        out = envelope.close(sent, SPEC)
        assert (out.value or b"")[-1:] == b"{"
        assert envelope.decode(envelope.open(arrived(out), QUEUE), "q") == sent


def test_a_kind_of_json_needs_no_trust(encoder: Any) -> None:
    """An encoder that only adds to Dramatiq's own."""

    class More(JSONEncoder):
        pass

    encoder(More())
    out = Envelope().close(message(1), SPEC)
    assert Envelope().decode(arrived(out), "q").args == (1,)
