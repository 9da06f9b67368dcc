"""Transactions that are sent before the one in front of them has ended."""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replica import flights as flights_module
from replica.apply import Applier
from replica.checksum import checksum
from replica.digest import INTERVAL
from replica.driver import connect
from replica.errors import Held
from replica.statement import Applied, Command, Statement
from replica.transactions import Writer
from tests.support import empty


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from neo4j import Driver

    from replica.advance import Advance, Ended
    from replica.flights import Flight
    from tests.conftest import Neo4jServer
    from tests.integration.proxy import Proxy

BATCH = 4

COUNT = "MERGE (u:User {id: $id}) SET u.n = coalesce(u.n, 0) + 1"
DIVIDE = "CREATE (u:User {id: $id, n: 10 / $id})"
FOLLOW = "MATCH (a:User {id: $id}) CREATE (a)-[:FOLLOWS]->(b:User {id: a.n + $id})"
LIST = "CREATE (:Listed {ids: [$id]})"
INDEX = "CREATE INDEX i IF NOT EXISTS FOR (u:User) ON (u.n)"
TEXTS = [COUNT, DIVIDE, FOLLOW, LIST, "MATCH (n) SET n.seen = $id", INDEX]


def command(offset: int, text: str = COUNT, id_: int = 1, name: str | None = None) -> Command:
    """A command of one statement, under the *name* of its sender."""
    return Command(offset, (Statement(text, {"id": id_}),), id=name)


def commands(number: int, text: str = COUNT) -> list[Command]:
    """As many of one text."""
    return [command(offset, text, 1 + offset % 3) for offset in range(number)]


def parts_of(log: Sequence[Command], size: int = BATCH) -> list[Sequence[Command]]:
    """A log in transactions."""
    return [log[start : start + size] for start in range(0, len(log), size)]


class Replica:
    """An applier, and what it has told."""

    def __init__(self, driver: Driver, batch: int = BATCH) -> None:
        self.applier = Applier(driver, database="neo4j", topic="command", topic_id="id", batch=batch)
        self.owed = self.applier.recover(0)
        self.told: list[Applied] = []
        self.published = -1

    def apply(
        self,
        parts: Sequence[Sequence[Command]] | Iterator[Sequence[Command]],
        before: Callable[[], None] = lambda: None,
        tell: Callable[[Applied], None] = lambda _: None,
    ) -> None:
        def keep(applied: Applied) -> None:
            tell(applied)
            self.told.append(applied)

        self.applier.apply_all(parts, keep, before=before, published=lambda: self.published)

    @property
    def spans(self) -> list[tuple[int, int]]:
        """What was told, in offsets."""
        return [(applied.first, applied.last) for applied in self.told]

    @property
    def rejected(self) -> dict[int, str]:
        """Offsets and the last part of their codes."""
        return {one.offset: (one.code or "").rpartition(".")[2] for told in self.told for one in told.rejected}


