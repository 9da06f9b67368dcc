"""The replicas topic: who is a replica of this log, on which server."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import msgspec
from dramatiq.errors import BrokerError

from brokers.errors import StartUnknown
from brokers.records import Outgoing
from brokers.replies import read_through
from replica.errors import Unavailable
from replica.server import server_facts
from tasks import outcomes
from tasks.outcomes import Registration


if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import neo4j

    from brokers import KafkaBroker
    from brokers.records import Record
    from brokers.topics import TopicSpec
    from replica.server import ServerFacts
    from settings import Settings

logger = logging.getLogger("tasks.registry")


def registrations(broker: KafkaBroker, spec: TopicSpec, *, timeout_s: float) -> dict[str, Registration]:
    """Every registration by the replica's name, also those of a former log of the same name.  Makes no topic.

    Raises:
      Unreachable: the topic could not be read in time.
    """
    found: dict[str, Registration] = {}
    if broker.topics.partitions(spec.name) is None:
        return found

    def take(record: Record) -> None:
        name = (record.key or b"").decode(errors="replace")
        registration = outcomes.decode(record.value, Registration)
        if registration is None:
            found.pop(name, None)
        else:
            found[name] = registration

    read_through(broker.client_settings, spec.name, take, timeout_s=timeout_s)
    return found


def others_that_differ(
    name: str, topic_id: str, facts: ServerFacts, registered: Mapping[str, Registration]
) -> dict[str, list[str]]:
    """The other replicas of the same log whose servers are unlike *facts*, and in what."""
    servers = {
        one.replica: one.server
        for one in registered.values()
        if one.server is not None and one.replica != name and one.topic_id == topic_id
    }
    found = {other: facts.differences(server) for other, server in sorted(servers.items())}
    return {other: differences for other, differences in found.items() if differences}


def others_on(uri: str, name: str, topic_id: str, registered: Mapping[str, Registration]) -> list[str]:
    """The other replicas of the same log that were registered with the same database, by its address."""
    return sorted(
        one.replica
        for one in registered.values()
        if one.neo4j_uri == uri and one.replica != name and one.topic_id == topic_id
    )


class Registry:
    """This process's replica, as it stands on the topic."""

    def __init__(
        self,
        settings: Settings,
        broker: KafkaBroker,
        spec: TopicSpec,
        driver: Callable[[], neo4j.Driver],
        *,
        timeout_s: float = 8.0,
    ) -> None:
        self._settings = settings
        self._broker = broker
        self._spec = spec
        self._driver = driver
        self._timeout_s = timeout_s
        self._last: Registration | None = None

    def register(self, topic_id: str) -> None:
        """Say that this replica exists, so that a caller who waits for all knows whom to wait for.

        Once for each log; again when its database, which was away, has told what it is.

        Raises:
          StartUnknown: Kafka did not confirm.
        """
        last = self._last
        if last is not None and last.topic_id == topic_id and last.server is not None:
            return
        facts = self._facts()
        if last is not None and last.topic_id == topic_id and facts is None:
            return
        name = self._settings.group_id
        registration = Registration(name, topic_id, self._settings.neo4j_uri, int(time.time() * 1000), facts)
        record = Outgoing(self._spec.name, msgspec.json.encode(registration), name.encode())
        try:
            self._broker.publish(record, self._spec)
            self._last = registration
            if facts is not None:
                self._compare(topic_id, facts)
        except BrokerError as exc:
            raise StartUnknown(f"replica {name}: {exc}") from exc

    def _facts(self) -> ServerFacts | None:
        try:
            return server_facts(self._driver(), self._settings.neo4j_database)
        except Unavailable as exc:
            logger.info("replica_server_unknown replica=%s reason=%s", self._settings.group_id, exc)
            return None

    def _compare(self, topic_id: str, facts: ServerFacts) -> None:
        """Warn only: servers are upgraded or set otherwise one after the other, and a replica may get another name."""
        name, uri = self._settings.group_id, self._settings.neo4j_uri
        registered = registrations(self._broker, self._spec, timeout_s=self._timeout_s)
        for other, differences in others_that_differ(name, topic_id, facts, registered).items():
            logger.warning(
                "replica_differs replica=%s from=%s: %s; the same commands may do something else here",
                name,
                other,
                "; ".join(differences),
            )
        for other in others_on(uri, name, topic_id, registered):
            logger.warning(
                "replica_shares_database replica=%s with=%s uri=%s: they are one copy of the graph, not two; give each"
                " its own, or remove the one that is no more",
                name,
                other,
                uri,
            )
