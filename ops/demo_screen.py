"""What the demo shows: moving bars on a terminal, a line for each step anywhere else."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress
from rich.text import Text


if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.progress import TaskID
    from rich.table import Table

    from ops.progress import Step

#: Characters of a line that is not on a terminal.
WIDTH = 110


class Screen:
    """Says what is going on, in full sentences.  Any thread."""

    def __init__(self, *, to_stderr: bool) -> None:
        """To stderr where stdout belongs to a program."""
        console = Console(stderr=to_stderr, highlight=False)
        self.is_terminal = console.is_terminal
        self._console = console if self.is_terminal else Console(stderr=to_stderr, highlight=False, width=WIDTH)
        self._steps = 0

    def step(self, heading: str, why: str = "") -> None:
        """Begin a numbered step, and say why it matters."""
        self._steps += 1
        self._console.print(Text(f"\n{self._steps}. {heading}", style="bold"))
        if why:
            self._console.print(Padding(Text(why), (0, 0, 0, 3)))

    def say(self, text: str, style: str = "") -> None:
        """Say something about the step."""
        self._console.print(Padding(Text(text, style=style), (0, 0, 0, 3)))

    def table(self, table: Table) -> None:
        """Show a table."""
        self._console.print(Padding(table, (0, 0, 0, 1)))

    @property
    def room(self) -> int:
        """How wide something drawn may be."""
        return self._console.width - 3

    def drawn(self, text: str) -> None:
        """Show lines as they are."""
        self._console.print(Padding(Text.from_ansi(text.rstrip("\n")), (0, 0, 0, 3)))

    def server(self, step: Step) -> None:
        """One line when a server is ready, where nothing moves."""
        if step.finished:
            self.say(f"{step.name}: {step.text}")

    @contextmanager
    def bars(self, names: Sequence[str], total: int) -> Iterator[Bars]:
        """A bar for each name."""
        columns: tuple[Any, ...] = (
            "   {task.description:<13}",
            BarColumn(32),
            MofNCompleteColumn(),
            "{task.fields[note]}",
        )
        with Progress(*columns, console=self._console, disable=not self.is_terminal) as display:
            yield Bars(self, display, names, total)


class Bars:
    """Bars that move, and what happened to whom.  Any thread."""

    def __init__(self, screen: Screen, display: Progress, names: Sequence[str], total: int) -> None:
        self._screen = screen
        self._display = display
        self._total = total
        self._lock = threading.Lock()
        self._tasks: dict[str, TaskID] = {name: display.add_task(name, total=total, note="") for name in names}
        self._quarters = dict.fromkeys(names, 0)

    def show(self, name: str, done: int) -> None:
        """How far it is."""
        self._display.update(self._tasks[name], completed=done)
        quarter = 4 * done // self._total
        with self._lock:
            news = quarter > self._quarters[name]
            self._quarters[name] = max(quarter, self._quarters[name])
        if news and not self._screen.is_terminal:
            self._screen.say(f"{name}: {done:,} of {self._total:,}")

    def note(self, name: str, text: str) -> None:
        """Something happened to it."""
        self._display.update(self._tasks[name], note=text)
        if not self._screen.is_terminal:
            self._screen.say(f"{name}: {text}")
