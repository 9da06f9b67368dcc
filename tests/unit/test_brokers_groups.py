"""Waiting for a queue, without a server: what is asked, how often, and what is believed."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, cast

import pytest
from dramatiq.errors import QueueJoinTimeout

from brokers import groups
from brokers.errors import Unreachable
from brokers.groups import Groups
from brokers.topics import Queue, TopicSpec
from brokers.waiting import Waiting


if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from confluent_kafka.admin import AdminClient

    from brokers.bounds import Place
    from brokers.later import Later
    from brokers.topics import Topics

QUEUE = Queue("mine", TopicSpec("mine", 1), "group", max_priority=1)
DELAYED = TopicSpec("delayed", 1)


class Server:
    """What Kafka would say: the ends of logs, what is committed, and what is delayed."""

    def __init__(self) -> None:
        self.ends = {"mine": 3, "mine.p1": 2, "delayed": 0}
        self.done = {"mine": 3, "mine.p1": 2}
        self.delayed: list[str] = []
        self.reads = 0
        self.silent = 0
        #: Called at each question about ends.
        self.meanwhile: Callable[[], None] = lambda: None

    def ensure(self, spec: TopicSpec) -> int:
        """One partition each."""
        return 1

    def bounds(self, admin: object, places: Collection[Place], timeout_s: float) -> dict[Place, tuple[int, int]]:
        """As `brokers.bounds`."""
        if self.silent:
            self.silent -= 1
            return {}
        found = {place: (0, self.ends[place[0]]) for place in places}
        self.meanwhile()
        return found

    def commits(self, group_id: str, places: Collection[Place]) -> dict[Place, int]:
        """What the group has committed."""
        return {place: self.done[place[0]] for place in places}

    def waiting(self, limit: int, progress: object, *, queue: str | None, actor: str | None) -> Waiting:
        """What is delayed."""
        self.reads += 1
        return Waiting((), Counter(self.delayed), (), len(self.delayed))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server where all is done."""
    server = Server()
    monkeypatch.setattr(groups, "bounds", server.bounds)
    return server


def of(server: Server, timeout_s: float = 5) -> Groups:
    """What is tested."""
    answers = Groups(
        lambda: cast("AdminClient", None), cast("Topics", server), DELAYED, cast("Later", server), timeout_s
    )
    answers._commits = server.commits  # type: ignore[method-assign]
    return answers


def test_a_queue_is_done_when_all_its_levels_are(server: Server) -> None:
    """And nothing was ever delayed, so that nobody has to read what is."""
    assert of(server).left(QUEUE) == 0
    of(server).join(QUEUE, 0)
    assert server.reads == 0
    server.done["mine.p1"] = 1
    assert of(server).left(QUEUE) == 1
    with pytest.raises(QueueJoinTimeout):
        of(server).join(QUEUE, 0)


@pytest.mark.parametrize("topic", ["mine", "mine.p1"])
def test_what_is_delayed_is_not_done(server: Server, topic: str) -> None:
    """On whichever level; what is delayed for others does not matter."""
    server.ends["delayed"] = 1
    server.delayed = [topic]
    with pytest.raises(QueueJoinTimeout):
        of(server).join(QUEUE, 0)
    server.delayed = ["other"]
    of(server).join(QUEUE, 0)


def test_what_fires_between_two_looks_is_noticed(server: Server) -> None:
    """The queue looks done, and the delayed topic has grown meanwhile: what has fired may be on the queue by now."""
    asked: list[int] = []

    def fire() -> None:
        asked.append(1)
        if len(asked) == 2:  # the delayed topic was looked at, and the queue comes next
            server.ends["delayed"] += 1

    server.meanwhile = fire
    with pytest.raises(QueueJoinTimeout):
        of(server).join(QUEUE, 0)
    assert len(asked) == 4
    of(server).join(QUEUE, 0)


def test_a_leader_that_does_not_answer_yet_is_asked_again(server: Server) -> None:
    """As after a topic was made; for ever would be too long."""
    server.silent = 3
    assert of(server).left(QUEUE) == 0
    server.silent = 99
    with pytest.raises(Unreachable, match="mine"):
        of(server, timeout_s=0).left(QUEUE)
