from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from replica.apply import Applier
from replica.checksum import checksum
from replica.errors import Held, HistoryMissing, MissingPosition, PositionBeyondLog, PositionMoved, TopicChanged
from replica.statement import Applied, Command, Statement
from tests.support import unique


if TYPE_CHECKING:
    from collections.abc import Iterator

    from neo4j import Driver

TEXT = "MERGE (u:User {id: $id}) SET u.n = coalesce(u.n, 0) + 1"


def command(offset: int, text: str, **parameters: Any) -> Command:
    """A command of one statement."""
    return Command(offset, (Statement(text, parameters),))


def applier(driver: Driver, *, topic: str = "command", topic_id: str = "id", **options: Any) -> Applier:
    """One that has not looked at the graph yet."""
    return Applier(driver, database="neo4j", topic=topic, topic_id=topic_id, **options)


def recovered(driver: Driver, **options: Any) -> Applier:
    """One that has."""
    found = applier(driver, **options)
    found.recover(0)
    return found


def value(driver: Driver, text: str) -> Any:
    """The first value that a query returns."""
    return driver.execute_query(text, database_="neo4j").records[0][0]


def stored(driver: Driver) -> dict[str, Any]:
    """The marker's properties; there is exactly one marker, and nothing else of it."""
    record = driver.execute_query(
        "MATCH (m:_KafkaPosition) "
        "RETURN properties(m) AS marker, labels(m) AS labels, COUNT { (m)--() } AS relationships",
        database_="neo4j",
    ).records
    assert len(record) == 1
    assert (record[0]["labels"], record[0]["relationships"]) == (["_KafkaPosition"], 0)
    return dict(record[0]["marker"])


def rejected(applied: Applied) -> dict[int, str]:
    """Offsets and the last part of their codes."""
    return {outcome.offset: (outcome.code or "").rpartition(".")[2] for outcome in applied.rejected}


def test_the_position_moves_with_the_data(driver: Driver) -> None:
    """One transaction holds both, whatever form it takes: a group, neighbours, a single command."""
    replica = recovered(driver)
    first = replica.apply([command(offset, TEXT, id=offset % 7) for offset in range(100)])
    assert (first.first, first.last, first.rejected) == (0, 99, ())
    assert first.counters == {"nodes_created": 7, "labels_added": 7, "properties_set": 107}
    for offset in (100, 102, 103):  # 101 is a transaction marker of the log
        applied = replica.apply([command(offset, TEXT, id=0)])
        assert applied.counters == {"properties_set": 1}
    assert (applied.first, applied.last) == (103, 103)
    assert stored(driver)["offset"] == 103
    assert value(driver, "MATCH (u:User) RETURN sum(u.n)") == 103
    assert replica.position is not None
    assert replica.position.offset == 103


def test_a_replayed_command_is_skipped(driver: Driver) -> None:
    """Kafka delivers again after a crash; the graph knows better."""
    log = [command(offset, TEXT, id=1) for offset in range(10)]
    recovered(driver).apply(log[:6])
    again = recovered(driver)
    assert again.apply(log).last == 9
    assert again.apply(log).last == 9
    assert value(driver, "MATCH (u:User) RETURN u.n") == 10


