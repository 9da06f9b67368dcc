"""Which units a transaction ends, and what becomes of them when it fails: with a producer that fails when told to."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from brokers import transactions
from brokers.assignment import Assignment, Unit
from brokers.clients import Health
from brokers.errors import Unreachable, WrongTopic
from brokers.forwarding import Ending
from brokers.generation import NoMember, member_of
from brokers.offsets import AckTracker
from brokers.ordered import OrderedBuffer
from brokers.parallel import ParallelBuffer
from brokers.records import Outgoing, Record
from brokers.topics import Queue, TopicSpec
from brokers.transactions import Transactions


if TYPE_CHECKING:
    from collections.abc import Iterable

    from brokers.bounds import Place

NEXT = TopicSpec("next")


class Sent(NamedTuple):
    """A transaction that was committed."""

    values: list[bytes | None]
    offsets: dict[int, int]


class Kafka:
    """A server, a transactional producer and a consumer in one, as far as `Transactions` can see."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self.refuses: set[bytes | None] = set()
        self.answers: list[KafkaError | None] = []  # what commits say, in turn; after those they succeed
        self.commits_in_silence = False  # whether a commit that is answered with an error has happened all the same
        self.opened = 0
        self.generation = 1
        self.offsets: dict[Place, TopicPartition] = {}
        self.doubted: list[str] = []
        self._open: list[Any] = []
        self._places: list[TopicPartition] = []

    # The producer.

    def init_transactions(self, _timeout: float) -> None:
        self.opened += 1

    def begin_transaction(self) -> None:
        self._open, self._places = [], []

    def produce(self, topic: str, value: bytes, key: bytes, *, on_delivery: Any, headers: Any) -> None:
        self._open.append((value, on_delivery))

    def send_offsets_to_transaction(self, places: list[TopicPartition], member: bytes, _timeout: float) -> None:
        self._places = places

    def commit_transaction(self, _timeout: float) -> None:
        refused = [(value, report) for value, report in self._open if value in self.refuses]
        for _, report in refused:
            report(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE), None)
        if refused:
            raise KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE, txn_requires_abort=True))
        answer = self.answers.pop(0) if self.answers else None
        if answer is None or self.commits_in_silence:
            self.sent.append(Sent([value for value, _ in self._open], {p.partition: p.offset for p in self._places}))
            self.offsets |= {(place.topic, place.partition): place for place in self._places}
        if answer is not None:
            raise KafkaException(answer)

    def abort_transaction(self, _timeout: float) -> None:
        self._open = []

    # The consumer, and the topics.

    def consumer_group_metadata(self) -> bytes:
        return b"CGMDv2:" + self.generation.to_bytes(4, sys.byteorder, signed=True) + b"group\0member\0\0"

    def committed(self, places: list[Place], _client: Any) -> dict[Place, TopicPartition]:
        return {place: self.offsets.get(place, TopicPartition(*place, -1001)) for place in places}

    def doubt(self, spec: TopicSpec) -> None:
        self.doubted.append(spec.name)

    def ensure(self, spec: TopicSpec) -> None: ...


