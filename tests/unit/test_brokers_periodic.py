from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import dramatiq
import pytest
from confluent_kafka import KafkaError
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from msgspec.structs import replace

from brokers import KafkaBroker, cron, every
from brokers.declarations import Declarations
from brokers.errors import WrongSchedule
from brokers.periodic import missed, schedule_of
from brokers.producer import Pending
from brokers.records import Outgoing, Record
from brokers.roster import LEASE_S, RENEW_S, Declaration, Roster, State, Step
from brokers.topics import Queue, TopicSpec


BERLIN, LORD_HOWE = "Europe/Berlin", "Australia/Lord_Howe"
HOUR_MS = 3_600_000


def ms(*date: int, tz: str = "UTC") -> int:
    """Milliseconds since 1970."""
    return int(datetime(*date, tzinfo=ZoneInfo(tz)).timestamp() * 1000)  # type: ignore[arg-type, misc]


def times(text: str, start_ms: int, count: int, tz: str = BERLIN) -> list[str]:
    """The next so many times, in UTC."""
    schedule, found, at = cron(text, tz=tz), [], start_ms
    for _ in range(count):
        after = schedule.after(at)
        assert after is not None
        at = after
        found.append(f"{datetime.fromtimestamp(at / 1000, UTC):%m-%d %H:%M}")
    return found


def test_a_time_that_does_not_exist_is_made_up_for_after_the_gap() -> None:
    """In Berlin there was no half past two on 29 March 2026."""
    assert times("30 2 * * *", ms(2026, 3, 28), 3) == ["03-28 01:30", "03-29 01:00", "03-30 00:30"]


def test_a_time_that_exists_twice_counts_once() -> None:
    """In Berlin it was half past two twice on 25 October 2026; whatever time is asked from."""
    assert times("30 2 * * *", ms(2026, 10, 24, 12), 2) == ["10-25 00:30", "10-26 01:30"]
    between = ms(2026, 10, 25, 1, 10)  # after the first, before the second
    assert times("30 2 * * *", between, 1) == ["10-26 01:30"]


def test_a_schedule_with_stars_goes_by_elapsed_time() -> None:
    """Every quarter of an hour stays that when clocks change."""
    assert times("*/15 * * * *", ms(2026, 10, 25, 0, 45), 5) == [f"10-25 01:{m:02}" for m in (0, 15, 30, 45)] + [
        "10-25 02:00"
    ]


def test_a_schedule_with_stars_keeps_to_the_clocks_where_they_change_by_half_an_hour() -> None:
    """Lord Howe went from 2:00 to 2:30 on 4 October 2026, from +10:30 to +11."""
    assert times("0 */6 * * *", ms(2026, 10, 3, 7, 30), 4, LORD_HOWE) == [
        "10-03 13:30",  # midnight
        "10-03 19:00",  # six o'clock
        "10-04 01:00",
        "10-04 07:00",
    ]
    assert times("*/20 * * * *", ms(2026, 10, 3, 15, 10), 3, LORD_HOWE) == ["10-03 15:40", "10-03 16:00", "10-03 16:20"]


