"""Many maps at once, held against one value at a time."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from neo4j.spatial import CartesianPoint
from neo4j.time import Date, Duration

from replica import values
from replica.properties import encode_all


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.sampled_from([2**53, 2**53 + 1, -(2**53), -(2**53) - 1, 10**18])
    | st.floats()
    | st.text()
    | st.binary()
    | st.builds(Date, st.integers(1, 9999), st.integers(1, 12), st.integers(1, 28))
    | st.builds(Duration, months=st.integers(-5, 5), days=st.integers(-5, 5))
    | st.builds(lambda x, y: CartesianPoint((x, y)), st.floats(allow_nan=False), st.floats(allow_nan=False))
)
maps = st.dictionaries(st.text() | st.just("$type"), scalars | st.lists(scalars, max_size=3), max_size=4)


@given(st.lists(maps, max_size=5))
def test_many_maps_are_encoded_as_each_is_by_itself(found: list[dict[str, Any]]) -> None:
    """Compared as JSON, where true is not 1 and 1.0 is not 1."""
    expected = [values.encode(one, "properties") for one in found]
    assert msgspec.json.encode(encode_all(found)) == msgspec.json.encode(expected)


@pytest.mark.parametrize("value", ["text", "", True, None, 0, 2**53, -(2**53), 1.0, -0.0, 1e308, [], ["a"], [1, 2.5]])
def test_plain_values_are_not_touched(value: Any) -> None:
    """The very same list comes back, so the short way was taken."""
    found = [{"a": "b"}, {"value": value}, {}]
    assert encode_all(found) is found


@pytest.mark.parametrize(
    "value",
    [
        2**53 + 1,
        -(2**53) - 1,
        float("nan"),
        float("inf"),
        [2**60],
        [float("nan")],
        b"x",
        Date(2024, 2, 29),
        [Duration()],
    ],
)
def test_one_other_value_among_plain_ones_is_encoded(value: Any) -> None:
    """The last of many, in a list or by itself."""
    found = [*({"n": n} for n in range(50)), {"value": value}]
    encoded = encode_all(found)
    assert encoded[:-1] == found[:-1]
    assert encoded[-1] == {"value": values.encode(value)} != {"value": value}
