"""Commands: actors whose messages every replica applies, in log order, exactly once."""

from __future__ import annotations

import datetime as dt
import functools
import random
from typing import TYPE_CHECKING, Any, Generic, ParamSpec

import dramatiq
from dramatiq.middleware import Middleware, MiddlewareError
from msgspec.structs import replace

from brokers.errors import Undecodable
from replica import cypher, plan
from replica.determinism import freeze
from replica.errors import NotDeterministic
from replica.statement import Command, Statement
from tasks import wire
from tasks.errors import CommandRefused, OptionUnknown
from tasks.receipts import Receipt


if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tasks.following import Follower
    from tasks.opinions import SecondOpinion

P = ParamSpec("P")

#: What `send_with_options` may be told about a command.
OPTIONS = frozenset({"key", "explain", wire.IDEMPOTENT, wire.WHEN, wire.ID})

#: What a frozen `rand()` or `randomUUID()` is drawn from.
_random = random.SystemRandom()

#: The message option that names the command function; for people who search the log.
LABEL = "command"


def frozen(statements: Sequence[Statement], when: Statement | None = None) -> Command:
    """A command as it goes into the log: clock and randomness are values, the same for every replica.

    Raises:
      CommandRefused: no replica could apply them, or not all of them alike; with the reason and another way.
    """
    now = dt.datetime.now(dt.UTC)
    try:
        together = tuple(freeze(each, now=now, random=_random).statement for each in _present(statements))
        if when is not None:
            when = freeze(when, now=now, random=_random, condition=True).statement
    except NotDeterministic as exc:
        raise CommandRefused(str(exc)) from exc
    return checked(Command(-1, together, when=when))


def checked(command: Command) -> Command:
    """*command*, unless it is known already that no replica can apply it.

    Raises:
      CommandRefused: with the reason.
    """
    _present(command.statements)
    verdict = plan.verdict(command)
    if verdict is not None:
        raise CommandRefused(f"{verdict.message} [{verdict.code}]")
    return command


def _present(statements: Sequence[Statement]) -> tuple[Statement, ...]:
    together = tuple(statements)
    if not together or not all(isinstance(statement, Statement) for statement in together):
        raise CommandRefused(f"a command is a text, a Statement, or a list of Statements; not {statements!r}")
    if any(not statement.text.strip() for statement in together):
        raise CommandRefused("the text of a command is empty")
    return together


class CommandActor(dramatiq.Actor[Any, Any]):
    """``run_command``: its arguments are a Cypher text and its parameters, or a list of statements."""

    follower: Follower
    opinion: SecondOpinion

    def send(  # type: ignore[override]  # a receipt is what a command gives
        self, text: str | Statement | Sequence[Statement], /, **parameters: Any
    ) -> Receipt:
        """Append a command to the log; keyword arguments are Cypher parameters and nothing else.

        Raises:
          CommandRefused, ValueNotEncodable: nothing was sent.
          Unreachable, DeliveryUnknown, DeliveryRefused: see `brokers.errors`.
        """
        return self.send_with_options(args=(text,), kwargs=parameters)

    def send_with_options(  # type: ignore[override]  # see send
        self, *, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None, delay: Any = None, **options: Any
    ) -> Receipt:
        """As `send`.

        Options: ``key``, the record's key in Kafka; ``explain``, whether a replica's server compiles it first;
        ``idempotent``, that it may be run again after a part of it, as CALL ... IN TRANSACTIONS has to be; ``when``, a
        query that has to give a row of `true` where the command stands in the log (see `replica.conditions`), as a
        text, which has the parameters of the command's text, or as a Statement with its own; ``id``, under which it is
        applied once, however often it is sent (see `replica.ids`).
        """
        if delay is not None:
            raise OptionUnknown("a command cannot be delayed: its place in the log is its time")
        message = self.message_with_options(args=args, kwargs=kwargs, **options)
        return Receipt(self.broker.enqueue(message), self.follower)

    def message(self, text: str | Statement | Sequence[Statement], /, **parameters: Any) -> dramatiq.Message[Any]:
        """The message that `send` would send, for groups and pipelines."""
        return self.message_with_options(args=(text,), kwargs=parameters)

    def message_with_options(
        self, *, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None, **options: Any
    ) -> dramatiq.Message[Any]:
        """The message that `send_with_options` would send."""
        unknown = options.keys() - OPTIONS - {LABEL}
        if unknown:
            known = ", ".join(sorted(OPTIONS))
            raise OptionUnknown(f"commands have no option {', '.join(sorted(unknown))}; they have {known}")
        statements = _declared(_statements(args, kwargs or {}), options)
        command = frozen(statements, _condition(options.pop(wire.WHEN, None), statements))
        if options.pop("explain", self.opinion.default):
            self.opinion.require(command)
        if command.when is not None:
            options[wire.WHEN] = wire.pack_condition(command.when, command.statements)
        packed, parameters = wire.pack(command.statements)
        message = super().message_with_options(args=packed, kwargs=parameters, **options)
        try:
            if wire.id_in(message) is None:
                message.options.pop(wire.ID, None)
        except Undecodable as exc:
            raise CommandRefused(str(exc)) from exc
        return message


