"""Whose crash it was: sections of commits, and watches over processes that die at any moment."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from brokers.assignment import Assignment, Unit
from brokers.crashes import TOGETHER, WINDOW, Past, Said, Watch, decode, encode, past, split
from brokers.errors import WrongSetting
from brokers.offsets import METADATA_LIMIT, AckTracker, Commit, Run, UnknownMap, resumed
from brokers.offsets import decode as decode_map
from brokers.offsets import encode as encode_map
from brokers.parallel import ParallelBuffer
from brokers.records import Record
from brokers.suspects import Alone, Suspects
from brokers.topics import Queue, TopicSpec


pairs = st.dictionaries(st.integers(50, 5000), st.integers(1, 9), max_size=20).map(lambda d: tuple(sorted(d.items())))


@given(st.booleans(), pairs, pairs)
def test_a_section_reads_back_as_it_was_written(is_open: bool, begun: tuple[object, ...], waiting: object) -> None:
    """Beside a completion map, which it does not disturb."""
    said = Said(is_open, begun, waiting)  # type: ignore[arg-type]  # hypothesis makes pairs
    text = encode_map(50, [Run(60, 70)]) + encode(50, said)
    found, section = split(text + "\0")
    assert decode_map(50, found) == [Run(60, 70)]
    assert decode(50, section) == said
    assert text.isascii()


def test_a_full_house_leaves_room_for_the_map() -> None:
    """As many suspects as there can be, far behind a record that does not end."""
    many = tuple((10**9 + n, 2) for n in range(2 * TOGETHER))
    assert len(encode(0, Said(open=True, begun=many))) < METADATA_LIMIT // 4


def test_a_commit_without_a_section_accuses_nobody() -> None:
    """Of an older version, of another program, or after a rewind."""
    assert split("nk1rabc") == ("nk1rabc", "")
    assert split(None) == ("", "")
    assert past(decode(7, ""), 100) == Past()


@pytest.mark.parametrize("section", ["x", "o1", "o1!", "o-1!2", "o1!2,", "o1!2;3?1", "o\u0661!2", "c1!2 "])
def test_a_section_of_another_program_is_told_apart(section: str) -> None:
    """It is no accusation."""
    with pytest.raises(UnknownMap):
        decode(0, section)


def test_who_had_begun_is_blamed_and_who_waited_is_not() -> None:
    """After a crash one more; after a hand-over as it was."""
    said = Said(open=True, begun=((3, 1),), waiting=((4, 2),))
    assert past(said, 9) == Past(crashed=True, crashes={3: 2, 4: 2}, until=9)
    assert past(said._replace(open=False), 9).crashes == {3: 1, 4: 2}


@pytest.mark.parametrize("number", [1, 0, -1])
def test_one_crash_is_not_enough_to_know_whose_it_was(number: int) -> None:
    """Refused when the broker is made."""
    with pytest.raises(WrongSetting, match="at least 2"):
        Alone(number)
    assert Alone(None).most is None


#: A commit on its way.
Asked = tuple[Assignment, Commit, Said]


class Cluster:
    """Kafka and the processes of one queue with some partitions, of which one process at a time is alive.

    Steps are those of the owner thread and of workers, in an order that *chance* decides; so is the moment at which
    Kafka confirms.  A killer ends the process as soon as it begins.
    """

    def __init__(self, partitions: int, records: int, killers: set[tuple[int, int]], chance: random.Random) -> None:
        self.chance = chance
        self.killers = killers
        self.ends = dict.fromkeys(range(partitions), records)
        self.commits = dict.fromkeys(range(partitions), (0, ""))
        self.done: set[tuple[int, int]] = set()
        self.parked: dict[tuple[int, int], int] = {}
        self.crashes = 0

    @property
    def left(self) -> bool:
        """Whether something is neither done nor parked."""
        return len(self.done | set(self.parked)) < sum(self.ends.values())

    def live(self, threads: int, *, stop_after: int | None = None) -> None:
        """One process from its start to its end: a crash, or nothing left, or a hand-over after some steps."""
        buffer, alone = ParallelBuffer(Queue("q", TopicSpec("q"), "g")), Alone(3)
        alone.join(buffer)
        suspects = Suspects(alone)
        held = [self._start(buffer, suspects, number) for number in self.ends]
        out: list[Unit] = []
        asked: list[Asked] = []  # on their way to Kafka
        steps = 0
        while self.left and steps != stop_after:
            steps += 1
            suspects.step(held)
            if self.chance.random() < 0.7:
                self._answer(asked)
                asked = self._ask(held)
            if len(out) < threads and (unit := buffer.take(threads, 0)) is not None:
                if self._begins(unit):
                    self._answer(asked[: self.chance.randint(0, len(asked))])
                    return
                out.append(unit)
            if out and self.chance.random() < 0.5:
                self._ends(buffer, out.pop(self.chance.randrange(len(out))))
        for unit in out:
            self._ends(buffer, unit)
        for one in held:
            if one.watch is not None:
                one.watch.hand_over()
        self._answer(asked)
        self._answer(self._ask(held))

    def _start(self, buffer: ParallelBuffer, suspects: Suspects, number: int) -> Assignment:
        offset, metadata = self.commits[number]
        found, section = split(metadata)
        tracker = resumed(offset, decode_map(offset, found))
        one = Assignment("q", number, buffer, tracker, started=True, paused=False)
        one.watch = suspects.watch(one, past(decode(offset, section), self.ends[number]))
        records = [Record("q", number, n, 0, None, b"") for n in range(tracker.next, self.ends[number])]
        buffer.deliver(one, [record for record in records if tracker.begin(record.offset)])
        return one

    def _ask(self, held: list[Assignment]) -> list[Asked]:
        return [(one, one.tracker.snapshot(), one.watch.said()) for one in held if one.watch is not None]

    def _answer(self, asked: list[Asked]) -> None:
        for one, commit, said in asked:
            assert one.watch is not None
            self.commits[one.partition] = commit.offset, commit.metadata + encode(commit.offset, said)
            one.watch.heard(said)

    def _begins(self, unit: Unit) -> bool:
        place = unit.assignment.partition, unit.records[0].offset
        assert place not in self.parked
        if place in self.killers and not unit.condemned:
            self.crashes += 1
            return True
        return False

    def _ends(self, buffer: ParallelBuffer, unit: Unit) -> None:
        place = unit.assignment.partition, unit.records[0].offset
        if unit.condemned:
            self.parked[place] = unit.crashes
        else:
            self.done.add(place)
        buffer.finish(unit)


@settings(max_examples=60, deadline=None)
@example(3, 19, {(1, 1), (1, 8)}, 1, random.Random(2))
@given(
    st.integers(1, 3),
    st.integers(1, 40),
    st.sets(st.tuples(st.integers(0, 2), st.integers(0, 39)), max_size=3),
    st.integers(1, 12),
    st.randoms(use_true_random=False),
)
def test_killers_are_parked_and_nobody_else(
    partitions: int, records: int, places: set[tuple[int, int]], threads: int, chance: random.Random
) -> None:
    """However many there are and wherever they lie: each ends at most a few processes, and everybody else runs."""
    killers = {(p, n) for p, n in places if p < partitions and n < records}
    cluster = Cluster(partitions, records, killers, chance)
    for _ in range(100):
        cluster.live(threads, stop_after=chance.choice([None, None, 30]))
        if not cluster.left:
            break
    assert set(cluster.parked) == killers
    assert len(cluster.done) == partitions * records - len(killers)
    assert cluster.crashes <= 3 * max(len(killers), 1) * partitions


def test_one_killer_costs_three_processes() -> None:
    """The first crash says that there is one, the second one that it was among eight, the third one which."""
    cluster = Cluster(2, 30, {(0, 5)}, random.Random(7))
    while cluster.left:
        cluster.live(4)
    assert cluster.crashes == 3
    assert cluster.parked == {(0, 5): 3}


def records(*offsets: int) -> list[Record]:
    """Records of partition 0."""
    return [Record("q", 0, offset, 0, None, b"") for offset in offsets]


def offsets(found: list[Record]) -> list[int]:
    """Their offsets."""
    return [record.offset for record in found]


def test_nothing_begins_before_the_partition_is_known_to_be_open() -> None:
    """Else the first crash of a group would leave no trace."""
    watch = Watch(Past(), 3)
    assert watch.keep(records(0, 1))
    assert watch.plan(2, quiet=True) == []
    assert watch.urgent
    watch.heard(watch.said())
    assert offsets(watch.plan(2, quiet=True)) == [0, 1]
    assert watch.free
    assert not watch.keep(records(2))
    assert watch.said() == Said(open=True)


def suspicious(**crashes: int) -> Watch:
    """A watch after a crash, opened, with twenty records."""
    watch = Watch(Past(crashed=True, crashes={int(name[1:]): n for name, n in crashes.items()}, until=20), 3)
    watch.keep(records(*range(20)))
    watch.heard(watch.said())
    return watch


def test_suspects_begin_in_small_groups_and_only_once_announced() -> None:
    """As one ends, the next is announced."""
    watch = suspicious()
    assert watch.plan(20, quiet=True) == []
    said = watch.said()
    assert said.begun == tuple((n, 1) for n in range(TOGETHER))
    watch.heard(said)
    assert offsets(watch.plan(20, quiet=True)) == list(range(TOGETHER))
    watch.ended(3)
    watch.plan(20, quiet=True)
    assert (3, 1) not in watch.said().begun
    assert (TOGETHER, 1) in watch.said().begun


def test_who_had_begun_before_runs_alone() -> None:
    """Nothing else of the partition, and nothing else of the process, until it has ended."""
    watch = suspicious(o0=2)
    assert watch.plan(20, quiet=None) == []
    assert watch.wants_alone
    assert watch.said().begun == ()
    watch.plan(20, quiet=True)
    watch.heard(watch.said())
    assert offsets(watch.plan(20, quiet=True)) == [0]
    assert watch.alone == 0
    assert watch.plan(20, quiet=True) == []
    watch.ended(0)
    assert watch.plan(20, quiet=True) == []
    assert watch.said().begun == ()
    watch.heard(watch.said())
    watch.plan(20, quiet=True)
    assert len(watch.said().begun) == TOGETHER


def test_the_others_begin_once_kafka_has_heard_that_a_suspect_is_done() -> None:
    """Before that a crash of theirs would be taken for its third."""
    buffer, alone = ParallelBuffer(Queue("q", TopicSpec("q"), "g")), Alone(3)
    alone.join(buffer)
    suspects = Suspects(alone)
    one = Assignment("q", 0, buffer, AckTracker(0), started=True)
    one.watch = Watch(Past(crashes={0: 2}), 3)
    buffer.deliver(one, records(0, 1))
    for _ in range(3):
        suspects.step([one])
        one.watch.heard(said := one.watch.said())
    assert said.begun == ((0, 2),)
    suspects.step([one])
    unit = buffer.take(9, 0)
    assert unit is not None
    buffer.finish(unit)

    suspects.step([one])
    one.watch.heard(said)  # a commit that was on its way
    suspects.step([one])
    assert buffer.take(9, 0) is None
    one.watch.heard(one.watch.said())
    suspects.step([one])
    assert not alone.taken
    follows = buffer.take(9, 0)
    assert follows is not None
    assert offsets(list(follows.records)) == [1]


def test_an_older_commit_announces_nobody() -> None:
    """It was on its way when the suspect's turn came, and says that it waits."""
    watch = suspicious(o0=2)
    older = watch.said()
    watch.plan(20, quiet=True)
    watch.heard(older)
    assert watch.plan(20, quiet=True) == []
    watch.heard(watch.said())
    assert offsets(watch.plan(20, quiet=True)) == [0]


