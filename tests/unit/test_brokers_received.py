"""What Kafka's client delivered is the same record, whether it was looked at or not."""

from __future__ import annotations

from typing import Any

from confluent_kafka import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from brokers.received import Delivered, all_delivered, all_received, header_names, received, size_of_all
from brokers.records import Record


few = settings(max_examples=60, deadline=None)


def message(offset: int, key: bytes | None, value: bytes | None, headers: Any) -> Message:
    """A record as Kafka's client hands it over."""
    more: dict[str, Any] = {} if headers is None else {"headers": headers}
    return Message(topic="t", partition=2, offset=offset, timestamp=(1, 1000 + offset), key=key, value=value, **more)


contents = st.none() | st.binary(max_size=3)
delivered = st.builds(
    message,
    st.integers(0, 9),
    contents,
    contents,
    st.none() | st.lists(st.tuples(st.sampled_from(["a", "b"]), contents), max_size=3),
)


@few
@given(st.lists(delivered, max_size=4))
def test_what_is_received_together_is_what_each_would_be(messages: list[Any]) -> None:
    """Headers without content are empty, the last of a name counts, and sizes count what is there."""
    records = all_received(messages, ("t", 2))
    assert records == [
        Record(
            *("t", 2, each.offset(), each.timestamp()[1], each.key(), each.value()),
            {name: content or b"" for name, content in each.headers() or ()},
        )
        for each in messages
    ]
    assert records == [received(each) for each in messages]
    assert size_of_all(records) == sum(len(each.key() or b"") + len(each.value() or b"") for each in messages)
    assert set(header_names(records)) == {name for each in messages for name, _ in each.headers() or ()}


@few
@given(st.lists(delivered, max_size=4))
def test_what_is_not_looked_at_is_the_same_record(messages: list[Any]) -> None:
    """In everything but its size, which leaves out the key."""
    records, lazy = all_received(messages, ("t", 2)), all_delivered(messages)
    for one, other in zip(records, lazy, strict=True):
        assert isinstance(other, Delivered)
        for field in ("topic", "partition", "offset", "timestamp_ms", "key", "value", "headers"):
            assert getattr(one, field) == getattr(other, field)
        assert str(one) == str(other)
        assert one.with_value(b"v") == other.with_value(b"v")
        assert other.size == len(one.value or b"")
    assert set(header_names(lazy)) == set(header_names(records))
    assert size_of_all(lazy) == sum(one.size for one in lazy)
