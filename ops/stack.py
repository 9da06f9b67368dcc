"""The local stack: one Kafka, n Neo4j Community, one Valkey and workers, as ordinary processes under one folder.

Everything is on 127.0.0.1.  Ports are chosen once and kept, so a server that starts again is found where it was.
"""

from __future__ import annotations

import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ops import jars, processes
from ops.errors import NotInStack, StateUnusable, UnknownVersion
from ops.launch import Launcher
from ops.progress import Progress, silent
from ops.servers import KINDS, NEO4J_USER, Site
from ops.state import Server, State, StateFile


if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

STATE_DIR = Path(".stack")

#: Seconds to wait for another command on the same stack: as long as a cold start takes.
LOCK_TIMEOUT_S = 300.0

_NAME = re.compile(r"kafka|redis|(neo4j|worker)-[1-9]\d*")
_OLDEST_NEO4J = 5


@dataclass(frozen=True, slots=True)
class Row:
    """What `Stack.status` tells about one server."""

    name: str
    kind: str
    version: str
    pid: int | None
    ports: Mapping[str, int]
    uri: str
    state: str  #: "answers", "running but silent" or "down"
    rss_mb: int
    uptime_s: int


class Stack:
    """The servers that live in one state directory.

    Methods may be called from any thread and any process: those that change something take turns.  They raise
    `StackError`.  Names of servers: ``kafka``, ``redis``, ``neo4j-1`` ..., ``worker-1`` ...
    """

    def __init__(self, state_dir: Path = STATE_DIR, *, short_lived: bool = False) -> None:
        """*short_lived* servers are at their best in the first minutes, and slower than others for ever after."""
        self._short_lived = short_lived
        self.folder = state_dir.resolve()
        self._file = StateFile(self.folder)

    def up(
        self,
        *,
        replicas: int = 3,
        neo4j_version: str | None = None,
        fresh: bool = False,
        progress: Progress = silent,
    ) -> None:
        """Start what is missing of Kafka, Valkey and *replicas* Neo4j; return when all of them answer.

        The version is the one that the stack has, or the newest tested one.  *fresh* stops everything and deletes all
        data first. When it fails, or on Ctrl-C, servers that were started here are stopped again; those that ran before
        go on.
        """
        with self._file.lock(LOCK_TIMEOUT_S):
            if fresh:
                self._wipe(progress)
            state = self._file.read()
            _settle_version(state, neo4j_version)
            # Neo4j first: it takes longest, so Kafka's storage is formatted meanwhile.
            names = [*(f"neo4j-{number}" for number in range(1, replicas + 1)), "redis", "kafka"]
            self._ensure(state, names, progress)

    def start(self, *names: str, neo4j_version: str | None = None, progress: Progress = silent) -> None:
        """Start the named servers where they are not running, on their ports and data; return when they answer.

        A server that the stack has not had yet is added to it; a worker comes from `start_workers` first.  The version
        is as in `up`.
        """
        with self._file.lock(LOCK_TIMEOUT_S):
            state = self._file.read()
            _settle_version(state, neo4j_version)
            self._ensure(state, names, progress)

    def start_workers(
        self,
        replicas: Iterable[int] | None = None,
        *,
        processes: int = 1,
        threads: int = 8,
        queues: Iterable[str] = (),
        environment: Mapping[str, str] | None = None,
        progress: Progress = silent,
    ) -> list[str]:
        """Start one ``dramatiq tasks`` per replica, all of them unless named; return their names when all are ready.

        Each gets `environment` of its replica, and then the one given here.  Workers that already run so are left
        alone, those that run otherwise are started again.
        """
        options = {"processes": str(processes), "threads": str(threads), "queues": " ".join(queues)}
        with self._file.lock(LOCK_TIMEOUT_S):
            state = self._file.read()
            launcher = Launcher(self._file, state, progress)
            numbers = _replicas(state) if replicas is None else list(replicas)
            for number in numbers:
                wanted = self._environment(state, number) | dict(environment or {})
                self._plan_worker(launcher, f"worker-{number}", options, wanted)
            names = [f"worker-{number}" for number in numbers]
            launcher.ensure(names)
        return names

    def down(self, progress: Progress = silent) -> list[str]:
        """Stop everything, workers first.  Data and ports stay.  Return the names of what ran."""
        if not self._file.path.exists():
            return []
        with self._file.lock(LOCK_TIMEOUT_S):
            return self._stop_all(progress)

    def kill(self, name: str) -> None:
        """SIGKILL a server, with its children; return when it is gone."""
        with self._file.lock(LOCK_TIMEOUT_S):
            state = self._file.read()
            server = self._get(state, name)
            if server.process is None or not server.running:
                raise NotInStack(f"{name} is not running.")
            processes.kill(server.process)
            Launcher(self._file, state, silent).forget(name)

    def status(self) -> list[Row]:
        """Ask every server.  Takes a few tenths of a second, more when one is silent; waits for nobody."""
        state = self._file.read()
        return [_row(self._site(state, name)) for name in sorted(state.servers)]

    def environment(self, replica: int = 1) -> dict[str, str]:
        """Return the environment variables that make settings point at this stack, as one replica."""
        return self._environment(self._file.read(), replica)

    @property
    def logs(self) -> dict[str, Path]:
        """Name → log file of every server."""
        state = self._file.read()
        return {name: self._site(state, name).log for name in sorted(state.servers)}

    @property
    def login(self) -> tuple[str, str]:
        """User and password of every Neo4j."""
        return NEO4J_USER, self._file.read().password

    def _ensure(self, state: State, names: Iterable[str], progress: Progress) -> None:
        state.short_lived = self._short_lived
        for name in names:
            _plan(state, name)
        Launcher(self._file, state, progress).ensure(names)

    def _environment(self, state: State, replica: int) -> dict[str, str]:
        neo4j = self._site(state, f"neo4j-{replica}")
        kafka = self._site(state, "kafka")
        addresses = {"BROKERS": KINDS["kafka"].uri(kafka), "NEO4J_URI": KINDS["neo4j"].uri(neo4j)}
        login = {"GROUP_ID": f"replica-{replica}", "NEO4J_USER": NEO4J_USER, "NEO4J_PASS": state.password}
        redis = {"REDIS_URL": KINDS["redis"].uri(self._site(state, "redis"))} if "redis" in state.servers else {}
        return addresses | login | redis

    def _site(self, state: State, name: str) -> Site:
        return Site(self._get(state, name), self.folder / name, state.password, state.short_lived)

    def _get(self, state: State, name: str) -> Server:
        if name in state.servers:
            return state.servers[name]
        known = ", ".join(sorted(state.servers)) or "nothing; `up` starts it"
        raise NotInStack(f"the stack in {self.folder} has no {name}. It has: {known}.")

    @staticmethod
    def _plan_worker(launcher: Launcher, name: str, options: dict[str, str], environment: dict[str, str]) -> None:
        servers = launcher.state.servers
        wanted = Server(name=name, kind="worker", version="", options=options, environment=environment)
        former = servers.setdefault(name, wanted)
        if (former.options, former.environment) != (options, environment):
            launcher.stop([name])
            servers[name] = wanted

    def _stop_all(self, progress: Progress) -> list[str]:
        launcher = Launcher(self._file, self._file.read(), progress)
        workers = [name for name, server in launcher.state.servers.items() if server.kind == "worker"]
        others = [name for name in launcher.state.servers if name not in workers]
        # Workers first: they commit and close while their servers still answer.
        return launcher.stop(workers) + launcher.stop(others)

    def _wipe(self, progress: Progress) -> None:
        self._stop_all(progress)
        for folder in self.folder.iterdir():
            if folder.is_dir() and _NAME.fullmatch(folder.name):  # nothing that is not ours
                shutil.rmtree(folder)
        self._file.path.unlink(missing_ok=True)


