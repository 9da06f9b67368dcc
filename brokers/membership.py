"""Seats in a consumer group: a worker that is started again after a kill takes its predecessor's place at once.

A member that is killed says nothing, and without more its partitions, and every rebalance, wait until its session has
ended, six seconds; in that time the commits of the others wait too, behind their own rejoining.  Kafka knows *static*
members: whoever comes with a known name takes over that name's partitions, and nobody else notices.  So each member
here has a name that its successor will have, and no other living member: that of the lowest free *seat* of its group on
its machine.  A seat is a locked file, and the kernel unlocks what a killed process held.

The name says also what the member reads.  A successor with other queues is another member: Kafka would hand it its
predecessor's partitions without asking what it reads, and nobody would read what is new.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import logging
import os
import socket
import tempfile
import uuid
import weakref
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from collections.abc import Iterable

    from confluent_kafka import KafkaError

logger = logging.getLogger("brokers.consumer")

#: What tells one running machine, and one container on it, from all others.
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
MOUNTS = Path("/proc/self/ns/mnt")


class Seat:
    """One member's place in a group, for as long as this object or the process lives."""

    def __init__(self, name: str, file: int) -> None:
        self.name = name
        self._file: int | None = file
        _seats.add(self)

    def leave(self) -> None:
        """Let another one have it.  Idempotent."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


#: The seats of this process, so that a forked child can let go of them.
_seats: weakref.WeakSet[Seat] = weakref.WeakSet()


def take_seat(group_id: str, topics: Iterable[str], folder: Path | None = None, *, client_id: str = "") -> Seat | None:
    """The lowest free seat of *group_id* on this machine, for a member that will read *topics*.

    Each *client_id* has seats of its own: Kafka goes on calling a member's successor by the predecessor's client id.
    None where there is no place to lock files.
    """
    folder = folder or Path(tempfile.gettempdir()) / f"kafka-seats-{os.getuid()}"
    digest = hashlib.sha256(f"{group_id} {client_id}".rstrip().encode()).hexdigest()[:16]
    whose = hashlib.sha256("\n".join([client_id, *sorted(topics)]).encode()).hexdigest()[:8]
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        for number in itertools.count(1):
            file = os.open(folder / f"{digest}.{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
            else:
                return Seat(f"{_machine()}-{whose}-{number}", file)
    except OSError as exc:
        logger.info("kafka_no_seat group=%s text=%s", group_id, exc)
    return None


def is_displacement(error: KafkaError) -> bool:
    """Whether the member has ended because another one has the same name: a machine that looks like this one."""
    return "group.instance.id" in error.str()


def _machine() -> str:
    """A name that no other machine or container has while it runs; readable at its beginning."""
    try:
        where = f"{BOOT_ID.read_text().strip()} {MOUNTS.stat().st_ino}"
    except OSError:  # not Linux
        where = str(uuid.getnode())
    host = "".join(c if c.isalnum() or c in "._-" else "-" for c in socket.gethostname())
    return f"{host}-{hashlib.sha256(where.encode()).hexdigest()[:12]}"


def _keep_nothing() -> None:
    """In a forked child: a seat belongs to the parent, and would stay taken for as long as the child lives."""
    for seat in list(_seats):
        seat.leave()


os.register_at_fork(after_in_child=_keep_nothing)
