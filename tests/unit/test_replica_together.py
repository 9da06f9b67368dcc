"""Which queries go together, without a server."""

from __future__ import annotations

from typing import Any

import pytest

from replica.summary import Summary
from replica.together import APART_S, FEW, QUICK_MS, SLOW_AT_ONCE, SMALL, Kind, Kinds, shared


TEXT = "MATCH (u:User {id: $id}) RETURN u.name AS name"
KEY = (TEXT, (("id", int),))
QUICK, LONG = Summary(available_ms=QUICK_MS, consumed_ms=0), Summary(available_ms=QUICK_MS, consumed_ms=1)


class Clock:
    """Seconds, as a test sets them."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def known(kinds: Kinds) -> Kind:
    """*kinds* knows that they go together."""
    kind = kinds.heard(KEY, ("name",), 1, 10, QUICK)
    assert kind is not None
    kinds.learn(KEY, kind)
    return kind


def test_those_of_one_text_with_parameters_of_the_same_types_go_together() -> None:
    """And no others: the server may take a text otherwise for other types."""
    assert shared(TEXT, {"id": 1}) == shared(TEXT, {"id": 2}) == KEY
    assert shared(TEXT, {"id": 1}) != shared(TEXT, {"id": "1"})
    assert shared(TEXT, {"id": 1}) != shared(TEXT.replace("name AS", "id AS"), {"id": 1})


@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        ("MATCH (u:User) RETURN u.name AS name", {}),
        (TEXT, {}),
        (TEXT, {"id": [1]}),
        (f"{TEXT} ORDER BY name", {"id": 1}),
        ("MATCH (u:User {id: $id}) WITH u ORDER BY u.name RETURN collect(u) AS users", {"id": 1}),
        (f"EXPLAIN {TEXT}", {"id": 1}),
        (f"CYPHER 25 {TEXT}", {"id": 1}),
        ("MATCH (u:User {id: $id}) CALL db.labels() YIELD label RETURN label", {"id": 1}),
        ("MATCH (u:User {id: $id}) RETURN u.name AS __name", {"id": 1}),
        ("SHOW INDEXES YIELD name WHERE name = $id RETURN name", {"id": "a"}),
    ],
)
def test_what_would_mean_something_else_within_a_subquery_goes_alone(text: str, parameters: dict[str, Any]) -> None:
    """Or has nothing by which the queries differ, or lacks what it asks for."""
    assert shared(text, parameters) is None


def test_they_go_together_when_one_was_quick() -> None:
    """And it was learnt that they may."""
    kinds = Kinds()
    assert kinds.of(KEY) is None
    kind = known(kinds)
    assert kinds.of(KEY) is kind
    assert kind.columns == ("name",)
    assert kind.text.startswith("UNWIND $__rows AS __row CALL (__row) {\nMATCH (u:User {id:  __row.`id`})")
    assert kind.text.endswith("WITH __row.__n AS __n, `name` LIMIT 1001 RETURN collect([__n, `name`]) AS __found")
    assert kinds.heard(KEY, ("name",), 1, 10, QUICK) is None


@pytest.mark.parametrize(
    ("columns", "rows", "size", "summary"),
    [
        (("name",), 1, 10, LONG),
        (("name",), FEW + 1, 10, QUICK),
        (("name",), 1, SMALL + 1, QUICK),
        ((), 0, 0, QUICK),
        (("name",), 1, 10, Summary(notifications=({"gql_status": "01N50"},))),
        (("name",), 1, 10, Summary(plan="+ProduceResults")),
    ],
    ids=["slow", "rows", "large", "no columns", "remark", "plan"],
)
def test_others_go_alone(columns: tuple[str, ...], rows: int, size: int, summary: Summary) -> None:
    """What takes long, or is large, or of which the server says something."""
    assert Kinds().heard(KEY, columns, rows, size, summary) is None


@pytest.mark.parametrize("together", [False, True])
def test_those_that_become_slow_are_kept_apart_for_a_while(together: bool) -> None:
    """One slow answer among quick ones is no reason."""
    clock = Clock()
    kinds = Kinds(clock)
    kind = known(kinds)

    def heard(summary: Summary) -> None:
        if together:
            assert kinds.heard_together(KEY, kind, 1, summary)
        else:
            kinds.heard(KEY, ("name",), 1, 10, summary)

    slow = Summary(available_ms=QUICK_MS, consumed_ms=2)
    for _ in range(10):
        for summary in [slow] * SLOW_AT_ONCE + [QUICK] * 20:
            heard(summary)
    assert kinds.of(KEY) is kind
    for _ in range(SLOW_AT_ONCE + 1):
        heard(slow)
    assert kinds.of(KEY) is None
    clock.now += APART_S - 1
    assert kinds.heard(KEY, ("name",), 1, 10, QUICK) is None
    clock.now += 1
    assert kinds.heard(KEY, ("name",), 1, 10, QUICK) is not None


def test_an_answer_with_a_remark_is_nobodys() -> None:
    """It is about the text that asked for all of them."""
    kinds = Kinds()
    kind = known(kinds)
    assert not kinds.heard_together(KEY, kind, 2, Summary(notifications=({"gql_status": "01G11"},)))
