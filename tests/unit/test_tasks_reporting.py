"""Reports are published in order, and none is skipped: what is not confirmed is sent again before anything else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest

from brokers.errors import DeliveryUnknown
from brokers.topics import TopicSpec
from replica.statement import Applied, Outcome
from tasks.outcomes import Report
from tasks.reporting import Reports


if TYPE_CHECKING:
    from collections.abc import Callable

    from brokers import KafkaBroker
    from brokers.records import Outgoing


class Kafka:
    """Takes records, and confirms them when it is asked, until told to fail."""

    def __init__(self) -> None:
        self.posted: list[tuple[int, int]] = []
        self.confirmed: list[tuple[int, int]] = []
        self.errors: list[Exception] = []

    def post(self, record: Outgoing, _spec: TopicSpec) -> Callable[[], None]:
        report = msgspec.json.decode(record.value or b"", type=Report)
        place = report.first, report.last
        self.posted.append(place)

        def confirm() -> None:
            if self.errors:
                raise self.errors.pop(0)
            self.confirmed.append(place)

        return confirm


@pytest.fixture
def kafka() -> Kafka:
    """Nothing is on it."""
    return Kafka()


@pytest.fixture
def reports(kafka: Kafka) -> Reports:
    """Those of a replica whose graph is at offset 4, and all of that is published."""
    found = Reports(cast("KafkaBroker", kafka), TopicSpec("outcomes", 1), "replica-1")
    found.begin(4)
    return found


def applied(first: int, last: int, **rest: Any) -> Applied:
    """With no outcome but the common one."""
    return Applied(first, last, rest.pop("rejected", ()), **rest)


def test_a_report_is_published_when_the_next_one_is_said_at_the_latest(kafka: Kafka, reports: Reports) -> None:
    """One of them is under way, and that one does not count yet."""
    reports.say(applied(5, 6), "id")
    assert (kafka.posted, kafka.confirmed, reports.published) == ([(5, 6)], [], 4)
    reports.say(applied(7, 9), "id")
    assert (kafka.posted, kafka.confirmed, reports.published) == ([(5, 6), (7, 9)], [(5, 6)], 6)
    reports.confirm()
    reports.confirm()
    assert (kafka.confirmed, reports.published) == ([(5, 6), (7, 9)], 9)


def test_a_report_that_was_lost_is_sent_again_before_the_next_one(kafka: Kafka, reports: Reports) -> None:
    """A caller takes the last offset that it hears of for the replica's position: a gap would hide a rejection."""
    reports.say(applied(5, 6, rejected=(Outcome(6, applied=False, code="c", message="m"),)), "id")
    kafka.errors = [DeliveryUnknown("away", message_id=""), DeliveryUnknown("away", message_id="")]
    for _ in range(2):
        with pytest.raises(DeliveryUnknown):
            reports.say(applied(7, 9), "id")
        assert (kafka.confirmed, reports.published) == ([], 4)
    reports.say(applied(7, 9), "id")
    reports.confirm()
    assert kafka.posted == [(5, 6), (5, 6), (5, 6), (7, 9)]
    assert kafka.confirmed == [(5, 6), (7, 9)]


def test_what_was_under_way_before_a_start_is_said_by_the_graph(kafka: Kafka, reports: Reports) -> None:
    """The applier reads there what is not published: nothing is sent twice for that, and nothing left out."""
    reports.say(applied(5, 6), "id")
    reports.begin(4)
    reports.confirm()
    assert (kafka.confirmed, reports.published) == ([], 4)
