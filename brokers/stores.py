"""Where large contents lie: a folder that all processes share, or Redis.  See `claims` for what they promise."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brokers.claims import FOR_EVER, require_key
from brokers.errors import StoreAway
from brokers.topics import DAY_S


if TYPE_CHECKING:
    from collections.abc import Iterator

#: Lies in every folder that is a store.  An empty folder may be one whose file system is not mounted, and what seems to
#: be gone there is not.
MARKER = ".claims"

#: Seconds that Redis keeps content: a week on a queue and one more until Kafka deletes it, 30 days as a dead letter.
REDIS_KEEPS_S = 45 * DAY_S


class FileStore:
    """A folder: ``<topic>/<two digits>/<hash>``.  What is in it stays until `prune`.

    A file appears whole or not at all.  Its time of change says until when it was wanted: a delayed message's content
    bears the time at which it is due.  The folder has to be there; a store of it is made by the first `put`.
    """

    name = "file"
    keeps_s = FOR_EVER

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def put(self, key: str, content: bytes, *, longer_s: float = 0) -> None:
        """See `ClaimStore`."""
        path = self._path(key)
        wanted = time.time() + longer_s
        try:
            self._settle()
            if not _is_kept(path, content, wanted):
                _write(path, content, wanted)
        except OSError as exc:
            raise StoreAway(f"the claim store {self.folder} does not take content: {exc}") from exc

    def get(self, key: str) -> bytes | None:
        """See `ClaimStore`."""
        path = self._path(key)
        try:
            return path.read_bytes()
        except FileNotFoundError:
            if (self.folder / MARKER).exists():
                return None
            raise StoreAway(f"{self.folder} is no claim store: not mounted, or nothing was ever put there") from None
        except OSError as exc:
            raise StoreAway(f"the claim store {self.folder} does not answer: {exc}") from exc

    def topics(self) -> list[str]:
        """The topics whose contents are here."""
        return sorted(entry.name for entry in self.folder.iterdir() if entry.is_dir())

    def prune(self, topic: str, *, older_than_s: float) -> tuple[int, int]:
        """Delete contents of *topic* that nobody has wanted for so long; how many, and their bytes."""
        before = time.time() - older_than_s
        sizes = [size for path in self._contents(topic) for size in [_removed(path, before)] if size is not None]
        return len(sizes), sum(sizes)

    def _contents(self, topic: str) -> Iterator[Path]:
        return (self.folder / topic).glob("*/*")

    def _path(self, key: str) -> Path:
        require_key(key)
        topic, _, digest = key.partition("/")
        return self.folder / topic / digest[:2] / digest

    def _settle(self) -> None:
        """Make the folder a store.  The folder itself is the operator's to make: it may be a mount that is missing."""
        (self.folder / MARKER).touch()


def _is_kept(path: Path, content: bytes, wanted: float) -> bool:
    """Whether *content* is there, and now kept as long as *wanted*."""
    try:
        if path.read_bytes() != content:
            return False
        os.utime(path, (wanted, max(wanted, path.stat().st_mtime)))
    except FileNotFoundError:
        return False
    return path.exists()  # else `prune` moved it aside meanwhile, and has perhaps looked at its time before we set it


def _write(path: Path, content: bytes, wanted: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with scratch.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.utime(scratch, (wanted, wanted))
        scratch.replace(path)
        _sync(path.parent)
    finally:
        scratch.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Make the folder's entries outlast a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _removed(path: Path, before: float) -> int | None:
    """Remove *path* if it was wanted last before that time; its size if so.

    It is moved aside first: whoever wants it meanwhile misses it, and writes it anew, instead of losing it afterwards.
    """
    with contextlib.suppress(FileNotFoundError):  # somebody else prunes, too
        if path.stat().st_mtime >= before:
            return None
        aside = path.with_name(f".{path.name.lstrip('.')}.{uuid.uuid4().hex}")
        path.rename(aside)
        found = aside.stat()
        if found.st_mtime >= before:
            aside.rename(path)
            return None
        aside.unlink()
        return found.st_size
    return None


class RedisStore:
    """Redis, or whatever speaks its protocol; contents end by themselves.  It must not evict (``noeviction``).

    *client* is one of the package ``redis``, with a time-out on its socket.
    """

    name = "redis"

    def __init__(self, client: Any, *, keeps_s: float = REDIS_KEEPS_S) -> None:
        self.keeps_s = keeps_s
        self._client = client

    def put(self, key: str, content: bytes, *, longer_s: float = 0) -> None:
        """See `ClaimStore`."""
        keep_ms = int((self.keeps_s + longer_s) * 1000)
        try:
            # Never shorter: a delayed message may want the same content.
            kept = self._client.pttl(_redis(key)) >= keep_ms or self._client.pexpire(_redis(key), keep_ms)
            if not kept:
                self._client.set(_redis(key), content, px=keep_ms)
        except Exception as exc:  # its errors are its package's, which this one does not know
            raise StoreAway(f"the claim store in Redis does not take content: {exc}") from exc

    def get(self, key: str) -> bytes | None:
        """See `ClaimStore`."""
        try:
            found: bytes | None = self._client.get(_redis(key))
        except Exception as exc:  # as above
            raise StoreAway(f"the claim store in Redis does not answer: {exc}") from exc
        return found


def _redis(key: str) -> str:
    return f"claim:{key}"
