"""Where partitions start and what is committed, without a server: answers come in as values."""

from __future__ import annotations

import hashlib
import itertools
import logging
from typing import TYPE_CHECKING, Any, cast

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from brokers import commits
from brokers.assignment import Assignment
from brokers.commits import Commits
from brokers.errors import StartRefused, StartUnknown
from brokers.offsets import AckTracker, Run, encode
from brokers.ordered import OrderedBuffer
from brokers.parallel import ParallelBuffer
from brokers.starts import Start, ask_kafka, resume_at
from brokers.topics import Queue, TopicSpec
from tests.support import wait_until


if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from confluent_kafka import Consumer

    from brokers.bounds import Place

LOG = (10, 100)


def parallel(partition: int = 0) -> Assignment:
    """A partition of an unordered queue."""
    queue = Queue("q", TopicSpec("q"), "g")
    return Assignment("q", partition, ParallelBuffer(queue), AckTracker(0), started=True)


def ordered(start: Callable[[str, int, int], int]) -> Assignment:
    """The partition of an ordered queue that keeps its place elsewhere."""
    queue = Queue("o", TopicSpec("o", 1, exact=True), "g", ordered=True, start=start)
    return Assignment("o", 0, OrderedBuffer(queue))


def committed(offset: int, metadata: str = "", partition: int = 0) -> TopicPartition:
    """What Kafka says about a group."""
    return TopicPartition("q", partition, offset, metadata=metadata)


def resumed(offset: int, metadata: str = "", former: AckTracker | None = None) -> list[int]:
    """The offsets from 10 to 19 that are run after resuming at *offset*."""
    tracker = resume_at(parallel(), committed(offset, metadata), LOG, former)
    return [number for number in range(tracker.next, 20) if tracker.begin(number)]


def test_a_group_that_never_committed_reads_all_there_is() -> None:
    """From the beginning of the log, wherever that is by now."""
    assert resumed(-1001) == list(range(10, 20))


def test_a_commit_says_where_to_go_on_and_what_to_leave_out() -> None:
    """Offset and completion map together."""
    assert resumed(15) == list(range(15, 20))
    assert resumed(12, encode(12, [Run(13, 16)])) == [12, 16, 17, 18, 19]


@pytest.mark.parametrize("offset", [5, 101])
def test_a_commit_outside_the_log_is_reported_and_reads_all(offset: int, caplog: pytest.LogCaptureFixture) -> None:
    """The log has moved on, or is another one of the same name: rather twice than never."""
    assert resumed(offset) == list(range(10, 20))
    assert "kafka_commit_outside_log" in caplog.text


def test_a_map_of_another_program_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    """The offset counts; the rest is run again."""
    assert resumed(15, "AgEBAQ==") == list(range(15, 20))
    assert "kafka_completion_map_unknown" in caplog.text


def lost(*done: int, confirmed: int | None) -> AckTracker:
    """What is known of a partition that was lost: 10 to 19 delivered, *done* finished, commit *confirmed*."""
    tracker = AckTracker(10)
    for offset in range(10, 20):
        tracker.begin(offset)
    if confirmed is not None:
        tracker.committed(tracker.snapshot()._replace(offset=confirmed))
    for offset in done:
        tracker.done(offset)
    return tracker


def test_a_partition_that_was_lost_and_comes_back_repeats_nothing() -> None:
    """What ended after the last commit is known here, and still true."""
    assert resumed(10, former=lost(10, 11, 14, confirmed=10)) == [12, 13, 15, 16, 17, 18, 19]
    assert resumed(13, former=lost(10, 11, 14, confirmed=10)) == [13, 15, 16, 17, 18, 19]


def test_what_was_known_counts_no_more_after_a_rewind_or_in_another_log() -> None:
    """Somebody wants the messages again; or the topic was deleted and made anew, and with it the commits are gone."""
    assert resumed(10, former=lost(10, 11, confirmed=12)) == list(range(10, 20))
    assert resumed(-1001, former=lost(10, 11, confirmed=10)) == list(range(10, 20))
    assert resumed(10, former=lost(10, 11, confirmed=None)) == list(range(10, 20))
    shorter = resume_at(parallel(), committed(10), (10, 15), lost(10, 11, confirmed=10))
    assert shorter.next == 10


