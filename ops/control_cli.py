"""``neo4j-kafka control``: telling all workers something, and asking them."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ops.console import Group, json_option, print_table, stream_option, tell, timeout_option


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from brokers.control import Control
    from brokers.inspection import Inspection, WorkerState
    from brokers.orders import Orders

#: Exit code where somebody did not answer in time.
SILENT = 3

DAY_S = 86_400

state_dir_option = click.option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".stack"),
    show_default=True,
    help="The local stack to speak to, where BROKERS is not set.",
)
reason_option = click.option("--reason", default="", help="Why, for logs and for whoever asks.")
answer_option = timeout_option(2.0, "Seconds that workers have to answer.", most=60)


def meaning(function: Callable[..., None]) -> Callable[..., None]:
    """Options that say which messages are meant."""
    for decorate in (
        click.option("--queue", help="All of this queue that were sent until now."),
        click.option("--actor", help="All of this actor that were sent until now."),
        click.argument("message_id", required=False),
    ):
        function = decorate(function)
    return function


days_option = click.option(
    "--days",
    type=click.FloatRange(min=0, min_open=True),
    default=7.0,
    show_default=True,
    help="How long it holds.",
)


@click.group(cls=Group)
def control() -> None:
    """Tell all workers something, or ask what they do."""


@control.command()
@meaning
@days_option
@reason_option
@stream_option
@state_dir_option
@json_option
def revoke(
    *,
    message_id: str | None,
    actor: str | None,
    queue: str | None,
    days: float,
    reason: str,
    state_dir: Path,
    as_json: bool,
) -> None:
    """Take back messages that wait: skip them when their turn comes, and cancel delayed ones.

    MESSAGE_ID is one message; --actor and --queue mean all that were sent until now.  What runs already goes on.
    """
    _check(message_id, actor, queue)
    with _control(state_dir) as said:
        cancelled = said.revoke(message_id, actor=actor, queue=queue, holds_s=days * DAY_S, reason=reason)
    _print_revoked(message_id or actor or queue, cancelled, as_json=as_json)


@control.command()
@meaning
@days_option
@reason_option
@stream_option
@state_dir_option
@json_option
def abort(
    *,
    message_id: str | None,
    actor: str | None,
    queue: str | None,
    days: float,
    reason: str,
    state_dir: Path,
    as_json: bool,
) -> None:
    """As revoke, and interrupt what runs.  An aborted message is neither tried again nor parked."""
    _check(message_id, actor, queue)
    with _control(state_dir) as said:
        cancelled = said.abort(message_id, actor=actor, queue=queue, holds_s=days * DAY_S, reason=reason)
    _print_revoked(message_id or actor or queue, cancelled, as_json=as_json)


@control.command()
@meaning
@stream_option
@state_dir_option
@json_option
def unrevoke(*, message_id: str | None, actor: str | None, queue: str | None, state_dir: Path, as_json: bool) -> None:
    """End revocations.  What was skipped or cancelled stays so."""
    _check(message_id, actor, queue)
    with _control(state_dir) as said:
        ended = said.unrevoke(message_id, actor=actor, queue=queue)
    tell({"ended": ended}, lambda: click.echo(f"Ended revocations: {ended}."), as_json=as_json)


@control.command()
@click.argument("queue")
@reason_option
@stream_option
@state_dir_option
@json_option
def pause(*, queue: str, reason: str, state_dir: Path, as_json: bool) -> None:
    """Let no worker begin anything more of QUEUE, until resume.  What runs ends."""
    with _control(state_dir) as said:
        said.pause(queue, reason=reason)
    tell({"paused": queue}, lambda: click.echo(f"Paused: {queue}."), as_json=as_json)


@control.command()
@click.argument("queue")
@stream_option
@state_dir_option
@json_option
def resume(*, queue: str, state_dir: Path, as_json: bool) -> None:
    """Undo pause."""
    with _control(state_dir) as said:
        was_paused = said.resume(queue)
    text = f"Resumed: {queue}." if was_paused else f"{queue} was not paused."
    tell({"queue": queue, "was_paused": was_paused}, lambda: click.echo(text), as_json=as_json)


@control.command("list")
@stream_option
@state_dir_option
@json_option
def show(*, state_dir: Path, as_json: bool) -> None:
    """Print what holds: pauses and revocations."""
    with _control(state_dir) as said:
        orders = said.orders()
    pauses, revocations = orders.pauses.values(), orders.revocations
    data = {"pauses": [asdict(one) for one in pauses], "revocations": [asdict(one) for one in revocations]}
    tell(data, lambda: _print_orders(orders), as_json=as_json)


@control.command()
@answer_option
@stream_option
@state_dir_option
@json_option
def inspect(*, timeout: float, state_dir: Path, as_json: bool) -> None:
    """Ask every worker what it does.

    Exit code 3 when a member of their groups does not answer in time, or nobody does.
    """
    with _control(state_dir) as said:
        found = said.inspect(timeout)
    from msgspec import to_builtins

    code = SILENT if found.silent or not found.workers else 0
    tell(to_builtins(found), lambda: _print_inspection(found), as_json=as_json, code=code)


@control.command()
@answer_option
@stream_option
@state_dir_option
@json_option
def ping(*, timeout: float, state_dir: Path, as_json: bool) -> None:
    """Print who answers.  Exit code 3 when nobody does."""
    with _control(state_dir) as said:
        found = said.ping(timeout)
    text = "\n".join(found) or f"No worker answers within {timeout:g} s."
    code = 0 if found else SILENT
    tell({"workers": found}, lambda: click.echo(text, err=not found), as_json=as_json, code=code)


@contextmanager
def _control(state_dir: Path) -> Iterator[Control]:
    from ops.connection import connected, settings_for

    with connected(settings_for(state_dir)) as app:
        yield app.broker.control


def _check(*named: str | None) -> None:
    if sum(name is not None for name in named) != 1:
        raise click.UsageError("Give exactly one of: a message id, --actor, --queue.")


def _print_revoked(name: str | None, cancelled: int, *, as_json: bool) -> None:
    text = f"Revoked: {name}. Delayed messages cancelled: {cancelled}."
    tell({"revoked": name, "cancelled": cancelled}, lambda: click.echo(text), as_json=as_json)


def _print_orders(orders: Orders) -> None:
    pauses = [("pause", one.queue, _when(one.at_ms), "", one.reason) for one in orders.pauses.values()]
    revocations = [
        ("abort" if one.abort else "revoke", str(one), _when(one.at_ms), _when(one.expires_ms), one.reason)
        for one in orders.revocations
    ]
    rows = pauses + revocations
    if rows:
        print_table(("order", "about", "since", "until", "reason"), rows)
    else:
        click.echo("Nothing is paused, and nothing revoked.")


def _print_inspection(found: Inspection) -> None:
    titles = ("worker", "version", "up for", "queues", "partitions", "runs", "waiting", "skipped")
    _print_some(titles, [_worker(one) for one in found.workers])
    jobs = [
        (w.name, one.queue, one.actor, one.message_id, _ago(one.since_ms)) for w in found.workers for one in w.running
    ]
    _print_some(("worker", "queue", "actor", "runs", "for"), jobs)
    halts = [(name, why.reason, _ago(why.since_ms)) for w in found.workers for name, why in sorted(w.blocked.items())]
    _print_some(("blocked", "reason", "for"), halts)
    paused = {name: why for w in found.workers for name, why in w.paused.items()}
    _print_some(("paused", "reason", "for"), [(name, why.reason, _ago(why.since_ms)) for name, why in paused.items()])
    silent = [(one.group, one.client_id, one.host, " ".join(one.partitions)) for one in found.silent]
    _print_some(("silent member of", "client", "host", "partitions"), silent)
    if not found.workers:
        click.echo("No worker answers.", err=True)


def _print_some(titles: tuple[str, ...], rows: Sequence[Sequence[object]]) -> None:
    if rows:
        print_table(titles, rows)


def _worker(one: WorkerState) -> tuple[Any, ...]:
    waiting, skipped = _counts(one.waiting), _counts(one.skipped)
    up, queues = _ago(one.since_ms), " ".join(one.queues)
    return one.name, one.version, up, queues, len(one.partitions), len(one.running), waiting, skipped


def _counts(found: Mapping[str, int]) -> str:
    return " ".join(f"{name}:{count}" for name, count in sorted(found.items()) if count) or "-"


def _ago(at_ms: int) -> str:
    return f"{max(time.time() - at_ms / 1000, 0):.0f} s"


def _when(at_ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_ms / 1000))
