"""How every command of the command line speaks: results on stdout, progress on stderr, mistakes in one line.

A command is declared with ``@main.command()``; being a `Command`, it turns what it raises into an exit code::

    0  done
    1  it failed
    2  wrong usage, or a wrong setting in the environment
    3  no answer in time
    4  rejected: what was asked for cannot be done, and would not be next time
    5  the replicas differ (`verify`)
    130  interrupted, by Ctrl-C or SIGTERM
    141  whoever read the output has left, as `head` does

With ``--json`` (see `json_option`) it prints one JSON object, also when it fails: ``{"error": {...}}``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar

import click

from ops.progress import Progress, Step, silent


if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rich.progress import TaskID

_F = TypeVar("_F", bound="Callable[..., Any]")

#: Error class → exit code, the first match counts.  By name, so that no package has to be imported for its errors: an
#: error that is here and was raised has been imported.  What is not here is a defect of ours, and shows its traceback.
EXIT_CODES = {
    "builtins.KeyboardInterrupt": 130,
    "builtins.TimeoutError": 3,
    "tasks.errors.CommandRefused": 4,
    "tasks.errors.CommandRejected": 4,
    "replica.errors.QueryRejected": 4,
    "replica.errors.SnapshotRefused": 4,
    "replica.errors.Halted": 4,
    "brokers.errors.ControlRefused": 4,
    "tasks.errors.OptionUnknown": 2,
    "tasks.errors.StoreMissing": 2,
    "tasks.errors.ResultUnknown": 2,
    "tasks.errors.ResultExpired": 4,
    "tasks.errors.LevelRefused": 2,
    "tasks.errors.StaleRead": 3,
    "replica.errors.ValueNotEncodable": 2,
    "replica.errors.ValueNotDecodable": 2,
    "ops.errors.InputUnusable": 2,
    "ops.errors.OutputClosed": 141,
    "ops.errors.NotSkipped": 4,
    "ops.errors.TruncationRefused": 4,
    "ops.errors.ReplicaUnknown": 2,
    "ops.errors.ReplicaAlive": 4,
    "ops.errors.NotAReplica": 4,
    "replica.errors.SnapshotUnknown": 2,
    "brokers.errors.LetterUnknown": 2,
    "pydantic_core._pydantic_core.ValidationError": 2,
    "brokers.errors.WrongSetting": 2,
    "tasks.errors.TasksError": 1,
    "replica.errors.ReplicaError": 1,
    "brokers.errors.StartError": 1,
    "dramatiq.errors.BrokerError": 1,
    "ops.errors.OpsError": 1,
}

state_dir_option = click.option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".stack"),
    show_default=True,
    help="Where the servers keep data, logs and ports.",
)


def _choose_stream(ctx: click.Context, _option: click.Parameter, name: str | None) -> None:
    from settings import stream_chosen  # noqa: PLC0415 - `--help` need not wait for it

    ctx.with_resource(stream_chosen(name))


#: For every command that talks of one log.
stream_option = click.option(
    "--stream",
    metavar="NAME",
    expose_value=False,
    callback=_choose_stream,
    help="Which of several logical databases; instead of STREAM.",
)

#: For every command that speaks to one database; see `ops.connection.settings_for`.
replica_option = click.option(
    "--replica",
    type=click.IntRange(min=1),
    help="Which one of the local stack, whatever NEO4J_URI says.  [default: NEO4J_URI, or 1]",
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


#: More than none.
SECONDS = click.FloatRange(min=0, min_open=True)


def timeout_option(default: float, what: str, *, most: float | None = None) -> Callable[[_F], _F]:
    """`--timeout`, in seconds, at most *most*."""
    kind = click.FloatRange(min=0, min_open=True, max=most)
    return click.option("--timeout", type=kind, default=default, show_default=True, help=what)


def parameter_options(command: _F) -> _F:
    """Parameters, for a command that takes *pairs* and *params*; `ops.parameters` reads them."""
    one = click.option(
        "-p", "--param", "pairs", multiple=True, metavar="NAME=VALUE", help="A parameter; may be given many times."
    )
    return one(click.option("--params", metavar="JSON", help="All parameters, as one JSON object.")(command))


#: For whatever prints rows; see `ops.forms`.
format_option = click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "jsonl", "csv"]),
    default="table",
    show_default=True,
    help="How rows are printed: json is one list of objects, jsonl an object on each line.",
)


class Command(click.Command):
    """A command whose expected errors become one line (or one JSON object) and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (Exception, KeyboardInterrupt) as error:
            code = exit_code(error)
            if code is None or ctx.find_root().params.get("debug"):
                raise
            if said := words_of(error):
                report(error, said, code, as_json=bool(ctx.params.get("as_json")))
            ctx.exit(code)


#: More letters than a sentence has.
_SENTENCE = 300


class Group(click.Group):
    """A group of such commands."""

    command_class = Command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As Click's, with the whole first sentence of each command: cut at 45 letters few say anything."""
        commands = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        with formatter.section("Commands"):
            formatter.write_dl([(name, one.get_short_help_str(_SENTENCE)) for name, one in commands.items() if one])


