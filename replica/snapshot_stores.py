"""Where snapshots lie: a folder, or a bucket that speaks S3.

A snapshot appears under its name whole or not at all.  Beside it may lie its mark, ``<name>.verified``, which says when
somebody has read it to its end, and what its checksum was.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Protocol, cast
from urllib.parse import unquote, urlsplit

from replica.errors import SnapshotStoreAway, SnapshotUnknown


if TYPE_CHECKING:
    from collections.abc import Iterator

SUFFIX: Final = ".snapshot"
MARK: Final = ".verified"
_PARTIAL: Final = ".partial"

#: Bytes that a reader or a writer of a bucket holds; parts of an upload have at least 5 MB.
_PART_BYTES: Final = 8_000_000


class Store(Protocol):
    """What lies where; every method raises `SnapshotStoreAway` where the place cannot be reached."""

    url: str

    def names(self) -> list[str]:
        """Names of all snapshots, sorted."""
        ...

    def size(self, name: str) -> int:
        """How many bytes it has.  Raises `SnapshotUnknown`."""
        ...

    def read(self, name: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """Open it, to be read from its start.  Raises `SnapshotUnknown`."""
        ...

    def write(self, name: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """Write it: it is there when the block ends, and not at all when the block raises or the process dies."""
        ...

    def mark(self, name: str) -> bytes | None:
        """Its mark, if it has one."""
        ...

    def put_mark(self, name: str, content: bytes) -> None:
        """Write its mark."""
        ...


def open_store(url: str) -> Store:
    """The store at ``file:///folder`` or ``s3://bucket/prefix``; nothing is asked yet.

    Raises `SnapshotStoreAway` where the package for it is missing.
    """
    parts = urlsplit(url)
    if parts.scheme == "s3":
        return BucketStore(url)
    return FolderStore(Path(unquote(parts.path)))


class FolderStore:
    """A folder.  It is made where its parent is there: a mount that is missing is not replaced in silence."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.url = self.folder.as_uri()

    def names(self) -> list[str]:
        """See `Store`.  What a killed process left unfinished is removed."""
        with self._reached():
            if not self.folder.exists():
                return []
            _remove_abandoned(self.folder)
            return sorted(path.name for path in self.folder.glob(f"*{SUFFIX}"))

    def size(self, name: str) -> int:
        """See `Store`."""
        with self._reached(name):
            return self._path(name).stat().st_size

    @contextmanager
    def read(self, name: str) -> Iterator[BinaryIO]:
        """See `Store`."""
        with self._reached(name), self._path(name).open("rb") as file:
            yield file

    @contextmanager
    def write(self, name: str) -> Iterator[BinaryIO]:
        """See `Store`."""
        with self._reached():
            self.folder.mkdir(exist_ok=True)
            _remove_abandoned(self.folder)
            with _appearing(self._path(name)) as file:
                yield file

    def mark(self, name: str) -> bytes | None:
        """See `Store`."""
        with self._reached():
            path = self._path(name + MARK)
            return path.read_bytes() if path.exists() else None

    def put_mark(self, name: str, content: bytes) -> None:
        """See `Store`."""
        with self._reached(), _appearing(self._path(name + MARK)) as file:
            file.write(content)

    def _path(self, name: str) -> Path:
        if Path(name).name != name or name.startswith(".") or SUFFIX not in name:
            raise SnapshotUnknown(f"{name!r} is no name of a snapshot: `snapshot list` gives them")
        return self.folder / name

    @contextmanager
    def _reached(self, name: str = "") -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            if name:
                raise SnapshotUnknown(
                    f"there is no snapshot {name} in {self.url}: `snapshot list` gives them"
                ) from error
            raise SnapshotStoreAway(f"the folder of {self.url} cannot be used: {error}") from error
        except OSError as error:
            raise SnapshotStoreAway(f"the snapshot store {self.url} does not answer: {error}") from error


@contextmanager
def _appearing(path: Path) -> Iterator[BinaryIO]:
    """A file that is there, on disk, once the block has ended.

    Its lock tells a file that is being written from one whose writer was killed.
    """
    scratch = path.with_name(f".{path.name}{_PARTIAL}")
    try:
        with scratch.open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield file
            file.flush()
            os.fsync(file.fileno())
            scratch.replace(path)
        _sync(path.parent)
    finally:
        scratch.unlink(missing_ok=True)


