"""Transactions that deal with dead letters, by one process at a time for each topic."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from confluent_kafka import KafkaException, TopicPartition

from brokers import clients, codes
from brokers.clients import Health, base_config
from brokers.errors import DeliveryRefused, LettersBusy, Unreachable


if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from brokers.records import Outgoing

logger = logging.getLogger("brokers.letters")

#: Seconds that Kafka may take for a step of a transaction.
STEP_S = 10.0

#: Bytes that the client lets through; the topics' own limits decide.
MESSAGE_BYTES = 4_000_000


class Settling:
    """The right to deal with the dead letters of *topic*: whoever had it before has lost it.

    Raises:
      Unreachable: Kafka does not give it.
    """

    def __init__(self, settings: Mapping[str, Any], topic: str) -> None:
        self._topic = topic
        self._health = Health()
        self._config = base_config(settings, self._health)

    def __enter__(self) -> Self:
        """Fence the others.  Read the letters after this, not before."""
        config = self._config | {
            "transactional.id": f"{self._topic}.settling",
            "transaction.timeout.ms": int(3 * STEP_S * 1000),
            "message.timeout.ms": int(2 * STEP_S * 1000),
            "message.max.bytes": MESSAGE_BYTES,
            "retry.backoff.ms": 5,
        }
        self._producer = clients.opened(clients.Producer, config)
        try:
            self._producer.init_transactions(STEP_S)
        except KafkaException as exc:
            raise self._error(exc) from exc
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Nothing is left open: `commit` ends what it begins."""

    def commit(self, records: Sequence[Outgoing]) -> None:
        """Produce all of *records*, or none.

        Raises:
          LettersBusy: somebody else has the right now.
          DeliveryRefused: Kafka does not take one of them.
          Unreachable: Kafka does not answer; whether they are in the log shows at the next look.
        """
        refused: list[str] = []
        try:
            self._producer.begin_transaction()
            for record in records:
                self._produce(record, refused)
            self._producer.flush(2 * STEP_S)
            if refused:
                raise DeliveryRefused(f"Kafka refused a record: {refused[0]}; nothing of its batch was put back")
            self._commit()
        except KafkaException as exc:
            self._abort()
            raise self._error(exc) from exc
        except DeliveryRefused:
            self._abort()
            raise

    def _produce(self, record: Outgoing, refused: list[str]) -> None:
        self._producer.produce(
            record.topic,
            record.value,
            record.key,
            -1 if record.partition is None else record.partition,
            headers=list(record.headers.items()),
            on_delivery=lambda error, _: refused.append(f"{record.topic}: {error.str()}") if error else None,
        )

    def _commit(self) -> None:
        """Commit, and ask again once when the answer is only late."""
        try:
            self._producer.commit_transaction(STEP_S)
        except KafkaException as exc:
            if not exc.args[0].retriable():
                raise
            self._producer.commit_transaction(STEP_S)

    def _abort(self) -> None:
        with suppress(KafkaException):  # fenced, or Kafka is away: then it ends by its time-out
            self._producer.abort_transaction(STEP_S)

    def _error(self, exc: KafkaException) -> Exception:
        error = exc.args[0]
        if error.code() in codes.FENCED:
            return LettersBusy(f"somebody else replays or purges {self._topic!r} just now; look again what is left")
        return Unreachable(
            f"Kafka did not confirm: {error.str()}{self._health.why()};"
            " run it again, what was dealt with does not show any more"
        )

    def delete_below(self, offsets: Mapping[int, int]) -> None:
        """Delete each partition's log up to an offset, as far as Kafka lets us: nothing depends on it."""
        admin = clients.opened(clients.AdminClient, self._config)
        places = [TopicPartition(self._topic, partition, offset) for partition, offset in offsets.items() if offset]
        for place, future in (admin.delete_records(places, request_timeout=STEP_S) if places else {}).items():
            try:
                future.result(STEP_S + 1)
            except (KafkaException, TimeoutError) as exc:
                logger.warning("kafka_letters_not_deleted place=%s text=%s", place, exc)
