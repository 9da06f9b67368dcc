"""Which Kafka a command speaks to, and for how long."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaException

from brokers.clients import AdminClient, Health, base_config, opened
from brokers.errors import Unreachable
from ops.errors import InputUnusable, KafkaAway
from ops.stack import Stack
from ops.state import StateFile
from replica.driver import connect
from settings import Settings
from tasks.app import App


if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import neo4j


#: Seconds for a Kafka server to say anything.  A person waits, and has been promised an answer within ten.
REACH_S = 4.0


#: What a stack says of one of its replicas.
OF_A_REPLICA = ("BROKERS", "GROUP_ID", "NEO4J_URI", "NEO4J_USER", "NEO4J_PASS")


def settings_for(state_dir: Path, replica: int | None = None) -> Settings:
    """The environment's settings; where they name no Kafka and the local stack's is up, that stack's first replica.

    Whatever the environment does name stays, unless a *replica* of the stack is named: the environment of a shell names
    one, too, after `neo4j-kafka env`, and whoever names a replica means that one.

    Raises:
      pydantic.ValidationError: names each wrong variable and why.
      InputUnusable: a replica is named, and there is no such stack, or the settings are of another one.
      NotInStack: the stack has no such replica.
    """
    given = Settings()
    runs = local_kafka_runs(state_dir)
    if replica is None and ("brokers" in given.model_fields_set or not runs):
        return given
    if not runs:
        raise InputUnusable(
            f"--replica names one of a local stack, and none runs in {state_dir}: set NEO4J_URI and NEO4J_PASS instead"
        )
    there = Stack(state_dir).environment(replica or 1)
    if "brokers" in given.model_fields_set and given.brokers != there["BROKERS"]:
        raise InputUnusable(
            f"--replica names one of the local stack at {there['BROKERS']}, and BROKERS is {given.brokers}: leave"
            " one of them out"
        )
    named = {str(Settings.model_fields[name].alias) for name in given.model_fields_set}
    # A database of the user's own is not opened with the password of ours.
    foreign = ("NEO4J_",) if "NEO4J_URI" in named else ()
    meant = () if replica is None else OF_A_REPLICA
    local: dict[str, Any] = {
        name: value
        for name, value in there.items()
        if name in meant or (name not in named and not name.startswith(foreign))
    }
    return Settings(**local)


def local_kafka_runs(state_dir: Path) -> bool:
    """Whether the stack in *state_dir* has a Kafka whose process lives."""
    server = StateFile(state_dir.resolve()).read().servers.get("kafka")
    return server is not None and server.running


@contextmanager
def connected(settings: Settings) -> Iterator[App]:
    """The replicas as a caller sees them; closed at the end.

    Raises:
      KafkaAway: names the server, and why, within ten seconds.
    """
    require_kafka(settings)
    # A caller of commands and queries needs no Redis, and need not wait for its client to be imported.
    app = App(settings.model_copy(update={"redis_url": None}))
    try:
        yield app
    except Unreachable as exc:
        raise KafkaAway(f"no Kafka server answers at {settings.brokers}: {exc}") from exc
    finally:
        app.close()


def require_kafka(settings: Settings) -> None:
    """Ask Kafka something harmless.

    Raises:
      KafkaAway: no server answers within `REACH_S`.
    """
    health = Health()
    admin = opened(AdminClient, base_config(settings.kafka(), health))
    try:
        admin.list_topics(timeout=REACH_S)
    except KafkaException as exc:
        admin.poll(0)  # hands over what the client has to say: a time-out alone is no reason
        why = health.why() or f" ({exc.args[0].str()})"
        nobody_said = "brokers" not in settings.model_fields_set
        way = "; BROKERS is not set, and no local stack runs: `neo4j-kafka up` starts one" if nobody_said else ""
        raise KafkaAway(f"no Kafka server answers at {settings.brokers}{why}{way}") from exc


def database(settings: Settings) -> neo4j.Driver:
    """A driver of the settings' database, to be used in a `with` block; connects at first use."""
    return connect(settings.neo4j_uri, settings.neo4j_user, settings.neo4j_password)


def environment_of(settings: Settings) -> dict[str, str]:
    """*settings* as environment variables, for a process of its own."""
    named = settings.model_dump(include=settings.model_fields_set, by_alias=True)
    return {name: str(value) for name, value in named.items()}
