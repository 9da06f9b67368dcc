"""Ids in the graph: a command that is sent twice is applied once, whatever happens in between."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

import pytest

from replica import emptying, snapshot
from replica.apply import Applier
from replica.checksum import checksum
from replica.ids import DUPLICATE, PREFIX, SEGMENT, WINDOW
from replica.marker import Key
from replica.snapshot_format import Source
from replica.snapshot_restore import restore
from replica.statement import Command, Statement
from tests.support import empty


if TYPE_CHECKING:
    from neo4j import Driver

TEXT = "MERGE (u:User {id: $id}) SET u.n = coalesce(u.n, 0) + 1"


def recovered(driver: Driver, log_start: int = 0) -> Applier:
    """An applier that has looked at the graph, as a worker that has just been started."""
    found = Applier(driver, database="neo4j", topic="command", topic_id="id")
    found.recover(log_start)
    return found


def add(offset: int, id_: str | None, text: str = TEXT, **parameters: Any) -> Command:
    """A command that counts how often it was applied."""
    return Command(offset, (Statement(text, {"id": 1, **parameters}),), id=id_)


def count(driver: Driver) -> int:
    """How often."""
    return int(driver.execute_query("MATCH (u:User) RETURN sum(u.n)", database_="neo4j").records[0][0])


def stored(driver: Driver) -> dict[str, bytes]:
    """The ids in the graph."""
    [record] = driver.execute_query("MATCH (m:_KafkaPosition) RETURN properties(m)", database_="neo4j").records
    return {name: entries for name, entries in record[0].items() if name.startswith(PREFIX)}


def codes(replica: Applier, *commands: Command) -> dict[int, tuple[str | None, int | None]]:
    """Apply, and say what was not applied."""
    return {each.offset: (each.code, each.duplicate_of) for each in replica.apply(commands).rejected}


@pytest.mark.parametrize("size", [1, 2, 500])
def test_a_command_that_is_sent_again_is_applied_once(driver: Driver, size: int) -> None:
    """In one batch, in neighbours, in a group that shares an UNWIND, and in the one-round-trip form."""
    log = [add(0, "a"), add(1, "a"), add(2, "b"), add(3, None), add(4, "a"), add(5, "c"), add(6, "d"), add(7, "b")]
    replica = recovered(driver)
    found: dict[int, Any] = {}
    for start in range(0, len(log), size):
        found |= codes(replica, *log[start : start + size])
    assert found == {1: (DUPLICATE, 0), 4: (DUPLICATE, 0), 7: (DUPLICATE, 2)}
    assert count(driver) == 5


def test_an_applier_that_was_not_there_knows_the_ids_too(driver: Driver) -> None:
    """They are in the graph, written by the transaction that applied."""
    codes(recovered(driver), *(add(offset, f"id-{offset}") for offset in range(50)))
    assert sum(map(len, stored(driver).values())) == 50 * 14
    again = codes(recovered(driver), *(add(50 + offset, f"id-{offset}") for offset in range(50)))
    assert set(again.values()) == {(DUPLICATE, offset) for offset in range(50)}
    assert count(driver) == 50


def test_two_appliers_that_take_turns_know_what_the_other_did(driver: Driver) -> None:
    """A zombie beside its successor: each reads the ids again when the position has moved under it."""
    one, other = recovered(driver), recovered(driver)
    codes(one, add(0, "a"))
    codes(other, add(0, "a"), add(1, "b"))
    assert codes(one, add(0, "a"), add(1, "b"), add(2, "b"), add(3, "c")) == {2: (DUPLICATE, 1)}
    assert codes(other, add(2, "b"), add(3, "c"), add(4, "c")) == {2: (DUPLICATE, 1), 4: (DUPLICATE, 3)}
    assert count(driver) == 3


def test_an_id_is_used_up_by_the_command_that_was_applied(driver: Driver) -> None:
    """A rejected one changed nothing, so that it can be sent again under its id, corrected or later."""
    enough = Statement("MATCH (u:User) WITH count(u) AS users RETURN users > 0")
    conditional = [Command(offset, add(offset, "a").statements, when=enough, id="a") for offset in range(5)]
    replica = recovered(driver)
    broken = add(1, "a", "RETURN 1 / 0 AS x")
    assert set(codes(replica, conditional[0], broken)) == {0, 1}
    assert codes(replica, add(2, "other"), conditional[3], conditional[4]) == {4: (DUPLICATE, 3)}
    assert count(driver) == 2


def test_a_schema_change_is_a_duplicate_like_any_other(driver: Driver) -> None:
    """It would fail with "already exists" otherwise; and so is what commits in pieces."""
    index = [add(offset, "index", "CREATE INDEX i FOR (u:User) ON (u.id)") for offset in range(2)]
    text = "UNWIND range(1, 3) AS i CALL (i) { CREATE (:User {id: i, n: 1}) } IN TRANSACTIONS OF 1 ROWS"
    pieces = [Command(offset, (Statement(text, {}, idempotent=True),), id="pieces") for offset in (2, 3)]
    assert codes(recovered(driver), *index, *pieces) == {1: (DUPLICATE, 0), 3: (DUPLICATE, 2)}
    assert codes(recovered(driver), add(4, "index")) == {4: (DUPLICATE, 0)}
    assert count(driver) == 3


@pytest.mark.parametrize(
    "text",
    ["MATCH (n) DETACH DELETE n", "MATCH (n) SET n = {}", "MATCH (n) SET n:Tag, n.x = 1", "MATCH (n) SET n += $lies"],
)
def test_a_command_that_touches_every_node_touches_no_id(driver: Driver, text: str) -> None:
    """Also right after a start, when the applier has not looked at the ids yet."""
    replica = recovered(driver)
    codes(replica, add(0, "a"), add(1, "b"))
    before = stored(driver)
    lies = {f"{PREFIX}0": b"", f"{PREFIX}5": b"x" * 14}
    codes(replica, add(2, None, text, lies=lies))
    assert stored(driver) == before
    codes(recovered(driver), add(3, None, text, lies=lies))
    assert stored(driver) == before
    assert codes(replica, add(2, None, text, lies=lies), add(3, None), add(4, "b")) == {4: (DUPLICATE, 1)}


def test_ids_are_forgotten_by_offsets_and_pruned(driver: Driver) -> None:
    """Exactly `WINDOW` offsets later; the graph keeps no segment that no command can ask for."""
    replica = recovered(driver)
    codes(replica, add(5, "a"), add(6, "b"))
    assert codes(replica, add(5 + WINDOW, "a"), add(7 + WINDOW, "b")) == {5 + WINDOW: (DUPLICATE, 5)}
    assert codes(replica, add(8 + WINDOW, "b")) == {8 + WINDOW: (DUPLICATE, 7 + WINDOW)}
    codes(replica, add(WINDOW + SEGMENT, "c"))
    assert set(stored(driver)) == {f"{PREFIX}{WINDOW // SEGMENT}", f"{PREFIX}{WINDOW // SEGMENT + 1}"}
    assert codes(recovered(driver), add(WINDOW + 2 * SEGMENT, "a")) == {}


def test_a_full_window_costs_what_it_may(driver: Driver) -> None:
    """100,000 ids: 1.4 MB in the node, carried by a snapshot, put back after a command that sees every node."""
    full = {f"{PREFIX}{segment}": bytes(SEGMENT * 14) for segment in range(98)}
    replica = recovered(driver)
    codes(replica, add(98 * SEGMENT, "a"))
    driver.execute_query("MATCH (m:_KafkaPosition) SET m += $full", full=full, database_="neo4j")
    codes(recovered(driver), add(98 * SEGMENT + 1, None, "MATCH (n) DETACH DELETE n"))
    assert stored(driver).keys() == full.keys() | {f"{PREFIX}98"}
    file = BytesIO()
    snapshot.create(driver, "neo4j", Key("command", 0), file, lambda *_: None)
    file.seek(0)
    empty(driver)
    restore(driver, "neo4j", Source(file, "full"), lambda *_: None)
    assert sum(map(len, stored(driver).values())) == 98 * SEGMENT * 14 + 14
    assert codes(recovered(driver), add(98 * SEGMENT + 2, "a")) == {98 * SEGMENT + 2: (DUPLICATE, 98 * SEGMENT)}


def test_a_restored_replica_takes_nothing_twice(driver: Driver) -> None:
    """The snapshot has the ids; the graph without them is the same, for nobody else sees them."""
    codes(recovered(driver), add(0, "a"), add(1, "b"), add(2, None))
    file = BytesIO()
    before = checksum(driver, "neo4j").digest
    snapshot.create(driver, "neo4j", Key("command", 0), file, lambda *_: None)
    file.seek(0)
    empty(driver)
    restore(driver, "neo4j", Source(file, "it"), lambda *_: None)
    assert checksum(driver, "neo4j").digest == before
    assert codes(recovered(driver), add(3, "a"), add(4, "c"), add(5, "b")) == {3: (DUPLICATE, 0), 5: (DUPLICATE, 1)}
    assert count(driver) == 4


def test_an_emptied_graph_has_used_up_no_id(driver: Driver) -> None:
    """It begins with the log, which has them."""
    codes(recovered(driver), add(0, "a"), add(1, "a"))
    key = Key("command", 0)
    emptying.claim(driver, "neo4j", key)
    assert stored(driver) == {}
    emptying.empty(driver, "neo4j", lambda *_: None)
    emptying.release(driver, "neo4j", key)
    assert codes(recovered(driver), add(0, "a"), add(1, "a")) == {1: (DUPLICATE, 0)}
    assert count(driver) == 1


def test_a_duplicate_is_told_again_until_it_is_published(driver: Driver) -> None:
    """Like any outcome that is not plainly applied, with the offset of the first."""
    recovered(driver).apply([add(0, "a"), add(1, "a")])
    found = Applier(driver, database="neo4j", topic="command", topic_id="id").recover(0)
    assert found is not None
    [outcome] = found.rejected
    assert (outcome.offset, outcome.applied, outcome.code, outcome.duplicate_of) == (1, True, DUPLICATE, 0)


def test_the_counters_are_those_of_the_commands(driver: Driver) -> None:
    """What is written of the ids is taken off, in every form; so digests do not see how batches were cut."""
    replica = recovered(driver)
    assert replica.apply([add(0, "a"), add(1, "b"), add(2, "c")]).counters == {
        "nodes_created": 1,
        "labels_added": 1,
        "properties_set": 4,
    }
    for offset in (3, 4, 5):
        assert replica.apply([add(offset, f"id-{offset}")]).counters == {"properties_set": 1}
    assert replica.apply([add(6, "a")]).counters == {}


def test_commands_without_ids_write_none(driver: Driver) -> None:
    """And read none, but for one look of a process at its first command that may see the node."""
    replica = recovered(driver)
    replica.apply([add(0, None), add(1, None)])
    replica.apply([add(2, None, "MATCH (n:User) DELETE n")])
    assert stored(driver) == {}
