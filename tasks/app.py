"""Where the rooms meet: settings become a broker, its queues, and the actors that everybody imports.

Making an `App` connects to nothing.  Clients and drivers are made at first use, in each process anew.
"""

from __future__ import annotations

import functools
import os
import threading
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

from dramatiq.middleware import CurrentMessage, default_middleware

from brokers import KafkaBroker
from brokers.expiry import Expires
from brokers.limits import RateLimits
from brokers.peek import Peek
from brokers.replies import Replies
from brokers.topics import DAY_S, FOR_EVER, Compact, TopicSpec
from brokers.unique import Unique
from replica.driver import connect
from replica.guard import Allowed
from replica.query import Queries
from tasks import options as query_options
from tasks import wire
from tasks.applying import Applying
from tasks.arguments import Arguments
from tasks.cancelling import AnswersDropped
from tasks.collecting import LongLived
from tasks.commands import CommandActor, CommandFunction, CommandGuard
from tasks.comparing import Comparing
from tasks.decisions import Decisions
from tasks.envelopes import envelope_of
from tasks.errors import QueryFailed, StoreMissing
from tasks.following import Follower
from tasks.freshness import Freshness
from tasks.functions import on_worker
from tasks.holding import Holdings
from tasks.keeping import Collected, Keeping
from tasks.levels import Asking
from tasks.log import CommandLog
from tasks.lookout import Lookout
from tasks.opinions import SecondOpinion
from tasks.plain import PlainCommands
from tasks.queries import Answering, QueryActor
from tasks.registry import Registry
from tasks.serving import Behind, Serving, ServingQueries, client_id, held, others_of, untrusted
from tasks.sessions import Session
from tasks.slots import QueriesAtOnce, Slots


if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import dramatiq
    import neo4j

    from brokers.reader import RecordMessage
    from brokers.records import Record
    from replica.statement import Command, Statement
    from settings import Settings
    from tasks.kept import Kept
    from tasks.replying import Reply

P = ParamSpec("P")
T = TypeVar("T")

#: Names of the Dramatiq queues, whatever their topics are called: ``dramatiq tasks --queues command``.
COMMANDS = "command"
REQUESTS = "request"

#: Partitions of the request and response topics: up to so many query servers work at once.
QUERY_PARTITIONS = 3

#: Partitions of the topic on which callers of this package are answered.  Each process reads one, with all the answers
#: that others get there: with three of them, thirty processes would read everything ten times.
CALLER_PARTITIONS = 24

#: Seconds for a question to Kafka on a caller's behalf.
ASK_S = 8.0


