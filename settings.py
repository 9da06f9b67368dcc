"""Every setting of the project, read once from the environment.

The names are the ones that operators already know (``BROKERS``, ``GROUP_ID``, ``NEO4J_URI`` ...).  This is the only
module that reads the environment; every other one is handed a value.
"""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


if TYPE_CHECKING:
    from collections.abc import Iterator

SecurityProtocol: TypeAlias = Literal["PLAINTEXT", "SASL_PLAINTEXT", "SASL_SSL", "SSL"]


#: How the driver's URIs begin; it knows http as well, which has no transactions that a replica could use.
BOLT = ("bolt", "bolt+s", "bolt+ssc", "neo4j", "neo4j+s", "neo4j+ssc")


def bolt_uri(value: str) -> str:
    """*value*, which is the address of a database.

    Raises:
      ValueError: it is not.
    """
    scheme, _, rest = value.partition("://")
    if scheme not in BOLT or not rest:
        raise ValueError(f"{value!r} is no address of a database, such as bolt://localhost:7687")
    return value


class Settings(BaseSettings):
    """What one worker, or one caller, needs to know.  Frozen; times in seconds."""

    model_config = SettingsConfigDict(frozen=True, case_sensitive=True, extra="ignore", env_ignore_empty=True)

    brokers: str = Field("localhost:9092", alias="BROKERS", description="Kafka servers, `host:port,host:port`.")
    group_id: str = Field(
        "replica-1",
        alias="GROUP_ID",
        description="The replica's name and consumer group: one per database, so that each gets every command.",
    )
    query_group_id: str = Field(
        "queries",
        alias="QUERY_GROUP_ID",
        description="The group that all query servers share, so that each request is answered once.",
    )
    stream: str = Field(
        "",
        alias="STREAM",
        pattern=r"^([a-z0-9][a-z0-9_-]{0,63})?$",
        description="Which of several logical databases on one Kafka: put before its topics and groups, `orders.`.",
    )
    username: str | None = Field(None, alias="B_USERNAME", description="SASL user; switches SASL on.")
    password: str | None = Field(None, alias="B_PASSWORD", description="SASL password.", repr=False)
    security_protocol: SecurityProtocol | None = Field(
        None,
        alias="B_SECURITY_PROTOCOL",
        description="`SASL_SSL` (with a user), `SSL` (with a `B_SSL_` setting and no user), else `PLAINTEXT`, unless "
        "said: `SASL_PLAINTEXT`.",
    )
    sasl_mechanism: str = Field(
        "SCRAM-SHA-256",
        alias="B_SASL_MECHANISM",
        description="Used when `B_USERNAME` is set: `SCRAM-SHA-256`, `SCRAM-SHA-512`, `PLAIN`.",
    )
    ssl_ca: Path | None = Field(
        None, alias="B_SSL_CA", description="PEM file: who signs the servers' certificates, unless the system knows."
    )
    ssl_certificate: Path | None = Field(
        None, alias="B_SSL_CERTIFICATE", description="PEM file: the certificate with which we log in (mutual TLS)."
    )
    ssl_key: Path | None = Field(None, alias="B_SSL_KEY", description="PEM file: its private key.")
    ssl_key_password: str | None = Field(
        None, alias="B_SSL_KEY_PASSWORD", description="The private key's password, if it has one.", repr=False
    )
    signing_keys: Path | None = Field(
        None, alias="SIGNING_KEYS", description="The key ring, made by `keys new`; switches signatures on."
    )
    signing: Literal["accept", "required"] = Field(
        "required",
        alias="SIGNING",
        description="With a key ring: `required`, or `accept` unsigned messages while senders learn to sign.",
    )
    commands_signed_from: int | None = Field(
        None,
        alias="COMMANDS_SIGNED_FROM",
        ge=0,
        description="The offset from which on unsigned commands are rejected; the same for all replicas, for ever.",
    )
    claim_store: str | None = Field(
        None,
        alias="CLAIM_STORE",
        repr=False,
        pattern=r"^(file:///.|rediss?://|unix://)",
        description="Where the content of large messages lies: `file:///folder` or `redis://...`.",
    )
    max_message_bytes: int = Field(
        1_000_000,
        alias="MAX_MESSAGE_BYTES",
        ge=1000,
        le=3_900_000,
        description="The largest record of a message; what is larger goes to the claim store, or is refused.",
    )
    snapshot_store: str | None = Field(
        None,
        alias="SNAPSHOT_STORE",
        pattern=r"^(file:///.|s3://.)",
        description="Where snapshots lie: `file:///folder` or `s3://bucket/prefix`.",
    )
    topic_prefix: str = Field("", alias="B_TOPIC_PREFIX", description="Put before every topic name.")
    command_topic: str = Field(
        "command", alias="COMMAND_TOPIC", description="The ordered log of writes; one partition."
    )
    request_topic: str = Field("request", alias="REQUEST_TOPIC", description="Where queries wait.")
    response_topic: str = Field(
        "response",
        alias="RESPONSE_TOPIC",
        description="Where answers arrive; those for callers in Python on `response.callers`.",
    )
    outcomes_topic: str = Field(
        "outcomes", alias="OUTCOMES_TOPIC", description="What each command did on each replica."
    )
    replicas_topic: str = Field("replicas", alias="REPLICAS_TOPIC", description="The replicas that exist; compacted.")
    decisions_topic: str = Field(
        "decisions", alias="DECISIONS_TOPIC", description="What was decided about replicas and commands; compacted."
    )
    checkpoints_topic: str = Field(
        "checkpoints", alias="CHECKPOINTS_TOPIC", description="What each replica's graph holds every 1,024 commands."
    )
    verifications_topic: str = Field(
        "verifications", alias="VERIFICATIONS_TOPIC", description="What `verify` is answered."
    )
    reply_topics: str = Field(
        "",
        alias="REPLY_TOPICS",
        description="Topics that a request may name in `to`, besides the response topic; comma separated.",
    )
    consumer_protocol: str = Field(
        "classic",
        alias="B_GROUP_PROTOCOL",
        description="`classic` (cooperative-sticky) or `consumer` (KIP-848; slower to notice a killed worker).",
    )
    neo4j_uri: str = Field(
        "bolt://localhost:7687", alias="NEO4J_URI", description="The database that this worker represents."
    )
    neo4j_user: str = Field("neo4j", alias="NEO4J_USER", description="Its user.")
    neo4j_password: str = Field(
        "", alias="NEO4J_PASS", description="Its password; empty when authentication is off.", repr=False
    )
    neo4j_database: str = Field("neo4j", alias="NEO4J_DATABASE", description="The database's name on that server.")
    redis_url: str | None = Field(
        None,
        alias="REDIS_URL",
        description="Where results of ordinary actors, kept answers, and keys of unique and limited actors lie.",
    )
    query_timeout_s: float = Field(
        30.0, alias="QUERY_TIMEOUT_S", gt=0, description="Longest run of one query, seconds."
    )
    query_max_rows: int = Field(
        10_000, alias="QUERY_MAX_ROWS", gt=0, description="Rows of one answer; more are cut and said so."
    )
    query_max_bytes: int = Field(
        16_000_000,
        alias="QUERY_MAX_BYTES",
        ge=1000,
        description="Bytes of JSON, about, of one answer's rows; more are cut and said so.",
    )
    query_allowed: str = Field(
        "",
        alias="QUERY_ALLOWED",
        description="Procedures and functions that queries may call besides those that come with Neo4j and only read: "
        "names, or a namespace and `.*`; comma separated. They can do whatever they were written to do.",
    )
    query_at_once: int = Field(
        0,
        alias="QUERY_AT_ONCE",
        ge=0,
        description="Queries that one worker process runs at a time; 0: as many as it has threads, but for one that is "
        "left to commands where it applies them.",
    )
    command_timeout_s: float = Field(
        60.0, alias="COMMAND_TIMEOUT_S", gt=0, description="Seconds for one transaction; what takes longer is held."
    )
    explain_commands: bool = Field(
        default=False,
        alias="EXPLAIN_COMMANDS",
        description="Let the database compile each command before it is sent: one round trip more.",
    )
    query_wait_s: float = Field(
        10.0,
        alias="QUERY_WAIT_S",
        gt=0,
        le=3600,
        description="How long a query waits for a replica that is as fresh as it asks for, seconds.",
    )
    query_max_lag_s: float = Field(
        300.0,
        alias="QUERY_MAX_LAG_S",
        ge=0,
        description="A replica that lacks an older command than that, seconds, leaves the queries to others; 0: never.",
    )
    apply_batch: int = Field(
        1024, alias="APPLY_BATCH", ge=1, le=10_000, description="Commands that may share one transaction."
    )

    verify_every_s: float = Field(
        0.0,
        alias="VERIFY_EVERY_S",
        ge=0,
        description="Compare the replicas' whole graphs where nobody did for so many seconds; 0: never.",
    )

    @field_validator("brokers")
    @classmethod
    def _brokers_are_host_and_port(cls, value: str) -> str:
        servers = [server.strip() for server in value.split(",") if server.strip()]
        if not servers:
            raise ValueError("name at least one server, as host:port")
        for server in servers:
            host, _, port = server.rpartition(":")
            if not host or not port.isdigit():
                raise ValueError(f"{server!r} is not host:port")
        return ",".join(servers)

    @field_validator("neo4j_uri")
    @classmethod
    def _database_is_reached_by_bolt(cls, value: str) -> str:
        return bolt_uri(value)

    @field_validator("query_allowed")
    @classmethod
    def _allowed_are_names_with_a_namespace(cls, value: str) -> str:
        """One without a dot, or a star elsewhere, would allow nothing, or more than anybody meant."""
        for name in filter(None, map(str.strip, value.split(","))):
            if re.fullmatch(r"[^\W\d]\w*(\.\w+)*\.(\w+|\*)", name) is None:
                raise ValueError(
                    f"{name!r} is neither a name with its namespace, such as gds.graph.list, nor a namespace and .*,"
                    " such as apoc.coll.*"
                )
        return value

    @model_validator(mode="after")
    def _user_and_password_come_together(self) -> Settings:
        if (self.username is None) != (self.password is None):
            raise ValueError("B_USERNAME and B_PASSWORD are set together or not at all")
        return self

    @field_validator("ssl_ca", "ssl_certificate", "ssl_key", "signing_keys")
    @classmethod
    def _files_can_be_read(cls, value: Path | None) -> Path | None:
        if value is not None:
            try:
                value.open("rb").close()
            except OSError as exc:
                raise ValueError(f"{value} cannot be read: {exc.strerror}") from exc
        return value

    @model_validator(mode="after")
    def _protection_is_what_was_asked_for(self) -> Settings:
        """Nobody who sets a user or a certificate ends up without it in silence."""
        protocol = self.protocol
        if protocol.startswith("SASL") and self.username is None:
            raise ValueError(f"B_SECURITY_PROTOCOL={protocol} needs B_USERNAME and B_PASSWORD")
        if not protocol.startswith("SASL") and self.username is not None:
            raise ValueError(f"B_SECURITY_PROTOCOL={protocol} takes no B_USERNAME; with a user it is SASL_{protocol}")
        if not protocol.endswith("SSL") and self._ssl():
            raise ValueError(f"B_SECURITY_PROTOCOL={protocol} has no TLS, and a B_SSL_ setting asks for it")
        if (self.ssl_certificate is None) != (self.ssl_key is None):
            raise ValueError("B_SSL_CERTIFICATE and B_SSL_KEY are set together or not at all")
        return self

    @model_validator(mode="after")
    def _replicas_agree_on_what_is_signed(self) -> Settings:
        """Which commands count may depend on nothing that changes at another moment on another replica."""
        if self.signing_keys is None:
            if self.commands_signed_from is not None or "signing" in self.model_fields_set:
                raise ValueError("SIGNING and COMMANDS_SIGNED_FROM need SIGNING_KEYS")
        elif self.signing == "required" and self.commands_signed_from is None:
            raise ValueError(
                "SIGNING=required needs COMMANDS_SIGNED_FROM: the offset of the first command that has to be signed,"
                " the same for all replicas; 0 for a new log"
            )
        return self

    @property
    def protocol(self) -> SecurityProtocol:
        """How Kafka is spoken to: as `B_SECURITY_PROTOCOL` says, else as the other settings make it necessary."""
        if self.security_protocol is not None:
            return self.security_protocol
        if self.username is not None:
            return "SASL_SSL"
        return "SSL" if self._ssl() else "PLAINTEXT"

    def _ssl(self) -> dict[str, str]:
        given = {
            "ssl.ca.location": self.ssl_ca,
            "ssl.certificate.location": self.ssl_certificate,
            "ssl.key.location": self.ssl_key,
            "ssl.key.password": self.ssl_key_password,
        }
        return {name: str(value) for name, value in given.items() if value is not None}

    @field_validator("group_id", "query_group_id")
    @classmethod
    def _groups_are_names(cls, value: str) -> str:
        """A slash is what tells a stream's groups, and what a replica holds, from a name."""
        if "/" in value:
            raise ValueError(f"{value!r}: a replica's name, or a group's, has no slash")
        return value

    @property
    def prefix(self) -> str:
        """What stands before every topic name: of two streams no topic is the same."""
        return f"{self.topic_prefix}{self.stream}." if self.stream else self.topic_prefix

    def topic(self, name: str) -> str:
        """The full name of the topic *name*: with the prefix."""
        return f"{self.prefix}{name}"

    def group(self, name: str) -> str:
        """The consumer group of the replica *name*, or of all queries: of two streams no group is the same."""
        return f"{self.stream}/{name}" if self.stream else name

    @property
    def callers_topic(self) -> str:
        """Where the answers for callers of this package arrive."""
        return f"{self.response_topic}.callers"

    @property
    def allowed_reply_topics(self) -> frozenset[str]:
        """Full names of the topics that a request may ask its answer on."""
        extra = (name.strip() for name in self.reply_topics.split(","))
        return frozenset(self.topic(name) for name in (self.response_topic, self.callers_topic, *extra) if name)

    def kafka(self) -> dict[str, str]:
        """The connection part of a Kafka client's configuration."""
        config = {"bootstrap.servers": self.brokers}
        if self.protocol != "PLAINTEXT":
            config |= {"security.protocol": self.protocol, **self._ssl()}
        if self.username is not None and self.password is not None:
            config |= {
                "sasl.mechanism": self.sasl_mechanism,
                "sasl.username": self.username,
                "sasl.password": self.password,
            }
        return config


@contextmanager
def stream_chosen(name: str | None) -> Iterator[None]:
    """Settings that are read meanwhile are those of the stream *name*, whatever the environment says; None: it says."""
    before = os.environ.get("STREAM")
    if name is not None:
        os.environ["STREAM"] = name
    try:
        yield
    finally:
        if name is not None:
            os.environ.pop("STREAM")
            os.environ.update({} if before is None else {"STREAM": before})


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The settings of this process: the environment as it was at the first call.

    Raises:
      pydantic.ValidationError: names each wrong variable and why.
    """
    return Settings()


def environment_names() -> dict[str, str]:
    """Each environment variable and what it means."""
    return {str(field.alias): field.description or "" for field in Settings.model_fields.values()}
