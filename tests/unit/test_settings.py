"""How settings become a Kafka client's, and which of them contradict each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from ops import streams
from settings import Settings, environment_names, stream_chosen


if TYPE_CHECKING:
    from pathlib import Path

USER = {"B_USERNAME": "alice", "B_PASSWORD": "secret"}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's own settings."""
    for name in environment_names():
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def pem(tmp_path: Path) -> str:
    """A file that is there; what is in it is librdkafka's business."""
    path = tmp_path / "some.pem"
    path.write_text("-----BEGIN CERTIFICATE-----")
    return str(path)


def made(**values: Any) -> Settings:
    """Settings of these variables alone."""
    return Settings(**values)


def test_without_settings_kafka_is_spoken_to_plainly() -> None:
    """As on a laptop."""
    assert made().kafka() == {"bootstrap.servers": "localhost:9092"}


def test_a_user_switches_tls_and_sasl_on() -> None:
    """A password never goes over the wire in the clear unless somebody says so."""
    assert made(**USER).kafka() == {
        "bootstrap.servers": "localhost:9092",
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-256",
        "sasl.username": "alice",
        "sasl.password": "secret",
    }
    assert made(**USER, B_SECURITY_PROTOCOL="SASL_PLAINTEXT").kafka()["security.protocol"] == "SASL_PLAINTEXT"


def test_a_certificate_switches_tls_on(pem: str) -> None:
    """Its own setting is enough; the files arrive under the client's names."""
    given = {"B_SSL_CA": pem, "B_SSL_CERTIFICATE": pem, "B_SSL_KEY": pem, "B_SSL_KEY_PASSWORD": "secret"}
    assert made(**given).kafka() == {
        "bootstrap.servers": "localhost:9092",
        "security.protocol": "SSL",
        "ssl.ca.location": pem,
        "ssl.certificate.location": pem,
        "ssl.key.location": pem,
        "ssl.key.password": "secret",
    }
    assert made(**USER, B_SSL_CA=pem).kafka()["security.protocol"] == "SASL_SSL"
    assert made(B_SECURITY_PROTOCOL="SSL").kafka()["security.protocol"] == "SSL"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"B_USERNAME": "alice"}, "B_USERNAME and B_PASSWORD are set together"),
        ({"B_SECURITY_PROTOCOL": "SASL_SSL"}, "B_SECURITY_PROTOCOL=SASL_SSL needs B_USERNAME"),
        ({**USER, "B_SECURITY_PROTOCOL": "SSL"}, "takes no B_USERNAME"),
        ({**USER, "B_SECURITY_PROTOCOL": "PLAINTEXT"}, "takes no B_USERNAME"),
        ({"B_SECURITY_PROTOCOL": "TLS"}, "B_SECURITY_PROTOCOL"),
        ({"B_SSL_CA": "/nowhere/ca.pem"}, "/nowhere/ca.pem cannot be read"),
    ],
)
def test_what_contradicts_itself_is_refused(given: dict[str, str], reason: str) -> None:
    """In silence it would be less protection than somebody has asked for."""
    with pytest.raises(ValidationError, match=reason):
        made(**given)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"B_SECURITY_PROTOCOL": "PLAINTEXT", "B_SSL_CA": "pem"}, "has no TLS"),
        ({**USER, "B_SECURITY_PROTOCOL": "SASL_PLAINTEXT", "B_SSL_CA": "pem"}, "has no TLS"),
        ({"B_SSL_CERTIFICATE": "pem"}, "B_SSL_CERTIFICATE and B_SSL_KEY are set together"),
    ],
)
def test_certificates_without_their_use_are_refused(given: dict[str, str], reason: str, pem: str) -> None:
    """As above."""
    with pytest.raises(ValidationError, match=reason):
        made(**{name: pem if value == "pem" else value for name, value in given.items()})


def test_secrets_are_not_shown() -> None:
    """Settings are logged, and stand in error messages."""
    assert "secret" not in repr(made(**USER, B_SSL_KEY_PASSWORD="secret"))


