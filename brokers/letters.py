"""Dead letters after they were parked: to be looked at, put back, or thrown away, one by one.

Kafka can delete a log from its beginning only, and a commit would be forgotten before the letters are.  So the log of
dead letters itself says which of them are dealt with: a *mark*, a record on the same partition that names their
offsets.  A letter is put back in one transaction: {message on its queue, mark on its letter}; a crash at any moment
neither loses nor repeats it.  Whoever replays or purges fences whoever did before on the same topic, and reads after
that, so that two at a time cannot put the same letter back twice.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from brokers import replays
from brokers.dead_letters import SETTLED, SUFFIX, mark
from brokers.errors import LetterUnknown, Unreachable, WrongTopic
from brokers.records import Outgoing
from brokers.replies import Place, TopicReader
from brokers.settling import Settling


if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from brokers.kafka import KafkaBroker
    from brokers.records import Record

logger = logging.getLogger("brokers.letters")

#: Replays after which a letter is put back only by force.
MAX_REPLAYS = 3

#: Letters that are dealt with in one transaction, at most; with a rate, a tenth of a second's.
TOGETHER = 500
RATE_STEP_S = 0.1

#: Seconds without a single new record after which reading a topic is given up.
STALL_S = 10.0


@dataclass(frozen=True, slots=True)
class Letter:
    """One parked record.  *topic*, *partition* and *offset* are its place among the dead letters."""

    topic: str
    partition: int
    offset: int
    parked_ms: int
    key: bytes | None
    value: bytes | None
    headers: Mapping[str, bytes]

    @property
    def id(self) -> str:
        """``partition/offset``: what names it within its queue."""
        return f"{self.partition}/{self.offset}"

    def text(self, header: str) -> str:
        """A header for people; empty where it is missing."""
        return self.headers.get(header, b"").decode(errors="replace")

    @property
    def message_id(self) -> str:
        """Empty for what is no message."""
        return self.text("message_id")

    @property
    def actor(self) -> str:
        """Empty for what is no message."""
        return self.text("actor")

    @property
    def error(self) -> str:
        """The kind of failure."""
        return self.text("xq.error")

    @property
    def attempts(self) -> int | None:
        """How often it was tried before it was parked; none where an older version parked it."""
        return replays.number(self.headers, "xq.attempts")

    @property
    def replayed(self) -> int:
        """How often it was put back before."""
        return replays.number(self.headers, replays.COUNT) or 0

    @property
    def destination(self) -> str:
        """The topic to which it belongs."""
        return self.text("xq.to") or self.text("xq.topic") or self.topic.removesuffix(SUFFIX)

    def summary(self) -> dict[str, Any]:
        """What a list shows, for JSON."""
        return {
            "id": self.id,
            "message_id": self.message_id,
            "actor": self.actor,
            "error": self.error,
            "reason": self.text("xq.reason"),
            "parked_ms": self.parked_ms,
            "attempts": self.attempts,
            "replayed": self.replayed,
        }

    def again(self) -> Outgoing:
        """The record as it was, to be put back."""
        entry = {
            "parked_ms": self.parked_ms,
            "error": self.error,
            "reason": self.text("xq.reason"),
            "attempts": self.attempts,
            "worker": self.text("xq.worker"),
        }
        return Outgoing(self.destination, self.value, self.key, replays.again(self.headers, entry))


@dataclass(frozen=True, slots=True)
class Where:
    """Which letters are meant; what is not set does not matter.  *ids* are places or message ids."""

    ids: frozenset[str] = frozenset()
    error: str | None = None
    actor: str | None = None
    since_ms: int | None = None
    before_ms: int | None = None

    def __call__(self, letter: Letter) -> bool:
        """Whether *letter* is one of them."""
        return (
            (not self.ids or letter.id in self.ids or letter.message_id in self.ids)
            and self.error in {None, letter.error}
            and self.actor in {None, letter.actor}
            and (self.since_ms is None or letter.parked_ms >= self.since_ms)
            and (self.before_ms is None or letter.parked_ms < self.before_ms)
        )


#: All of them.
ALL = Where()


@dataclass(slots=True)
class Outcome:
    """What became of letters: how many are dealt with, and which are not, with the reason of each."""

    settled: int = 0
    refused: list[tuple[Letter, str]] = field(default_factory=list)


class DeadLetters:
    """The dead letters of one queue that wait for somebody.  Each method reads the whole topic.

    All raise `Unreachable` when Kafka is away.
    """

    def __init__(self, broker: KafkaBroker, queue: str, topic: str) -> None:
        self.queue = queue
        self.topic = topic
        self._broker = broker

    def list(self, where: Where = ALL, limit: int | None = None) -> list[Letter]:
        """The letters that are meant, the oldest first; of more than *limit* the oldest."""
        found = sorted(_waiting(self._broker, [self.topic], where)[self.topic], key=_age)
        missing = where.ids - {name for letter in found for name in (letter.id, letter.message_id)}
        if missing:
            raise LetterUnknown(f"no letter of queue {self.queue!r} waits under {', '.join(sorted(missing))}")
        return found[:limit]

    def get(self, letter_id: str) -> Letter:
        """One letter, by its place or its message's id; of several of that message the newest.

        Raises:
          LetterUnknown: there is none, or it was dealt with.
        """
        return self.list(Where(frozenset({letter_id})))[-1]

    def refusals(self, letters: Collection[Letter], *, force: bool = False) -> Sequence[tuple[Letter, str]]:
        """Those that cannot be put back, and why."""
        topics = {letter.destination for letter in letters}
        missing = {topic for topic in topics if self._broker.topics.partitions(topic) is None}
        ordered = {queue.topic.name for queue in self._broker.queues.values() if queue.ordered}
        reasons = ((letter, _refusal(letter, missing, ordered, force=force)) for letter in letters)
        return [(letter, reason) for letter, reason in reasons if reason]

    def replay(
        self,
        where: Where = ALL,
        *,
        limit: int | None = None,
        rate: float | None = None,
        force: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Outcome:
        """Put letters back on their queue, with value and key as they were, oldest first.

        Each is put back once, also when this process is killed in between: its mark and its message are one
        transaction.  *rate*: letters a second; *force*: also those that were replayed `MAX_REPLAYS` times; *progress*
        is called with the number done and the number of all.

        Raises:
          LetterUnknown: one that is named does not wait.
          LettersBusy: somebody else has begun to replay or purge.
        """
        with Settling(self._broker.client_settings, self.topic) as settling:
            letters = self.list(where, limit)
            outcome = Outcome(refused=[*self.refusals(letters, force=force)])
            refused = {letter.id for letter, _ in outcome.refused}
            good = [letter for letter in letters if letter.id not in refused]
            for batch in _paced(good, rate):
                settling.commit([*(letter.again() for letter in batch), *_marks(batch, "replayed")])
                outcome.settled += len(batch)
                if progress is not None:
                    progress(outcome.settled, len(good))
        logger.info("kafka_letters_replayed topic=%s letters=%d", self.topic, outcome.settled)
        return outcome

    def purge(self, where: Where = ALL, *, limit: int | None = None) -> Outcome:
        """Throw letters away: they show up no more.

        Their bytes go at once where nothing older waits in their partition, else when what is older is dealt with and
        somebody purges again, and after the topic's retention in any case.  Raises as `replay` does.
        """
        outcome = Outcome()
        with Settling(self._broker.client_settings, self.topic) as settling:
            for batch in _paced(self.list(where, limit), None):
                settling.commit(_marks(batch, "purged"))
                outcome.settled += len(batch)
            settling.delete_below(self._settled_below())
        logger.info("kafka_letters_purged topic=%s letters=%d", self.topic, outcome.settled)
        return outcome

    def _settled_below(self) -> dict[int, int]:
        """For each partition the offset below which nothing waits."""
        pile = _read(self._broker, [self.topic], ALL)
        below = {partition: end for (_, partition), end in pile.ends.items()}
        for letter in pile.waiting():
            below[letter.partition] = min(below[letter.partition], letter.offset)
        return below


def overview(broker: KafkaBroker) -> dict[str, int]:
    """How many letters wait in each queue: all ``.XQ`` topics under the broker's prefix, whoever made them."""
    topics = [t for t in broker.topics.names() if t.startswith(broker.prefix) and t.endswith(SUFFIX)]
    found = _waiting(broker, topics, ALL)
    return {topic.removeprefix(broker.prefix).removesuffix(SUFFIX): len(found[topic]) for topic in topics}


