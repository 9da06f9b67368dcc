"""The thread that fires delayed messages and periodic actors: see `delays` and `roster` for what they promise."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from confluent_kafka import OFFSET_BEGINNING, KafkaException, TopicPartition

from brokers import clients, codes
from brokers.clients import Callbacks, base_config
from brokers.consumer import consumer_config
from brokers.delays import now_ms
from brokers.firing import AGAIN_S, IDLE_MS, STEP_S, Timer
from brokers.membership import is_displacement, take_seat


if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from confluent_kafka import Consumer as Client
    from confluent_kafka import KafkaError
    from confluent_kafka import Message as KafkaMessage

    from brokers.bounds import Bounds
    from brokers.clients import Health
    from brokers.membership import Seat
    from brokers.roster import Encode
    from brokers.topics import TopicSpec

logger = logging.getLogger("brokers.timers")

#: Records taken from the client at once: some milliseconds, in which nothing is fired.
CHUNK = 1000


class Timers:
    """Fires what is due in the partitions that this process holds, in a thread of its own.

    All processes of one prefix share a group, whatever queues they work on: a partition has one timer in the cluster.

    *exists* says whether a topic does; *bounds* where readers of committed records get to; *declare* is called often,
    and tells the cluster about this process's periodic actors when it is time to.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        spec: TopicSpec,
        *,
        health: Health,
        protocol: str,
        exists: Callable[[str], bool],
        bounds: Bounds,
        declare: Callable[[], None],
        encode: Encode,
    ) -> None:
        self._encode = encode
        self._config = base_config(settings, health)
        self._spec = spec
        self._ask_exists = exists
        self._bounds = bounds
        self._declare = declare
        self._existing: set[str] = set()
        self._timers: dict[int, Timer] = {}
        self._closing = threading.Event()
        self._group_id, self._protocol = f"{spec.name}.timers", protocol
        self._callbacks = Callbacks()
        self._seat: Seat | None = None
        self._displaced = False
        self._client = self._open()
        self._thread = threading.Thread(target=self._run, name="kafka-timers", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread and leave the group.  Idempotent."""
        self._closing.set()
        self._thread.join(2 * STEP_S)

    def _open(self) -> clients.Consumer:
        if self._protocol == "classic" and not self._displaced:
            self._seat = take_seat(self._group_id, [self._spec.name])
        group = consumer_config(self._group_id, self._protocol, self._seat) | {"auto.offset.reset": "earliest"}
        return clients.opened(clients.Consumer, self._config | group)

    def _run(self) -> None:
        while True:
            try:
                self._serve()
            except Exception:
                # Nobody else would begin again in this process, and it may be the only one.
                logger.exception("kafka_timers_failed topic=%s", self._spec.name)
            self._timers.clear()
            self._leave()
            if self._closing.wait(AGAIN_S):
                return
            self._client = self._open()

    def _leave(self) -> None:
        try:
            if self._seat is not None and self._closing.is_set():
                self._client.unsubscribe()  # a static member does not leave its group when it is closed
                self._client.poll(0)
            self._client.close()
        except Exception:  # a client that has failed may fail at this too; nothing is left to do for it
            logger.exception("kafka_timers_close_failed topic=%s", self._spec.name)
        if self._seat is not None:
            self._seat.leave()
            self._seat = None

    def _serve(self) -> None:
        guarded = self._callbacks.guarded
        self._client.subscribe(
            [self._spec.name],
            on_assign=guarded(self._on_assign),
            on_revoke=guarded(self._on_gone),
            on_lost=guarded(self._on_gone),
        )
        while not self._closing.is_set():
            self._declare()
            self._step()

    def _step(self) -> None:
        message = self._client.poll(self._patience())
        if message is not None:
            self._receive(message)
            for further in self._client.consume(CHUNK, 0):
                self._receive(further)
        self._callbacks.check()
        for timer in list(self._timers.values()):
            if not timer.step(self._client):
                self._existing.clear()  # perhaps one of them is no more

    def _patience(self) -> float:
        now = now_ms()
        nearest = min((timer.wait_ms(now) for timer in self._timers.values()), default=IDLE_MS)
        return max(min(nearest, IDLE_MS), 0) / 1000

    def _receive(self, message: KafkaMessage) -> None:
        timer = self._timers.get(message.partition() or 0)
        error = message.error()
        if error is not None:
            self._complain(error, message, timer)
        elif timer is not None:
            timer.take(message)

    def _complain(self, error: KafkaError, message: KafkaMessage, timer: Timer | None) -> None:
        if error.fatal() or error.code() in codes.ENDING:
            self._displaced = is_displacement(error)
            raise KafkaException(error)
        if error.code() != codes.PARTITION_EOF:
            logger.warning("kafka_timers_error code=%s text=%s", error.name(), error.str())
        elif timer is not None:
            timer.at_end(message.offset() or 0)

    def _exists(self, topic: str) -> bool:
        """Asked once per topic: Kafka is not asked for every message."""
        if topic not in self._existing and self._ask_exists(topic):
            self._existing.add(topic)
        return topic in self._existing

    def _on_assign(self, client: Client, places: list[TopicPartition]) -> None:
        client.incremental_assign([TopicPartition(p.topic, p.partition, OFFSET_BEGINNING) for p in places])
        if places:
            client.pause(places)  # each timer fences its predecessor before it reads
        for place in places:
            self._timers[place.partition] = Timer(
                self._config, place, exists=self._exists, bounds=self._bounds, encode=self._encode
            )

    def _on_gone(self, client: Client, places: list[TopicPartition]) -> None:
        for place in places:
            timer = self._timers.pop(place.partition, None)
            if timer is not None:
                timer.close()
        client.incremental_unassign(places)
