from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from brokers.group_members import assigned


NAMES = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=20)
ASSIGNED = st.dictionaries(NAMES, st.lists(st.integers(0, 2**31 - 1), max_size=5), max_size=4)


def encoded(topics: dict[str, list[int]], rest: bytes) -> bytes:
    """As Kafka's clients write it: a version, an array of topics with arrays of partitions, and data of their own."""
    parts = [struct.pack(">hi", 1, len(topics))]
    for topic, partitions in topics.items():
        name = topic.encode()
        parts.append(struct.pack(f">h{len(name)}si{len(partitions)}i", len(name), name, len(partitions), *partitions))
    return b"".join(parts) + rest


@given(topics=ASSIGNED, rest=st.binary(max_size=9))
def test_an_assignment_is_read_as_it_was_written(topics: dict[str, list[int]], rest: bytes) -> None:
    """Whatever a client adds behind it."""
    expected = [(topic, partition) for topic, partitions in topics.items() for partition in partitions]
    assert list(assigned(encoded(topics, rest))) == expected


def test_a_member_that_joins_has_none() -> None:
    """Kafka gives no bytes for it then."""
    assert list(assigned(b"")) == []
