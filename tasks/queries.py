"""Queries: actors that any replica may take, and whose answer comes back to the caller."""

from __future__ import annotations

import logging
import time
import uuid
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import dramatiq
from dramatiq.middleware import CurrentMessage

from brokers.delays import now_ms
from brokers.records import Outgoing
from brokers.replies import CORRELATION
from replica.errors import QueryRejected, QueryUnavailable
from tasks import answers, levels, wire
from tasks import options as query_options
from tasks.answers import Answer, Failure
from tasks.errors import STALE_READ, OptionUnknown, StoreMissing, query_failed
from tasks.freshness import NotFresh, Whole, steady, untorn
from tasks.results import Result
from tasks.sessions import Session


if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from brokers import KafkaBroker
    from brokers.replies import Replies
    from brokers.topics import TopicSpec
    from replica.query import Queries, Read, Rows
    from replica.statement import Position, Statement
    from settings import Settings
    from tasks.arguments import Arguments
    from tasks.freshness import Freshness
    from tasks.keeping import Collected
    from tasks.levels import Level
    from tasks.serving import Serving

logger = logging.getLogger("tasks.queries")

#: Times that a query is passed on because the replica that took it cannot reach its database.
PASSED_ON = 20

#: Seconds before it is passed on, so that a lone replica does not spin.
PASS_ON_AFTER_S = 0.25


#: Options by which something follows from a query's value: they go with the query when it is passed on.
FOLLOWING = frozenset(
    {"pipe_target", "on_success", "on_failure", "group_completion_uuid", "group_completion_callbacks"}
) | {query_options.STORE}

#: The code of a query that asks for what its worker has not.
NO_STORE = "Replica.NoStore"