def test_a_crash_beside_others_does_not_count() -> None:
    """When what runs does not end, the suspect begins all the same, with its old number."""
    watch = suspicious(o0=2)
    watch.plan(20, quiet=False)
    watch.heard(watch.said())
    assert offsets(watch.plan(20, quiet=False)) == [0]
    assert watch.said().waiting == ((0, 2),)
    assert past(watch.said(), 20).crashes == {0: 2}


def test_what_is_condemned_needs_no_announcement_and_is_remembered_until_it_is_parked() -> None:
    """It will not run."""
    watch = suspicious(o0=3)
    assert offsets(watch.plan(20, quiet=None)) == [0]
    assert watch.condemned(0)
    assert (0, 3) in watch.said().waiting
    watch.ended(0)
    assert (0, 3) not in watch.said().waiting


def test_suspicion_ends_with_what_was_there_and_with_its_window() -> None:
    """What came after the takeover was never handed out; and a long log is not suspected as a whole."""
    watch = Watch(Past(crashed=True, until=WINDOW * 2), 3)
    watch.keep(records(*range(WINDOW * 2 + 1)))
    watch.heard(watch.said())
    begun: list[int] = []
    while not watch.free:
        for record in watch.plan(WINDOW * 2 + 1, quiet=True):
            begun.append(record.offset)
            watch.ended(record.offset)
        watch.heard(watch.said())
    assert begun == list(range(WINDOW * 2 + 1))
    assert watch.said() == Said(open=True)


