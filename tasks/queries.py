"""Queries: actors that any replica may take, and whose answer comes back to the caller."""

from __future__ import annotations

import logging
import time
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dramatiq
from dramatiq.middleware import CurrentMessage

from brokers.records import Outgoing
from brokers.replies import CORRELATION
from replica.errors import QueryRejected, QueryUnavailable
from tasks import answers, wire
from tasks.answers import Answer, Failure
from tasks.errors import OptionUnknown
from tasks.results import Result


if TYPE_CHECKING:
    from collections.abc import Callable

    from brokers import KafkaBroker
    from brokers.replies import Replies
    from brokers.topics import TopicSpec
    from replica.query import Queries, Rows
    from replica.statement import Position
    from settings import Settings

logger = logging.getLogger("tasks.queries")

#: What `send_with_options` may be told about a query: seconds that it may run, rows, the record's key in Kafka.
OPTIONS = frozenset({"timeout", "max_rows", "key"})

#: Times that a query is passed on because the replica that took it cannot reach its database.
PASSED_ON = 20

#: Seconds before it is passed on, so that a lone replica does not spin.
PASS_ON_AFTER_S = 0.25


class QueryActor(dramatiq.Actor[Any, Any]):
    """``run_query``, and every function made a query by the decorator."""

    replies: Replies
    response_topic: TopicSpec
    timeout_s: float

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the query here, as a worker does; ``$self`` is a parameter like any other."""
        return self.fn(*args, **kwargs)

    def message(self, /, *args: Any, **kwargs: Any) -> dramatiq.Message[Any]:
        """The message of a query without a caller who waits, for pipelines and groups."""
        return self.message_with_options(args=args, kwargs=kwargs)

    def send(self, /, *args: Any, **kwargs: Any) -> Result:  # type: ignore[override]  # a result is what a query gives
        """Ask; the answer is the result's `get`.

        Raises:
          ValueNotEncodable: an argument has no JSON form; nothing was sent.
          Unreachable, DeliveryUnknown, DeliveryRefused: see `brokers.errors`.
        """
        return self.send_with_options(args=args, kwargs=kwargs)

    def send_with_options(  # type: ignore[override]  # see send
        self, *, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None, delay: Any = None, **options: Any
    ) -> Result:
        """As `send`.  Options: ``timeout`` (seconds that the query may run), ``max_rows``, ``key``."""
        if delay is not None:
            raise OptionUnknown("a query cannot be delayed: somebody waits for it")
        message = self.message_with_options(args=args, kwargs=kwargs, **options)
        waiter = self.replies.expect(message.message_id)
        message.options["reply_to"] = self.response_topic.name
        message.options["reply_partition"] = waiter.partition
        try:
            sent = self.broker.enqueue(message)
        except BaseException:
            waiter.close()
            raise
        return Result(sent, waiter, self.response_topic.name)

    def message_with_options(
        self, *, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None, **options: Any
    ) -> dramatiq.Message[Any]:
        """As `message`, with the options of `send_with_options`."""
        unknown = options.keys() - OPTIONS
        if unknown:
            raise OptionUnknown(
                f"queries have no option {', '.join(sorted(unknown))}; they have {', '.join(sorted(OPTIONS))}"
            )
        encoded = tuple(wire.encode_argument(index, value) for index, value in enumerate(args))
        return super().message_with_options(args=encoded, kwargs=wire.encode_parameters(kwargs or {}), **options)


class Answering:
    """The worker's side: run a query on this replica's graph, and send what it gives."""

    def __init__(
        self, settings: Settings, broker: KafkaBroker, queries: Callable[[], Queries], topic: TopicSpec
    ) -> None:
        self._settings = settings
        self._broker = broker
        self._queries = queries
        self._topic = topic

    def run_text(self, /, *args: Any, **kwargs: Any) -> Any:
        """The body of ``run_query``."""
        reply = self._reply()
        try:
            [statement] = wire.statements_of(args, kwargs)
            with self._queries().run(statement.text, statement.parameters, **reply.limits) as rows:
                return _send_rows(reply, rows)
        except Exception as exc:  # noqa: BLE001 - whoever asked is told
            return self._failed(reply, exc)

    def run_function(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The body of a query function's actor."""
        reply = self._reply()
        try:
            read = self._queries().read(
                function, *wire.decode_arguments(args, kwargs), timeout_s=reply.limits["timeout_s"]
            )
        except Exception as exc:  # noqa: BLE001 - as above
            return self._failed(reply, exc)
        reply.send(end=True, position=_offset(read.position), value=read.value)
        return read.value if reply.piped else None

    def _reply(self) -> Reply:
        message: Any = CurrentMessage.get_current_message()  # a proxy, whatever its annotation says
        return Reply(message, self._broker, self._topic, self._settings.group_id)

    def _failed(self, reply: Reply, error: Exception) -> None:
        """Answer with the error, or pass the query on to another replica; never once a part of the answer is out."""
        if isinstance(error, QueryUnavailable) and reply.seq == 0 and self._pass_on(reply.message):
            return
        if isinstance(error, (QueryRejected, QueryUnavailable)):
            failure = Failure(error.code, error.message, retryable=error.retryable)
        else:
            logger.error(
                "query_failed message_id=%s actor=%s",
                reply.message.message_id,
                reply.message.actor_name,
                exc_info=error,
            )
            failure = Failure(type(error).__name__, str(error))
        reply.send(end=True, error=failure)

    def _pass_on(self, message: dramatiq.MessageProxy) -> bool:
        passed = message.options.get("passed_on", 0)
        if passed >= PASSED_ON:
            return False
        time.sleep(PASS_ON_AFTER_S)
        self._broker.enqueue(message.copy(options={"passed_on": passed + 1, "key": f"{message.message_id}-{passed}"}))
        logger.warning("query_passed_on message_id=%s replica=%s", message.message_id, self._settings.group_id)
        return True


