from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from click.testing import CliRunner
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

import cli
from replica.driver import connect
from settings import Settings, environment_names
from tasks.app import App
from tests.support import empty, unique, wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from click.testing import Result
    from confluent_kafka import Message

    from tests.conftest import Neo4jServer

ROOT = Path(__file__).resolve().parent.parent


class Replicas:
    """Some Neo4j servers as replicas of one log: topics and groups of their own, workers as real processes."""

    def __init__(self, kafka: str, servers: Sequence[Neo4jServer], logs: Path, **environment: str) -> None:
        self.kafka = kafka
        self.servers = servers
        self.logs = logs
        self.prefix = unique("it") + "-"
        self.environment = environment
        self.workers: dict[int, subprocess.Popen[bytes]] = {}
        self.apps: list[App] = []
        self.search_path: Path = logs  # where workers find modules besides the project's

    def env(self, number: int = 1) -> dict[str, str]:
        server = self.servers[number - 1]
        return {
            "BROKERS": self.kafka,
            "B_TOPIC_PREFIX": self.prefix,
            "GROUP_ID": f"{self.prefix}replica-{number}",
            "QUERY_GROUP_ID": f"{self.prefix}queries",
            "NEO4J_URI": server.uri,
            "NEO4J_USER": server.user,
            "NEO4J_PASS": server.password,
            **self.environment,
        }

    def name(self, number: int) -> str:
        """As it is registered."""
        return self.env(number)["GROUP_ID"]

    def neo4j_kafka(self, *arguments: str) -> Result:
        """The command line of a person next to replica 1, who has no local stack."""
        return CliRunner().invoke(cli.main, [*arguments, "--state-dir", str(self.logs)], env=self.env(1))

    def app(self, number: int = 1) -> App:
        values: dict[str, Any] = self.env(number)
        app = App(Settings(**values))
        self.apps.append(app)
        return app

    def start(self, number: int, *arguments: str, modules: Sequence[str] = ("tasks",), processes: int = 1) -> None:
        command = [
            sys.executable,
            "-m",
            "dramatiq",
            *modules,
            "--processes",
            str(processes),
            "--threads",
            "4",
            *arguments,
        ]
        clean = {name: value for name, value in os.environ.items() if name not in environment_names()}
        with self.log(number).open("ab") as log:
            self.workers[number] = subprocess.Popen(
                command,
                cwd=ROOT,
                env=clean | self.env(number) | {"PYTHONPATH": f"{ROOT}:{self.search_path}"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def log(self, number: int) -> Path:
        return self.logs / f"worker-{number}.log"

    def kill(self, number: int) -> None:
        """SIGKILL the worker's master and its children at once."""
        worker = self.workers.pop(number)
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()

    def stop(self, number: int, timeout_s: float = 30) -> int:
        worker = self.workers.pop(number)
        worker.terminate()
        return worker.wait(timeout_s)

    def close(self) -> None:
        for app in self.apps:
            app.close()
        for number in list(self.workers):
            self.kill(number)

    def produce(self, topic: str, *values: bytes | None, key: bytes | None = None) -> None:
        """Put plain records on a topic, as any Kafka client would."""
        producer = Producer({"bootstrap.servers": self.kafka, "message.max.bytes": 10_000_000})
        for value in values:
            producer.produce(self.prefix + topic, value, key)
        assert producer.flush(10) == 0

    def read(self, topic: str) -> list[Message]:
        """Every record of a topic, as any Kafka client would read it."""
        consumer = Consumer({"bootstrap.servers": self.kafka, "group.id": unique(), "enable.auto.commit": False})
        try:
            return list(_all(consumer, self.prefix + topic))
        except KafkaException as exc:  # a topic made this moment has no leader yet: not there, for whoever waits
            raise AssertionError(str(exc)) from exc
        finally:
            consumer.close()


def _all(consumer: Consumer, topic: str) -> Iterator[Message]:
    metadata = consumer.list_topics(timeout=10).topics.get(topic)
    places = [TopicPartition(topic, partition) for partition in (metadata.partitions if metadata else ())]
    # First of all: a question waits behind a fetch, half a second each.
    bounds = [consumer.get_watermark_offsets(place, timeout=10, cached=False) for place in places]
    for place, (start, end) in zip(places, bounds, strict=True):
        if start == end:
            continue
        consumer.assign([TopicPartition(topic, place.partition, start)])
        for _ in range(end - start):
            message = consumer.poll(10)
            assert message is not None, f"{place} stopped before {end}"
            assert message.error() is None, message.error()
            yield message


@contextmanager
def replicas_of(
    kafka: str, servers: Sequence[Neo4jServer], logs: Path, *, started: bool = True, **environment: str
) -> Iterator[Replicas]:
    """Replicas on emptied databases, with one running worker each unless *started* is false."""
    for server in servers:
        with connect(server.uri, server.user, server.password) as driver:
            empty(driver)
    replicas = Replicas(kafka, servers, logs, **environment)
    try:
        if started:
            for number in range(1, len(servers) + 1):
                replicas.start(number)
        yield replicas
    finally:
        replicas.close()


def value(server: Neo4jServer, text: str, **parameters: Any) -> Any:
    """One value out of a database, asked directly."""
    with connect(server.uri, server.user, server.password) as driver:
        result = driver.execute_query(text, parameters_=parameters).records
    return result[0][0] if result else None


def wait_for_value(server: Neo4jServer, text: str, expected: object, timeout_s: float = 30) -> None:
    """Wait until a database gives *expected*."""
    wait_until(lambda: value(server, text) == expected, timeout_s, f"{server.name}: {text} == {expected!r}")
