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
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from brokers.dead_letters import SUFFIX, mark
from brokers.errors import DeliveryRefused, LetterUnknown, Unreachable, WrongTopic
from brokers.letters import ALL, Pile, Where, refusal, whole, without_traceback, without_value
from brokers.replies import Place, TopicReader
from brokers.settling import Settling


if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from brokers.kafka import KafkaBroker
    from brokers.letters import Keep, Letter
    from brokers.records import Outgoing

logger = logging.getLogger("brokers.letters")

#: Letters that are dealt with in one transaction, at most; with a rate, a tenth of a second's.
TOGETHER = 500
RATE_STEP_S = 0.1

#: Seconds without a single new record after which reading a topic is given up.
STALL_S = 10.0


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

    def list(self, where: Where = ALL, limit: int | None = None) -> Sequence[Letter]:
        """The letters that are meant, the oldest first; of more than *limit* the oldest.

        Without their values and tracebacks, so that there may be many; `get` has them.

        Raises:
          LetterUnknown: one that is named does not wait.
        """
        return self._find(where, limit, without_value)

    def _find(self, where: Where, limit: int | None, keep: Keep) -> Sequence[Letter]:
        found = sorted(
            _read(self._broker, [self.topic], where, keep).waiting(),
            key=lambda one: (one.parked_ms, one.partition, one.offset),
        )
        missing = where.ids - {name for letter in found for name in (letter.id, letter.message_id)}
        if missing:
            raise LetterUnknown(f"no letter of queue {self.queue!r} waits under {', '.join(sorted(missing))}")
        return found[:limit]

    def get(self, letter_id: str) -> Letter:
        """One letter, by its place or its message's id; of several of that message the newest.

        Raises:
          LetterUnknown: there is none, or it was dealt with.
        """
        return self._find(Where(frozenset({letter_id})), None, whole)[-1]

    def refusals(self, letters: Collection[Letter], *, force: bool = False) -> Sequence[tuple[Letter, str]]:
        """Those that cannot be put back, and why."""
        missing = {letter.destination for letter in letters} - self._broker.topics.all().keys()
        ordered = {queue.topic.name for queue in self._broker.queues.values() if queue.ordered}
        reasons = ((letter, refusal(letter, missing, ordered, force=force)) for letter in letters)
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
            letters = self._find(where, limit, without_traceback)
            outcome = Outcome(refused=[*self.refusals(letters, force=force)])
            refused = {letter.id for letter, _ in outcome.refused}
            good = [letter for letter in letters if letter.id not in refused]
            for batch in _paced(good, rate):
                _put_back(settling, batch, outcome)
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
        pile = _read(self._broker, [self.topic], ALL, without_value)
        below = {partition: end for (_, partition), end in pile.ends.items()}
        for letter in pile.waiting():
            below[letter.partition] = min(below[letter.partition], letter.offset)
        return below


def overview(broker: KafkaBroker) -> dict[str, int]:
    """How many letters wait in each queue: all ``.XQ`` topics under the broker's prefix, whoever made them."""
    topics = [t for t in broker.topics.all() if t.startswith(broker.prefix) and t.endswith(SUFFIX)]
    counts = Counter(letter.topic for letter in _read(broker, topics, ALL, without_value).waiting())
    return {topic.removeprefix(broker.prefix).removesuffix(SUFFIX): counts[topic] for topic in topics}


def dead_letters(broker: KafkaBroker, queue_name: str) -> DeadLetters:
    """See `KafkaBroker.dead_letters`."""
    queue = broker.queues.get(queue_name)
    topic = queue.dead_letters.name if queue is not None else f"{broker.prefix}{queue_name}{SUFFIX}"
    if queue is None and broker.topics.partitions(topic) is None:
        raise WrongTopic(f"there is no queue {queue_name!r}: it is not declared, and there is no topic {topic!r}")
    return DeadLetters(broker, queue_name, topic)


def _put_back(settling: Settling, batch: Sequence[Letter], outcome: Outcome) -> None:
    """All together; where Kafka refuses one of them, one by one."""
    try:
        settling.commit([*(letter.again() for letter in batch), *_marks(batch, "replayed")])
        outcome.settled += len(batch)
    except DeliveryRefused as exc:
        if len(batch) == 1:
            outcome.refused.append((batch[0], str(exc)))
        else:
            for letter in batch:
                _put_back(settling, [letter], outcome)


def _marks(letters: Sequence[Letter], how: str) -> list[Outgoing]:
    by_partition: dict[int, list[int]] = defaultdict(list)
    for letter in letters:
        by_partition[letter.partition].append(letter.offset)
    return [mark(letters[0].topic, partition, offsets, how) for partition, offsets in by_partition.items()]


def _paced(letters: Sequence[Letter], rate: float | None) -> Iterator[Sequence[Letter]]:
    """Batches of *letters*, no faster than *rate* a second."""
    size = TOGETHER if rate is None else max(1, min(TOGETHER, int(rate * RATE_STEP_S)))
    began = time.monotonic()
    for first in range(0, len(letters), size):
        if rate is not None:
            time.sleep(max(began + first / rate - time.monotonic(), 0))
        yield letters[first : first + size]


def _read(broker: KafkaBroker, topics: Sequence[str], where: Where, keep: Keep) -> Pile:
    """Read all of *topics*, for as long as there is progress."""
    pile = Pile(where, keep)
    known = broker.topics.all()
    places = [Place(topic, partition, from_start=True) for topic in topics for partition in range(known.get(topic, 0))]
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