class Kafka:
    """Answers a consumer's questions, and takes its commits."""

    def __init__(self) -> None:
        self.log: dict[Place, tuple[int, int]] = {}
        self.commits: list[list[TopicPartition]] = []
        self.error: KafkaError | None = None
        self.calls = 0

    def bounds(self, places: Collection[Place]) -> dict[Place, tuple[int, int]]:
        self.calls += 1
        return {place: self.log[place] for place in places if place in self.log}

    def committed(self, places: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        self.calls += 1
        if self.error is not None:
            raise KafkaException(self.error)
        return [committed(20, partition=place.partition) for place in places]

    def commit(self, offsets: list[TopicPartition], *, asynchronous: bool) -> list[TopicPartition]:
        if self.error is not None:
            raise KafkaException(self.error)
        self.commits.append(offsets)
        return offsets

    @property
    def client(self) -> Consumer:
        return cast("Consumer", self)


def test_many_partitions_are_asked_for_as_fast_as_one() -> None:
    """A thousand partitions must not mean a thousand questions."""
    kafka = Kafka()
    starts = [Start(parallel(number)) for number in range(1000)]
    kafka.log = {("q", number): LOG for number in range(1000)}
    ask_kafka(starts, kafka.client, kafka.bounds)
    assert [start.answer.next for start in starts if start.answer] == [20] * 1000
    assert kafka.calls == 2


def test_a_partition_without_a_leader_keeps_nobody_else() -> None:
    """It is asked for again later, and reported in the meantime."""
    kafka = Kafka()
    kafka.log = {("q", 0): LOG}
    good, bad = Start(parallel(0)), Start(parallel(1))
    ask_kafka([good, bad], kafka.client, kafka.bounds)
    assert good.answer is not None
    assert bad.answer is None
    assert bad.assignment.blocked is not None
    assert not bad.due()


def test_a_coordinator_that_does_not_answer_is_asked_again() -> None:
    """Starting without its answer would repeat everything."""
    kafka = Kafka()
    kafka.log = {("q", 0): LOG}
    kafka.error = KafkaError(KafkaError.NOT_COORDINATOR)
    start = Start(parallel())
    ask_kafka([start], kafka.client, kafka.bounds)
    assert start.answer is None
    assert start.assignment.blocked is not None


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (StartUnknown("away"), "away"),
        (StartRefused("lost"), "lost"),
        (ZeroDivisionError("bug"), "bug"),
        (9, "the log holds 10 to 100"),
        (101, "the log holds 10 to 100"),
        ("text", "not supported between"),
    ],
)
def test_a_source_that_cannot_tell_blocks_its_partition(told: Any, reason: str) -> None:
    """Whatever it does; only a place inside the log is one."""

    def source(topic: str, partition: int, log_start: int) -> int:
        assert (topic, partition, log_start) == ("o", 0, 10)
        if isinstance(told, Exception):
            raise told
        return cast("int", told)

    start = Start(ordered(source))
    start.told(LOG, None)
    wait_until(lambda: start.assignment.blocked, what="an answer")
    assert start.assignment.blocked is not None
    assert reason in start.assignment.blocked.reason
    assert start.answer is None


def test_a_source_that_can_tell_is_believed_and_kafka_is_not_asked() -> None:
    """Its place is not the group's commit."""
    start = Start(ordered(lambda *_: 42))
    start.told(LOG, None)
    wait_until(lambda: start.answer, what="an answer")
    assert start.answer is not None
    assert start.answer.next == 42


def news(assignment: Assignment, offset: int) -> None:
    """Finish everything below *offset*."""
    tracker = assignment.tracker
    for number in range(tracker.next, offset):
        tracker.begin(number)
        tracker.done(number)