@given(
    st.sampled_from(["*/20 * * * *", "0 */6 * * *", "45 */1 * * *", "* 1,2 * * *", "*/7 2 * 3,4,10 SUN"]),
    st.sampled_from(
        [
            (BERLIN, ms(2026, 3, 29, 1)),
            (BERLIN, ms(2026, 10, 25, 1)),
            (LORD_HOWE, ms(2026, 10, 3, 15, 30)),
            (LORD_HOWE, ms(2026, 4, 4, 15)),
            ("America/New_York", ms(2026, 11, 1, 6)),
        ]
    ),
    st.integers(-8 * 3600, 8 * 3600),
)
@settings(deadline=None)
def test_a_schedule_with_stars_is_due_whenever_clocks_show_it(text: str, place: tuple[str, int], seconds: int) -> None:
    """As is found by looking at them every minute."""
    tz, change_ms = place
    start_ms = change_ms + seconds * 1000

    def shown(at_ms: int) -> datetime:
        return datetime.fromtimestamp(at_ms // 1000, ZoneInfo(tz)).replace(tzinfo=None, fold=0)

    minutes = range(start_ms // 60_000 * 60_000 + 60_000, start_ms + 9 * HOUR_MS, 60_000)
    looks = [at for at in minutes if next(CronSim(text, shown(at) - timedelta(seconds=1))) == shown(at)]
    found, at = [], cron(text, tz=tz).after(start_ms)
    while at is not None and at < start_ms + 9 * HOUR_MS:
        found.append(at)
        at = cron(text, tz=tz).after(at)
    assert found == looks


@given(
    st.sampled_from(["30 2 * * *", "*/20 * * * *", "0 */6 * * *", "15 1-4 * * *", "0 3 29 2 *", "59 23 L * *"]),
    st.sampled_from(["UTC", BERLIN, "America/New_York", LORD_HOWE, "Asia/Kathmandu"]),
    st.integers(ms(2024, 1, 1), ms(2028, 1, 1)),
)
@settings(max_examples=100, deadline=None)
def test_times_only_go_on(text: str, tz: str, start_ms: int) -> None:
    """Each is later than what it was asked from, and asking from between two gives the second."""
    schedule = cron(text, tz=tz)
    first = schedule.after(start_ms)
    assert first is not None
    assert first > start_ms
    second = schedule.after(first)
    assert second is not None
    assert second > first
    assert schedule.after(first + (second - first) // 2) == second
    assert schedule.after(first - 1) == first


@given(st.integers(1000, 10**9), st.integers(0, 2**41))
def test_a_period_has_the_same_times_for_everybody(period_ms: int, start_ms: int) -> None:
    """Multiples of it, whenever a worker started."""
    after = every(period_ms / 1000).after(start_ms)
    assert after is not None
    assert 0 < after - start_ms <= period_ms
    assert after % period_ms == 0


@given(
    st.one_of(
        st.builds(cron, st.sampled_from(["*/5 * * * *", "0  3 * * MON-FRI"]), tz=st.sampled_from(["UTC", BERLIN])),
        st.builds(every, st.integers(1000, 10**10).map(lambda ms: ms / 1000)),
    )
)
def test_a_schedule_survives_being_written_down(schedule: Any) -> None:
    """Workers with other code read it from the log."""
    assert schedule_of(schedule.text) == schedule


@pytest.mark.parametrize(
    ("declare", "reason"),
    [
        (lambda: cron("* * * *"), "5 fields"),
        (lambda: cron("0 0 * * * *"), "takes 5 fields"),
        (lambda: cron("61 * * * *"), "Bad minute"),
        (lambda: cron("0 0 30 2 *"), "Bad day-of-month"),
        (lambda: cron("0 3 * * *", tz="Europe/Atlantis"), "tzdata"),
        (lambda: cron("0 3 * * *", tz="/etc/passwd"), "not the name of a time zone"),
        (lambda: cron("0 3 * * *", grace=-1), "grace"),
        (lambda: every(0.5), "a second or longer"),
        (lambda: every(float("inf")), "no number of seconds"),
        (lambda: schedule_of("sometimes"), "is not a schedule"),
        (lambda: schedule_of("every now s"), "'now' is no number"),
    ],
)
def test_a_wrong_schedule_is_refused_where_it_is_declared(declare: Any, reason: str) -> None:
    """With the reason."""
    with pytest.raises(WrongSchedule, match=reason):
        declare()


def test_an_actor_that_cannot_be_called_is_refused() -> None:
    """It would fail every night."""
    broker = KafkaBroker()
    with pytest.raises(WrongSchedule, match="without arguments"):

        @dramatiq.actor(broker=broker, periodic=every(60))
        def needs(number: int) -> None: ...

    with pytest.raises(WrongSchedule, match=r"brokers\.cron"):

        @dramatiq.actor(broker=broker, periodic="* * * * *")
        def text() -> None: ...

    @dramatiq.actor(broker=broker, periodic=every(timedelta(minutes=1)), queue_name="log", ordered=True, batch=10)
    def batch(messages: list[Any]) -> None: ...


def test_of_many_missed_times_the_latest_counts_unless_it_is_too_old() -> None:
    """Never a burst."""
    hourly = cron("0 * * * *", grace=600)
    assert missed(hourly, ms(2026, 1, 1), ms(2026, 1, 5, 7, 5)) == ms(2026, 1, 5, 7)
    assert missed(hourly, ms(2026, 1, 1), ms(2026, 1, 5, 7, 30)) is None
    assert missed(hourly, ms(2026, 1, 5, 7), ms(2026, 1, 5, 7, 5)) is None
    strict = cron("0 * * * *", grace=0)
    assert missed(strict, ms(2026, 1, 1), ms(2026, 1, 5, 7) + 9_000) == ms(2026, 1, 5, 7)
    assert missed(strict, ms(2026, 1, 1), ms(2026, 1, 5, 7) + 11_000) is None


def test_a_process_declares_what_it_works_on_and_tries_again_when_it_must() -> None:
    """Nothing of queues that it only sends to; and soon again what Kafka did not confirm."""
    posted: list[Pending] = []

    def post(record: Outgoing) -> Pending:
        posted.append(Pending(record))
        return posted[-1]

    declarations = Declarations(post, "delayed", {})
    mine, other = (Queue(name, TopicSpec(f"p-{name}"), "g") for name in ("mine", "other"))
    declarations.add("report", mine, cron("0 3 * * *"))
    declarations.add("elsewhere", other, every(60))
    declarations.renew()
    assert posted == []

    assert declarations.work_on("mine")
    declarations.renew()
    declarations.renew()
    assert [pending.record.key for pending in posted] == [b"periodic/p-mine/report/cron 0 3 * * * UTC"]
    assert posted[0].record.partition == 0

    posted[0](KafkaError(KafkaError._MSG_TIMED_OUT), None)  # errors have no message
    declarations.renew()
    declarations._not_before = 0.0  # the pause is over
    declarations.renew()
    assert len(posted) == 2


def test_a_periodic_actor_that_comes_too_late_for_an_ordered_queue_is_refused() -> None:
    """Its worker takes no part in firing."""
    declarations = Declarations(Pending, "delayed", {})
    queue = Queue("log", TopicSpec("log", 1, exact=True), "g", ordered=True)
    assert not declarations.work_on("log")
    with pytest.raises(WrongSchedule, match="before the worker"):
        declarations.add("late", queue, every(60))


class Log:
    """A partition, and what reads it."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.fired: list[tuple[str, int]] = []

    def append(self, outgoing: Outgoing, now_ms: int) -> None:
        self.records.append(
            Record(outgoing.topic, 0, len(self.records), now_ms, outgoing.key, outgoing.value, dict(outgoing.headers))
        )

    def declare(self, schedule: str, since_ms: int, now_ms: int, actor: str = "a") -> None:
        self.append(Declaration("q", "q", actor, schedule, 3600, since_ms).record("delayed"), now_ms)

    def roster(self) -> Roster:
        """A new timer's."""
        roster = Roster()
        for record in self.records:
            roster.take(record)
        roster.all_is_read()
        return roster

    def commit(self, steps: list[Step], now_ms: int) -> None:
        for step in steps:
            self.append(step.state.record("delayed"), now_ms)
            if step.fires:
                self.fired.append((step.state.schedule, step.state.last_ms))

    def run(self, roster: Roster, now_ms: int) -> None:
        """All that is due."""
        while steps := roster.due(now_ms):
            self.commit(steps, now_ms)
            roster.written(steps)


def test_a_schedule_is_fired_once_and_goes_on() -> None:
    """Also by the next timer, which knows nothing but the log."""
    log = Log()
    log.declare("every 10 s", 5_000, 5_000)
    roster = log.roster()
    log.run(roster, 6_000)
    assert log.fired == []
    log.run(roster, 10_000)
    log.run(log.roster(), 10_500)
    assert roster.next_ms() is None or roster.next_ms() == 20_000
    log.run(log.roster(), 25_000)
    assert [at for _, at in log.fired] == [10_000, 20_000]


def test_an_echo_of_an_older_state_does_not_fire_again() -> None:
    """A timer reads its own records late."""
    log = Log()
    log.declare("every 10 s", 0, 0)
    roster = log.roster()
    for now in (10_000, 20_000, 30_000):
        log.run(roster, now)
    for record in log.records:
        roster.take(record)
    log.run(roster, 30_500)
    assert [at for _, at in log.fired] == [10_000, 20_000, 30_000]


def test_the_process_that_was_started_last_decides() -> None:
    """An old worker that goes on declaring its own schedule does not bring it back; a roll-back does."""
    log = Log()
    log.declare("every 10 s", 1_000, 1_000)
    log.run(log.roster(), 10_000)
    log.declare("every 7 s", 12_000, 12_000)  # the new code
    log.declare("every 10 s", 1_000, 13_000)  # the old one, still there
    log.run(log.roster(), 14_000)
    log.run(log.roster(), 20_000)
    assert log.fired == [("every 10 s", 10_000), ("every 7 s", 14_000)]
    log.declare("every 10 s", 20_500, 20_500)  # the old code, started again
    log.declare("every 10 s", 1_000, 20_600)
    for now in (21_000, 30_000):
        log.run(log.roster(), now)
    assert log.fired[2:] == [("every 10 s", 30_000)]


def test_a_changed_schedule_makes_up_for_nothing() -> None:
    """Times of the new one before it was declared are nobody's."""
    log = Log()
    log.declare("every 3600 s", 0, 0)
    log.run(log.roster(), 0)
    log.declare("every 3600 s", 0, HOUR_MS)
    log.run(log.roster(), HOUR_MS)
    later = HOUR_MS + 1_500_000
    log.declare("every 600 s", later, later)
    log.run(log.roster(), later)
    assert [at for _, at in log.fired] == [HOUR_MS]


def test_an_actor_that_nobody_declares_any_more_ends(caplog: pytest.LogCaptureFixture) -> None:
    """With a line in the log; and begins again when somebody does, with one time that was missed at most."""
    log = Log()
    log.declare("every 10 s", 0, 0)
    roster = log.roster()
    log.run(roster, 10_000)
    gone = int(LEASE_S * 1000) + 5_000
    with caplog.at_level(logging.INFO, logger="brokers.timers"):
        log.run(roster, gone)
        log.run(roster, gone + 100)
    assert [record.message.split()[0] for record in caplog.records] == ["kafka_periodic_ended"]
    assert roster.periodic(gone) == []
    assert len(log.fired) == 1

    log.declare("every 10 s", gone + 60_000, gone + 60_000)
    log.run(log.roster(), gone + 61_000)
    assert len(log.fired) == 2


def test_a_worker_whose_clock_is_slow_counts_all_the_same() -> None:
    """Its declarations are as old as they are here, once the timer reads them as they come."""
    log = Log()
    roster = log.roster()
    now = 10_000_000
    log.declare("every 10 s", now - HOUR_MS, now - HOUR_MS)
    for record in log.records:
        roster.take(record, now)
    log.run(roster, now)
    assert len(log.fired) == 1


def test_what_is_not_ours_or_not_readable_is_passed_over() -> None:
    """Bad input stops nothing."""
    roster = Roster()
    good = Declaration("q", "q", "a", "every 10 s", 3600, 0).record("delayed")
    assert not roster.take(Record("delayed", 0, 0, 0, b"k", b"v"))
    unknown = (good.value or b"").replace(b"every", b"never")
    for offset, value in enumerate((b"{", b"\xff", None, unknown)):
        assert roster.take(Record("delayed", 0, offset, 0, good.key, value, dict(good.headers)))
    roster.all_is_read()
    assert roster.due(10**9) == []


def test_the_message_says_for_which_time_it_is() -> None:
    """And its id follows from that."""
    declared = Declaration("p-q", "q", "report", "cron 0 3 * * * UTC", 3600, 0)
    step = Step(declared, State("p-q", "report", declared.schedule, 0, ms(2026, 11, 25, 3)), fires=True)
    outgoing = step.message(ms(2026, 11, 25, 3) + 7)
    message = dramatiq.Message.decode(outgoing.value or b"")
    assert message.message_id == "report@2026-11-25T03:00:00Z"
    assert message.options == {"scheduled_at": "2026-11-25T03:00:00+00:00"}
    assert (outgoing.topic, message.queue_name, message.args) == ("p-q", "q", ())


class Cluster(RuleBasedStateMachine):
    """Workers that declare, timers that come and go at every step, and a log that compacts."""

    @initialize()
    def begin(self) -> None:
        self.now = 1_000_000
        self.log = Log()
        self.roster = self.log.roster()
        self.log.declare("every 10 s", self.now, self.now)
        self.echo = 0

    @rule(ms=st.integers(1, 30_000))
    def time_passes(self, ms: int) -> None:
        self.now += ms

    @rule(period=st.sampled_from(["every 10 s", "every 3 s"]), age_ms=st.integers(0, 100_000))
    def a_worker_declares(self, period: str, age_ms: int) -> None:
        self.log.declare(period, max(self.now - age_ms, 1_000_000), self.now)

    @rule(records=st.integers(1, 5))
    def the_timer_reads_on(self, records: int) -> None:
        for record in self.log.records[self.echo : self.echo + records]:
            self.roster.take(record)
        self.echo = min(self.echo + records, len(self.log.records))

    @rule()
    def the_timer_fires(self) -> None:
        steps = self.roster.due(self.now)
        self.log.commit(steps, self.now)
        self.roster.written(steps)

    @rule()
    def the_timer_is_killed_after_its_commit(self) -> None:
        self.log.commit(self.roster.due(self.now), self.now)
        self.another_timer_takes_over()

    @rule()
    def another_timer_takes_over(self) -> None:
        self.roster, self.echo = self.log.roster(), len(self.log.records)

    @rule()
    def the_log_is_compacted(self) -> None:
        last = {record.key: record for record in self.log.records}
        kept = [record for record in self.log.records if last[record.key] is record]
        self.log.records = [replace(record, offset=n) for n, record in enumerate(kept)]
        self.another_timer_takes_over()

    def teardown(self) -> None:
        """Each time once, in order, none in the future."""
        fired = [at for _, at in self.log.fired]
        assert fired == sorted(set(fired))
        assert all(at <= self.now for at in fired)
        self.log.declare("every 10 s", self.now, self.now)
        before = len(fired)
        self.now += int(RENEW_S * 1000)
        self.log.run(self.log.roster(), self.now)
        assert len(self.log.fired) == before + 1


TestCluster = Cluster.TestCase
TestCluster.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