def _remove_abandoned(folder: Path) -> None:
    for path in folder.glob(f".*{_PARTIAL}"):
        with contextlib.suppress(FileNotFoundError, BlockingIOError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: its writer lives
            path.unlink()


def _sync(folder: Path) -> None:
    """Make the folder's entries outlast a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class BucketStore:
    """A bucket of S3, or of whatever speaks its protocol; ``AWS_...`` variables name endpoint, region and keys.

    An upload that a killed process left is not visible; a rule of the bucket (AbortIncompleteMultipartUpload) removes
    its parts.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            import obstore  # noqa: PLC0415 - an extra
            from obstore.exceptions import BaseError  # noqa: PLC0415 - as above
            from obstore.store import from_url  # noqa: PLC0415 - as above
        except ImportError as error:
            raise SnapshotStoreAway(f"{url} needs the extra s3: pip install 'neo4j-kafka-interface[s3]'") from error
        self._obstore: Any = obstore
        self._error = BaseError
        with self._reached():
            self._store: Any = from_url(url)

    def names(self) -> list[str]:
        """See `Store`."""
        with self._reached():
            found = [entry["path"] for page in self._obstore.list(self._store) for entry in page]
        return sorted(path for path in found if path.endswith(SUFFIX) and "/" not in path)

    def size(self, name: str) -> int:
        """See `Store`."""
        with self._reached(name):
            return int(self._obstore.head(self._store, name)["size"])

    @contextmanager
    def read(self, name: str) -> Iterator[BinaryIO]:
        """See `Store`."""
        with self._reached(name):
            yield cast("BinaryIO", self._obstore.open_reader(self._store, name, buffer_size=_PART_BYTES))

    @contextmanager
    def write(self, name: str) -> Iterator[BinaryIO]:
        """See `Store`."""
        with self._reached():
            file = self._obstore.open_writer(self._store, name, buffer_size=_PART_BYTES)
            yield cast("BinaryIO", file)
            file.close()  # only now it appears; where the block raised, it is never closed

    def mark(self, name: str) -> bytes | None:
        """See `Store`."""
        try:
            with self._reached(name):
                return bytes(self._obstore.get(self._store, name + MARK).bytes())
        except SnapshotUnknown:
            return None

    def put_mark(self, name: str, content: bytes) -> None:
        """See `Store`."""
        with self._reached():
            self._obstore.put(self._store, name + MARK, content)

    @contextmanager
    def _reached(self, name: str = "") -> Iterator[None]:
        try:
            yield
        except (self._error, OSError) as error:
            text = str(error).partition("\n\nDebug source")[0]
            gone = isinstance(error, FileNotFoundError) or type(error).__name__ == "NotFoundError"
            if name and gone and _NO_BUCKET not in text:
                if _NO_KEY not in text:
                    self.names()  # the answer to a HEAD request has no text: perhaps the bucket is missing
                raise SnapshotUnknown(
                    f"there is no snapshot {name} in {self.url}: `snapshot list` gives them"
                ) from error
            raise SnapshotStoreAway(f"the snapshot store {self.url} cannot be used: {_advice(text)}{text}") from error


_NO_BUCKET: Final = "NoSuchBucket"
_NO_KEY: Final = "NoSuchKey"

#: Words of a server, or of the client, and what the person who reads them can do.  The first that fits.
_ADVICE: Final = (
    (_NO_BUCKET, "there is no such bucket: make it, or correct SNAPSHOT_STORE or --store"),
    ("169.254.169.254", "no keys are set: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    ("InvalidAccessKeyId", "the server does not know the key in AWS_ACCESS_KEY_ID"),
    ("SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY is not the secret of AWS_ACCESS_KEY_ID"),
    ("AuthorizationHeaderMalformed", "AWS_REGION is not the bucket's region"),
    ("AccessDenied", "the key in AWS_ACCESS_KEY_ID may not do that: the bucket's policy has to allow it"),
    ("builder error", "for an endpoint without TLS, http://, say AWS_ALLOW_HTTP=true"),
    ("error sending request", "nobody answers there: is AWS_ENDPOINT_URL right?"),
)


def _advice(text: str) -> str:
    return next((f"{advice}. It says: " for words, advice in _ADVICE if words in text), "")