class QueryActor(dramatiq.Actor[Any, Any]):
    """``run_query``, and every function made a query by the decorator."""

    replies: Replies
    response_topic: TopicSpec
    asking: levels.Asking
    arguments: Arguments
    keeps = False  #: whether this process knows where answers are kept
    declared: Mapping[str, Any] = MappingProxyType({})  #: options of all calls, unless a call says otherwise

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the query here, as a worker does; ``$self`` is a parameter like any other."""
        return self.fn(*args, **kwargs)

    def message(self, /, *args: Any, **kwargs: Any) -> dramatiq.Message[Any]:
        """The message of a query without a caller who waits, for pipelines and groups."""
        return self.message_with_options(args=args, kwargs=kwargs)

    def send(self, /, *args: Any, **kwargs: Any) -> Result:  # type: ignore[override]  # a result is what a query gives
        """Ask; the answer is the result's `get`.

        Raises:
          ArgumentRefused: not what the function's annotations say; nothing was sent.
          ValueNotEncodable: an argument has no JSON form; nothing was sent.
          Unreachable, DeliveryUnknown, DeliveryRefused: see `brokers.errors`.
        """
        return self.send_with_options(args=args, kwargs=kwargs)

    def send_with_options(  # type: ignore[override]  # see send
        self, *, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None, delay: Any = None, **options: Any
    ) -> Result:
        """As `send`, with options, which win over those of the decorator.

        They are ``timeout`` (seconds that the query may run), ``max_rows`` (a function that returns a longer list
        fails), ``key``; ``store="redis"``, so that any process can fetch the answer by the message's id, and ``ttl``,
        the seconds for which it can.

        And how fresh the answer has to be (see `tasks.levels`): ``at_least`` (an offset, a receipt, a session or its
        token), ``max_lag`` (offsets), ``max_lag_s``, ``linearizable=True``; ``snapshot=True``; ``wait``: seconds after
        which a `StaleRead` is the better answer.

        Raises, besides what `send` does:
          OptionUnknown, OptionRefused: names the option; nothing was sent.
          StoreMissing, StoreUnreachable: the answer could not be kept; nothing was sent.
          LevelRefused: levels that are none, or contradict each other; nothing was sent.
        """
        if delay is not None:
            raise OptionUnknown("a query cannot be delayed: somebody waits for it")
        asked = self._kept(query_options.of_call(self.declared, options))
        self.arguments.converted(args, kwargs or {})
        message = self._made(args, kwargs, self.asking.sent_now(asked))
        waiter = self.replies.expect(message.message_id)
        message.options["reply_to"] = self.response_topic.name
        message.options["reply_partition"] = waiter.partition
        try:
            sent = self.broker.enqueue(message)
        except BaseException:
            waiter.close()
            raise
        result = Result(sent, waiter, self.response_topic.name)
        source = asked.get("at_least")
        result.session = source if isinstance(source, Session) else None
        return result

    def message_with_options(
        self, *, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None, **options: Any
    ) -> dramatiq.Message[Any]:
        """As `message`, with the options of `send_with_options` but for levels, which belong to the time of sending.

        And ``pipe_ignore=True``: in a pipeline, it does not take the result before it as one more argument.
        """
        asked = self._kept(query_options.of_message(self.actor_name, self.declared, options))
        self.arguments.converted(args, kwargs or {}, whole="pipe_ignore" in asked)
        return self._made(args, kwargs, asked)

    def _kept(self, asked: dict[str, Any]) -> dict[str, Any]:
        """*asked*, with how long the answer is kept where it is."""
        if query_options.STORE not in asked:
            return asked
        if not self.keeps:
            raise StoreMissing('store="redis" needs REDIS_URL, here and where the workers run; nothing was sent')
        return asked | {query_options.TTL: query_options.ttl_of(asked)}

    def _made(
        self, args: tuple[Any, ...], kwargs: dict[str, Any] | None, options: dict[str, Any]
    ) -> dramatiq.Message[Any]:
        encoded = tuple(wire.encode_argument(index, value) for index, value in enumerate(args))
        return super().message_with_options(args=encoded, kwargs=wire.encode_parameters(kwargs or {}), **options)


class Answering:
    """The worker's side: run a query on this replica's graph, and send what it gives."""

    def __init__(
        self,
        settings: Settings,
        broker: KafkaBroker,
        queries: Callable[[], Queries],
        topic: TopicSpec,
        fresh: Freshness,
        serving: Serving,
        collected: Collected | None,
    ) -> None:
        self._collected = collected
        self._fresh = fresh
        self._serving = serving
        self._settings = settings
        self._broker = broker
        self._queries = queries
        self._topic = topic

    def run_text(self, /, *args: Any, **kwargs: Any) -> Any:
        """The body of ``run_query``."""
        reply = self._reply()
        try:
            self._refuse_unfit(reply)
            [statement] = wire.statements_of(args, kwargs)
            level = self._fresh.admitted(reply.message)
            return steady(level, lambda: self._rows(reply, statement, level))
        except Exception as exc:  # noqa: BLE001 - whoever asked is told
            return self._failed(reply, exc)

    def run_function(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The body of a query function's actor."""
        reply = self._reply()
        try:
            self._refuse_unfit(reply)
            given = wire.decode_arguments(args, kwargs)
            level = self._fresh.admitted(reply.message)
            read = steady(level, lambda: self._read(reply, function, given, level))
        except Exception as exc:  # noqa: BLE001 - as above
            return self._failed(reply, exc)
        reply.send(end=True, position=_offset(read.position), seen=_offset(read.seen), value=read.value)
        return read.value if reply.piped else None

    def _rows(self, reply: Reply, statement: Statement, level: Level | None) -> Any:
        with self._queries().run(statement.text, statement.parameters, **reply.limits) as rows:
            self._fresh.check(level, rows.position)
            whole = Whole(rows, level) if level is not None and level.snapshot else rows
            return _send_rows(reply, whole, seen=level is not None and level.seen)

    def _read(self, reply: Reply, function: Callable[..., Any], given: Any, level: Level | None) -> Read:
        seen = level is not None and (level.seen or level.snapshot)
        read = self._queries().read(function, *given, timeout_s=reply.limits["timeout_s"], seen=seen)
        self._fresh.check(level, read.position)
        untorn(level, read.position, read.seen)
        return read

    def _refuse_unfit(self, reply: Reply) -> None:
        """Leave what this process cannot do to another one."""
        self._serving.refuse_unfit()
        if reply.kept and self._collected is None:
            raise QueryUnavailable(NO_STORE, "the answer is to be kept, and this worker has no REDIS_URL")

    def _reply(self) -> Reply:
        message: Any = CurrentMessage.get_current_message()  # a proxy, whatever its annotation says
        return Reply(message, self._broker, self._topic, self._settings.group_id, self._collected)

    def _failed(self, reply: Reply, error: Exception) -> None:
        """Answer with the error, or pass the query on to another replica; never once a part of the answer is out."""
        if isinstance(error, QueryUnavailable) and reply.seq == 0 and self._pass_on(reply.message):
            return
        if isinstance(error, NotFresh):
            if reply.seq == 0 and self._hand_over(reply.message):
                return
            failure = Failure(STALE_READ, str(error), retryable=True)
        elif isinstance(error, (QueryRejected, QueryUnavailable)):
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
        if reply.unheard:
            raise query_failed(
                failure.code, failure.message, replica=self._settings.group_id, retryable=failure.retryable
            )

    def _hand_over(self, message: dramatiq.MessageProxy) -> bool:
        """Let another replica try that may be fresher, as long as there is time; at once, since it has waited here."""
        level = levels.of(message)
        if level is None or level.until_ms <= now_ms():
            return False
        return self._forward(message, {levels.OPTION: levels.packed(level.passed_on(now_ms()))})

    def _pass_on(self, message: dramatiq.MessageProxy) -> bool:
        if message.options.get("passed_on", 0) < PASSED_ON:
            time.sleep(PASS_ON_AFTER_S)
        return self._forward(message, {})

    def _forward(self, message: dramatiq.MessageProxy, options: dict[str, Any]) -> bool:
        passed = message.options.get("passed_on", 0)
        if passed >= PASSED_ON:
            return False
        options |= {"passed_on": passed + 1, "key": f"{message.message_id}-{passed}"}
        self._broker.enqueue(message.copy(options=options))
        for name in FOLLOWING & message.options.keys():
            del message.options[name]  # the one that was passed on has them
        logger.warning("query_passed_on message_id=%s replica=%s", message.message_id, self._settings.group_id)
        return True


