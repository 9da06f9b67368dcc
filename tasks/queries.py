"""Queries: actors that any replica may take, and whose answer comes back to the caller."""

from __future__ import annotations

import logging
import os
import time
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import dramatiq
from dramatiq.middleware import CurrentMessage

from brokers import expiry, records
from brokers.batches import Batch, BatchFailed
from brokers.companions import GoAlone
from brokers.delays import now_ms
from brokers.errors import Abort
from replica.errors import QueryRejected, QueryUnavailable
from replica.together import Asked
from tasks import levels, wire
from tasks import options as query_options
from tasks.answers import Failure
from tasks.cancelling import Stop
from tasks.errors import CANCELLED, STALE_READ, OptionUnknown, StoreMissing, query_failed
from tasks.freshness import NotFresh, Whole, steady, untorn
from tasks.replying import Reply
from tasks.results import Result
from tasks.sessions import Session


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from brokers import KafkaBroker
    from brokers.claims import ClaimStore
    from brokers.replies import Replies
    from brokers.topics import TopicSpec
    from replica.query import Queries, Read
    from replica.rows import Rows
    from replica.statement import Statement
    from replica.together import Shared
    from settings import Settings
    from tasks.arguments import Arguments
    from tasks.freshness import Freshness
    from tasks.keeping import Collected
    from tasks.levels import Level
    from tasks.serving import Serving
    from tasks.slots import Slots

logger = logging.getLogger("tasks.queries")

#: Seconds that a cancelled query stays cancelled: as long as the request topic keeps it.
CANCELLED_S = 86_400.0

#: Times that a query is passed on because the replica that took it cannot reach its database.
PASSED_ON = 20

#: Seconds before it is passed on, so that a lone replica does not spin.
PASS_ON_AFTER_S = 0.25


#: Options by which something follows from a query's value: they go with the query when it is passed on.
FOLLOWING = frozenset(
    {"pipe_target", "on_success", "on_failure", "group_completion_uuid", "group_completion_callbacks"}
) | {query_options.STORE}

#: Options of a query that has to be run for itself.
ALONE = FOLLOWING | {levels.OPTION}

#: Seconds for which a position that was read is told to queries that ask for no level: some dozens of them share one
#: round trip then, which takes the server as long as a small query does.
KNOWN_S = 0.05

#: The code of a query that asks for what its worker has not.
NO_STORE = "Replica.NoStore"


class QueryActor(dramatiq.Actor[Any, Any]):
    """``run_query``, and every function made a query by the decorator."""

    replies: Replies
    reply_topic: TopicSpec
    asking: levels.Asking
    claim_store: ClaimStore | None = None
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

        ``deadline``: seconds from now on after which nobody waits for the answer.  By then the query has ended, or does
        not begin, wherever it waits and whatever became of this process; the clocks of caller and replica decide.

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
        asked: dict[str, Any] = {}
        if options or self.declared:  # mostly there is nothing to look at
            asked = self._kept(query_options.of_call(self.declared, options))
        self.arguments.converted(args, kwargs or {})
        message = self._made(args, kwargs, self.asking.sent_now(_with_deadline(asked)) if asked else {})
        waiter = self.replies.expect(message.message_id)
        message.options["reply_to"] = self.reply_topic.name
        message.options["reply_partition"] = waiter.partition
        try:
            sent = self.broker.enqueue(message)
        except BaseException:
            waiter.close()
            raise
        result = Result(sent, waiter, self.reply_topic.name, self.claim_store, self._cancel)
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

    def _cancel(self, message_id: str) -> None:
        broker: KafkaBroker = self.broker  # type: ignore[assignment]  # what an App has
        broker.control.stop(message_id, holds_s=CANCELLED_S, reason="cancelled by its caller")

    def _made(
        self, args: tuple[Any, ...], kwargs: dict[str, Any] | None, options: dict[str, Any]
    ) -> dramatiq.Message[Any]:
        encoded = tuple(wire.encode_argument(index, value) for index, value in enumerate(args))
        return _message(self.queue_name, self.actor_name, encoded, wire.encode_parameters(kwargs or {}), options)


