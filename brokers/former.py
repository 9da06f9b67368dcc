"""What the former owner of a partition has left behind when it was killed in the middle of a transaction.

Until that transaction ends, Kafka does not tell what was committed, and readers of what was sent in it wait, too: some
ten to twenty seconds, until Kafka itself aborts it.  Whoever takes a partition over can end it at once by opening a
producer under the same transactional id.  So every owner notes its id where the next one finds it: as the metadata of
an offset of a group ``<group>.owners`` that nobody is a member of.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from confluent_kafka import ConsumerGroupTopicPartitions as GroupPartitions
from confluent_kafka import KafkaException, TopicPartition

from brokers import clients, codes


if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from concurrent.futures import Future

    from confluent_kafka import Consumer as Client

    from brokers.bounds import Place

logger = logging.getLogger("brokers.transactions")

#: Seconds that Kafka may take for a question, and for ending somebody else's transaction.
ASK_S = 5.0


class FormerOwners:
    """Asks what a group has committed, and ends the transactions of dead members that are in the way.

    The owner thread only.
    """

    def __init__(self, group_id: str, transactional_id: str, config: Mapping[str, Any]) -> None:
        self._group_id = group_id
        self._notes = f"{group_id}.owners"
        self._id = transactional_id
        self._config = config
        self._admin: clients.AdminClient | None = None

    def committed(self, places: list[Place], _client: Client) -> dict[Place, TopicPartition]:
        """What the group has committed, by place; missing where a transaction is open, or nobody answers.

        This process is noted as the owner of all that is told.
        """
        if not places:
            return {}
        told = self._asked(self._group_id, places)
        blocked = [place for place, one in told.items() if one.error is not None and one.error.code() == codes.UNSTABLE]
        if blocked:
            self._end_transactions(blocked)
            told |= self._asked(self._group_id, blocked)
        stable = {place: one for place, one in told.items() if one.error is None}
        return stable if self._noted(stable) else {}

    def _asked(self, group_id: str, places: Iterable[Place]) -> dict[Place, TopicPartition]:
        request = GroupPartitions(group_id, [TopicPartition(*place) for place in places])
        futures = self._client().list_consumer_group_offsets([request], require_stable=True, request_timeout=ASK_S)
        return {(one.topic, one.partition): one for one in self._answers(futures[group_id])}

    def _client(self) -> clients.AdminClient:
        if self._admin is None:
            self._admin = clients.opened(clients.AdminClient, self._config)
        return self._admin

    def _answers(self, future: Future[GroupPartitions]) -> list[TopicPartition]:
        try:
            return future.result(ASK_S + 1).topic_partitions or []
        except (KafkaException, TimeoutError) as exc:
            logger.warning("kafka_owners_unknown group=%s text=%s", self._group_id, exc)
            # One that has asked a coordinator before it died waits for ever for what it asks it afterwards.
            self._admin = None
            return []

    def _end_transactions(self, places: list[Place]) -> None:
        notes = self._asked(self._notes, places).values()
        for transactional_id in {(note.metadata or "").rstrip("\0") for note in notes} - {"", self._id}:
            logger.warning("kafka_transaction_ended group=%s id=%s", self._group_id, transactional_id)
            try:
                clients.opened(
                    clients.Producer, {**self._config, "transactional.id": transactional_id}
                ).init_transactions(ASK_S)
            except KafkaException as exc:  # it ends by itself, later
                logger.warning("kafka_transaction_not_ended id=%s text=%s", transactional_id, exc.args[0].str())

    def _noted(self, places: Iterable[Place]) -> bool:
        notes = [TopicPartition(*place, 0, metadata=self._id) for place in places]
        if not notes:
            return True
        request = GroupPartitions(self._notes, notes)
        answers = self._answers(
            self._client().alter_consumer_group_offsets([request], request_timeout=ASK_S)[self._notes]
        )
        return bool(answers) and all(answer.error is None for answer in answers)