class Reply:
    """The way back to whoever asked, if anybody waits.  One per execution of a query."""

    def __init__(self, message: dramatiq.MessageProxy, broker: KafkaBroker, topic: TopicSpec, replica: str) -> None:
        self.message = message
        self.seq = 0
        self._broker = broker
        self._replica = replica
        self._run = uuid.uuid4().hex[:12]
        wanted = message.options.get("reply_to")
        self._topic = topic if wanted in {None, topic.name} else replace(topic, name=wanted)
        self._silent = wanted is None
        self._id = str(message.options.get("with_key") or message.message_id)

    @property
    def limits(self) -> dict[str, Any]:
        """What the caller asked the query to be bounded by."""
        return {"timeout_s": self.message.options.get("timeout"), "max_rows": self.message.options.get("max_rows")}

    @property
    def piped(self) -> bool:
        """Whether a pipeline takes the result; without one Dramatiq would warn of a value that nobody takes."""
        return self.message.options.get("pipe_target") is not None

    def send(self, *, end: bool, **fields: Any) -> None:
        """Send one part, confirmed."""
        if self._silent:
            return
        answer = Answer(id=self._id, run=self._run, seq=self.seq, end=end, replica=self._replica, **fields)
        key = self._id.encode()
        record = Outgoing(self._topic.name, answers.encode(answer), key, {CORRELATION: key}, self._partition())
        self._broker.publish(record, self._topic)
        self.seq += 1

    def _partition(self) -> int | None:
        wanted = self.message.options.get("reply_partition")
        partitions = self._broker.topics.ensure(self._topic)
        return wanted if isinstance(wanted, int) and 0 <= wanted < partitions else None


def _send_rows(reply: Reply, rows: Rows) -> Any:
    kept: list[list[Any]] = []
    position = _offset(rows.position)
    for chunk, last in answers.chunks(rows):
        kept.extend(chunk if reply.piped else ())
        cut = rows.truncated and last
        reply.send(end=last, position=position, columns=rows.columns, rows=tuple(chunk), truncated=cut)
    return [dict(zip(rows.columns, row, strict=True)) for row in kept] if reply.piped else None


def _offset(position: Position | None) -> int | None:
    return None if position is None else position.offset
