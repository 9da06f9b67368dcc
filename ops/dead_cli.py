"""``neo4j-kafka dead``: look at parked messages, put them back, throw them away."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from ops.console import Group, json_option, print_json, print_table, progress, state_dir_option, stream_option, tell
from ops.dead import Selection, described


if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from brokers.letterbox import Outcome
    from brokers.letters import Letter

#: What narrows down which letters are meant.
_filters = (
    click.option("--error", metavar="KIND", help="Only of this kind of failure: ValueError, Crashed, Undecodable ..."),
    click.option("--actor", metavar="NAME", help="Only of this actor."),
    click.option("--since", metavar="TIME", help="Only parked since then: 2h, 7d, 2026-01-31 or 2026-01-31T08:00."),
    click.option("--before", metavar="TIME", help="Only parked before then; as --since."),
)


def filtered(command: Callable[..., None]) -> Callable[..., None]:
    """Give *command* the options that narrow down which letters are meant."""
    for option in reversed(_filters):
        command = option(command)
    return command


limit_option = click.option("--limit", type=click.IntRange(min=1), help="So many at most, the oldest first.")
all_option = click.option("--all", "everything", is_flag=True, help="All letters of the queue.")
dry_option = click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")


@click.group(cls=Group)
def dead() -> None:
    """Dead letters: messages that failed for good, wait to be put back or thrown away."""


@dead.command("list")
@click.argument("queue", required=False)
@filtered
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="So many, the oldest first.")
@stream_option
@state_dir_option
@json_option
def list_letters(*, queue: str | None, limit: int, state_dir: Path, as_json: bool, **filters: str | None) -> None:
    """Count the letters of all queues, or list those of one."""
    from ops.dead import counts, letters_of  # heavy, and --help has no use for them

    chosen = Selection.of((), **filters)
    if queue is None:
        if chosen.narrows:
            raise click.UsageError("Name the queue whose letters you look for.")
        found = counts(state_dir)
        if as_json:
            print_json({"queues": [{"queue": name, "letters": count} for name, count in found.items()]})
        else:
            print_table(("queue", "letters"), found.items())
        return
    with letters_of(state_dir, queue) as letters:
        listed = letters.list(chosen.where(), limit)
    if as_json:
        print_json({"queue": queue, "letters": [letter.summary() for letter in listed]})
        return
    titles = ("id", "message", "actor", "error", "reason", "parked", "attempts", "replayed")
    print_table(titles, [described(letter) for letter in listed])


@dead.command()
@click.argument("queue")
@click.argument("letter_id", metavar="PARTITION/OFFSET|MESSAGE_ID")
@stream_option
@state_dir_option
@json_option
def show(*, queue: str, letter_id: str, state_dir: Path, as_json: bool) -> None:
    """Show all that is known of one letter: where it failed and why, its history, its body."""
    from ops.dead import letters_of, whole  # as above

    with letters_of(state_dir, queue) as letters:
        found = whole(letters.get(letter_id))
    if as_json:
        print_json(found)
        return
    for name, value in found.items():
        if value not in (None, "", []):
            text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
            click.echo(click.style(f"{name}:", bold=True) + ("\n" if "\n" in text else " ") + text)


@dead.command()
@click.argument("queue")
@click.argument("ids", nargs=-1, metavar="[PARTITION/OFFSET|MESSAGE_ID]...")
@all_option
@filtered
@limit_option
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Letters a second, at most.")
@click.option("--force", is_flag=True, help="Also those that were replayed three times and failed each time.")
@dry_option
@stream_option
@state_dir_option
@json_option
def replay(
    *,
    queue: str,
    ids: tuple[str, ...],
    everything: bool,
    limit: int | None,
    rate: float | None,
    force: bool,
    dry_run: bool,
    state_dir: Path,
    as_json: bool,
    **filters: str | None,
) -> None:
    """Put letters back on their queue, each in one transaction with the mark that it was.

    Value and key are as they were, and so is the number of retries in it: a letter whose retries are used up gets one
    more attempt.  A letter that fails again comes back with its history.  An interrupted replay is simply run again.

    Exit code 4 when some were refused; the text says why.
    """
    from ops.dead import letters_of, steps  # as above

    where = Selection.of(ids, **filters).required(everything=everything).where()
    with letters_of(state_dir, queue) as letters:
        if dry_run:
            chosen = letters.list(where, limit)
            refused = letters.refusals(chosen, force=force)
            _tell("would be put back", len(chosen) - len(refused), refused, as_json=as_json)
            return
        with progress(quiet=as_json) as display:
            outcome = letters.replay(where, limit=limit, rate=rate, force=force, progress=steps(display))
    _tell_outcome("put back", outcome, as_json=as_json)


@dead.command()
@click.argument("queue")
@click.argument("ids", nargs=-1, metavar="[PARTITION/OFFSET|MESSAGE_ID]...")
@all_option
@filtered
@limit_option
@dry_option
@stream_option
@state_dir_option
@json_option
def purge(
    *,
    queue: str,
    ids: tuple[str, ...],
    everything: bool,
    limit: int | None,
    dry_run: bool,
    state_dir: Path,
    as_json: bool,
    **filters: str | None,
) -> None:
    """Throw letters away: they show up no more.

    Their bytes leave the disk at once where no older letter of the same partition waits, and with the topic's retention
    of 30 days at the latest.
    """
    from ops.dead import letters_of  # as above

    where = Selection.of(ids, **filters).required(everything=everything).where()
    with letters_of(state_dir, queue) as letters:
        if dry_run:
            _tell("would be thrown away", len(letters.list(where, limit)), (), as_json=as_json)
            return
        outcome = letters.purge(where, limit=limit)
    _tell_outcome("thrown away", outcome, as_json=as_json)


def _tell_outcome(what: str, outcome: Outcome, *, as_json: bool) -> None:
    _tell(what, outcome.settled, outcome.refused, as_json=as_json, code=4 if outcome.refused else 0)


def _tell(what: str, count: int, refused: Any, *, as_json: bool, code: int = 0) -> None:
    told = [{**letter.summary(), "refused": reason} for letter, reason in refused]
    data = {"letters": count, "what": what, "refused": told}
    tell(data, lambda: _print(what, count, refused), as_json=as_json, code=code)


def _print(what: str, count: int, refused: Any) -> None:
    click.echo(f"{count:,} {'letter' if count == 1 else 'letters'} {what}.")
    for letter, reason in refused:
        click.secho(f"{_name(letter)} is refused: {reason}", fg="red", err=True)


def _name(letter: Letter) -> str:
    return f"{letter.id} ({letter.message_id})" if letter.message_id else letter.id