def _statements(args: Sequence[Any], parameters: Mapping[str, Any]) -> tuple[Statement, ...]:
    if len(args) != 1:
        raise CommandRefused(f"a command is one text, or one list of Statements; got {len(args)} arguments")
    if isinstance(args[0], str):
        return (Statement(args[0], parameters),)
    if parameters:
        raise CommandRefused("Statements carry their own parameters; keyword arguments belong to a text")
    return (args[0],) if isinstance(args[0], Statement) else tuple(args[0])


def _declared(statements: Sequence[Statement], options: dict[str, Any]) -> Sequence[Statement]:
    """*statements* as the option says; it travels only where it means something."""
    if not options.pop(wire.IDEMPOTENT, False):
        if any(getattr(statement, "idempotent", False) for statement in statements):
            raise CommandRefused("say idempotent=True among the options, where it is kept, and not in the Statement")
        return statements
    declared = tuple(replace(statement, idempotent=True) for statement in _present(statements))
    if not any(cypher.analyse(statement.text).own_transactions for statement in declared):
        raise CommandRefused("idempotent=True is for CALL { ... } IN TRANSACTIONS; any other command is applied once")
    options[wire.IDEMPOTENT] = True
    return declared


def _condition(when: Any, statements: Sequence[Statement]) -> Statement | None:
    if when is None or isinstance(when, Statement):
        return when
    if not isinstance(when, str):
        raise CommandRefused(f"a condition is a text or a Statement, not {when!r}")
    if len(statements) == 1 and isinstance(statements[0], Statement):
        return wire.condition(when, statements[0].parameters)
    if cypher.parameter_names(when):
        raise CommandRefused("which of several Statements has the condition's parameters? make it a Statement, too")
    return Statement(when)


class CommandFunction(Generic[P]):
    """A function from arguments to statements, evaluated where it is sent from."""

    def __init__(self, fn: Callable[P, Statement | Sequence[Statement]], actor: CommandActor) -> None:
        functools.update_wrapper(self, fn)
        self.fn = fn
        self._actor = actor

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Statement | Sequence[Statement]:
        """The statements; nothing is sent."""
        return self.fn(*args, **kwargs)

    def send(self, *args: P.args, **kwargs: P.kwargs) -> Receipt:
        """Append the command to the log; see `CommandActor.send`."""
        return self.send_with_options(args=args, kwargs=kwargs)

    def send_with_options(
        self, *, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None, **options: Any
    ) -> Receipt:
        """As `send`, with the options of `CommandActor.send_with_options`."""
        return self._actor.send_with_options(args=(self.fn(*args, **kwargs or {}),), **options, **self._label())

    def message(self, *args: P.args, **kwargs: P.kwargs) -> dramatiq.Message[Any]:
        """The message that `send` would send, for groups and pipelines."""
        return self.message_with_options(args=args, kwargs=kwargs)

    def message_with_options(
        self, *, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None, **options: Any
    ) -> dramatiq.Message[Any]:
        """The message that `send_with_options` would send."""
        statements = self.fn(*args, **kwargs or {})
        return self._actor.message_with_options(args=(statements,), **options, **self._label())

    def _label(self) -> dict[str, Any]:
        return {LABEL: getattr(self.fn, "__name__", "command")}


class _Refused(MiddlewareError, CommandRefused):
    """The one kind of error that Dramatiq lets a middleware stop an enqueue with."""


class CommandGuard(Middleware):
    """Looks at every command on its way to the log, also at those that no `CommandActor` made: pipelines, by hand."""

    def __init__(self, queue_name: str) -> None:
        self._queue_name = queue_name

    def before_enqueue(self, broker: dramatiq.Broker, message: dramatiq.Message[Any], delay: int | None) -> None:
        """Refuse what a replica would reject, and what would be sent once by every replica.

        Raises:
          CommandRefused: with the reason.
        """
        if message.queue_name != self._queue_name:
            return
        follow_up = {"pipe_target", "on_success", "on_failure", "group_callbacks"} & message.options.keys()
        if follow_up:
            raise _Refused(
                f"nothing can follow a command ({', '.join(follow_up)}): every replica would send it;"
                " wait for its receipt instead"
            )
        if message.actor_name != wire.COMMAND_ACTOR:
            raise _Refused(
                f"{message.actor_name!r} is no command; use the `command` decorator instead of an actor on this queue"
            )
        try:
            wire.check_all(checked(wire.command_in(message)))
        except (CommandRefused, NotDeterministic) as exc:
            raise _Refused(str(exc)) from exc
        except Undecodable as exc:
            raise _Refused(str(exc)) from exc