def exit_code(error: BaseException) -> int | None:
    """Return the exit code for an error; None when it is none that users are told about."""
    names = {f"{cls.__module__}.{cls.__qualname__}" for cls in type(error).__mro__}
    return next((code for name, code in EXIT_CODES.items() if name in names), None)


def report(error: BaseException, said: str, code: int, *, as_json: bool) -> None:
    """Say what went wrong: for programs on stdout, for people on stderr."""
    if as_json:
        print_json({"error": {"type": type(error).__name__, "message": said, "exit_code": code}})
    else:
        click.secho(said, fg="red", err=True)


def words_of(error: BaseException) -> str:
    """The error for people; of wrong settings, each variable and what is wrong with it."""
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "Interrupted."
    details = getattr(error, "errors", None)
    if not callable(details):
        return str(error)
    return "; ".join(f"{'.'.join(map(str, found['loc'])) or 'settings'}: {found['msg']}" for found in details())


class Told(Protocol):
    """What came of a command, for programs and for people, and the exit code that says so."""

    @property
    def exit_code(self) -> int:
        """0 where all is well."""

    def as_json(self) -> dict[str, Any]:
        """For programs."""

    def as_text(self) -> str:
        """For people."""


def finish(told: Told, *, as_json: bool) -> None:
    """Print what came of a command, and leave with its exit code."""
    tell(told.as_json(), lambda: click.echo(told.as_text()), as_json=as_json, code=told.exit_code)


def tell(data: dict[str, Any], say: Callable[[], object], *, as_json: bool, code: int = 0) -> None:
    """Print *data* for programs, or have it said to people, who may want more than a text; leave with *code*."""
    if as_json:
        print_json(data)
    else:
        say()
    if code:
        raise click.exceptions.Exit(code)


def interrupt_on(*numbers: signal.Signals) -> None:
    """Let these signals end the command through the same door as Ctrl-C, so that nothing half-done is left behind."""
    for number in numbers:
        signal.signal(number, _interrupted)


def _interrupted(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def put(text: str) -> None:
    """Write *text* to stdout, as it is and at once.

    Raises:
      OutputClosed: whoever read it has left.
    """
    try:
        click.echo(text, nl=False)
    except BrokenPipeError:
        from ops.errors import OutputClosed  # noqa: PLC0415 - `--help` need not wait for it

        with Path(os.devnull).open("w") as nowhere:  # what is not written yet; else Python complains when it ends
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        raise OutputClosed from None


def print_json(value: dict[str, Any]) -> None:
    """Print the one JSON object of a command."""
    click.echo(json.dumps(value, default=str))


def print_table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table: framed on a terminal, tab separated in a pipe.

    On a terminal no word is cut: where columns do not fit side by side even so, each row becomes lines of its own.  The
    first column names the row, and stays in one line, so that it can be copied.
    """
    cells = [[str(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in (titles, *cells):
            click.echo("\t".join(row))
        return
    from rich import box  # noqa: PLC0415  # 0.1 s, and --help has none to give
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console()
    columns = list(zip(titles, *cells, strict=True))
    widths = [max(map(len, columns[0])), *(max(map(_longest_word, column)) for column in columns[1:])]
    if sum(widths) + _FRAME * len(widths) + 1 > console.width:
        _print_records(titles, cells)
        return
    table = Table(box=box.SIMPLE_HEAD)
    for number, (title, width) in enumerate(zip(titles, widths, strict=True)):
        table.add_column(title, no_wrap=number == 0, min_width=width)
    for row in cells:
        table.add_row(*map(Text, row))  # as it is: a [bracket] is no markup
    console.print(table)


#: What stands around the cells of a column of a table on a terminal.
_FRAME = 3


def _longest_word(text: str) -> int:
    return max(map(len, text.split()), default=0)


def _print_records(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    margin = max(map(len, titles)) + 2
    for row in rows:
        click.echo()
        for title, cell in zip(titles, row, strict=True):
            if cell:
                click.echo(f"  {title:<{margin}}{cell}")
    click.echo()


@contextmanager
def progress(*, quiet: bool = False) -> Iterator[Progress]:
    """Show steps as moving lines on stderr; show nothing when *quiet*, or when stderr is no terminal."""
    if quiet or not sys.stderr.isatty():
        yield silent
        return
    with _bars() as show:
        yield show


@contextmanager
def _bars() -> Iterator[Callable[[Step], None]]:
    from rich import progress as bars  # noqa: PLC0415  # as above
    from rich.console import Console  # noqa: PLC0415

    lines: dict[str, TaskID] = {}
    columns = (
        bars.SpinnerColumn(finished_text="✓"),
        "{task.description:<9}",
        bars.BarColumn(20),
        "{task.fields[text]}",
    )
    with bars.Progress(*columns, console=Console(stderr=True)) as display:

        def show(step: Step) -> None:
            if step.name not in lines:
                lines[step.name] = display.add_task(step.name, total=None, text="")
            total = step.total or (1 if step.finished else None)
            done = total if step.finished else step.done
            display.update(lines[step.name], total=total, completed=done, text=_words(step))

        yield show


def _words(step: Step) -> str:
    if not step.total:
        return step.text
    if step.unit != "bytes":
        return f"{step.text}  {step.done:,} of {step.total:,} {step.unit}"
    return f"{step.text}  {step.done / 1e6:.0f} of {step.total / 1e6:.0f} MB"
