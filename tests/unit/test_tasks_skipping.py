from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from dramatiq.errors import ConnectionFailed
from hypothesis import given
from hypothesis import strategies as st

from replica import plan
from replica.alike import Alike
from replica.shapes import shape_of
from replica.statement import Command, Statement
from tasks import holding, skipping
from tasks.decisions import Decision, skip_target
from tasks.holding import Holdings
from tasks.outcomes import Holding


if TYPE_CHECKING:
    from brokers import KafkaBroker
    from brokers.records import Outgoing
    from brokers.topics import TopicSpec

TOPIC: Final = "topic-id"


def decision(offset: int, *, decided: bool, topic_id: str = TOPIC, at_ms: int = 5) -> Decision:
    """A skip, proposed or decided."""
    return Decision("skip", skip_target(topic_id, offset), topic_id, "poison", "ann@host", at_ms, decided)


def commands(count: int) -> list[Command]:
    """Consecutive ones from 0."""
    return [Command(offset, (Statement("CREATE (:X)"),)) for offset in range(count)]


def held(replica: str, offset: int, *, agreed_ms: int = 0, code: str = "Neo.X", at_ms: int = 9) -> Holding:
    """What a replica says."""
    return Holding(replica, TOPIC, offset, code, "why", 1, at_ms, 1, agreed_ms)


def test_a_decided_command_is_not_run_and_ends_alike_everywhere() -> None:
    """Its statements are gone, its outcome is the decision's text."""
    ready, proposal = skipping.prepared(commands(3), {1: decision(1, decided=True)})
    assert proposal is None
    assert [plan.verdict(command) is None for command in ready] == [True, False, True]
    outcome = plan.verdict(ready[1])
    assert outcome is not None
    assert (outcome.offset, outcome.code, outcome.message) == (1, "Replica.Skipped", "poison (ann@host)")
    assert ready[1].statements == ()


def test_a_plain_command_among_its_like_is_skipped_all_the_same() -> None:
    """Nothing that was known of the text counts any more: so it ends where a replica reads the whole log again."""
    text, parameters = "CREATE (:X {a: $a})", {"a": 1}
    shape = shape_of(text, parameters)
    assert shape is not None
    plain = Alike(text, shape, range(5), {"a": [1] * 5}, 500)
    for found in (plain, list(plain)):
        ready, _ = skipping.prepared(found, {2: decision(2, decided=True)})
        [unit] = plan.units(ready, batch=9)
        assert [plan.verdict(each) for each in unit.groups if isinstance(each, Command)] == [plan.verdict(ready[2])]
        assert plan.verdict(ready[2]) is not None
        assert [len(each.commands) for each in unit.groups if isinstance(each, plan.Group)] == [2, 2]


def test_a_refused_command_that_is_skipped_is_skipped() -> None:
    """One outcome, whichever of the two a replica learns first."""
    ready, _ = skipping.prepared([Command(0, (), refused="no JSON")], {0: decision(0, decided=True)})
    outcome = plan.verdict(ready[0])
    assert outcome is not None
    assert outcome.code == plan.SKIPPED


@given(st.integers(0, 5), st.dictionaries(st.integers(0, 6), st.booleans()))
def test_nothing_at_or_behind_a_proposal_is_handed_on(count: int, made: dict[int, bool]) -> None:
    """What is before it is; the order stays."""
    found = {offset: decision(offset, decided=decided) for offset, decided in made.items()}
    ready, proposal = skipping.prepared(commands(count), found)
    proposed = [offset for offset, decided in made.items() if not decided and offset < count]
    assert [command.offset for command in ready] == list(range(min([*proposed, count])))
    assert proposal == (found[min(proposed)] if proposed else None)
    assert {command.offset for command in ready if command.skipped} == {o for o in made if made[o]} & set(
        range(len(ready))
    )


def test_only_decisions_about_this_log_count() -> None:
    """A topic of the same name that was made anew has other commands at the same offsets."""
    other = decision(2, decided=True, topic_id="older")
    broken = Decision("skip", f"{TOPIC}/two", TOPIC, "", "", 0)
    lying = Decision("skip", f"{TOPIC}/3", "older", "", "", 0)
    pause = Decision("pause", f"{TOPIC}/4", TOPIC, "", "", 0)
    mine = decision(1, decided=False)
    assert skipping.skips([other, broken, lying, pause, mine], TOPIC) == {1: mine}


