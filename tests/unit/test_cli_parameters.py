from __future__ import annotations

from typing import Any

import pytest
from neo4j.time import Date

from ops.errors import InputUnusable
from ops.parameters import parse
from replica.errors import ValueNotDecodable


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("x=user_1", "user_1"),
        ("x=30", 30),
        ("x=-1.5", -1.5),
        ("x=true", True),
        ("x=null", None),
        ('x="30"', "30"),
        ('x=["a", 1]', ["a", 1]),
        ('x={"a": {"b": 1}}', {"a": {"b": 1}}),
        ("x=", ""),
        ("x=a=b", "a=b"),
        ("x=NaN", "NaN"),
        ("x=007", "007"),
        ("x=True", "True"),
        ("x=[1", "[1"),
        ('x={"$type": "Date", "_value": "2024-02-29"}', Date(2024, 2, 29)),
    ],
)
def test_a_value_is_json_where_it_is_json_and_text_where_not(pair: str, value: Any) -> None:
    """Nobody has to quote a name, and a number is a number."""
    assert parse([pair]) == {"x": value}
    assert type(parse([pair])["x"]) is type(value)


def test_pairs_go_over_the_whole() -> None:
    """A script's object can be varied by one more argument."""
    assert parse(["a=2"], '{"a": 1, "b": 1}') == {"a": 2, "b": 1}


def test_no_parameters_are_an_empty_map() -> None:
    """Neither form is needed."""
    assert parse([]) == {}


@pytest.mark.parametrize("pair", ["age", "=30", ""])
def test_what_is_no_pair_is_shown_as_it_was_typed(pair: str) -> None:
    """The mistake is in sight."""
    with pytest.raises(InputUnusable, match="is not name=value"):
        parse([pair])


@pytest.mark.parametrize("whole", ["[1]", "{", "1", '{"a": NaN}'])
def test_params_have_to_be_one_object(whole: str) -> None:
    """Strict JSON: a typing mistake must not become a value."""
    with pytest.raises(InputUnusable, match="--params is not a JSON object"):
        parse([], whole)


def test_malformed_typed_json_names_the_parameter() -> None:
    """And not just its value."""
    with pytest.raises(ValueNotDecodable, match=r"^when"):
        parse(['when={"$type": "Date", "_value": "yesterday"}'])
