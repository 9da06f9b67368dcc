"""The shell with a person: a prompt with history and completion, on a terminal."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import click
from prompt_toolkit import PromptSession
from prompt_toolkit.completion import Completer, Completion
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings

from ops.console import words_of
from ops.shell import Left
from ops.shell_lines import Statement, is_complete, split
from ops.shell_words import candidates


if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from prompt_toolkit.document import Document
    from prompt_toolkit.key_binding.key_processor import KeyPressEvent

    from ops.shell import Shell

PROMPT = "neo4j-kafka> "
CONTINUED = "         ... "


def converse(shell: Shell, history: Path | None, **terminal: Any) -> None:
    """Read and run until ``:quit`` or Ctrl-D.  Ctrl-C drops what is typed or waited for, and nothing else.

    *terminal*: the ``input`` and ``output`` of prompt_toolkit, where they are not those of the process.
    """
    prompt: PromptSession[str] = PromptSession(
        PROMPT,
        multiline=True,
        prompt_continuation=CONTINUED,
        history=_history(history),
        completer=_Words(shell),
        complete_while_typing=False,
        key_bindings=_keys(),
        **terminal,
    )
    _look_up(shell)
    while True:
        try:
            run(shell, prompt.prompt())
        except KeyboardInterrupt:
            continue
        except (EOFError, Left):
            return


def run(shell: Shell, text: str) -> None:
    """Run what was typed, until the first error, which is told in a line.  Raises `Left` and KeyboardInterrupt."""
    try:
        for item in split(text + "\n")[0]:
            shell.run(item)
            if isinstance(item, Statement) and item.kind == "command":
                _look_up(shell)
    except Left:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it was, the person goes on
        click.secho(words_of(error) or repr(error), fg="red", err=True)


def _look_up(shell: Shell) -> None:
    threading.Thread(target=shell.look_up, name="names", daemon=True).start()


def _history(file: Path | None) -> History:
    """For its owner's eyes alone: statements may hold what is nobody else's business."""
    if file is None:
        return InMemoryHistory()
    try:
        file.touch(mode=0o600, exist_ok=True)
    except OSError as error:
        click.secho(f"What is typed is not remembered: {file}: {error.strerror}", dim=True, err=True)
        return InMemoryHistory()
    return FileHistory(file)


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def _enter(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if is_complete(buffer.text):
            buffer.validate_and_handle()
        else:
            buffer.insert_text("\n")

    return keys


class _Words(Completer):
    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    def get_completions(self, document: Document, complete_event: object) -> Iterator[Completion]:
        """What may stand at the cursor."""
        known = self._shell.names()
        replaced, found = candidates(document.text_before_cursor, known)
        yield from (Completion(text, start_position=-replaced) for text in found)
