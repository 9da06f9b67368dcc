"""What a server says about a text that it was to compile, with the places of the text itself."""

from __future__ import annotations

import pytest

from replica.compiling import as_written, explained


def test_a_text_is_compiled_as_it_is() -> None:
    """On lines of its own."""
    assert explained("MATCH (n)\nRETURN n") == "EXPLAIN\nMATCH (n)\nRETURN n"


@pytest.mark.parametrize(
    ("said", "means"),
    [
        (
            "Variable `x` not defined (line 2, column 8 (offset: 15))",
            "Variable `x` not defined (line 1, column 8 (offset: 7))",
        ),
        (
            "(line 4, column 1 (offset: 40)) and (line 2, column 1 (offset: 8))",
            "(line 3, column 1 (offset: 32)) and (line 1, column 1 (offset: 0))",
        ),
        ("of the word before (line 1, column 1 (offset: 0))", "of the word before (line 1, column 1 (offset: 0))"),
        ("without a place", "without a place"),
    ],
)
def test_places_are_those_of_the_text(said: str, means: str) -> None:
    """Columns are right from the beginning."""
    assert as_written(said) == means
