"""Queries: actors that any replica may take, and whose answer comes back to the caller."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import dramatiq
from dramatiq.middleware import CurrentMessage

from brokers import expiry
from brokers.delays import now_ms
from brokers.errors import Abort
from replica.errors import QueryRejected, QueryUnavailable
from tasks import levels, wire
from tasks.answers import Failure
from tasks.cancelling import Stop
from tasks.errors import CANCELLED, STALE_READ, OptionUnknown
from tasks.freshness import NotFresh, Whole, steady, untorn
from tasks.replying import Reply
from tasks.results import Result
from tasks.sessions import Session


if TYPE_CHECKING:
    from collections.abc import Callable

    from brokers import KafkaBroker
    from brokers.claims import ClaimStore
    from brokers.replies import Replies
    from brokers.topics import TopicSpec
    from replica.query import Queries, Read
    from replica.statement import Statement
    from settings import Settings
    from tasks.freshness import Freshness
    from tasks.levels import Level
    from tasks.serving import Serving
    from tasks.slots import Slots

logger = logging.getLogger("tasks.queries")

#: What `send_with_options` may be told about a query: seconds that it may run, rows, the record's key in Kafka, seconds
#: from the send after which nobody waits any more.
OPTIONS = frozenset({"timeout", "max_rows", "key", "deadline"}) | levels.OPTIONS

#: Seconds that a cancelled query stays cancelled: as long as the request topic keeps it.
CANCELLED_S = 86_400.0

#: Times that a query is passed on because the replica that took it cannot reach its database.
PASSED_ON = 20

#: Seconds before it is passed on, so that a lone replica does not spin.
PASS_ON_AFTER_S = 0.25


class QueryActor(dramatiq.Actor[Any, Any]):
    """``run_query``, and every function made a query by the decorator."""

    replies: Replies
    response_topic: TopicSpec
    asking: levels.Asking
    claim_store: ClaimStore | None = None

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
        """As `send`.  Options: ``timeout`` (seconds that the query may run), ``max_rows``, ``key``.

        ``deadline``: seconds from now on after which nobody waits for the answer.  By then the query has ended, or does
        not begin, wherever it waits and whatever became of this process; the clocks of caller and replica decide.

        And how fresh the answer has to be (see `tasks.levels`): ``at_least`` (an offset, a receipt, a session or its
        token), ``max_lag`` (offsets), ``max_lag_s``, ``linearizable=True``; ``snapshot=True``; ``wait``: seconds after
        which a `StaleRead` is the better answer.

        Raises, besides what `send` does:
          LevelRefused: levels that are none, or contradict each other; nothing was sent.
        """
        if delay is not None:
            raise OptionUnknown("a query cannot be delayed: somebody waits for it")
        _refuse_unknown(options)
        message = self._made(args, kwargs, self.asking.sent_now(_with_deadline(options)))
        waiter = self.replies.expect(message.message_id)
        message.options["reply_to"] = self.response_topic.name
        message.options["reply_partition"] = waiter.partition
        try:
            sent = self.broker.enqueue(message)
        except BaseException:
            waiter.close()
            raise
        result = Result(sent, waiter, self.response_topic.name, self.claim_store, self._cancel)
        source = options.get("at_least")
        result.session = source if isinstance(source, Session) else None
        return result

    def message_with_options(
        self, *, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None, **options: Any
    ) -> dramatiq.Message[Any]:
        """As `message`, with the options of `send_with_options` but for levels, which belong to the time of sending."""
        _refuse_unknown(options)
        levels.refused_later(options)
        if "deadline" in options:
            raise OptionUnknown("deadline: until when an answer is wanted is settled when the query is sent")
        return self._made(args, kwargs, options)

    def _cancel(self, message_id: str) -> None:
        broker: KafkaBroker = self.broker  # type: ignore[assignment]  # what an App has
        broker.control.stop(message_id, holds_s=CANCELLED_S, reason="cancelled by its caller")

    def _made(
        self, args: tuple[Any, ...], kwargs: dict[str, Any] | None, options: dict[str, Any]
    ) -> dramatiq.Message[Any]:
        encoded = tuple(wire.encode_argument(index, value) for index, value in enumerate(args))
        return super().message_with_options(args=encoded, kwargs=wire.encode_parameters(kwargs or {}), **options)


def _with_deadline(options: dict[str, Any]) -> dict[str, Any]:
    """*options* as they travel: the deadline as a time of the wall clock, which `brokers.expiry` knows."""
    others = {name: value for name, value in options.items() if name != "deadline"}
    deadline = options.get("deadline")
    if deadline is None:
        return others
    if isinstance(deadline, bool) or not isinstance(deadline, (int, float)) or not 0 < deadline <= CANCELLED_S:
        raise OptionUnknown(f"deadline is a number of seconds above zero, at most {CANCELLED_S:g}; not {deadline!r}")
    return others | {expiry.AT: now_ms() + int(deadline * 1000)}


def _refuse_unknown(options: dict[str, Any]) -> None:
    unknown = options.keys() - OPTIONS
    if unknown:
        raise OptionUnknown(
            f"queries have no option {', '.join(sorted(unknown))}; they have {', '.join(sorted(OPTIONS))}"
        )


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
    ) -> None:
        self._slots = slots
        self._fresh = fresh
        self._serving = serving
        self._settings = settings
        self._broker = broker
        self._queries = queries
        self._topic = topic

    def run_text(self, /, *args: Any, **kwargs: Any) -> Any:
        """The body of ``run_query``."""

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
        return Reply(message, self._broker, self._topic, self._settings.group_id)

    def _answered(self, answer: Callable[[Reply, Stop], Any]) -> Any:
        """What *answer* gives; an error is sent to whoever asked."""
        message: Any = CurrentMessage.get_current_message()  # a proxy, whatever its annotation says
        reply = self.reply_to(message)
        stop = Stop(lambda: self._queries().terminate(reply.run))
        try:
            with self._broker.stopped_by(stop), stop:
                try:
                    self._serving.refuse_unfit()
                    with self._slots.taken(message.message_id):
                        return answer(reply, stop)
                except Exception as exc:  # noqa: BLE001 - whoever asked is told
                    return self._failed(reply, exc, stop)
        except Abort:  # it came just before, or just after
            if not reply.ended:
                reply.fail(Failure(CANCELLED, "somebody has cancelled it"))
            raise

    def _rows(self, reply: Reply, stop: Stop, statement: Statement, level: Level | None) -> Any:
        stop.check()
        with self._queries().run(statement.text, statement.parameters, tag=reply.run, **reply.limits) as rows:
            self._fresh.check(level, rows.position)
            whole = Whole(rows, level) if level is not None and level.snapshot else rows
            reply.head(position=rows.position, level=level, columns=rows.columns)
            return reply.rows(whole, stop.check, seen=level is not None and level.seen)

    def _read(self, reply: Reply, stop: Stop, function: Callable[..., Any], given: Any, level: Level | None) -> Read:
        stop.check()
        seen = level is not None and (level.seen or level.snapshot)
        timeout_s = reply.limits["timeout_s"]
        read = self._queries().read(function, *given, timeout_s=timeout_s, seen=seen, tag=reply.run)
        self._fresh.check(level, read.position)
        untorn(level, read.position, read.seen)
        return read

    def _failed(self, reply: Reply, error: Exception, stop: Stop) -> None:
        """Answer with the error, or pass the query on to another replica; never once a part of the answer is out."""
        if stop.asked:
            reply.fail(Failure(CANCELLED, f"somebody has cancelled it ({type(error).__name__}: {error})"))
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
        reply.fail(failure)

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
        logger.warning("query_passed_on message_id=%s replica=%s", message.message_id, self._settings.group_id)
        return True