class Bench:
    """One partition of one queue, and the transactions that end its units."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, ordered: bool = False) -> None:
        self.kafka = Kafka()
        monkeypatch.setattr("brokers.clients.opened", lambda _kind, _config: self.kafka)
        for name in ("AGAIN_S", "REFUSED_AGAIN_S"):
            monkeypatch.setattr(transactions, name, 0)
        kafka: Any = self.kafka
        self.client = kafka
        self.commits = Transactions("group", {}, Health(), kafka)
        self.owners: Any = self.commits._former_owners
        monkeypatch.setattr(self.owners, "committed", self.kafka.committed)
        queue = Queue("q", TopicSpec("q", 1, exact=True), "group", ordered=ordered)
        self.buffer = OrderedBuffer(queue) if ordered else ParallelBuffer(queue)
        self.assign()

    def assign(self, tracker: AckTracker | None = None) -> None:
        self.assignment = Assignment("q", 0, self.buffer, tracker or AckTracker(0), started=True, paused=False)
        if isinstance(self.buffer, OrderedBuffer):
            self.buffer.start_at(self.assignment, 0)

    def lose(self) -> None:
        self.commits.forget(self.assignment)
        self.buffer.forget(self.assignment)

    def record(self, offset: int) -> Record:
        return Record("q", 0, offset, 0, None, b"cause")

    def take(self, count: int) -> list[Unit]:
        """Deliver *count* records, and hand them out."""
        first = self.assignment.tracker.next
        records = [self.record(first + number) for number in range(count)]
        for record in records:
            assert self.assignment.tracker.begin(record.offset)
        self.buffer.deliver(self.assignment, records)
        units = [unit for _ in range(count) if (unit := self.buffer.take(count, 0))]
        assert all(self.buffer.begin(unit) for unit in units)
        return units

    def end(self, unit: Unit, *values: str, letter: str | None = None) -> None:
        letters = None if letter is None else lambda _reason: [(Outgoing("q.XQ", letter.encode()), NEXT)]
        self.commits.end(Ending(unit, [(Outgoing("next", value.encode()), NEXT) for value in values], letters))

    def step(self, times: int = 1) -> list[Sent]:
        """What the owner thread does between two polls; all that has been committed until now."""
        for _ in range(times):
            self.commits._asked_at = self.commits._not_before = 0
            self.commits.send(self.client, self.assignments)
        sent: list[Sent] = self.kafka.sent
        return sent

    @property
    def assignments(self) -> Iterable[Assignment]:
        return [self.assignment] if self.assignment.alive else []

    @property
    def unfinished(self) -> int:
        return self.assignment.tracker.unfinished


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    """An unordered queue."""
    return Bench(monkeypatch)


def test_many_units_end_in_one_transaction(bench: Bench) -> None:
    """With what follows from them, and the offset below which all is done; what still runs is not."""
    units = bench.take(4)
    for unit in (units[0], units[1], units[3]):
        bench.end(unit, f"after {unit.records[0].offset}")
    assert bench.unfinished == 4
    assert bench.step() == [Sent([b"after 0", b"after 1", b"after 3"], {0: 2})]
    assert bench.unfinished == 1
    assert not bench.commits.hurry([])
    assert bench.step(2) == bench.kafka.sent[:1]


def test_what_was_aborted_is_sent_again_and_the_offset_did_not_move(bench: Bench) -> None:
    """Nothing of it counts, the ack included, until a transaction succeeds; then all of it does, once."""
    [unit] = bench.take(1)
    bench.end(unit, "a", "b")
    bench.kafka.answers = [KafkaError(KafkaError.ILLEGAL_GENERATION, txn_requires_abort=True)]
    assert bench.step() == []
    assert (bench.unfinished, bench.assignment.tracker.snapshot().offset) == (1, 0)
    assert bench.step() == [Sent([b"a", b"b"], {0: 1})]
    assert bench.unfinished == 0


def test_a_late_answer_is_waited_for(bench: Bench) -> None:
    """A commit that timed out is asked for again, not sent again."""
    bench.end(bench.take(1)[0], "a")
    bench.kafka.answers = [KafkaError(KafkaError._TIMED_OUT, retriable=True)]
    assert bench.step() == [Sent([b"a"], {0: 1})]
    assert bench.kafka.opened == 1


def test_a_very_late_answer_is_asked_for_again_between_other_duties(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the same producer, which must not be let go of in the middle of a call; what it says then counts."""
    monkeypatch.setattr(transactions, "TIMEOUT_S", -1)
    first, second = bench.take(2)
    bench.end(first, "a")
    late = KafkaError(KafkaError._TIMED_OUT, "late", retriable=True)
    bench.kafka.answers = [late, late, None, KafkaError(KafkaError.INVALID_TXN_STATE, "no", txn_requires_abort=True)]
    assert bench.step(2) == []
    assert bench.unfinished == 2
    assert bench.step() == [Sent([b"a"], {0: 1})]
    bench.end(second, "b")
    assert len(bench.step()) == 1
    assert bench.step()[1:] == [Sent([b"b"], {0: 2})]
    assert (bench.kafka.opened, bench.unfinished) == (1, 0)


@pytest.mark.parametrize("happened", [False, True])
def test_a_commit_without_an_answer_is_looked_up(bench: Bench, *, happened: bool) -> None:
    """A new producer of the same id ends it either way, and the group's offset tells which: sent once in any case."""
    first, second = bench.take(2)
    bench.end(first, "a")
    bench.kafka.answers = [KafkaError(KafkaError._FENCED)]
    bench.kafka.commits_in_silence = happened
    bench.step()
    assert bench.unfinished == 2
    bench.end(second, "b")
    sent = bench.step(2)
    assert [value for one in sent for value in one.values] == [b"a", b"b"]
    assert (bench.kafka.opened, bench.unfinished, sent[-1].offsets) == (2, 0, {0: 2})