def test_one_commit_is_on_its_way_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one says what has happened since; an answer that never comes does not end committing."""
    kafka, assignment, told = Kafka(), parallel(), Commits("g")
    monkeypatch.setattr(commits, "SHORTEST_PAUSE_S", 0.0)
    monkeypatch.setattr(commits, "LONGEST_PAUSE_S", 0.0)
    for offset in (1, 2):
        news(assignment, offset)
        told.send(kafka.client, [assignment])
    assert [[place.offset for place in places] for places in kafka.commits] == [[1]]
    told.answered(None, kafka.commits[-1])
    told.send(kafka.client, [assignment])
    assert kafka.commits[-1][0].offset == 2
    monkeypatch.setattr(commits, "ANSWER_S", 0.0)
    news(assignment, 3)
    told.send(kafka.client, [assignment])
    assert kafka.commits[-1][0].offset == 3


def test_a_member_that_reads_nothing_but_what_may_be_repeated_commits_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """One queue that may not be repeated is enough to commit as soon as for any."""
    kafka, told = Kafka(), Commits("g")
    monkeypatch.setattr(commits, "SHORTEST_PAUSE_S", 0.0)
    monkeypatch.setattr(commits, "LONGEST_PAUSE_S", 0.0)
    queue = Queue("r", TopicSpec("r", 3), "g", repeatable=True)
    repeatable = Assignment("r", 0, ParallelBuffer(queue), AckTracker(0), started=True)
    other = parallel()

    def tells(offset: int, *assignments: Assignment) -> bool:
        before = len(kafka.commits)
        news(repeatable, offset)
        told.send(kafka.client, assignments)
        if len(kafka.commits) == before:
            return False
        told.answered(None, kafka.commits[-1])
        return True

    assert tells(1, repeatable, other)
    assert tells(2, repeatable)
    assert not tells(3, repeatable)
    assert told.due_in() > 0
    monkeypatch.setattr(commits, "SELDOM_S", 0.0)
    wait_until(lambda: told.due_in() <= 0, what="the pause to end")
    assert tells(4, repeatable)
    assert tells(5, repeatable)


def test_a_commit_that_failed_is_said_again(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """At once refused, refused later, or for one partition only."""
    kafka, assignments, told = Kafka(), [parallel(0), parallel(1)], Commits("g")
    monkeypatch.setattr(commits, "SHORTEST_PAUSE_S", 0.0)
    monkeypatch.setattr(commits, "LONGEST_PAUSE_S", 0.0)
    for assignment in assignments:
        news(assignment, 1)
    kafka.error = KafkaError(KafkaError._STATE)
    told.send(kafka.client, assignments)
    kafka.error = None
    told.send(kafka.client, assignments)
    told.answered(KafkaError(KafkaError.ILLEGAL_GENERATION), kafka.commits[-1])
    told.send(kafka.client, assignments)
    told.answered(None, kafka.commits[-1][:1])
    told.send(kafka.client, assignments)
    assert [[place.partition for place in places] for places in kafka.commits] == [[0, 1], [0, 1], [1]]
    assert caplog.text.count("kafka_commit_failed") == 2


@pytest.mark.parametrize(("share", "pause_s"), [(0.1, 0.004), (1.2, 0.016)])
def test_a_process_that_has_no_time_commits_less_often(
    monkeypatch: pytest.MonkeyPatch, share: float, pause_s: float
) -> None:
    """Each commit takes 0.1 ms of its owner's time here; what counts is how much the process as a whole worked."""
    clock = Clock(share)
    monkeypatch.setattr(commits, "time", clock)
    kafka, assignment, told = Kafka(), parallel(), Commits("g")
    for offset in (1, 2):
        clock.passes(1.0)
        news(assignment, offset)
        told.send(kafka.client, [assignment])
        told.answered(None, kafka.commits[-1])
    assert told.due_in() == pytest.approx(pause_s)


class Clock:
    """The module `time` of a process that works for a *share* of the time."""

    def __init__(self, share: float) -> None:
        self.share, self.now = share, 100.0
        self.worked = itertools.count(0.0, 0.0001)

    def passes(self, seconds: float) -> None:
        self.now += seconds

    def monotonic(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.now * self.share

    def thread_time(self) -> float:
        return next(self.worked)


def test_the_last_commit_says_whether_all_of_it_was_taken() -> None:
    """If not, what is known here is kept for the case that the partition comes back."""
    kafka, assignment, told = Kafka(), parallel(), Commits("g")
    news(assignment, 1)
    kafka.error = KafkaError(KafkaError.UNKNOWN_MEMBER_ID)
    assert not told.send_and_wait(kafka.client, [assignment])
    kafka.error = None
    assert told.send_and_wait(kafka.client, [assignment])
    assert told.send_and_wait(kafka.client, [assignment])
    assert len(kafka.commits) == 1


def test_a_map_without_room_sets_its_partition_aside_until_there_is_some(caplog: pytest.LogCaptureFixture) -> None:
    """New gaps are not begun; a map that does not fit at all is left out, since one such commit would fail them all."""
    caplog.set_level(logging.WARNING)
    kafka, assignment, told = Kafka(), parallel(), Commits("g")
    tracker = assignment.tracker
    for number in range(50_000):
        tracker.begin(number)
    for number in range(1, 50_000):  # without a pattern, so that no encoding makes it small
        if hashlib.md5(b"%d" % number, usedforsecurity=False).digest()[0] % 2:
            tracker.done(number)
    told.send_and_wait(kafka.client, [assignment])
    assert kafka.commits[-1][0].metadata == ""
    assert assignment.map_full
    assert "kafka_completion_map_full" in caplog.text
    for number in range(50_000):
        tracker.done(number)
    told.send_and_wait(kafka.client, [assignment])
    assert kafka.commits[-1][0].offset == 50_000
    assert not assignment.map_full
