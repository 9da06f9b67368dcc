"""What a worker process says of itself when it is asked."""

from __future__ import annotations

import os
import socket
from collections import Counter
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING

import msgspec

from brokers.records import Outgoing
from brokers.waiter import CORRELATION


if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from brokers.assignment import Blocked
    from brokers.consumer import GroupConsumer
    from brokers.orders import Pause
    from brokers.records import Record
    from brokers.running import Job


class RunningMessage(msgspec.Struct, frozen=True):
    """A message that runs; *since_ms* as all times here is milliseconds of the worker's wall clock."""

    message_id: str
    actor: str
    queue: str
    record: str
    since_ms: int


class Halt(msgspec.Struct, frozen=True):
    """A partition, or with a pause a queue, that does not go on; *attempts* were made since."""

    reason: str
    since_ms: int
    attempts: int = 0


class WorkerState(msgspec.Struct, frozen=True):
    """One worker process.

    *groups*: consumer group to Kafka's name of this member.  *waiting*: queue to messages that have been fetched and
    not handed out.  *skipped*: why messages did not begin, and how many, since the process began.  *now_ms* is when it
    said so; 0 where a worker does not tell.
    """

    host: str
    pid: int
    version: str
    since_ms: int
    groups: dict[str, str]
    queues: list[str]
    partitions: list[str]
    running: list[RunningMessage]
    waiting: dict[str, int]
    blocked: dict[str, Halt]
    paused: dict[str, Halt]
    skipped: dict[str, int]
    now_ms: int = 0

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.host}:{self.pid}"

    def ahead_s(self, asked_ms: int, heard_ms: int) -> float:
        """Seconds by which its clock is ahead of that of whoever asked and heard it then, at least; behind: below 0."""
        if not self.now_ms:
            return 0.0
        return (max(self.now_ms - heard_ms, 0) + min(self.now_ms - asked_ms, 0)) / 1000


class SilentMember(msgspec.Struct, frozen=True):
    """A member of a group, as Kafka knows it, that did not answer."""

    group: str
    member_id: str
    client_id: str
    host: str
    partitions: list[str]


class Inspection(msgspec.Struct, frozen=True):
    """Who answered, and who did not."""

    workers: list[WorkerState]
    silent: list[SilentMember]


def describe(
    consumers: Sequence[GroupConsumer],
    jobs: Sequence[Job],
    pauses: Mapping[str, Pause],
    skipped: Mapping[str, int],
    since_ms: int,
    now_ms: int,
) -> WorkerState:
    """This process."""
    assignments = [one for consumer in consumers for one in consumer.assignments()]
    waiting: Counter[str] = Counter()
    for one in assignments:
        waiting[one.buffer.queue.name] += one.waiting
    return WorkerState(
        host=socket.gethostname(),
        pid=os.getpid(),
        version=_version(),
        since_ms=since_ms,
        groups={consumer.group_id: consumer.member_id for consumer in consumers},
        queues=sorted({name for consumer in consumers for name in consumer.queues()}),
        partitions=sorted(str(one) for one in assignments),
        running=[_running(job) for job in jobs],
        waiting=dict(waiting),
        blocked={name: _halt(why) for consumer in consumers for name, why in consumer.blocked().items()},
        paused={pause.queue: Halt(pause.reason, pause.at_ms) for pause in pauses.values()},
        skipped=dict(skipped),
        now_ms=now_ms,
    )


@cache
def _version() -> str:
    try:
        return metadata.version("neo4j-kafka-interface")
    except metadata.PackageNotFoundError:  # run from a folder, without having been installed
        return "unknown"


def _running(job: Job) -> RunningMessage:
    message = job.message
    return RunningMessage(message.message_id, message.actor_name, message.queue_name, str(message.record), job.since_ms)


def _halt(blocked: Blocked) -> Halt:
    return Halt(blocked.reason, int(blocked.since * 1000), blocked.attempts)


def answer(state: WorkerState, correlation_id: str, topic: str) -> Outgoing:
    """*state* as a record that answers one question."""
    return Outgoing(topic, msgspec.json.encode(state), headers={CORRELATION: correlation_id.encode()}, partition=0)


def read_answer(record: Record) -> WorkerState | None:
    """The state in *record*; none when it is not one that this version can read."""
    try:
        return msgspec.json.decode(record.value or b"", type=WorkerState)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