def test_what_is_in_doubt_waits_until_kafka_can_be_asked(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither sent again nor counted as done before that."""
    bench.end(bench.take(1)[0], "a")
    bench.kafka.answers = [KafkaError(KafkaError._FENCED)]
    bench.kafka.commits_in_silence = True
    monkeypatch.setattr(bench.owners, "committed", lambda _places, _client: {})
    bench.step(3)
    assert bench.unfinished == 1
    monkeypatch.setattr(bench.owners, "committed", bench.kafka.committed)
    assert bench.step(2) == [Sent([b"a"], {0: 1})]
    assert bench.unfinished == 0


def test_nothing_is_sent_by_a_consumer_that_is_no_member(bench: Bench) -> None:
    """Kafka takes offsets of nobody without a check, and would take them of a process that was thrown out."""
    bench.end(bench.take(1)[0], "a")
    bench.kafka.generation = -1
    with pytest.raises(NoMember):
        member_of(bench.client)
    assert bench.step(2) == []
    bench.kafka.generation = 2
    assert bench.step() == [Sent([b"a"], {0: 1})]


def test_a_record_that_kafka_refuses_holds_up_nobody_and_is_parked(bench: Bench) -> None:
    """It fails in company, then alone, then its dead letter goes with the ack; its topics are looked at again first."""
    units = bench.take(3)
    bench.kafka.refuses = {b"large"}
    bench.end(units[0], "a")
    bench.end(units[1], "large", letter="why")
    bench.end(units[2], "c")
    sent = bench.step(4)
    assert [one.values for one in sent] == [[b"a", b"c"], [b"why"]]
    assert (bench.unfinished, sent[-1].offsets) == (0, {0: 3})
    assert bench.kafka.doubted == ["next", "next"]


def test_a_dead_letter_that_is_refused_goes_without_its_value_and_is_tried_until_it_is_taken(bench: Bench) -> None:
    """The others go on meanwhile."""
    first, second = bench.take(2)
    bench.kafka.refuses = {b"large", None}
    bench.end(first, "large")
    bench.end(second, "b")
    bench.step(6)
    assert [one.values for one in bench.kafka.sent] == [[b"b"]]
    assert bench.unfinished == 1
    bench.kafka.refuses = {b"large"}
    assert bench.step()[-1] == Sent([None], {0: 2})


def test_a_topic_that_cannot_be_made_parks_its_message(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that nobody can be asked for waits."""
    bench.end(bench.take(1)[0], "large", letter="why")
    bench.kafka.refuses = {b"large"}
    bench.step()
    answers: list[Exception] = [Unreachable("away"), WrongTopic("no")]

    def ensure(spec: TopicSpec) -> None:
        if answers:
            raise answers.pop(0)

    monkeypatch.setattr(bench.kafka, "ensure", ensure)
    bench.step(2)
    assert bench.unfinished == 1
    assert bench.step()[-1] == Sent([b"why"], {0: 1})


def test_what_ended_on_a_partition_that_was_lost_is_sent_when_it_comes_back(bench: Bench) -> None:
    """Without running again; unless somebody else has run it, or the record there is another one."""
    units = bench.take(2)
    for unit in units:
        bench.end(unit, f"after {unit.records[0].offset}")
    bench.lose()
    assert bench.step() == []
    bench.assign()
    found = [bench.record(0), Record("q", 0, 1, 0, None, b"another")]
    assert all(bench.assignment.tracker.begin(record.offset) for record in found)
    assert bench.commits.not_ended_before(bench.assignment, found) == found[1:]
    assert bench.step() == [Sent([b"after 0"], {0: 1})]


def test_a_late_end_for_a_former_assignment_is_kept_as_well(bench: Bench) -> None:
    """A drain that ran into its time-out: the actor ends when the partition is somebody else's."""
    [unit] = bench.take(1)
    bench.lose()
    bench.end(unit, "late")
    assert bench.step() == []
    bench.assign()
    assert bench.assignment.tracker.begin(0)
    assert not bench.commits.not_ended_before(bench.assignment, [bench.record(0)])
    assert bench.step() == [Sent([b"late"], {0: 1})]


def test_a_record_that_was_delivered_twice_is_forwarded_once(bench: Bench) -> None:
    """After a start from elsewhere both its units may end; the quicker one counts."""
    [unit] = bench.take(1)
    twin = Unit(bench.assignment, unit.records, begun=True)
    bench.assignment.running.add(twin)
    bench.end(unit, "first")
    bench.end(twin, "second")
    bench.end(twin, "again")
    assert bench.step(2) == [Sent([b"first"], {0: 1})]
    assert not bench.commits.hurry([])


def test_a_partition_is_given_away_when_all_has_been_told(bench: Bench) -> None:
    """And when that fails, whoever revokes it learns so."""
    units = bench.take(2)
    bench.end(units[0], "a")
    bench.kafka.refuses = {b"large"}
    bench.end(units[1], "large", letter="why")
    assert bench.commits.send_and_wait(bench.client, bench.assignments)
    assert [value for one in bench.kafka.sent for value in one.values] == [b"a", b"why"]
    [third] = bench.take(1)
    bench.end(third, "c")
    bench.kafka.generation = -1
    assert not bench.commits.send_and_wait(bench.client, bench.assignments)


def test_an_ordered_queue_hands_out_nothing_before_kafka_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may overtake a message whose end is not settled; losing the partition lets go of it."""
    bench = Bench(monkeypatch, ordered=True)
    [unit] = bench.take(1)
    bench.buffer.deliver(bench.assignment, [bench.record(1)])
    bench.assignment.tracker.begin(1)
    bench.end(unit, "a")
    assert bench.buffer.drained([bench.assignment], 0)
    assert bench.buffer.take(9, 0) is None
    bench.step()
    following = bench.buffer.take(9, 0)
    assert following is not None
    assert bench.buffer.begin(following)
    bench.end(following, "b")
    bench.lose()
    bench.step()
    assert bench.buffer.outstanding == 0