def test_a_vote_is_carried_by_all_or_not_at_all() -> None:
    """An agreement is to one proposal, by its time; who has passed the command cannot agree any more."""
    proposal = decision(7, decided=False, at_ms=5)
    agreed, late = held("a", 7, agreed_ms=5), held("b", 7, agreed_ms=4)
    positions = {"a": 6, "b": 6}
    assert skipping.vote(positions, {"a": agreed, "b": held("b", 7, agreed_ms=5)}, TOPIC, 7, proposal).carried
    assert skipping.vote(positions, {"a": agreed, "b": late}, TOPIC, 7, proposal).missing == ("b",)
    assert skipping.vote(positions, {"a": agreed, "b": late}, TOPIC, 7, None).holding == ("a", "b")
    assert skipping.vote({"a": 6, "b": 7}, {"a": agreed}, TOPIC, 7, proposal).passed == ("b",)
    assert skipping.vote(positions, {"a": held("a", 8, agreed_ms=5)}, TOPIC, 7, proposal).missing == ("a", "b")
    objecting = held("b", 7, code=skipping.OBJECTED)
    assert skipping.vote(positions, {"b": objecting}, TOPIC, 7, proposal).objections == ("b: why",)


class Kafka:
    """Keeps what is published, or is away."""

    def __init__(self) -> None:
        self.records: list[Outgoing] = []
        self.away = False

    def publish(self, record: Outgoing, _spec: TopicSpec) -> None:
        """As the broker does."""
        if self.away:
            raise ConnectionFailed("away")  # type: ignore[no-untyped-call]  # Dramatiq's gap
        self.records.append(record)


def holdings() -> tuple[Holdings, Kafka, list[float]]:
    """A replica's holdings, with a clock that stands still."""
    from brokers.topics import TopicSpec

    kafka, clock = Kafka(), [100.0]
    made = Holdings(cast("KafkaBroker", kafka), TopicSpec("replicas", 1, 1), "r", lambda: clock[0])
    return made, kafka, clock


def last(kafka: Kafka) -> Any:
    """What lies under the key."""
    return holding.read(kafka.records[-1].key, kafka.records[-1].value)


def test_what_is_held_is_told_once_and_then_now_and_then() -> None:
    """Since the first attempt; a new reason at once."""
    made, kafka, clock = holdings()
    for _ in range(3):
        made.tell(TOPIC, 4, "Neo.A", "why")
    assert last(kafka) == ("r", Holding("r", TOPIC, 4, "Neo.A", "why", 100_000, 100_000, 1))
    clock[0] += holding.AGAIN_S
    made.tell(TOPIC, 4, "Neo.A", "why")
    assert last(kafka) == ("r", Holding("r", TOPIC, 4, "Neo.A", "why", 100_000, 105_000, 4))
    made.tell(TOPIC, 4, "Neo.B", "why")
    assert last(kafka)[1].attempts == 5
    made.tell(TOPIC, 4, "Neo.B", "why", agreed_ms=7)
    assert last(kafka)[1].agreed_ms == 7
    assert len(kafka.records) == 4


def test_the_record_goes_when_the_command_has_gone_through() -> None:
    """Not before; and whatever a killed process has left goes with the first command."""
    made, kafka, _ = holdings()
    made.passed(3)
    assert [record.value for record in kafka.records] == [None]
    made.tell(TOPIC, 4, "Neo.A", "why")
    made.passed(3)
    assert last(kafka)[1] is not None
    made.passed(4)
    assert last(kafka) == ("r", None)
    made.passed(5)
    assert len(kafka.records) == 3


def test_word_that_kafka_did_not_take_is_told_again() -> None:
    """And hides nothing: telling never raises."""
    made, kafka, _ = holdings()
    kafka.away = True
    made.tell_start(TOPIC, "Neo.A", "why")
    kafka.away = False
    made.tell_start(TOPIC, "Neo.A", "why")
    assert last(kafka)[1].offset == holding.NO_COMMAND
    kafka.away = True
    made.passed(-1)
    kafka.away = False
    made.passed(-1)
    assert last(kafka) == ("r", None)


def test_a_record_that_is_none_of_ours_is_left_to_others() -> None:
    """Registrations lie on the same topic; what cannot be read says nothing."""
    assert holding.read(b"replica-1", b"{}") is None
    assert holding.read(None, None) is None
    assert holding.read(b"held/r", b"nonsense") == ("r", None)
    assert held("r", 4).is_since(TOPIC, 3)
    assert not held("r", 4).is_since(TOPIC, 4)
    assert not held("r", 4).is_since("other", 3)
    assert held("r", -1).is_since("", 9)
