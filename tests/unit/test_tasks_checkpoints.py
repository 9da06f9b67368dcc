"""When a replica publishes its checkpoints: a few at a time, in order, and all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import msgspec
import pytest

from brokers.errors import Unreachable
from brokers.topics import TopicSpec
from replica.digest import INTERVAL, KEPT, Checkpoint
from tasks.checkpoints import TOGETHER, WAITS_S, Watch


if TYPE_CHECKING:
    from collections.abc import Callable

    from brokers import KafkaBroker
    from brokers.records import Outgoing
    from tasks.decisions import Decisions


class Broker:
    """Takes what is posted, but for the first few."""

    def __init__(self, failing: int = 0) -> None:
        self.published: list[int] = []
        self._failing = failing

    def post(self, record: Outgoing, _spec: TopicSpec) -> Callable[[], object]:
        if self._failing:
            self._failing -= 1
            raise Unreachable("for now")
        self.published.append(msgspec.json.decode(record.value or b"")["before"] // INTERVAL)
        return lambda: None


def watch_of(broker: Broker) -> Watch:
    """A replica that nobody else has anything to say to."""
    return Watch(
        cast("KafkaBroker", broker), TopicSpec("checkpoints", 1), cast("Decisions", None), "replica-1", timeout_s=1
    )


def passed(*numbers: int) -> list[Checkpoint]:
    """Those with these numbers."""
    return [Checkpoint(number * INTERVAL, 1, 1, "chain", {}) for number in numbers]


def test_what_follows_soon_is_published_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first at once, the next when there are enough of them, when time is up, or when somebody waits."""
    clock = [100.0]
    monkeypatch.setattr("tasks.checkpoints.time.monotonic", lambda: clock[0])
    broker = Broker()
    watch, seen = watch_of(broker), []
    for number in range(1, 3 + TOGETHER):
        watch.say(passed(number))
        seen.append(len(broker.published))
    clock[0] += 2 * WAITS_S
    watch.say(passed(90))
    seen.append(len(broker.published))
    watch.say(passed(91))
    watch.confirm()
    assert seen == [1] * TOGETHER + [1 + TOGETHER] * 2 + [3 + TOGETHER]
    assert broker.published == [*range(1, 3 + TOGETHER), 90, 91]


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_none_is_lost_where_kafka_is_away(failing: int) -> None:
    """Whichever cannot be sent: all are, in order, when somebody asks again."""
    broker = Broker(failing)
    watch = watch_of(broker)
    for _ in range(failing):
        with pytest.raises(Unreachable):
            watch.say(passed(1, 2, 3)) if _ == 0 else watch.confirm()
    watch.confirm()
    assert broker.published == [1, 2, 3]


def test_a_graph_keeps_all_that_a_killed_process_may_not_have_said() -> None:
    """Those that wait for others, and those that are on their way."""
    assert 2 * TOGETHER <= KEPT
