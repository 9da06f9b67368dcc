"""Put commands into the log, one or a whole file of them, and wait for what the replicas say."""

from __future__ import annotations

from array import array
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from dramatiq.errors import BrokerError

from ops.errors import InputUnusable, SendingStopped
from ops.progress import Progress, Step, silent
from replica import values
from replica.errors import ValueNotEncodable
from tasks.errors import CommandRefused, CommandRejected
from tasks.receipts import Receipt


if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from ops.statements import Item
    from replica.statement import Statement
    from tasks.app import App
    from tasks.following import Applied

#: Commands, and bytes of them, about, that are confirmed in one round trip.  Both bound the memory, whatever the file.
CHUNK = 1000
CHUNK_BYTES = 4_000_000

#: Rejected commands that are told about one by one.
SHOWN = 5


class Rejected(NamedTuple):
    """A command that changed nothing, and why."""

    offset: int
    code: str
    message: str


@dataclass(slots=True)
class Sent:
    """What became of a file."""

    first: Receipt | None = None
    last: Receipt | None = None
    offsets: array[int] = field(default_factory=lambda: array("q"))
    rejected: int = 0
    examples: list[Rejected] = field(default_factory=list)


def send(app: App, statement: Statement, options: Mapping[str, Any]) -> Receipt:
    """Append one command to the log, with those of the *options* that are not None; raises as `run_command.send`."""
    given = {name: value for name, value in options.items() if value is not None}
    return app.run_command.send_with_options(args=(statement,), **given)


def send_all(app: App, items: Iterable[Item], read: Callable[[], int], size: int, progress: Progress = silent) -> Sent:
    """Append all commands to the log in order, a chunk at a time.

    A chunk with an item that cannot be sent is not sent at all, and nothing after it.  *read* tells how many of *size*
    bytes of the file were read.

    Raises:
      InputUnusable: an item cannot be sent, and nothing was.
      SendingStopped: one cannot, or Kafka refused it; the text says its line, and how many are in the log.
    """
    sent = Sent()
    try:
        for chunk in chunks(items):
            _send_chunk(app, chunk, sent)
            progress(Step("commands", f"{len(sent.offsets):,} in the log", min(read(), size), size))
    except InputUnusable as error:
        if not sent.offsets:
            raise
        raise SendingStopped(f"{error}; {_so_far(sent)}") from error
    progress(Step("commands", f"{len(sent.offsets):,} in the log", finished=True))
    return sent


def chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    """*items* in lists that are confirmed together."""
    source = iter(items)
    while chunk := list(_chunk(source)):
        yield chunk


def _chunk(source: Iterator[Item]) -> Iterator[Item]:
    size = 0
    for item in islice(source, CHUNK):
        yield item
        size += len(item.statement.text) + values.size(dict(item.statement.parameters))
        if size > CHUNK_BYTES:
            return


def _send_chunk(app: App, chunk: list[Item], sent: Sent) -> None:
    messages = [_message(app, item) for item in chunk]
    try:
        with app.broker.batching():
            for message in messages:
                app.broker.enqueue(message)
    except BrokerError as error:
        _note(app, messages, sent)
        if not sent.offsets:
            raise
        raise SendingStopped(f"{error}; {_missing(chunk, messages)}; {_so_far(sent)}") from error
    _note(app, messages, sent)


def _note(app: App, messages: list[Any], sent: Sent) -> None:
    """Remember where the confirmed ones are."""
    receipts = [Receipt(message, app.follower) for message in messages if _delivery(message) is not None]
    sent.offsets.extend(receipt.position() for receipt in receipts)
    if receipts:
        sent.first = sent.first or receipts[0]
        sent.last = receipts[-1]


def _delivery(message: Any) -> Any:
    """Where Kafka put it; none while that is not confirmed."""
    return getattr(message, "delivery", None)


def _missing(chunk: list[Item], messages: list[Any]) -> str:
    """Which lines Kafka has not confirmed: those behind the first one may be in the log, since they went together."""
    lines = [item.line for item, message in zip(chunk, messages, strict=True) if _delivery(message) is None]
    named = ", ".join(str(line) for line in lines[:SHOWN])
    more = f" and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    return f"not confirmed: line {named}{more}"


def _so_far(sent: Sent) -> str:
    return f"{len(sent.offsets):,} commands are in the log, the last one at offset {sent.offsets[-1]}"


def _message(app: App, item: Item) -> Any:
    try:
        return app.run_command.message_with_options(args=(item.statement,), **item.options)
    except (CommandRefused, ValueNotEncodable) as error:
        raise InputUnusable(f"line {item.line}: {error}") from error


def wait_for_all(app: App, sent: Sent, applied: Applied, timeout_s: float) -> None:
    """Wait until the last command of *sent* is applied as widely as asked, and count those that were rejected.

    Raises:
      ReplicasDisagree, WaitTimeout: see `tasks.errors`.
    """
    if sent.first is None or sent.last is None:
        return
    first, last = (_delivery(receipt.message) for receipt in (sent.first, sent.last))
    with suppress(CommandRejected):
        app.follower.wait(last.offset, first.timestamp_ms, applied, timeout_s)
    for offset in sent.offsets:
        try:
            app.follower.wait(offset, first.timestamp_ms, "any", timeout_s)
        except CommandRejected as error:
            sent.rejected += 1
            if len(sent.examples) < SHOWN:
                sent.examples.append(Rejected(error.offset, error.code, error.message))
