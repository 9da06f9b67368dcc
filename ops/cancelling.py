"""`cancel-query`: end a query by its id, whoever has sent it."""

from __future__ import annotations

from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from brokers.replies import Place, TopicReader
from brokers.waiter import correlation_of
from ops.connection import connected
from ops.errors import NotCancelled
from tasks import answers
from tasks.app import ASK_S
from tasks.errors import CANCELLED
from tasks.queries import CANCELLED_S


if TYPE_CHECKING:
    from brokers.records import Record
    from settings import Settings
    from tasks.answers import Answer


@dataclass(frozen=True, slots=True)
class Cancelled:
    """How a query ended: *replica* has said so.  *cancelled* is false where it had its answer before."""

    query: str
    replica: str
    cancelled: bool


def cancel(settings: Settings, query: str, timeout_s: float) -> Cancelled:
    """Tell all workers to end *query*, and wait for the end of its answer.

    Raises:
      NotCancelled: no end came in time.
      KafkaAway, and what `Control.stop` raises.
    """
    with connected(settings) as app:
        ends: SimpleQueue[Answer] = SimpleQueue()

        def heard(record: Record) -> None:
            answer = answers.decode(record.value) if correlation_of(record) == query else None
            if answer is not None and answer.end:
                ends.put(answer)

        places = [
            Place(topic.name, partition)
            for topic in (app.callers_topic, app.response_topic)
            for partition in range(app.broker.topics.ensure(topic))
        ]
        reader = TopicReader(app.broker.client_settings, places, heard, timeout_s=ASK_S)
        try:
            app.broker.control.stop(query, holds_s=CANCELLED_S, reason="cancel-query")
            end = ends.get(timeout=timeout_s)
        except Empty:
            raise NotCancelled(
                f"no worker has ended {query} within {timeout_s:g} s: it had ended before, or waits for its turn, and"
                " will be cancelled then"
            ) from None
        finally:
            reader.close()
        return Cancelled(query, end.replica, end.error is not None and end.error.code == CANCELLED)