class Reply:
    """The way back to whoever asked, if anybody waits.  One per execution of a query."""

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

    @property
    def kept(self) -> bool:
        """Whether the answer is to be fetched from the store."""
        return self.message.options.get(query_options.STORE) is not None

    @property
    def unheard(self) -> bool:
        """Whether nobody learns of an error unless the message fails: a pipeline would go on, without a value."""
        return self.piped or (self._silent and not (self.kept and self._collected is not None))

    def send(self, *, end: bool, **fields: Any) -> None:
        """Send one part, confirmed."""
        if self._silent and not self.kept:
            return
        answer = Answer(id=self._id, run=self._run, seq=self.seq, end=end, replica=self._replica, **fields)
        encoded = answers.encode(answer)
        if self.kept and self._collected is not None:
            self._collected.take(self.message.message_id, answer, encoded)
        if not self._silent:
            key = self._id.encode()
            record = Outgoing(self._topic.name, encoded, key, {CORRELATION: key}, self._partition())
            self._broker.publish(record, self._topic)
        self.seq += 1

    def _partition(self) -> int | None:
        wanted = self.message.options.get("reply_partition")
        partitions = self._broker.topics.ensure(self._topic)
        return wanted if isinstance(wanted, int) and 0 <= wanted < partitions else None


def _send_rows(reply: Reply, rows: Rows | Whole, *, seen: bool) -> Any:
    kept: list[list[Any]] = []
    position = _offset(rows.position)
    for chunk, last in answers.chunks(rows):
        kept.extend(chunk if reply.piped else ())
        cut = rows.truncated and last
        shown = _offset(rows.seen()) if last and seen else None
        reply.send(end=last, position=position, seen=shown, columns=rows.columns, rows=tuple(chunk), truncated=cut)
    return [dict(zip(rows.columns, row, strict=True)) for row in kept] if reply.piped else None


def _offset(position: Position | None) -> int | None:
    return None if position is None else position.offset
