"""Where logs begin and end.

Asked through an admin client, for many partitions at once.  A consumer's own questions wait behind its running fetches:
half a second each, one partition after the other.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]  # public here, though not marked so

from brokers.errors import Unreachable


if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from confluent_kafka.admin import AdminClient

    #: Topic and partition.
    Place = tuple[str, int]

    #: Places to first offset and end of their logs.
    Bounds = Callable[[Collection[Place]], dict[Place, tuple[int, int]]]


def bounds(
    admin: AdminClient, places: Collection[Place], timeout_s: float, *, committed: bool = False
) -> dict[Place, tuple[int, int]]:
    """First offset and end of each log; those that nobody answers for are missing.

    *committed*: where readers of committed records get to just now, before the first transaction that is still open.
    """
    found = _bounds(admin, places, timeout_s, committed=committed)
    missing = [place for place in places if place not in found]
    if not missing:
        return found
    try:
        # The client asks with the leader epochs that it knows, and after a restart of the server does not learn the new
        # ones by itself: without this it would be refused for ever (FENCED_LEADER_EPOCH).
        admin.list_topics(timeout=timeout_s)
    except KafkaException:
        return found
    return found | _bounds(admin, missing, timeout_s, committed=committed)


def end_of(admin: AdminClient, topic: str, timeout_s: float) -> int:
    """The high watermark of partition 0, as its leader tells it.

    Raises:
      Unreachable: nobody does.
    """
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # not annotated
    for _ in range(2):
        found = _asked(admin, [(topic, 0)], latest, timeout_s, committed=False)
        if found:
            return found[topic, 0]
        with suppress(KafkaException):
            admin.list_topics(timeout=timeout_s)  # as above
    raise Unreachable(f"Kafka does not tell the end of topic {topic!r} within {timeout_s:g} s")


def _bounds(
    admin: AdminClient, places: Collection[Place], timeout_s: float, *, committed: bool
) -> dict[Place, tuple[int, int]]:
    first, end = OffsetSpec.earliest(), OffsetSpec.latest()  # type: ignore[no-untyped-call]  # not annotated
    firsts, ends = (_asked(admin, places, spec, timeout_s, committed=committed) for spec in (first, end))
    return {place: (firsts[place], ends[place]) for place in firsts.keys() & ends.keys()}


def _asked(
    admin: AdminClient, places: Collection[Place], spec: OffsetSpec, timeout_s: float, *, committed: bool
) -> dict[Place, int]:
    answers = {}
    level = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
    asked = {TopicPartition(*place): spec for place in places}
    futures = admin.list_offsets(asked, isolation_level=level, request_timeout=timeout_s)
    for place, future in futures.items():
        try:
            offset = future.result(timeout_s + 1).offset
        except (KafkaException, TimeoutError):
            continue
        if offset >= 0:  # a connection that breaks just then is answered with -1001, and no error
            answers[place.topic, place.partition] = offset
    return answers