def test_signatures_need_keys_and_a_beginning(pem: str) -> None:
    """Replicas that began to ask for signatures at different commands would differ."""
    with pytest.raises(ValidationError, match="COMMANDS_SIGNED_FROM: the offset"):
        made(SIGNING_KEYS=pem)
    for lone in ({"SIGNING": "accept"}, {"COMMANDS_SIGNED_FROM": 0}):
        with pytest.raises(ValidationError, match="need SIGNING_KEYS"):
            made(**lone)
    assert made(SIGNING_KEYS=pem, COMMANDS_SIGNED_FROM="0").signing == "required"
    assert made(SIGNING_KEYS=pem, SIGNING="accept").commands_signed_from is None


@pytest.mark.parametrize("url", ["/folder", "file://folder", "s3://bucket", "file:///"])
def test_a_claim_store_is_a_folder_or_redis(url: str) -> None:
    """By a whole path: workers have other working directories than callers."""
    with pytest.raises(ValidationError, match="CLAIM_STORE"):
        made(CLAIM_STORE=url)


def test_a_stream_stands_in_the_name_of_every_topic_and_group() -> None:
    """Without one, names are what they were."""
    plain, orders = made(B_TOPIC_PREFIX="x-"), made(B_TOPIC_PREFIX="x-", STREAM="orders", REPLY_TOPICS="more")
    assert (plain.topic("command"), plain.group("replica-1")) == ("x-command", "replica-1")
    assert (orders.topic("command"), orders.group("replica-1")) == ("x-orders.command", "orders/replica-1")
    assert orders.allowed_reply_topics == {"x-orders.response", "x-orders.response.callers", "x-orders.more"}


@pytest.mark.parametrize("name", ["Orders", "a.b", "a/b", "-a", "a b", "x" * 65])
def test_the_name_of_a_stream_can_be_taken_for_nothing_else(name: str) -> None:
    """It has no dot, after which the topic begins, and no slash, after which the group does."""
    with pytest.raises(ValidationError, match="STREAM"):
        made(STREAM=name)


@pytest.mark.parametrize("setting", ["GROUP_ID", "QUERY_GROUP_ID"])
def test_a_group_cannot_be_named_like_one_of_a_stream(setting: str) -> None:
    """So that no two share a group, whatever they are called."""
    with pytest.raises(ValidationError, match="no slash"):
        made(**{setting: "orders/replica-1"})


def test_a_chosen_stream_is_the_environments_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it is again what it was, set or not."""
    with stream_chosen("orders"):
        assert made().stream == "orders"
        with stream_chosen(None):
            assert made().stream == "orders"
    assert made().stream == ""
    monkeypatch.setenv("STREAM", "stock")
    with stream_chosen("orders"):
        assert made().stream == "orders"
    assert made().stream == "stock"


def test_streams_are_known_by_two_of_their_topics() -> None:
    """Another program's topic that ends alike is none; nor is one under another prefix."""
    topics = ["x-command", "x-replicas", "x-orders.command", "x-orders.replicas", "x-foo.command", "y-bar.command"]
    topics += ["y-bar.replicas", "x-a.b.command", "x-a.b.replicas", "x-orders.commands"]
    assert streams.names(topics, made(B_TOPIC_PREFIX="x-", STREAM="any")) == ["", "orders"]


@pytest.mark.parametrize("value", ["apoc.coll.*", " gds.graph.list , apoc.text.*,custom.f", ""])
def test_what_queries_may_call_is_named_with_its_namespace(value: str) -> None:
    """Or by the namespace alone."""
    assert made(QUERY_ALLOWED=value).query_allowed == value


@pytest.mark.parametrize("value", ["*", "apoc", "apoc.*.sum", "apoc.coll*", "apoc.coll.sum()", "apoc.coll; x.y", "1.*"])
def test_what_names_nothing_that_queries_could_call_is_refused(value: str) -> None:
    """Instead of allowing nothing, or more than was meant, in silence."""
    with pytest.raises(ValidationError, match="QUERY_ALLOWED") as error:
        made(QUERY_ALLOWED=value)
    assert "neither a name with its namespace, such as gds.graph.list, nor a namespace and" in str(error.value)
