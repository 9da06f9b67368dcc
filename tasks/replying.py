"""The way back to whoever asked: what a worker sends for one execution of a query.

Parts are sent as they come, some of them unconfirmed at a time, so that neither the result is in memory nor every part
costs a round trip.  The end is confirmed, and with it all before.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from brokers import claims, expiry
from brokers.delays import now_ms
from brokers.pipelined import Pipeline
from brokers.records import Outgoing
from brokers.waiter import CORRELATION
from replica.errors import QueryRejected
from replica.summary import Summary
from tasks import answers
from tasks.answers import PROMPT_S, Answer, Ending, Failure
from tasks.options import STORE


if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import dramatiq

    from brokers import KafkaBroker
    from brokers.topics import TopicSpec
    from replica.rows import Rows
    from replica.statement import Position
    from tasks.freshness import Whole
    from tasks.keeping import Collected
    from tasks.levels import Level

#: The code of an answer that fits no record and no store.
TOO_LARGE = "Replica.AnswerTooLarge"

#: Shortest time, in seconds, that a query gets: to Neo4j none at all would mean for ever.
SHORTEST_S = 0.01


class Reply:
    """The answer to one query, if anybody waits for it.  One per execution, and one thread."""

    def __init__(
        self,
        message: dramatiq.MessageProxy,
        broker: KafkaBroker,
        topic: TopicSpec,
        replica: str,
        collected: Collected | None,
    ) -> None:
        self._collected = collected
        self.message = message
        self.run = os.urandom(6).hex()
        self.seq = 0
        self.ended = False
        self._broker = broker
        self._replica = replica
        wanted = message.options.get("reply_to")
        self._topic = topic if wanted is None or wanted == topic.name else _named(topic, wanted)
        self._silent = wanted is None
        self._plain = "with_key" in message.options
        self._id = str(message.options.get("with_key") or message.message_id)
        self._head: dict[str, Any] = {}
        self._rows = 0
        self._pipeline = Pipeline(broker, self._topic)
        self._began, self._began_ms = time.perf_counter(), now_ms()

    @property
    def limits(self) -> dict[str, Any]:
        """What the caller asked the query to be bounded by; no longer than somebody waits."""
        timeout_s, until_ms = self.message.options.get("timeout"), self.message.options.get(expiry.AT)
        if isinstance(until_ms, (int, float)):
            left_s = max((until_ms - now_ms()) / 1000, SHORTEST_S)
            timeout_s = min(timeout_s, left_s) if timeout_s else left_s
        return {"timeout_s": timeout_s, "max_rows": self.message.options.get("max_rows")}

    @property
    def piped(self) -> bool:
        """Whether a pipeline takes the result; without one Dramatiq would warn of a value that nobody takes."""
        return self.message.options.get("pipe_target") is not None

    @property
    def kept(self) -> bool:
        """Whether the answer is to be fetched from the store."""
        return self.message.options.get(STORE) is not None

    @property
    def unheard(self) -> bool:
        """Whether nobody learns of an error unless the message fails: a pipeline would go on, without a value."""
        return self.piped or (self._silent and not (self.kept and self._collected is not None))

    def head(self, *, position: Position | None, level: Level | None, columns: tuple[str, ...] | None = None) -> None:
        """What the header says; it goes with the first part, and all but the level with every other one too."""
        wanted = None if level is None else level.wanted
        self._head = {"position": _offset(position), "level": wanted, "columns": columns}

    def rows(self, rows: Rows | Whole, check: Callable[[], None], *, seen: bool, wait: bool = True) -> Any:
        """Send *rows* and the end (see `end`); they come back for a pipeline, and to nobody else.

        *check* is called before each row, and may raise.

        Raises:
          QueryRejected, QueryUnavailable: the result broke off, or a row is too large.
        """
        kept: list[list[Any]] | None = [] if self.piped else None
        source = _checked(rows, check, kept)
        # A client that sent plain JSON gets as few records as can be.
        for chunk, last in answers.chunks(source, prompt_s=float("inf") if self._plain else PROMPT_S):
            self._rows += len(chunk)
            if last:
                summary = rows.summary()
                self.end(
                    rows=answers.together(chunk),
                    truncated=rows.truncated,
                    summary=summary,
                    seen=rows.seen() if seen else None,
                    wait=wait,
                )
            else:
                self._send(end=False, rows=answers.together(chunk))
        return [dict(zip(rows.columns, row, strict=True)) for row in kept] if kept is not None else None

    def end(
        self, *, summary: Summary | None = None, seen: Position | None = None, wait: bool = True, **fields: Any
    ) -> None:
        """Send the end, with whatever else it has, and wait until Kafka has all of the answer; or `confirm` later."""
        took_ms = round((time.perf_counter() - self._began) * 1000, 2)
        waited_ms = max(self._began_ms - self.message.message_timestamp, 0)
        told = summary or Summary()
        ending = Ending(
            rows=self._rows,
            waited_ms=waited_ms,
            took_ms=took_ms,
            query_type=told.query_type,
            server=told.server,
            available_ms=told.available_ms,
            consumed_ms=told.consumed_ms,
            counters=dict(told.counters),
            notifications=tuple(map(dict, told.notifications)),
            plan=told.plan,
        )
        self._send(end=True, summary=ending, seen=_offset(seen), **fields)
        if wait:
            self.confirm()

    def confirm(self) -> None:
        """Wait until Kafka has all of the answer."""
        self._pipeline.finish()
        self.ended = True

    def fail(self, failure: Failure) -> None:
        """End with an error, whatever of the answer is out, or was refused by Kafka."""
        self._pipeline = Pipeline(self._broker, self._topic)
        self.end(error=failure)

    def _send(self, *, end: bool, **fields: Any) -> None:
        if self._silent and not self.kept:
            return
        head = self._head if self.seq == 0 else {k: v for k, v in self._head.items() if k != "level"}
        answer = Answer(id=self._id, run=self.run, seq=self.seq, end=end, replica=self._replica, **head, **fields)
        encoded = answers.encode(answer)
        if self.kept and self._collected is not None:
            self._collected.take(self.message.message_id, answer, encoded)
        if not self._silent:
            self._pipeline.send(self._record(answer, encoded))
        self.seq += 1

    def _record(self, answer: Answer, encoded: bytes) -> Outgoing:
        key = self._id.encode()
        record = Outgoing(self._topic.name, encoded, key, {CORRELATION: key}, self._partition())
        return record if record.size <= self._broker.envelope.record_bytes else self._claimed(answer, record)

    def _claimed(self, answer: Answer, record: Outgoing) -> Outgoing:
        """The record of an answer that lies elsewhere: without rows and value, and with where they are."""
        store, content = self._broker.envelope.claims, record.value or b""
        if store is None or self._plain:
            raise QueryRejected(
                TOO_LARGE,
                f"{'a row' if answer.value is None else 'the value'} makes a record of {record.size:,} bytes, more than"
                f" the {self._broker.envelope.record_bytes:,} that fit: return less of it"
                + (", or ask from Python" if self._plain else ", or give caller and workers a CLAIM_STORE"),
            )
        claim = claims.claim_of(content, store=store.name, topic=self._topic.name)
        store.put(claim.key, content)
        small = msgspec.structs.replace(answer, rows=None, value=None)
        about = {claims.HEADER: msgspec.json.encode(claim)}
        return msgspec.structs.replace(record, value=answers.encode(small)).with_headers(about)

    def _partition(self) -> int | None:
        wanted = self.message.options.get("reply_partition")
        partitions = self._broker.topics.ensure(self._topic)
        return wanted if isinstance(wanted, int) and 0 <= wanted < partitions else None


@lru_cache(maxsize=100)
def _named(topic: TopicSpec, name: str) -> TopicSpec:
    """As *topic*, with another name: the same object each time, which is known at a look."""
    return replace(topic, name=name)


def _checked(rows: Iterable[list[Any]], check: Callable[[], None], kept: list[list[Any]] | None) -> Iterator[list[Any]]:
    for row in rows:
        check()
        if kept is not None:
            kept.append(row)
        yield row


def _offset(position: Position | None) -> int | None:
    return None if position is None else position.offset
