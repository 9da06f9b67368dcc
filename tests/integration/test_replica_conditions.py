"""Compare and set: conditions that are looked at where their command stands in the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from replica import conditions
from replica.apply import Applier
from replica.conditions import NOT_MET, UNCLEAR
from replica.errors import Held
from replica.plan import UNSUPPORTED
from replica.statement import Command, Statement


if TYPE_CHECKING:
    from neo4j import Driver

TAKE = "MATCH (a:Account {id: $id}) SET a.balance = a.balance - $n"
ENOUGH = "MATCH (a:Account {id: $id}) WHERE a.balance >= $n RETURN true"


def recovered(driver: Driver, **options: Any) -> Applier:
    """An applier that has looked at the graph."""
    found = Applier(driver, database="neo4j", topic="command", topic_id="id", **options)
    found.recover(0)
    return found


def take(offset: int, n: int, when: str = ENOUGH) -> Command:
    """Take *n* out of the account where there is enough."""
    parameters = {"id": 1, "n": n}
    return Command(offset, (Statement(TAKE, parameters),), when=Statement(when, parameters))


def plain(offset: int, text: str, **parameters: Any) -> Command:
    """A command without a condition."""
    return Command(offset, (Statement(text, parameters),))


def balance(driver: Driver) -> int:
    """What is left."""
    return int(driver.execute_query("MATCH (a:Account) RETURN a.balance", database_="neo4j").records[0][0])


OPEN = plain(0, "CREATE (:Account {id: 1, balance: 10})")


@pytest.mark.parametrize("size", [1, 2, 500])
def test_a_condition_sees_what_the_commands_before_it_did(driver: Driver, size: int) -> None:
    """In any batch: 10 - 4 - 4, then 4 is too much, and 2 is not."""
    log = [OPEN, take(1, 4), take(2, 4), take(3, 4), take(4, 2), take(5, 1)]
    replica = recovered(driver)
    codes: dict[int, str | None] = {}
    for start in range(0, len(log), size):
        codes |= {outcome.offset: outcome.code for outcome in replica.apply(log[start : start + size]).rejected}
    assert codes == {3: NOT_MET, 5: NOT_MET}
    assert balance(driver) == 0


def test_equal_conditional_commands_decide_one_by_one(driver: Driver) -> None:
    """Of a hundred neighbours that would share one UNWIND without it, as many apply as there is money for."""
    applied = recovered(driver).apply([OPEN, *(take(offset, 3) for offset in range(1, 101))])
    assert len(applied.rejected) == 97
    assert balance(driver) == 1


def test_a_condition_that_is_no_truth_value_has_a_code_of_its_own(driver: Driver) -> None:
    """Rejected like an unmet one, and told apart; neighbours are not touched."""
    texts = ["RETURN $n, true", "RETURN $n", ENOUGH, "UNWIND [] AS x RETURN x"]
    applied = recovered(driver).apply([OPEN, *(take(offset, 1, text) for offset, text in enumerate(texts, 1))])
    assert {outcome.offset: outcome.code for outcome in applied.rejected} == {1: UNCLEAR, 2: UNCLEAR, 4: NOT_MET}
    assert balance(driver) == 9


def test_an_error_in_a_condition_is_judged_as_one_in_its_command(driver: Driver) -> None:
    """Deterministic ones reject it alone, found by bisection; others hold it."""
    log = [OPEN, *(take(offset, 1) for offset in range(1, 8)), take(8, 1, "RETURN 1 / 0 = $n"), take(9, 1)]
    applied = recovered(driver).apply(log)
    assert [(outcome.offset, outcome.code) for outcome in applied.rejected] == [
        (8, "Neo.ClientError.Statement.ArithmeticError")
    ]
    assert balance(driver) == 2
    missing = take(10, 1, "RETURN apoc.missing()")
    assert recovered(driver).apply([missing]).rejected[0].code == "Neo.ClientError.Statement.SyntaxError"


def test_a_condition_belongs_to_all_statements_of_its_command(driver: Driver) -> None:
    """It is looked at before the first of them, and once."""
    statements = (Statement("MATCH (a:Account) SET a.balance = 0"), Statement("CREATE (:Log)"))
    when = Statement("MATCH (a:Account) RETURN a.balance > $n", {"n": 5})
    applied = recovered(driver).apply([OPEN, Command(1, statements, when=when), Command(2, statements, when=when)])
    assert [outcome.offset for outcome in applied.rejected] == [2]
    assert driver.execute_query("MATCH (l:Log) RETURN count(l)", database_="neo4j").records[0][0] == 1


def test_a_condition_that_sees_every_node_sees_the_position_pristine(driver: Driver) -> None:
    """As a statement does: alone, and the same for every way to cut batches."""
    everything = "MATCH (n) RETURN count(n) = 2"
    log = [
        OPEN,
        plain(1, "MATCH (n) SET n:Tag"),
        take(2, 1, "MATCH (n:Tag) RETURN count(n) = 1"),
        take(3, 1, everything),
    ]
    assert recovered(driver).apply(log).rejected == ()
    assert balance(driver) == 8


def test_a_condition_that_writes_is_never_run(driver: Driver) -> None:
    """By its text, whoever put it into the log."""
    log = [OPEN, take(1, 1, "MATCH (a:Account) SET a.balance = 100 RETURN true"), take(2, 1)]
    applied = recovered(driver).apply(log)
    assert [(outcome.offset, outcome.code) for outcome in applied.rejected] == [(1, UNSUPPORTED)]
    assert balance(driver) == 9


def test_a_condition_that_the_server_takes_for_a_write_leaves_nothing(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should a text ever be misread, the server's word stands behind it, and the transaction is rolled back."""
    monkeypatch.setattr(conditions, "refusal", lambda _text: None)
    log = [OPEN, take(1, 1), take(2, 1, "MATCH (a:Account) SET a.balance = 100 RETURN true"), take(3, 1)]
    applied = recovered(driver).apply(log)
    assert [(outcome.offset, outcome.code) for outcome in applied.rejected] == [(2, UNSUPPORTED)]
    assert balance(driver) == 8


def test_a_condition_that_cannot_be_judged_now_holds_its_command(driver: Driver) -> None:
    """A time-out says nothing about the command; what stands before it is applied."""
    replica = recovered(driver, timeout_s=1.0)
    slow = take(1, 1, "UNWIND range(1, 1000000000) AS x WITH sum(x) AS s RETURN s > $n")
    with pytest.raises(Held) as held:
        replica.apply([OPEN, slow])
    assert held.value.offset == 1
    assert balance(driver) == 10
