"""Bring servers to life, and to rest: what `Stack` does under its lock.

A start that does not succeed leaves nothing behind: whatever it started is stopped again, also after Ctrl-C.  If it is
killed, the state file or the marker in the environment of the servers leads the next start to them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from ops import jars, processes
from ops.errors import PortTaken, ServerDied, ServerSilent
from ops.progress import Progress, Step
from ops.servers import KINDS, Kind, Site


if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from ops.state import Server, State, StateFile

#: Seconds that a running server of an earlier start gets to answer, before it is started again.
PATIENCE_S = 5.0

#: Seconds that half-started servers get to end by themselves.  They are new or crash-safe: a kill does no harm.
ABORT_TIMEOUT_S = 5.0

ClassPaths: TypeAlias = "dict[tuple[str, str], list[Path]]"


@dataclass(slots=True)
class Launcher:
    """Starts and stops the servers of one state.  Only while its file is locked, and by one thread."""

    file: StateFile
    state: State
    progress: Progress

    def site(self, name: str) -> Site:
        """Return where a server of the state lives."""
        return Site(self.state.servers[name], self.file.folder / name, self.state.password, self.state.short_lived)

    def ensure(self, names: Iterable[str]) -> None:
        """Make every named server answer: leave those that do, adopt those that will, start the others, together.

        Raises:
            ServerDied, ServerSilent, PortTaken, JarsUnavailable: after stopping whatever was started here.
        """
        missing = [name for name in names if not self._adopt(name)]
        started: list[str] = []
        try:
            class_paths = self._class_paths(missing)
            for name in missing:
                started.append(name)  # first: what the next line begins must be stopped even if it is interrupted
                self._spawn(name, class_paths)
            self._wait(missing)
        except BaseException:
            self.stop(started, ABORT_TIMEOUT_S)
            raise

    def stop(self, names: Iterable[str], timeout_s: float | None = None) -> list[str]:
        """Stop servers together: ask all, then wait, then kill.  Return those that ran."""
        living = {name: found for name in names for found in [self._find(name)] if found}
        for name, process in living.items():
            self.progress(Step(name, "stopping"))
            processes.terminate(process)
        begun = time.monotonic()
        for name, process in living.items():
            patience = timeout_s or _kind(self.state.servers[name]).stop_timeout_s
            processes.finish(process, max(0.0, begun + patience - time.monotonic()))
            self.progress(Step(name, "stopped", finished=True))
        for name in names:
            self.forget(name)
        return list(living)

    def forget(self, name: str) -> None:
        """Write down that a server has no process any more, after ending what is left of its children."""
        self._sweep(name)
        self._save(self.state.servers[name].but(pid=None, started=0.0, starting=False))

    def _sweep(self, name: str) -> None:
        for process in processes.find_marked(self.site(name).marker):
            processes.kill(process)

    def _adopt(self, name: str) -> bool:
        """Whether the server runs and answers; one that runs and does not is given its time, then ended."""
        process = self._find(name)
        if process is None:
            return False
        self._save(self.state.servers[name].but(pid=process.pid, started=process.started))
        site = self.site(name)
        kind = _kind(site.server)
        young = kind.start_timeout_s - (time.time() - process.started)
        self.progress(Step(name, "already runs"))
        processes.wait_for(lambda: not process.alive or kind.answers(site), max(PATIENCE_S, young))
        if process.alive and kind.answers(site):
            self._save(site.server.but(starting=False))
            self.progress(Step(name, f"answers at {kind.uri(site)}", finished=True))
            return True
        self.stop([name])
        return False

    def _find(self, name: str) -> processes.Process | None:
        server = self.state.servers[name]
        if server.running:
            return server.process
        if not server.starting:
            return None
        return next(iter(processes.find_marked(self.site(name).marker)), None)

    def _class_paths(self, names: Iterable[str]) -> ClassPaths:
        servers = [self.state.servers[name] for name in names]
        wanted = dict.fromkeys((s.kind, s.version) for s in servers if _kind(s).needs_jars)
        return jars.fetch(list(wanted), self.progress) if wanted else {}

    def _spawn(self, name: str, class_paths: ClassPaths) -> None:
        site = self.site(name)
        kind = _kind(site.server)
        class_path = class_paths.get((site.server.kind, site.server.version), [])
        self.progress(Step(name, "starting"))
        self._sweep(name)
        _require_free_ports(site.server)
        site.folder.mkdir(exist_ok=True)
        kind.prepare(site, class_path)
        log_from = site.log.stat().st_size if site.log.exists() else 0
        self._save(site.server.but(starting=True, log_from=log_from))
        environment = site.server.environment | site.marker
        process = processes.spawn(
            kind.command(site, class_path), cwd=site.folder, log=site.log, environment=environment
        )
        self._save(self.state.servers[name].but(pid=process.pid, started=process.started))

    def _wait(self, names: Iterable[str]) -> None:
        begun = time.monotonic()
        pending = list(names)
        while pending:
            pending = [name for name in pending if not self._is_ready(name, time.monotonic() - begun)]
            time.sleep(processes.POLL_S)

    def _is_ready(self, name: str, waited_s: float) -> bool:
        site = self.site(name)
        kind = _kind(site.server)
        if not site.server.running:
            raise ServerDied(f"{name} ended while it was starting. {_last_words(site)}")
        if not kind.answers(site):
            if waited_s > kind.start_timeout_s:
                raise ServerSilent(f"{name} did not answer within {kind.start_timeout_s:.0f} s. {_last_words(site)}")
            return False
        self._save(site.server.but(starting=False))
        self.progress(Step(name, f"answers at {kind.uri(site)}", finished=True))
        return True

    def _save(self, server: Server) -> None:
        self.state.servers[server.name] = server
        self.file.write(self.state)


def _kind(server: Server) -> Kind:
    return KINDS[server.kind]


def _require_free_ports(server: Server) -> None:
    for use, port in server.ports.items():
        if not processes.is_free(port):
            raise PortTaken(
                f"{server.name} needs its {use} port {port}, and {processes.holder(port)} uses it. "
                "End that process, or use --fresh for new ports and empty servers."
            )


def _last_words(site: Site) -> str:
    said = processes.tail(site.log, site.server.log_from)
    return f"Its last words in {site.log}:\n{said}" if said else f"It left no word in {site.log}."
