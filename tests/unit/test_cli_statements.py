from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops import statements
from ops.errors import InputUnusable
from replica.statement import Statement


def read(text: str | bytes) -> list[tuple[int, str]]:
    """Line and text of each command."""
    data = text.encode() if isinstance(text, str) else text
    return [(item.line, item.statement.text) for item in statements.read(io.BytesIO(data))]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("CREATE (:A)", [(1, "CREATE (:A)")]),
        ("CREATE (:A);\nCREATE (:B);\n", [(1, "CREATE (:A)"), (2, "CREATE (:B)")]),
        ("A; B;C", [(1, "A"), (1, "B"), (1, "C")]),
        ("CREATE (:A {x: 'a;b'}); B", [(1, "CREATE (:A {x: 'a;b'})"), (1, "B")]),
        ('CREATE (:A {x: "a\\";b"}); B', [(1, 'CREATE (:A {x: "a\\";b"})'), (1, "B")]),
        ("CREATE (:`a;b`); B", [(1, "CREATE (:`a;b`)"), (1, "B")]),
        ("A // one; two\n; B", [(1, "A // one; two"), (2, "B")]),
        ("A /* one;\ntwo */; B", [(1, "A /* one;\ntwo */"), (2, "B")]),
        ("// only; a comment\n\nA\n", [(3, "// only; a comment\n\nA")]),
        (";;\n;A;;", [(2, "A")]),
        ("", []),
        ("\n \n", []),
        ("// nothing", []),
        ("\ufeffA; B", [(1, "A"), (1, "B")]),
        ("A\r\n;\r\nB", [(1, "A"), (3, "B")]),
    ],
)
def test_semicolons_end_statements_but_not_inside_texts_names_and_comments(
    text: str, found: list[tuple[int, str]]
) -> None:
    """And every statement knows the line on which it begins."""
    assert read(text) == found


def test_lines_of_json_are_recognised_by_their_first_character() -> None:
    """Bodies as any Kafka client sends them; blank lines between them are nothing."""
    text = (
        '\n{"command": "A", "params": {"x": 1}}\n\n{"command": "B;", "with_key": "k", "when": "RETURN true", "id": "i"}'
    )
    assert list(statements.read(io.BytesIO(text.encode()))) == [
        statements.Item(2, Statement("A", {"x": 1})),
        statements.Item(4, Statement("B;", {}), {"key": "k", "when": "RETURN true", "id": "i"}),
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"command": "A"}\n{"commend": "B"}', "line 2: .*commend"),
        ('{"command": "A"}\nB', "line 2: JSON is malformed"),
        ('{"command": "A"}\n{"command": 1}', "line 2: Expected `str`"),
        ('{"command": "A", "params": {"x": {"$type": "Date", "_value": "?"}}}', "line 1: x"),
        ("A;\nB 'never closed; C", "line 1: a quote or comment"),
        (b"A;\nB;\n\xff", "line 3: not UTF-8"),
    ],
)
def test_a_mistake_names_its_line(text: str | bytes, reason: str) -> None:
    """In a file of a million lines nothing else helps."""
    with pytest.raises(InputUnusable, match=reason):
        read(text)


def test_a_quote_that_is_never_closed_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader gives up after as much as no statement can have."""
    monkeypatch.setattr(statements, "LONGEST", 200_000)
    for text in ("'" + "x;" * 200_000, '{"command": "' + "x" * 400_000):
        with pytest.raises(InputUnusable, match="within 200,000 characters"):
            read(text)


class Slowly(io.BytesIO):
    """Gives a few bytes at a time, as a pipe may."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(3)


@given(st.lists(st.sampled_from(["A", "'a;b'", "// c;\n", "/* ; */", '"\\";"', "`;`", "\n", "é", " "])).map("".join))
def test_where_a_file_is_cut_does_not_matter(text: str) -> None:
    """The same statements come out of it in pieces of three bytes as at once."""
    whole = list(statements.read(io.BytesIO(f"X{text};Y{text}".encode())))
    assert list(statements.read(Slowly(f"X{text};Y{text}".encode()))) == whole
