"""Texts that come back are looked up, and long ones are not kept."""

from __future__ import annotations

from replica.remembering import LENGTH, REMEMBERED, remembered


def test_a_text_is_asked_about_once_unless_it_is_long() -> None:
    """With each flag by itself; what was asked longest ago is forgotten."""
    asked: list[tuple[str, bool]] = []

    @remembered
    def length(text: str, *, twice: bool = False) -> int:
        asked.append((text, twice))
        return len(text) * (1 + twice)

    assert [length("abc"), length("abc"), length("abc", twice=True), length("abc", twice=True)] == [3, 3, 6, 6]
    assert asked == [("abc", False), ("abc", True)]
    long = "x" * (LENGTH + 1)
    assert [length(long), length(long)] == [LENGTH + 1] * 2
    assert asked[2:] == [(long, False)] * 2
    for number in range(REMEMBERED):
        length(str(number))
    asked.clear()
    length("abc")
    assert asked == [("abc", False)]