class App:
    """One set of replicas, seen from one process: as a caller, as a worker, or both."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.command_topic = TopicSpec(settings.topic(settings.command_topic), 1, FOR_EVER, exact=True, uniform=True)
        self.request_topic = TopicSpec(settings.topic(settings.request_topic), QUERY_PARTITIONS, DAY_S)
        self.response_topic = TopicSpec(settings.topic(settings.response_topic), QUERY_PARTITIONS, DAY_S / 24)
        self.callers_topic = TopicSpec(settings.topic(settings.callers_topic), CALLER_PARTITIONS, DAY_S / 24)
        self.outcomes_topic = TopicSpec(settings.topic(settings.outcomes_topic), 1, 7 * DAY_S, exact=True)
        self.replicas_topic = TopicSpec(
            settings.topic(settings.replicas_topic), 1, FOR_EVER, exact=True, compacted=True
        )
        self.decisions_topic = TopicSpec(
            settings.topic(settings.decisions_topic), 1, FOR_EVER, exact=True, compacted=True
        )
        self.checkpoints_topic = TopicSpec(settings.topic(settings.checkpoints_topic), 1, 7 * DAY_S, exact=True)
        self.verifications_topic = TopicSpec(settings.topic(settings.verifications_topic), 1, DAY_S, exact=True)
        self._collected = Collected() if settings.redis_url else None
        self.kept = self._kept()
        self.broker = self._broker()
        self._drivers = _PerProcess(lambda: connect(settings.neo4j_uri, settings.neo4j_user, settings.neo4j_password))
        self._queries = _PerProcess(self._make_queries)
        self._comparing = _PerProcess(lambda: Comparing(self, self._drivers.get))
        self._applying = _PerProcess(self._make_applying)
        self.log = CommandLog(self.broker, self.command_topic)
        self.lookout = self._lookout()
        self.freshness = Freshness(settings.group_id, self.lookout)
        self.decisions = Decisions(self.broker, self.decisions_topic, self.command_topic, timeout_s=ASK_S)
        self.serving = self._serving()
        self.slots = Slots(lambda: self.broker.reconsider(REQUESTS))
        self.asking = Asking(self.log, settings.query_wait_s)
        self._answering = Answering(
            settings,
            self.broker,
            self._queries.get,
            self.response_topic,
            self.freshness,
            self.serving,
            self.slots,
            self._collected,
        )
        self.replies = Replies(self.broker, self.callers_topic, timeout_s=ASK_S)
        self.follower = Follower(
            self.broker, self.command_topic, self.outcomes_topic, self.replicas_topic, timeout_s=ASK_S
        )
        self._declare_queues()
        self.run_command = self._command_actor()
        self.run_query = self._query_actor(
            self._answering.run_text, wire.QUERY_ACTOR, Arguments(_text_query, wire.QUERY_ACTOR)
        )

    @property
    def topics(self) -> tuple[TopicSpec, ...]:
        """Every topic that the replicas need, in the order in which a person would name them."""
        read_by_all = (self.outcomes_topic, self.replicas_topic, self.decisions_topic)
        compared = (self.checkpoints_topic, self.verifications_topic)
        queries = (self.request_topic, self.response_topic, self.callers_topic)
        return (self.command_topic, *queries, *read_by_all, *compared)

    def driver(self) -> neo4j.Driver:
        """This process's driver of the replica's database."""
        return self._drivers.get()

    def _broker(self) -> KafkaBroker:
        client: dict[str, Any] = {name.replace(".", "_"): value for name, value in self.settings.kafka().items()}
        return KafkaBroker(
            **client,
            prefix=self.settings.prefix,
            group_id=self.settings.group(self.settings.query_group_id),
            group_protocol=self.settings.consumer_protocol,
            client_id=client_id(self.settings.group_id),
            envelope=envelope_of(self.settings, self.command_topic.name),
            middleware=[
                *(m() for m in default_middleware),
                CurrentMessage(),
                LongLived(),
                CommandGuard(COMMANDS),
                ServingQueries(lambda: self.serving, REQUESTS),
                QueriesAtOnce(lambda: self.slots, self.settings.query_at_once, (COMMANDS, REQUESTS)),
                AnswersDropped(REQUESTS, self._reply_to, self._forget),
                Expires(),
                *self._limits(),
                *self._results(),
            ],
        )

    def _limits(self) -> list[dramatiq.Middleware]:
        """For actors that ask to be unique or limited, where Redis is at hand; no other actor is touched."""
        if self.settings.redis_url is None:
            return []
        from dramatiq.rate_limits.backends.redis import RedisBackend  # noqa: PLC0415 - only where it is wanted

        backend = RedisBackend(url=self.settings.redis_url)  # type: ignore[no-untyped-call]  # Dramatiq's gap
        prefix = self.settings.prefix
        return [
            Unique(backend, namespace=f"{prefix}unique"),
            RateLimits(backend, namespace=f"{prefix}limit"),
        ]

    def _results(self) -> list[dramatiq.Middleware]:
        """Dramatiq's own results, for ordinary actors on this broker, and kept answers, where Redis is at hand."""
        if self.kept is None or self._collected is None or self.settings.redis_url is None:
            return []
        from dramatiq.results import Results  # noqa: PLC0415 - only where it is wanted

        from tasks.kept import KeptResults  # noqa: PLC0415 - as above

        backend = KeptResults(self.settings.redis_url, self.kept)
        results = Results(backend=backend)  # type: ignore[no-untyped-call]  # Dramatiq's gap
        return [results, Keeping(self.kept, backend, self._collected, REQUESTS, self.settings.group_id)]

    def _kept(self) -> Kept | None:
        if self.settings.redis_url is None:
            return None
        from tasks.kept import Kept  # noqa: PLC0415 - it brings the client of Redis

        return Kept(self.settings.redis_url, self.settings.topic_prefix)

    def fetch_result(self, message_id: str, timeout: float = 0.0) -> Any:
        """The rows or the value of a query that was sent with ``store="redis"``, by anybody; *timeout* in seconds.

        Raises:
          QueryFailed: the answer is an error.
          ResultUnknown, ResultExpired, ResultNotYet: there is none; why.
          StoreMissing, StoreUnreachable: nobody knows.
        """
        if self.kept is None:
            raise StoreMissing("answers are kept in Redis: set REDIS_URL")
        return self.kept.result(message_id, timeout)

    def _declare_queues(self) -> None:
        self.broker.declare_queue(
            COMMANDS,
            topic=self.command_topic,
            group_id=self.settings.group(self.settings.group_id),
            ordered=True,
            batch=self.settings.apply_batch,
            start=lambda *place: self._applying.get().start(*place),
            decode=wire.read_command,
            compact=Compact(wire.COMMAND_ACTOR, PlainCommands().read),
            refused=wire.refused_command,
        )
        self.broker.declare_queue(
            REQUESTS,
            topic=self.request_topic,
            group_id=self.settings.group(self.settings.query_group_id),
            decode=self._read_request,
            ready=self._ready,
            company=self._answering.kind_of,
            repeatable=True,
        )

    def _ready(self, message: dramatiq.Message[Any]) -> float | None:
        """Whether a worker thread may have *message*: there is room for it, and the replica is fresh enough."""
        wait_s = self.slots.full(message.message_id) or self.freshness.ready(message)
        if wait_s is None:
            self.slots.let_go(message.message_id)
        return wait_s

    def _reply_to(self, message: dramatiq.MessageProxy) -> Reply:
        return self._answering.reply_to(message)

    def _forget(self, message_id: str) -> None:
        self.slots.forget(message_id)

    def _lookout(self) -> Lookout:
        """Sees how far this process's replica is; what waits for that is asked about again after each look."""
        return Lookout(
            self.log,
            lambda: self._queries.get().position(),
            lambda: Peek(self.broker.client_settings, self.command_topic.name, timeout_s=ASK_S),
            lambda: self.broker.reconsider(REQUESTS),
        )

    def _serving(self) -> Serving:
        serving = Serving(
            leave=lambda: self.broker.unsubscribe(REQUESTS),
            come_back=lambda: self.broker.resubscribe(REQUESTS),
            others=lambda: others_of(self.settings.group_id, lambda: self.broker.holders(REQUESTS)),
        )
        serving.feed("quarantine", untrusted(self.decisions, self.settings.group_id))
        if self.settings.query_max_lag_s:
            serving.feed("lag", Behind(self.lookout, self.settings.query_max_lag_s))
            serving.feed("held", held(self.broker.blocked, self.command_topic.name))
        return serving

    def session(self, *tokens: str) -> Session:
        """A causal session, which goes on where the sessions of *tokens* were; see `tasks.sessions`.

        Raises:
          LevelRefused: one of them is no token, or they are of different logs.
        """
        return Session(self, *tokens)

    def _read_request(self, record: Record, queue_name: str) -> dramatiq.Message[Any]:
        return wire.read_request(record, queue_name, self._reply_topics)

    @functools.cached_property
    def _reply_topics(self) -> dict[str, str]:
        """The names that a request may ask its answer on: with the prefix, and as they stand in the settings."""
        allowed = self.settings.allowed_reply_topics
        prefix = self.settings.prefix
        return {name: name for name in allowed} | {name.removeprefix(prefix): name for name in allowed}

    def _make_queries(self) -> Queries:
        return Queries(
            self._drivers.get(),
            database=self.settings.neo4j_database,
            topic=self.command_topic.name,
            timeout_s=self.settings.query_timeout_s,
            max_rows=self.settings.query_max_rows,
            max_bytes=self.settings.query_max_bytes,
            allowed=Allowed.read(self.settings.query_allowed),
        )

    def _make_applying(self) -> Applying:
        return Applying(
            self.settings,
            self.broker,
            self._drivers.get,
            reports=self.outcomes_topic,
            registry=Registry(self.settings, self.broker, self.replicas_topic, self._drivers.get),
            decisions=self.decisions,
            comparing=self._comparing.get(),
            holding=Holdings(self.broker, self.replicas_topic, self.settings.group_id),
            start_again=lambda: self.broker.reconsider(COMMANDS),
        )

    # Actors.

    def _command_actor(self) -> CommandActor:
        def run_command(messages: list[RecordMessage | Command]) -> None:
            """Apply consecutive commands."""
            self._applying.get().apply(messages)

        options = {
            "time_limit": float("inf"),  # the applier bounds each transaction itself
            "throws": (
                Exception,
            ),  # the broker says that a command is held, with the reason, not with a traceback a try
        }
        actor = CommandActor(
            run_command,
            broker=self.broker,
            actor_name=wire.COMMAND_ACTOR,
            queue_name=COMMANDS,
            priority=0,
            options=options,
        )
        actor.follower = self.follower
        actor.opinion = SecondOpinion(self.settings, self._drivers.get)
        return actor

    def _query_actor(self, fn: Callable[..., Any], name: str, arguments: Arguments) -> QueryActor:
        options: dict[str, Any] = {"max_retries": 0, "throws": (QueryFailed,)}  # whoever asked is told, and asks again
        actor = QueryActor(fn, broker=self.broker, actor_name=name, queue_name=REQUESTS, priority=0, options=options)
        actor.replies = self.replies
        actor.reply_topic = self.callers_topic
        actor.asking = self.asking
        actor.claim_store = self.broker.envelope.claims
        actor.arguments = arguments
        actor.keeps = self.kept is not None
        return actor

    def command(self, fn: Callable[P, Statement | Sequence[Statement]]) -> CommandFunction[P]:
        """Make a function that returns a statement, or several that belong together, a command.

        It is evaluated where it is sent from; only its statements travel.
        """
        return CommandFunction(fn, self.run_command)

    @overload
    def query(self, fn: Callable[..., Any]) -> QueryActor: ...
    @overload
    def query(
        self, fn: None = None, *, actor_name: str | None = None, **options: Any
    ) -> Callable[[Callable[..., Any]], QueryActor]: ...

    def query(self, fn: Callable[..., Any] | None = None, *, actor_name: str | None = None, **options: Any) -> Any:
        """Make a function ``fn(tx, ...)`` a query: it runs on a replica's worker in a read transaction.

        What it returns, anything that JSON or Neo4j can say, is the caller's answer.  Workers have to import it too.
        Its annotations say what it takes (see `tasks.arguments`); *options* are those of `send_with_options`, for all
        calls that do not say otherwise.

        Raises:
          AnnotationRefused, OptionUnknown, OptionRefused, LevelRefused: what could not be kept.
        """
        declared = query_options.declared(options)
        if fn is None:
            return functools.partial(self._query, name=actor_name, declared=declared)
        return self._query(fn, actor_name, declared)

    def _query(self, fn: Callable[..., Any], name: str | None, declared: dict[str, Any]) -> QueryActor:
        name = name or fn.__name__
        arguments = Arguments(fn, name)
        checked = on_worker(fn, arguments)

        @functools.wraps(fn)
        def run(*args: Any, **kwargs: Any) -> Any:
            return self._answering.run_function(checked, args, kwargs)

        actor = self._query_actor(run, name, arguments)
        actor.declared = declared
        return actor

    def close(self) -> None:
        """Leave the groups, stop reading, close the driver.  Idempotent; the app can be used again."""
        self.serving.stop()
        self.lookout.close()
        self.broker.close()
        self.replies.close()
        self.follower.close()
        self.decisions.close()
        if self.kept is not None:
            self.kept.close()
        driver = self._drivers.drop()
        if driver is not None:
            driver.close()
        self._queries.drop()
        self._applying.drop()
        comparing = self._comparing.drop()
        if comparing is not None:
            comparing.close()


def _text_query(tx: object, text: str, /, **parameters: Any) -> None:
    """What ``run_query`` takes."""


class _PerProcess(Generic[T]):
    """Something that is made at first use and must not be shared over a fork.  Any thread."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = threading.RLock()
        self._made: tuple[int, T] | None = None

    def get(self) -> T:
        """This process's own."""
        with self._lock:
            if self._made is None or self._made[0] != os.getpid():
                self._made = (os.getpid(), self._make())
            return self._made[1]

    def drop(self) -> T | None:
        """Forget it; what it was, if this process made it."""
        with self._lock:
            made, self._made = self._made, None
        return made[1] if made is not None and made[0] == os.getpid() else None