def test_racing_appliers_apply_each_command_once(driver: Driver) -> None:
    """Four zombies of one replica over one log, in batches of different sizes: sixty increments make sixty."""
    texts = [
        TEXT,
        "MERGE (u:User {id: $id}) SET u.n = coalesce(u.n, 0) + 1 // alone",
        "MATCH (n {id: $id}) SET n.n = n.n + 1",
    ]
    log = [command(offset, texts[offset // 5 % 3], id=1) for offset in range(60)]
    recovered(driver)
    errors: list[BaseException] = []

    def race(step: int) -> None:
        try:
            replica = recovered(driver)
            for start in range(0, len(log), step):
                batch = log[start : start + step]
                while True:
                    try:
                        assert replica.apply(batch).last >= batch[-1].offset
                        break
                    except Held as held:  # two of them met in a deadlock; one goes on
                        if not held.code.startswith("Neo.TransientError."):
                            raise
        except BaseException as error:  # noqa: BLE001 - shown by the main thread
            errors.append(error)

    threads = [threading.Thread(target=race, args=(step,)) for step in (1, 2, 7, 60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert value(driver, "MATCH (u:User) RETURN u.n") == 60
    assert stored(driver)["offset"] == 59


def test_three_bad_commands_among_five_hundred_cost_only_themselves(driver: Driver) -> None:
    """The good ones commit in order, the bad ones become outcomes."""
    replica = recovered(driver)
    replica.apply([command(0, "CREATE CONSTRAINT unique_id FOR (u:User) REQUIRE u.id IS UNIQUE")])
    replica.apply([command(1, "CREATE (:User {id: -1})")])
    bad = {100, 101, 499}
    log = [command(2 + i, "CREATE (:User {id: $id})", id=-1 if i in bad else i) for i in range(500)]
    applied = replica.apply(log)
    assert rejected(applied) == {2 + i: "ConstraintValidationFailed" for i in bad}
    assert applied.counters["nodes_created"] == 497
    assert value(driver, "MATCH (u:User) RETURN count(u)") == 498


def test_a_command_of_several_statements_is_all_or_nothing(driver: Driver) -> None:
    """The second fails, so the first did not happen either."""
    replica = recovered(driver)
    both = (Statement("CREATE (:User {id: 1})"), Statement("CREATE (:User {id: 1 / $zero})", {"zero": 0}))
    applied = replica.apply([Command(0, both), Command(1, both[:1]), Command(2, (both[0], both[0]))])
    assert rejected(applied) == {0: "ArithmeticError"}
    assert value(driver, "MATCH (u:User) RETURN count(u)") == 3


REJECTED: list[tuple[str, dict[str, Any], str]] = [
    ("MATCH (n:X) RETRUN n", {}, "SyntaxError"),
    ("RETURN nope(1) AS x", {}, "SyntaxError"),
    ("RETURN abs($s) AS x", {"s": "a"}, "SyntaxError"),
    ("CREATE (:X {m: $m})", {"m": {"a": 1}}, "TypeError"),
    ("MERGE (:X {a: null})", {}, "SemanticError"),
    ("RETURN 1 / $z AS x", {"z": 0}, "ArithmeticError"),
    ("RETURN $gone AS x", {}, "ParameterMissing"),
    ("CALL db.index.fulltext.queryNodes('nope', 'x') YIELD node SET node.x = 1", {}, "ProcedureCallFailed"),
    ("CREATE (n:X)-[:R]->(:X) DELETE n", {}, "ConstraintValidationFailed"),
    ("CREATE (:X {a: $a})", {"a": 2**64}, "ParameterNotEncodable"),
    ("CREATE (:X {a: $a})", {"a": "\ud800"}, "ParameterNotEncodable"),
    ("CREATE (:X {a: $a})", {"a": object()}, "ParameterNotEncodable"),
    ("CREATE INDEX FOR (n:X) ON (n.a)", {}, "UnnamedSchema"),
    ("DROP INDEX nope", {}, "IndexDropFailed"),
    ("DROP CONSTRAINT nope", {}, "ConstraintDropFailed"),
    ("CREATE CONSTRAINT key FOR (n:X) REQUIRE n.a IS NODE KEY", {}, "ConstraintCreationFailed"),
    ("CREATE INDEX kept FOR (n:Kept) ON (n.a)", {}, "IndexWithNameAlreadyExists"),
    ("CREATE INDEX other FOR (n:Kept) ON (n.b)", {}, "IndexAlreadyExists"),
    ("CREATE INDEX kept FOR (n:Kept) ON (n.b)", {}, "EquivalentSchemaRuleAlreadyExists"),
    ("CREATE CONSTRAINT dirty FOR (n:Twin) REQUIRE n.a IS UNIQUE", {}, "ConstraintCreationFailed"),
    ("UNWIND [1] AS x CALL (x) { CREATE (:X) } IN TRANSACTIONS", {}, "Unsupported"),
    ("CREATE DATABASE other", {}, "Unsupported"),
    ("LOAD CSV FROM 'file:///x' AS line CREATE (:X)", {}, "Unsupported"),
    ("DROP CONSTRAINT kafka_position", {}, "Unsupported"),
    ("MATCH (m:_KafkaPosition) DETACH DELETE m", {}, "Unsupported"),
    ("RETURN " + "(" * 400 + "1" + ")" * 400 + " AS x", {}, "Unsupported"),
    ("MATCH (n:X) SET n.x = 1 } CALL () { CREATE (:X)", {}, "SyntaxError"),
    ("", {}, "SyntaxError"),
    ("CREATE (:X); CREATE (:X)", {}, "SyntaxError"),
]


def test_errors_of_the_command_reject_it_and_the_log_goes_on(driver: Driver) -> None:
    """Each row of the table: alone, and all of them in one batch between good commands."""
    setup = [
        "CREATE INDEX kept FOR (n:Kept) ON (n.b)",
        "CREATE (:Twin {a: 1}), (:Twin {a: 1})",
    ]
    replica = recovered(driver)
    replica.apply([command(offset, text) for offset, text in enumerate(setup)])
    start = len(setup)
    log = [
        entry
        for index, (text, parameters, _) in enumerate(REJECTED)
        for entry in (
            Command(start + 2 * index, (Statement(text, parameters),)),
            command(start + 2 * index + 1, "CREATE (:Good)"),
        )
    ]
    expected = {start + 2 * index: code for index, (_, _, code) in enumerate(REJECTED)}
    assert rejected(replica.apply(log)) == expected
    assert value(driver, "MATCH (g:Good) RETURN count(g)") == len(REJECTED)
    assert value(driver, "MATCH (x:X) RETURN count(x)") == 0


def test_what_is_no_command_is_rejected_with_its_reason(driver: Driver) -> None:
    """A record that could not be decoded keeps its place in the log."""
    replica = recovered(driver)
    applied = replica.apply([Command(0, (), refused="not JSON"), command(1, "CREATE (:X)"), Command(2, ())])
    assert [(o.offset, o.message) for o in applied.rejected] == [(0, "not JSON"), (2, "a command without a statement")]


def test_a_command_that_only_this_server_cannot_apply_is_held(driver: Driver) -> None:
    """Everything before it is committed; nothing after it happens; trying again changes nothing."""
    replica = recovered(driver)
    log = [
        command(0, TEXT, id=1),
        command(1, "CREATE (:X {a: 1 / $z})", z=0),
        command(2, "CALL my.procedure()"),
        command(3, TEXT, id=1),
    ]
    for _ in range(2):
        with pytest.raises(Held) as held:
            replica.apply(log)
        assert (held.value.offset, held.value.code) == (2, "Neo.ClientError.Procedure.ProcedureNotFound")
        assert held.value.retryable
        assert held.value.retry_after_s > 0
        assert stored(driver)["offset"] == 1
    mended = [*log[:2], command(2, "CREATE (:Mended)"), log[3]]
    assert rejected(replica.apply(mended)) == {1: "ArithmeticError"}
    assert value(driver, "MATCH (u:User) RETURN u.n") == 2


def test_a_command_that_takes_too_long_is_held(driver: Driver) -> None:
    """A time limit is this machine's, so it is no verdict."""
    replica = recovered(driver, timeout_s=0.5)
    endless = "UNWIND range(1, 100000000) AS i WITH sum(i % 7) AS s CREATE (:Sum {s: s})"
    with pytest.raises(Held) as held:
        replica.apply([command(0, TEXT, id=1), command(1, endless)])
    assert held.value.offset == 1
    assert "Tim" in held.value.code
    assert stored(driver)["offset"] == 0


def test_no_rejected_outcome_is_lost_between_commit_and_publication(driver: Driver) -> None:
    """A process that dies after the commit leaves them in the graph; its successor gets them back once."""
    bad = "CREATE (:X {a: 1 / $z})"
    first = recovered(driver)
    first.apply([command(0, bad, z=0), command(1, TEXT, id=1)])
    first.apply([command(2, bad, z=0), command(3, TEXT, id=1)])  # so the outcome of 0 was published; then it dies
    second = applier(driver)
    owed = second.recover(0)
    assert owed is not None
    assert (owed.first, owed.last, rejected(owed)) == (2, 3, {2: "ArithmeticError"})
    assert rejected(second.apply([command(4, TEXT, id=1)])) == {}
    third = applier(driver)
    owed = third.recover(0)
    assert owed is not None
    assert (owed.first, owed.last, owed.rejected) == (4, 4, ())


def test_outcomes_whose_publication_is_under_way_are_kept_by_the_graph(driver: Driver) -> None:
    """While the next commands are applied, in either form: killed then, the successor says them again."""
    replica = recovered(driver)
    first = replica.apply([command(0, "no cypher"), command(1, TEXT, id=1)], published=-1)
    second = replica.apply([command(2, TEXT, id=1), command(3, TEXT, id=1)], published=-1)
    assert (rejected(first), rejected(second)) == ({0: "SyntaxError"}, {})
    assert (second.first, stored(driver)["published"]) == (2, -1)
    owed = applier(driver).recover(0)
    assert owed is not None
    assert (owed.first, owed.last, rejected(owed)) == (0, 3, {0: "SyntaxError"})
    replica.apply([command(4, "no cypher")], published=1)
    owed = applier(driver).recover(0)
    assert owed is not None
    assert (owed.first, owed.last, rejected(owed)) == (2, 4, {4: "SyntaxError"})


def test_the_caller_may_work_while_the_server_does(driver: Driver) -> None:
    """Once in each transaction, in whichever form; what needs one round trip may be committed by then."""
    replica = recovered(driver)
    seen: list[int] = []

    def look() -> None:
        seen.append(value(driver, "MATCH (m:_KafkaPosition) RETURN m.offset"))

    parts = [
        [command(offset, TEXT, id=offset) for offset in range(40)],
        [command(40, TEXT, id=1), command(41, "CREATE (:Other)")],
        [command(42, TEXT, id=1)],
        [command(43, "MATCH (n) SET n.seen = true")],
    ]

    def coming() -> Iterator[list[Command]]:
        for number, part in enumerate(parts):
            if number:
                look()
            yield part
        look()

    replica.apply_all(coming(), lambda _: None, before=lambda: None, published=lambda: -1)
    first, mixed, single, alone = seen
    assert (first in {-1, 39}, mixed, single in {41, 42}, alone) == (True, 39, True, 42)


def test_what_was_planned_ahead_is_applied_as_anything_else(driver: Driver) -> None:
    """Groups, other texts, a rejected one, a schema change and what stands alone; and what was already applied."""
    log = [
        *(command(offset, TEXT, id=offset % 3) for offset in range(10)),
        command(10, "CREATE (:X {a: 1 / $z})", z=0),
        command(11, "CREATE INDEX i FOR (u:User) ON (u.n)"),
        *(command(offset, TEXT, id=offset % 3) for offset in range(12, 20)),
        command(20, "MATCH (n) SET n.seen = true"),
        command(21, TEXT, id=0),
    ]
    replica = recovered(driver)
    told: list[Applied] = []
    replica.apply_all([log[:4], log, log[4:]], told.append, before=lambda: None, published=lambda: -1)
    assert rejected(told[-1]) == {10: "ArithmeticError"}
    assert value(driver, "MATCH (u:User) RETURN sum(u.n)") == 19


def test_a_plan_counts_for_the_very_commands_that_it_was_made_for(driver: Driver) -> None:
    """Another record may lie at the offset by now: the log was made anew, or people have decided to skip it."""
    replica = recovered(driver)
    planned = [command(1, TEXT, id=1), command(2, TEXT, id=1)]
    come = [command(1, TEXT, id=1), Command(2, (), skipped="never mind")]
    replica.apply([command(0, TEXT, id=1)])

    def stop() -> None:
        raise OSError("stands still")

    with pytest.raises(OSError, match="stands still"):
        replica.apply_all([planned], print, before=stop, published=lambda: -1)
    assert rejected(replica.apply(come)) == {2: "Skipped"}
    assert value(driver, "MATCH (u:User) RETURN u.n") == 2


def test_a_redelivered_batch_reports_its_outcomes_again(driver: Driver) -> None:
    """Whoever asks again did not publish."""
    log = [command(0, "CREATE (:X {a: 1 / $z})", z=0), command(1, TEXT, id=1)]
    replica = recovered(driver)
    assert replica.apply(log).rejected == replica.apply(log).rejected != ()


def test_another_applier_ahead_keeps_what_it_has_not_published(driver: Driver) -> None:
    """A zombie's commit between two of ours is reported by both rather than by none."""
    old, new = recovered(driver), recovered(driver)
    old.apply([command(0, "CREATE (:X {a: 1 / $z})", z=0)])
    applied = new.apply([command(0, "CREATE (:X {a: 1 / $z})", z=0), command(1, TEXT, id=1)])
    assert rejected(applied) == {0: "ArithmeticError"}


def test_deleting_everything_leaves_the_position(driver: Driver) -> None:
    """`MATCH (n) DETACH DELETE n` is a legitimate command; so are others that touch every node."""
    replica = recovered(driver)
    texts = [
        "MATCH (n) DETACH DELETE n",
        "CREATE (:A)",
        "MATCH (n) SET n = {}",
        "MATCH (n) SET n:Tag, n.x = 1",
        "MATCH (a), (b) CREATE (a)-[:R]->(b)",
        "MATCH (n:Tag) SET n.seen = true",
    ]
    for batch in (1, 500):
        applied = replica.apply([command(batch * 10 + offset, text) for offset, text in enumerate(texts)])
        assert applied.rejected == ()
        place = {"topic", "partition", "topic_id", "offset"}
        assert stored(driver).keys() == place | {"published", "rejections", "digest", "checkpoints"}
        assert value(driver, "MATCH (n:Tag) RETURN count(n)") == 1
    assert recovered(driver).position == replica.position


def test_recovery_refuses_to_guess(driver: Driver) -> None:
    """A graph without a position, another topic of the same name, a gap, a log that lost its tail."""
    with pytest.raises(HistoryMissing, match="snapshot"):
        applier(driver).recover(5)
    driver.execute_query("CREATE (:Old)", database_="neo4j")
    with pytest.raises(MissingPosition, match="Restore a snapshot"):
        applier(driver).recover(0)
    driver.execute_query("MATCH (n) DELETE n", database_="neo4j")
    driver.execute_query("CREATE INDEX old FOR (n:Old) ON (n.a)", database_="neo4j")
    with pytest.raises(MissingPosition):
        applier(driver).recover(0)
    driver.execute_query("DROP INDEX old", database_="neo4j")
    recovered(driver).apply([command(offset, TEXT, id=1) for offset in range(4)])
    with pytest.raises(TopicChanged, match="created again"):
        applier(driver, topic_id="other").recover(0)
    with pytest.raises(MissingPosition, match="command/0"):
        applier(driver, topic="other").recover(0)
    with pytest.raises(HistoryMissing, match="at offset 3 and the log of command begins at 5"):
        applier(driver).recover(5)
    with pytest.raises(PositionBeyondLog):
        applier(driver).recover(0, log_end=3)
    assert applier(driver).recover(4, log_end=4) is not None


def test_two_first_starts_at_once_make_one_position(driver: Driver) -> None:
    """The constraint and the node are created by whoever comes first."""
    failures: list[BaseException] = []

    def start() -> None:
        try:
            recovered(driver).apply([command(0, TEXT, id=1)])
        except BaseException as error:  # noqa: BLE001 - shown by the main thread
            failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [f for f in failures if not isinstance(f, Held)] == []
    recovered(driver).apply([command(0, TEXT, id=1)])
    assert stored(driver)["offset"] == 0
    assert value(driver, "MATCH (u:User) RETURN u.n") == 1


@pytest.mark.parametrize(
    "damage",
    [
        "MATCH (m:_KafkaPosition) SET m.offset = 0",
        "MATCH (m:_KafkaPosition) SET m.topic_id = 'other'",
        "MATCH (m:_KafkaPosition) DELETE m",
    ],
)
def test_a_graph_that_went_backward_is_noticed_before_anything_is_applied(driver: Driver, damage: str) -> None:
    """Restored or replaced under a running applier: it stops and asks to be recovered."""
    replica = recovered(driver)
    replica.apply([command(offset, TEXT, id=1) for offset in range(3)])
    driver.execute_query(damage, database_="neo4j")
    for batch in ([command(3, TEXT, id=1)], [command(4, TEXT, id=1)]):
        with pytest.raises(PositionMoved):
            replica.apply(batch)
    assert replica.position is None
    assert value(driver, "MATCH (u:User) RETURN u.n") == 3


def test_apply_asks_for_recovery_first(driver: Driver) -> None:
    """Without a position there is nothing to compare with."""
    with pytest.raises(PositionMoved):
        applier(driver).apply([command(0, TEXT, id=1)])


def test_two_logs_may_share_a_graph(driver: Driver) -> None:
    """Topic and partition tell the markers apart; the second begins where there is a snapshot of its own."""
    topic = unique()
    driver.execute_query(
        "CREATE (:_KafkaPosition {topic: $t, partition: 0, topic_id: 'id', offset: 6, published: 6, rejections: []})",
        t=topic,
        database_="neo4j",
    )
    replica = recovered(driver, topic=topic)
    assert replica.apply([command(7, TEXT, id=1)]).last == 7


def test_any_unicode_is_fine(driver: Driver) -> None:
    """In texts, names and values."""
    replica = recovered(driver)
    text = "CREATE (:`Größe 😀` {`\u2028na``me`: $`ключ`, s: 'a\\'b\\u0041'})"
    for offset in range(3):
        applied = replica.apply([command(offset, text, ключ="\x00 \U0010ffff")])
        assert applied.rejected == ()
    assert value(driver, "MATCH (n:`Größe 😀`) RETURN count(DISTINCT n.s + n.`\u2028na``me`)") == 1


def test_the_checksum_of_equal_histories_is_equal(driver: Driver) -> None:
    """However the batches are cut."""
    log = [command(offset, TEXT, id=offset % 5) for offset in range(40)]
    recovered(driver).apply(log)
    whole = checksum(driver, "neo4j")
    assert whole.position is not None
    assert (whole.nodes, whole.position.offset) == (5, 39)


MISTAKES = [
    ("CREATE (:Big {s: $s})", "Neo.DatabaseError.Statement.ExecutionFailed"),
    ("MATCH (u:User {id: 1}) MATCH p = shortestPath((u)-[*]-(u)) SET u.n = length(p)", "...ExecutionFailed"),
    (
        "CREATE INDEX wrong FOR (x:X) ON (x.a) OPTIONS {indexProvider: 'none'}",
        "Neo.ClientError.General.InvalidArguments",
    ),
    ("CREATE INDEX `` FOR (x:X) ON (x.a)", "Replica.UnnamedSchema"),
    ("CREATE INDEX ` ` FOR (x:X) ON (x.a)", "Replica.UnnamedSchema"),
    ("CALL db.create.setNodeVectorProperty(null, 'v', [1.0])", "Neo.ClientError.Procedure.ProcedureCallFailed"),
    ("CALL db.createLabel('')", "Neo.ClientError.Schema.TokenNameError"),
]


@pytest.mark.parametrize(("text", "code"), MISTAKES)
def test_what_is_a_mistake_everywhere_holds_no_log(driver: Driver, text: str, code: str) -> None:
    """Also where the server calls it a failure of its own."""
    replica = recovered(driver)
    replica.apply([command(0, "CREATE INDEX big FOR (b:Big) ON (b.s)"), command(1, TEXT, id=1)])
    applied = replica.apply([command(2, text, s="x" * 40_000), command(3, TEXT, id=1)])
    assert applied.last == 3
    assert [str(outcome.code).endswith(code.removeprefix("...")) for outcome in applied.rejected] == [True]