def _message(
    queue_name: str, actor_name: str, args: tuple[Any, ...], kwargs: dict[str, Any], options: dict[str, Any]
) -> dramatiq.Message[Any]:
    """A new message, as Dramatiq makes it, in a third of the time."""
    digits = os.urandom(16).hex()
    return records.made(
        queue_name=queue_name,
        actor_name=actor_name,
        args=args,
        kwargs=kwargs,
        options=options,
        message_id=f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}",  # a random UUID
        message_timestamp=now_ms(),
    )


def _known_s(level: Level | None) -> float:
    """How old a position may be that goes with an answer: a level is judged by the graph as it is."""
    return KNOWN_S if level is None else 0.0


def _go_on() -> None:
    """Of several queries that were answered at once none can be stopped any more."""


def _with_deadline(options: dict[str, Any]) -> dict[str, Any]:
    """*options* as they travel: the deadline as a time of the wall clock, which `brokers.expiry` knows."""
    if query_options.DEADLINE not in options:
        return options
    others = {name: value for name, value in options.items() if name != query_options.DEADLINE}
    return others | {expiry.AT: now_ms() + int(options[query_options.DEADLINE] * 1000)}


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
        slots: Slots,
        collected: Collected | None,
    ) -> None:
        self._slots = slots
        self._collected = collected
        self._fresh = fresh
        self._serving = serving
        self._settings = settings
        self._broker = broker
        self._queries = queries
        self._topic = topic

    def kind_of(self, message: dramatiq.Message[Any] | dramatiq.MessageProxy) -> Shared | None:
        """What *message* has in common with those that it may be run with in one call: see `Queries.run_together`."""
        options = message.options
        alone = message.actor_name != wire.QUERY_ACTOR or options.get("reply_to") is None
        if alone or not ALONE.isdisjoint(options):
            return None
        statement = wire.statement_of(message)
        return None if statement is None else self._queries().kind_of(statement.text, statement.parameters)

    def run_text(self, /, *args: Any, **kwargs: Any) -> Any:
        """The body of ``run_query``."""
        if args and isinstance(args[0], Batch):
            return self._run_together(args[0])

        def answer(reply: Reply, stop: Stop) -> Any:
            [statement] = wire.statements_of(args, kwargs)
            level = self._fresh.admitted(reply.message)
            return steady(level, lambda: self._rows(reply, stop, statement, level))

        return self._answered(answer)

    def run_function(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The body of a query function's actor."""

        def answer(reply: Reply, stop: Stop) -> Any:
            given = wire.decode_arguments(args, kwargs)
            level = self._fresh.admitted(reply.message)
            read = steady(level, lambda: self._read(reply, stop, function, given, level))
            reply.head(position=read.position, level=level)
            reply.end(value=read.value, seen=read.seen)
            return read.value if reply.piped else None

        return self._answered(answer)

    def reply_to(self, message: dramatiq.MessageProxy) -> Reply:
        """The way back to whoever sent *message*."""
        return Reply(message, self._broker, self._topic, self._settings.group_id, self._collected)

    def _answered(self, answer: Callable[[Reply, Stop], Any]) -> Any:
        """What *answer* gives; an error is sent to whoever asked."""
        message: Any = CurrentMessage.get_current_message()  # a proxy, whatever its annotation says
        reply = self.reply_to(message)
        stop = Stop(lambda: self._queries().terminate(reply.run))
        try:
            with self._broker.stopped_by(stop), stop:
                try:
                    self._refuse_unfit(reply)
                    with self._slots.taken(message.message_id):
                        return answer(reply, stop)
                except Exception as exc:  # noqa: BLE001 - whoever asked is told
                    return self._failed(reply, exc, cancelled=stop.asked)
        except Abort:  # it came just before, or just after
            if not reply.ended:
                reply.fail(Failure(CANCELLED, "somebody has cancelled it"))
            raise

    def _run_together(self, messages: Batch) -> None:
        """Answer several queries of one kind.

        Nobody can cancel one of them: they end, one way or the other, before anybody could.

        Raises:
          GoAlone: each has to be run for itself.
          BatchFailed: what could not be answered.
        """
        replies = [self.reply_to(message) for message in messages]
        errors: dict[int, BaseException] = {}
        for place, (reply, rows) in enumerate(zip(replies, self._asked_together(replies), strict=True)):
            with self._charged(reply, place, errors):
                reply.head(position=rows.position, level=None, columns=rows.columns)
                reply.rows(rows, _go_on, seen=False, wait=False)
        for place, reply in enumerate(replies):  # Kafka is waited for once, when all are on their way
            if not reply.ended:
                with self._charged(reply, place, errors):
                    reply.confirm()
        if errors:
            raise BatchFailed(errors)

    def _asked_together(self, replies: Sequence[Reply]) -> Sequence[Rows]:
        """The rows for each, or `GoAlone`: what is wrong shows then, and with which of them."""
        first = replies[0].message
        kind = self.kind_of(first)
        if kind is None:
            raise GoAlone
        try:
            self._serving.refuse_unfit()
            with self._slots.taken(first.message_id):
                found = self._queries().run_together(kind, [self._asked(reply) for reply in replies])
        except Exception as exc:
            logger.info("queries_kept_apart reason=%r", exc)
            self._queries().keep_apart(kind)
            raise GoAlone from exc
        if found is None:
            raise GoAlone
        return found

    def _asked(self, reply: Reply) -> Asked:
        statement = wire.statement_of(reply.message)
        if statement is None:
            raise GoAlone
        return Asked(statement.parameters, **reply.limits, known_s=KNOWN_S, tag=reply.run)

    @contextmanager
    def _charged(self, reply: Reply, place: int, errors: dict[int, BaseException]) -> Iterator[None]:
        """What goes wrong within is told to whoever asked; where that cannot be, it is one of *errors*."""
        try:
            try:
                yield
            except Exception as exc:  # noqa: BLE001 - whoever asked is told
                self._failed(reply, exc, cancelled=False)
        except Exception as exc:  # noqa: BLE001 - the others still have to be answered
            errors[place] = exc

    def _rows(self, reply: Reply, stop: Stop, statement: Statement, level: Level | None) -> Any:
        stop.check()
        options = {"tag": reply.run, "known_s": _known_s(level), **reply.limits}
        with self._queries().run(statement.text, statement.parameters, **options) as rows:
            self._fresh.check(level, rows.position)
            whole = Whole(rows, level) if level is not None and level.snapshot else rows
            reply.head(position=rows.position, level=level, columns=rows.columns)
            return reply.rows(whole, stop.check, seen=level is not None and level.seen)

    def _read(self, reply: Reply, stop: Stop, function: Callable[..., Any], given: Any, level: Level | None) -> Read:
        stop.check()
        options = {"tag": reply.run, "known_s": _known_s(level), "timeout_s": reply.limits["timeout_s"]}
        seen = level is not None and (level.seen or level.snapshot)
        read = self._queries().read(function, *given, seen=seen, **options)
        self._fresh.check(level, read.position)
        untorn(level, read.position, read.seen)
        return read

    def _refuse_unfit(self, reply: Reply) -> None:
        """Leave what this process cannot do to another one."""
        self._serving.refuse_unfit()
        if reply.kept and self._collected is None:
            raise QueryUnavailable(NO_STORE, "the answer is to be kept, and this worker has no REDIS_URL")

    def _failed(self, reply: Reply, error: Exception, *, cancelled: bool) -> None:
        """Answer with the error, or pass the query on to another replica; never once a part of the answer is out."""
        if cancelled:
            self._fail(reply, Failure(CANCELLED, f"somebody has cancelled it ({type(error).__name__}: {error})"))
            return
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
            failure = Failure(type(error).__name__, str(error), retryable=getattr(error, "retryable", False) is True)
        self._fail(reply, failure)

    def _fail(self, reply: Reply, failure: Failure) -> None:
        """Answer with the error; where no answer is heard, the message fails, too."""
        reply.fail(failure)
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
