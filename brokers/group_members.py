"""Who is in a consumer group, asked in a way that outlives a coordinator that goes away.

Kafka's newer question, `describe_consumer_groups`, is sent to the group's coordinator.  Where that dies at the wrong
moment, librdkafka 2.16 ends the whole process (an assertion, its pull request 5397) or never answers again; killing a
broker under a process that asks did one or the other nearly every time.  So the older question is asked, which goes to
all brokers and has neither fault.  It knows no groups of the new protocol (KIP-848): for those, and only for those,
there is but the newer one.
"""

from __future__ import annotations

import struct
import warnings
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaException

from brokers.errors import Unreachable


if TYPE_CHECKING:
    from collections.abc import Iterator

    from confluent_kafka.admin import AdminClient

    from brokers.bounds import Place

# It recommends what ends the process.
warnings.filterwarnings("ignore", r"list_groups\(\) is deprecated", DeprecationWarning)


@dataclass(frozen=True, slots=True)
class GroupMember:
    """One member, and the partitions that it holds."""

    member_id: str
    client_id: str
    host: str
    places: tuple[Place, ...]


def members(admin: AdminClient, group_id: str, timeout_s: float) -> list[GroupMember]:
    """Every member of the group; none where there is no such group.

    Raises:
      Unreachable: Kafka does not say.
    """
    try:
        found: Any = next(
            iter(admin.list_groups(group_id, timeout=timeout_s)), None
        )  # stubs know no types of its fields
        if found is None:
            return []
        if found.error is not None or found.state == "Dead":  # one of the new protocol, or one that has just gone
            return _described(admin, group_id, timeout_s)
    except (KafkaException, FutureTimeout) as exc:
        raise Unreachable(f"Kafka does not describe group {group_id!r}: {exc}") from exc
    return [
        GroupMember(one.id, one.client_id, one.client_host.removeprefix("/"), tuple(assigned(one.assignment)))
        for one in found.members
    ]


def _described(admin: AdminClient, group_id: str, timeout_s: float) -> list[GroupMember]:
    future = admin.describe_consumer_groups([group_id], request_timeout=timeout_s)[group_id]
    return [
        GroupMember(
            one.member_id,
            one.client_id,
            one.host.removeprefix("/"),
            tuple((place.topic, place.partition) for place in one.assignment.topic_partitions),
        )
        for one in future.result(timeout_s + 1).members
    ]


def assigned(assignment: bytes) -> Iterator[Place]:
    """The partitions in an assignment of Kafka's consumer protocol; a member that has none yet has no bytes."""
    if not assignment:
        return
    (topics,) = struct.unpack_from(">i", assignment, 2)  # after the version
    at = 6
    for _ in range(topics):
        (length,) = struct.unpack_from(">h", assignment, at)
        topic = assignment[at + 2 : at + 2 + length].decode()
        at += 2 + length
        (count,) = struct.unpack_from(">i", assignment, at)
        for partition in struct.unpack_from(f">{count}i", assignment, at + 4):
            yield topic, partition
        at += 4 + 4 * count