def dead_letters(broker: KafkaBroker, queue_name: str) -> DeadLetters:
    """See `KafkaBroker.dead_letters`."""
    queue = broker.queues.get(queue_name)
    topic = queue.dead_letters.name if queue is not None else f"{broker.prefix}{queue_name}{SUFFIX}"
    if queue is None and broker.topics.partitions(topic) is None:
        raise WrongTopic(f"there is no queue {queue_name!r}: it is not declared, and there is no topic {topic!r}")
    return DeadLetters(broker, queue_name, topic)


def _refusal(letter: Letter, missing: set[str], ordered: set[str], *, force: bool) -> str:
    """Why *letter* cannot be put back; empty when it can."""
    if letter.text("xq.ordered") or letter.destination in ordered:
        return (
            "its queue is ordered: put back, it would come after all that followed it; if that is right,"
            " send it anew as a message of its own"
        )
    if "xq.cut" in letter.headers:
        place = f"{letter.text('xq.topic')}/{letter.text('xq.partition')}@{letter.text('xq.offset')}"
        return f"it was too large to be kept whole ({letter.text('xq.cut')}); the record itself lay at {place}"
    if letter.destination in missing:
        return f"there is no topic {letter.destination!r}"
    if letter.replayed >= MAX_REPLAYS and not force:
        return f"it was replayed {letter.replayed} times already, and failed each time; --force replays it all the same"
    return ""


