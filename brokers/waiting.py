"""What lies on the delayed topic, asked from outside: for those who list, cancel, or wait."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from brokers.delays import entry_of
from brokers.errors import Unreachable
from brokers.replies import Place, TopicReader


if TYPE_CHECKING:
    from collections.abc import Mapping

    from brokers.delays import Entry
    from brokers.records import Record
    from brokers.topics import TopicSpec


@dataclass(frozen=True, slots=True)
class Waiting:
    """The messages that wait, sooner first."""

    entries: tuple[Entry, ...]


def waiting(settings: Mapping[str, Any], spec: TopicSpec, partitions: int, *, timeout_s: float) -> Waiting:
    """Read the whole topic as it is now.

    Raises:
      Unreachable: Kafka did not give all of it within *timeout_s*.
    """
    live: dict[bytes, Entry] = {}

    def take(record: Record) -> None:
        entry = entry_of(record)
        if entry is not None:
            live[entry.key] = entry
        elif record.key is not None:
            live.pop(record.key, None)

    places = [Place(spec.name, partition, from_start=True) for partition in range(partitions)]
    reader = TopicReader(settings, places, take, timeout_s=timeout_s)
    try:
        if not reader.wait_caught_up(timeout_s):
            raise Unreachable(f"topic {spec.name!r} could not be read within {timeout_s:g} s")
    finally:
        reader.close()
    return Waiting(tuple(sorted(live.values())))