def _settle_version(state: State, wanted: str | None) -> None:
    """Write down the version of Neo4j, once for all replicas of a stack."""
    version = wanted or state.neo4j_version or jars.NEO4J_VERSION
    if not re.fullmatch(r"\d+(\.\d+)+", version) or int(version.split(".")[0]) < _OLDEST_NEO4J:
        raise UnknownVersion(
            f"{version!r} is not a version of Neo4j that this project runs: 5.26.12 and {jars.NEO4J_VERSION} are."
        )
    if state.neo4j_version not in {"", version}:
        raise StateUnusable(
            f"this stack has data of Neo4j {state.neo4j_version}. Use --fresh to begin anew with {version}, "
            "or another --state-dir."
        )
    state.neo4j_version = version


def _plan(state: State, name: str) -> None:
    """Add a server to the state, with free ports, unless it is there."""
    if name in state.servers:
        return
    kind = KINDS.get(name.split("-", maxsplit=1)[0])
    if kind is None or kind.name == "worker" or not _NAME.fullmatch(name):
        raise NotInStack(f"there is no server {name!r} to start: kafka, redis, neo4j-1, neo4j-2 ... are names.")
    taken = {port for server in state.servers.values() for port in server.ports.values()}
    ports = dict(zip(kind.ports, processes.free_ports(len(kind.ports), taken), strict=True))
    version = {"kafka": jars.KAFKA_VERSION, "neo4j": state.neo4j_version}.get(kind.name, "")
    state.servers[name] = Server(name=name, kind=kind.name, version=version, ports=ports)


def _replicas(state: State) -> list[int]:
    return sorted(int(name.removeprefix("neo4j-")) for name, server in state.servers.items() if server.kind == "neo4j")


def _row(site: Site) -> Row:
    server, kind = site.server, KINDS[site.server.kind]
    process = server.process if server.running else None
    return Row(
        name=server.name,
        kind=server.kind,
        version=server.version,
        pid=process.pid if process else None,
        ports=server.ports,
        uri=kind.uri(site),
        state=("answers" if kind.answers(site) else "running but silent") if process else "down",
        rss_mb=processes.memory(process) // 2**20 if process else 0,
        uptime_s=int(time.time() - process.started) if process else 0,
    )
