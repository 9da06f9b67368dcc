"""Where logs begin and end.

Asked through an admin client, for many partitions at once.  A consumer's own questions wait behind its running fetches:
half a second each, one partition after the other.
"""

from __future__ import annotations

from concurrent.futures import TimeoutError as LateError
from typing import TYPE_CHECKING

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]  # public here, though not marked so


if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from confluent_kafka.admin import AdminClient

    #: Topic and partition.
    Place = tuple[str, int]

    #: Places to first offset and end of their logs.
    Bounds = Callable[[Collection[Place]], dict[Place, tuple[int, int]]]


def bounds(admin: AdminClient, places: Collection[Place], timeout_s: float) -> dict[Place, tuple[int, int]]:
    """First offset and end of each log; those that nobody answers for within *timeout_s* are missing."""
    first, end = OffsetSpec.earliest(), OffsetSpec.latest()  # type: ignore[no-untyped-call]  # not annotated
    firsts, ends = (_asked(admin, places, spec, timeout_s) for spec in (first, end))
    return {place: (firsts[place], ends[place]) for place in firsts.keys() & ends.keys()}


def _asked(admin: AdminClient, places: Collection[Place], spec: OffsetSpec, timeout_s: float) -> dict[Place, int]:
    answers = {}
    futures = admin.list_offsets({TopicPartition(*place): spec for place in places}, request_timeout=timeout_s)
    for place, future in futures.items():
        try:
            answers[place.topic, place.partition] = future.result(timeout_s + 1).offset
        except (KafkaException, LateError):
            continue
    return answers