def _marks(letters: Sequence[Letter], how: str) -> list[Outgoing]:
    by_partition: dict[int, list[int]] = defaultdict(list)
    for letter in letters:
        by_partition[letter.partition].append(letter.offset)
    return [mark(letters[0].topic, partition, offsets, how) for partition, offsets in by_partition.items()]


def _age(letter: Letter) -> tuple[int, int, int]:
    return letter.parked_ms, letter.partition, letter.offset


def _paced(letters: Sequence[Letter], rate: float | None) -> Iterator[Sequence[Letter]]:
    """Batches of *letters*, no faster than *rate* a second."""
    size = TOGETHER if rate is None else max(1, min(TOGETHER, int(rate * RATE_STEP_S)))
    began = time.monotonic()
    for first in range(0, len(letters), size):
        if rate is not None:
            time.sleep(max(began + first / rate - time.monotonic(), 0))
        yield letters[first : first + size]


class _Pile:
    """Letters as they are read, less those that are marked."""

    def __init__(self, where: Where) -> None:
        self.ends: dict[tuple[str, int], int] = {}
        self.read = 0
        self._where = where
        self._letters: dict[tuple[str, int, int], Letter] = {}

    def take(self, record: Record) -> None:
        self.read += 1
        self.ends[record.topic, record.partition] = record.offset + 1
        settled = record.headers.get(SETTLED)
        if settled is not None:
            for offset in settled.split(b","):
                if offset.isdigit():
                    self._letters.pop((record.topic, record.partition, int(offset)), None)
            return
        letter = Letter(
            record.topic,
            record.partition,
            record.offset,
            record.timestamp_ms,
            record.key,
            record.value,
            record.headers,
        )
        if self._where(letter):
            self._letters[record.topic, record.partition, record.offset] = letter

    def waiting(self) -> list[Letter]:
        return list(self._letters.values())


def _waiting(broker: KafkaBroker, topics: Sequence[str], where: Where) -> dict[str, list[Letter]]:
    found: dict[str, list[Letter]] = {topic: [] for topic in topics}
    for letter in _read(broker, topics, where).waiting():
        found[letter.topic].append(letter)
    return found


def _read(broker: KafkaBroker, topics: Sequence[str], where: Where) -> _Pile:
    """Read all of *topics*, for as long as there is progress."""
    pile = _Pile(where)
    places = [
        Place(topic, partition, from_start=True)
        for topic in topics
        for partition in range(broker.topics.partitions(topic) or 0)
    ]
    if not places:
        return pile
    reader = TopicReader(broker.client_settings, places, pile.take, timeout_s=STALL_S)
    try:
        before = -1
        while not reader.wait_caught_up(STALL_S):
            if pile.read == before or not reader.running:
                raise Unreachable(f"dead letters could not be read to their end{reader.health.why()}")
            before = pile.read
    finally:
        reader.close()
    return pile