@pytest.fixture
def flights(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many were under way when another one was sent, each time."""
    seen: list[int] = []
    take_off = Writer.take_off

    def counted(*args: Any, flying: Sequence[Any], **options: Any) -> Any:
        flight = take_off(*args, flying=flying, **options)
        if flight is not None:
            seen.append(len(flying))
        return flight

    monkeypatch.setattr(Writer, "take_off", counted)
    return seen


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has landed waits for what is under way, however slow the server is just now."""
    monkeypatch.setattr("replica.apply.WAITS_S", 60.0)


def value(driver: Driver, text: str) -> Any:
    """The first value that a query returns."""
    return driver.execute_query(text, database_="neo4j").records[0][0]


@pytest.mark.usefixtures("patient")
def test_a_transaction_is_sent_before_the_one_in_front_has_ended(driver: Driver, flights: list[int]) -> None:
    """Each but the first; all are told in their order, four at a time while others are under way."""
    replica = Replica(driver)
    replica.apply(parts_of(commands(20)))
    assert flights == [0, 1, 2, 2, 2]
    assert replica.spans == [(0, 15), (16, 19)]
    assert [told.counters["properties_set"] for told in replica.told] == [19, 4]
    assert value(driver, "MATCH (u:User) RETURN sum(u.n)") == 20


def test_what_has_landed_is_told_though_the_next_one_takes_long(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second transaction ends when the first one is told."""
    run, told = Writer._run_advance, threading.Event()

    def waiting(self: Writer, session: Any, advance: Advance, meanwhile: Callable[[], None]) -> Ended:
        if advance.commands[0].offset == 4:
            assert told.wait(30)
        return run(self, session, advance, meanwhile)

    monkeypatch.setattr(Writer, "_run_advance", waiting)
    replica = Replica(driver)
    replica.apply(parts_of(commands(12)), tell=lambda _: told.set())
    assert (replica.spans[0], replica.spans[-1][1]) == ((0, 3), 11)


def test_what_is_short_or_has_ids_waits(driver: Driver, flights: list[int]) -> None:
    """A part that fills no transaction, one with ids, one of several texts; everything is applied all the same."""
    log = commands(16)
    log[5] = command(5, name="mine")
    log[9] = command(9, FOLLOW)
    replica = Replica(driver)
    replica.apply([*parts_of(log), [command(16)]])
    assert (flights, replica.spans[-1]) == ([0, 0], (16, 16))
    assert value(driver, "MATCH (u:User) RETURN sum(u.n)") == 16


def test_one_that_fails_is_judged_when_nothing_is_under_way(driver: Driver, flights: list[int]) -> None:
    """What was sent behind it found another position, did nothing, and is applied after it; its outcome is kept."""
    log = [command(offset, DIVIDE, id_=0 if offset in {5, 13} else 1) for offset in range(20)]
    replica = Replica(driver)
    replica.apply(parts_of(log))
    assert 1 in flights
    assert replica.rejected == {5: "ArithmeticError", 13: "ArithmeticError"}
    assert replica.spans == [(0, 3), (4, 7), (8, 11), (12, 15), (16, 19)]
    assert value(driver, "MATCH (u:User) RETURN count(u)") == 18
    owed = Replica(driver).owed  # of what was told nothing was published
    assert owed is not None
    assert [outcome.offset for outcome in owed.rejected] == [5, 13]


def test_what_comes_first_at_the_server_though_it_was_sent_second_is_sent_again(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but the position decides whose turn it is."""
    fly, second, sent = Writer._fly, threading.Event(), []

    def overtaken(self: Writer, advance: Advance, begun: threading.Event, front: Sequence[Flight]) -> Ended:
        sent.append(advance.commands[0].offset)
        if sent == [0]:
            begun.set()
            assert second.wait(30)
        ended = fly(self, advance, begun, front)
        second.set()
        return ended

    monkeypatch.setattr(Writer, "_fly", overtaken)
    replica = Replica(driver)
    replica.apply(parts_of(commands(12)))
    assert sent == [0, 4, 8]
    assert value(driver, "MATCH (u:User) RETURN sum(u.n)") == 12
    assert replica.spans == [(0, 3), (4, 7), (8, 11)]


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("failing", ["before", "parts"])
def test_what_stops_the_replica_stops_it_before_the_next_part(driver: Driver, failing: str) -> None:
    """Everything before is told, nothing behind is applied; so with a part that does not come."""
    asked = iter([None, None, OSError("stands still")])

    def stop() -> None:
        if (error := next(asked)) is not None:
            raise error

    def coming() -> Iterator[Sequence[Command]]:
        for part in parts_of(commands(20)):
            if failing == "parts":
                stop()
            yield part

    replica = Replica(driver)
    with pytest.raises(OSError, match="stands still"):
        replica.apply(coming(), before=stop if failing == "before" else lambda: None)
    assert replica.spans == [(0, 7)]
    assert value(driver, "MATCH (m:_KafkaPosition) RETURN m.offset") == 7


@pytest.mark.usefixtures("patient")
def test_what_could_not_be_told_is_told_after_the_next_start(driver: Driver) -> None:
    """What was under way behind it may be applied by then, and is told, too."""

    def unreachable(applied: Applied) -> None:
        assert applied.last == 15
        raise OSError("unreachable")

    replica = Replica(driver)
    with pytest.raises(OSError, match="unreachable"):
        replica.apply(parts_of(commands(24)), tell=unreachable)
    position = value(driver, "MATCH (m:_KafkaPosition) RETURN m.offset")
    assert position in {15, 19, 23}
    owed = replica.applier.recover(0)
    assert owed is not None
    assert (owed.first, owed.last) == (0, position)  # nothing of it was said to be published
    replica.apply(parts_of(commands(24)[position + 1 :]))
    assert value(driver, "MATCH (u:User) RETURN sum(u.n)") == 24


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_lost_answers_are_settled_by_reading_the_position(
    driver: Driver, neo4j: Neo4jServer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    """The server has done it, or both of those under way; nothing happens twice."""
    run, sent = Writer._run_advance, []

    def losing(self: Writer, session: Any, advance: Advance, meanwhile: Callable[[], None]) -> Ended:
        sent.append(advance.commands[0].offset)
        if len(sent) == nth:
            proxy.fatal = b"SET __m.offset"
        return run(self, session, advance, meanwhile)

    monkeypatch.setattr(Writer, "_run_advance", losing)
    with connect(proxy.uri, neo4j.user, neo4j.password) as through:
        replica = Replica(through)
        replica.apply(parts_of(commands(24)))
    assert proxy.broken == 1
    assert value(driver, "MATCH (u:User) RETURN sum(u.n)") == 24
    assert (replica.told[0].first, replica.told[-1].last) == (0, 23)


def test_a_server_that_is_away_holds_the_first_command_that_is_not_applied(
    driver: Driver, neo4j: Neo4jServer, proxy: Proxy
) -> None:
    """Both of those under way are lost, and what is told says which command waits."""
    with connect(proxy.uri, neo4j.user, neo4j.password) as through:
        replica = Replica(through)
        replica.apply(parts_of(commands(4)))

        def away() -> None:
            proxy.refuse = True
            proxy.fatal = b"SET __m.offset"

        log = commands(16)
        with pytest.raises(Held) as held:
            replica.apply(parts_of(log[4:]), before=away)
        position = value(driver, "MATCH (m:_KafkaPosition) RETURN m.offset")
        assert held.value.offset <= position + 1
        proxy.refuse, proxy.fatal = False, None
        replica.apply(parts_of(log[4:]))
    assert value(driver, "MATCH (u:User) RETURN sum(u.n)") == 16


@pytest.mark.parametrize("batch", [INTERVAL // 2, INTERVAL])
def test_checkpoints_are_those_of_commands_applied_one_after_the_other(driver: Driver, batch: int) -> None:
    """Whether the segment before was still under way when the next one was sent, or not; a restart says them again."""
    log = [command(offset, FOLLOW if 300 <= offset < 1500 else COUNT, offset % 5) for offset in range(3 * INTERVAL + 1)]
    plain = Replica(driver, batch)
    for part in parts_of(log, batch):
        plain.told.append(plain.applier.apply(part))
    expected = [one for told in plain.told for one in told.checkpoints]
    assert len(expected) == 3
    empty(driver)
    replica = Replica(driver, batch)
    replica.apply(parts_of(log, batch))
    assert [one for told in replica.told for one in told.checkpoints] == expected
    assert all(one.unexplained == (0, 0) for one in expected)
    kept = Replica(driver, batch).applier.checkpoints
    assert kept[0] == expected[0]
    assert [(one.before, one.nodes, one.relationships, one.chain) for one in kept] == [
        (one.before, one.nodes, one.relationships, one.chain) for one in expected
    ]


def test_a_process_that_ends_loses_counters_and_nothing_else(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment was under way when the next one was sent, and nobody heard how either ended."""

    class Killed(BaseException):
        pass

    log = commands(INTERVAL + 512)
    replica = Replica(driver, 512)
    replica.apply(parts_of(log[:512], 512))

    def killed(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(flights_module.Flight, "ended", killed)
    with pytest.raises(Killed):
        replica.apply(parts_of(log[512:], 512))
    monkeypatch.undo()
    again = Replica(driver, 512)
    assert again.applier.position is not None
    assert again.applier.position.offset == INTERVAL + 511
    [checkpoint] = again.applier.checkpoints
    assert (checkpoint.before, checkpoint.nodes, checkpoint.relationships) == (INTERVAL, 4, 0)
    assert (checkpoint.counters, checkpoint.chain, checkpoint.unexplained) == (None, "", None)
    log = commands(2 * INTERVAL + 1)
    again.apply([log[INTERVAL + 512 :]])
    [lost] = again.told[-1].checkpoints
    assert (lost.before, lost.counters, lost.nodes) == (2 * INTERVAL, None, 4)


RUNS = st.lists(st.tuples(st.sampled_from(TEXTS), st.lists(st.integers(0, 3), min_size=1, max_size=14)), max_size=6)


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(runs=RUNS, seed=st.integers(0, 1000))
def test_it_makes_no_difference_how_many_are_under_way(
    driver: Driver, runs: list[tuple[str, list[int]]], seed: int
) -> None:
    """Same graph and same outcomes as one after the other, for any texts and any parts, with some ids."""
    random_ = random.Random(seed)
    texts = [(text, id_) for text, ids in runs for id_ in ids]
    names = [f"name {random_.randrange(5)}" if random_.random() < 0.1 else None for _ in texts]
    log = [command(offset, *each, name) for offset, (each, name) in enumerate(zip(texts, names, strict=True))]
    empty(driver)
    plain = Replica(driver)
    plain.told.append(plain.applier.apply(log))
    expected = checksum(driver, "neo4j").digest
    empty(driver)
    replica = Replica(driver)
    replica.apply(parts_of(log, random_.randint(2, 6)))
    assert replica.rejected == plain.rejected
    assert checksum(driver, "neo4j").digest == expected