def test_a_suspect_that_is_in_the_log_no_more_is_forgotten() -> None:
    """Expired, or finished after all."""
    watch = Watch(Past(crashes={1: 2, 2: 2}), 3)
    watch.heard(watch.said())
    watch.plan(2, quiet=True)
    assert watch.said().waiting == ((2, 2),)
    watch.plan(3, quiet=True)
    assert watch.free


def test_a_living_process_hands_over_without_blame() -> None:
    """Also what it still runs; and a suspicion that is not settled goes along."""
    watch = suspicious(o0=2)
    watch.plan(20, quiet=True)
    watch.hand_over()
    assert watch.said() == Said(open=True, waiting=((0, 2),))
    fresh = Watch(Past(), 3)
    fresh.hand_over()
    assert fresh.said() == Said(open=False)


def test_a_suspect_of_a_paused_queue_does_not_keep_the_others_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody takes it; it goes back, and everybody else goes on."""
    queue = Queue("q", TopicSpec("q"), "g")
    paused, other, alone = ParallelBuffer(queue), ParallelBuffer(queue), Alone(3)
    alone.join(paused)
    alone.join(other)
    suspects = Suspects(alone)
    one = Assignment("q", 0, paused, AckTracker(0), started=True)
    one.watch = Watch(Past(crashes={0: 2}), 3)
    two = Assignment("q", 1, other, AckTracker(0), started=True)
    for assignment in (one, two):
        assignment.tracker.begin(0)
        assignment.buffer.deliver(assignment, records(0))
    for _ in range(5):
        suspects.step([one, two])
        one.watch.heard(one.watch.said())
    assert other.take(9, 0) is None
    monkeypatch.setattr("brokers.suspects.QUIET_S", 0.0)
    suspects.step([one, two])
    assert other.take(9, 0) is None
    one.watch.heard(one.watch.said())
    suspects.step([one, two])
    ordinary = other.take(9, 0)
    assert ordinary is not None
    other.finish(ordinary)
    suspects.step([one, two])
    assert paused.take(9, 0) is None
    monkeypatch.undo()
    monkeypatch.setattr(suspects, "_not_before", {})
    for _ in range(3):
        suspects.step([one, two])
        one.watch.heard(one.watch.said())
    unit = paused.take(9, 0)
    assert unit is not None
    paused.finish(unit)
    one.watch.heard(one.watch.said())
    suspects.step([one, two])
    assert one.watch.free
    assert not alone.taken


def test_a_suspect_that_hangs_does_not_keep_the_others_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """They go on beside it, in its own partition too; its crash still counts."""
    buffer, alone = ParallelBuffer(Queue("q", TopicSpec("q"), "g")), Alone(3)
    alone.join(buffer)
    suspects = Suspects(alone)
    one = Assignment("q", 0, buffer, AckTracker(0), started=True)
    one.watch = Watch(Past(crashes={0: 2}), 3)
    for number in (0, 1):
        one.tracker.begin(number)
    buffer.deliver(one, records(0, 1))
    for _ in range(5):
        suspects.step([one])
        one.watch.heard(one.watch.said())
    hangs = buffer.take(9, 0)
    assert hangs is not None
    suspects.step([one])
    assert buffer.take(9, 0) is None
    monkeypatch.setattr("brokers.suspects.QUIET_S", 0.0)
    monkeypatch.setattr("brokers.suspects.ALONE_S", 0.0)
    suspects.step([one])
    follows = buffer.take(9, 0)
    assert follows is not None
    assert follows.records[0].offset == 1
    assert one.watch.said().begun == ((0, 2),)
    buffer.finish(hangs)
    suspects.step([one])
    assert one.watch.free


def test_ordered_queues_are_not_watched() -> None:
    """A record there keeps its place, whatever happens."""
    queue = Queue("o", TopicSpec("o", 1, exact=True), "g", ordered=True)
    assignment = Assignment("o", 0, ParallelBuffer(queue), AckTracker(0))
    assert Suspects(Alone(3)).watch(assignment, Past()) is None
