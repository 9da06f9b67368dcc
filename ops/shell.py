"""`shell`: what becomes of a statement or a directive, once it is read.  Prints; knows no terminal.

Reads are asked in a session, so that they show one's own writes, unless ``:level`` says otherwise.  Writes go into the
log, and are waited for until one replica has applied them.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import click

from ops import parameters, query_explaining, read_levels, replicas
from ops.console import print_json
from ops.errors import InputUnusable
from ops.explaining import explained
from ops.queries import GRACE_S, as_object, until_left
from ops.replica_cli import print_replicas
from ops.shell_lines import HELP, Directive, Statement, help_text, kind_of, parameter
from ops.shell_words import LEVELS, Vocabulary
from ops.showing import note, print_result
from replica import compiling, cypher, values
from replica.cypher import MARKER_LABEL
from tasks.sessions import read_token


if TYPE_CHECKING:
    from collections.abc import Mapping

    from ops.shell_lines import Item
    from settings import Settings
    from tasks.app import App
    from tasks.results import Result

#: What gives the names that can be completed; procedures that a query may call.
_NAMES = """
CALL () { CALL db.labels() YIELD label RETURN collect(label) AS labels }
CALL () { CALL db.relationshipTypes() YIELD relationshipType RETURN collect(relationshipType) AS types }
CALL () { CALL db.propertyKeys() YIELD propertyKey RETURN collect(propertyKey) AS keys }
RETURN labels, types, keys
"""

#: Seconds for that.
NAMES_S = 5.0

logger = logging.getLogger("ops.shell")


class Left(Exception):
    """The shell ends."""


class Shell:
    """One person's, or one script's, conversation with the replicas.  One thread, but for `look_up`."""

    def __init__(self, app: App, settings: Settings, *, timeout_s: float, as_json: bool) -> None:
        self._app = app
        self._settings = settings
        self._timeout_s = timeout_s
        self._as_json = as_json
        self._session = app.session()
        self._fresh: dict[str, Any] | None = None  # none: as fresh as the session
        self.parameters: dict[str, Any] = {}
        self._names = Vocabulary()

    def run(self, item: Item) -> None:
        """Do it, and print what comes of it.

        Raises:
          Left: on ``:quit``.
          InputUnusable, and what sending and waiting raise.
          KeyboardInterrupt: while it was waited for; what that leaves is printed.
        """
        if isinstance(item, Directive):
            getattr(self, f"_{item.name}")(item.argument)
        elif item.directive == "explain":
            self._explain(item.text)
        elif item.kind == "command":
            self._command(item)
        else:
            self._query(item)

    # Statements.

    def _query(self, statement: Statement) -> None:
        began = time.monotonic()
        result = self._asked(statement.text, self._given(statement.text))
        try:
            with until_left(result):
                self._print(statement, result, began)
        except KeyboardInterrupt as stopped:
            self._note(str(stopped))
            raise

    def _print(self, statement: Statement, result: Result, began: float) -> None:
        timeout_s = self._timeout_s + GRACE_S  # the server ends a query earlier, and tells so
        if self._as_json:
            rows = result.rows(timeout_s)
            took_ms = (time.monotonic() - began) * 1000
            print_json({"query": statement.text, **as_object(rows), "ms": round(took_ms, 1)})
        else:
            print_result(result, "table", timeout_s, began)

    def _asked(self, text: str, given: Mapping[str, Any]) -> Result:
        if self._fresh is None:
            return self._session.ask(text, kwargs=dict(given), timeout=self._timeout_s)
        result: Result = self._app.run_query.send_with_options(
            args=(text,), kwargs=dict(given), timeout=self._timeout_s, **self._fresh
        )
        return result

    def _command(self, statement: Statement) -> None:
        given = self._given(statement.text)
        began = time.monotonic()
        try:
            receipt = self._session.command(statement.text, **given)
        except KeyboardInterrupt:
            self._note("Interrupted while it was sent: it may be in the log, or not.")
            raise
        offset = receipt.position()
        try:
            found = receipt.wait(applied="any", timeout=self._timeout_s)
        except KeyboardInterrupt:
            self._note(f"Not waited for any longer: command {offset} is in the log, and every replica will come to it.")
            raise
        took_ms = (time.monotonic() - began) * 1000
        if self._as_json:
            told = {"offset": offset, "message_id": receipt.message_id, "applied_by": sorted(found)}
            print_json({"command": statement.text, **told, "ms": round(took_ms, 1)})
        else:
            self._note(f"Command {offset}, applied by {', '.join(sorted(found))}, in {took_ms:,.0f} ms")

    def _given(self, text: str) -> dict[str, Any]:
        """The parameters that *text* uses."""
        used = cypher.parameter_names(text)
        missing = sorted(used - self.parameters.keys())
        if missing:
            named = ", ".join(f"${name}" for name in missing)
            raise InputUnusable(f"{named} has no value: `:param {missing[0]} VALUE` gives it one")
        return {name: self.parameters[name] for name in sorted(used)}

    def _explain(self, text: str) -> None:
        if kind_of(text) == "query":
            asked = self._asked(compiling.explained(text), self._given(text))
            answer = query_explaining.told_of(asked, self._timeout_s + GRACE_S)
            self._tell({"explain": text, "kind": "query", **answer.as_json()}, answer.as_text())
            return
        given = [f"{name}={json.dumps(values.encode(value))}" for name, value in self._given(text).items()]
        told = explained(self._settings, text, given, None, check=False, idempotent=False)
        self._tell({"explain": text, "kind": "command", **told.as_json()}, told.as_text())

    # Directives; each is called by its name.

    def _param(self, argument: str) -> None:
        name, value = parameter(argument)
        values.encode(value, name)
        self.parameters[name] = value
        self._params("")

    def _params(self, argument: str) -> None:
        if argument not in {"", "clear"}:
            raise InputUnusable(":params lists the parameters, :params clear forgets them")
        if argument:
            self.parameters.clear()
        encoded = {name: values.encode(value, name) for name, value in sorted(self.parameters.items())}
        lines = [f":param {name} {parameters.shown(value)}" for name, value in encoded.items()]
        self._tell({"parameters": encoded}, "\n".join(lines) or "No parameter is set.")

    def _level(self, argument: str) -> None:
        if argument:
            self._fresh = level(argument)
        words = argument or ("session" if self._fresh is None else _words(self._fresh))
        self._tell({"level": words}, f"Answers: {words}")

    def _status(self, _argument: str) -> None:
        found = replicas.replicas(self._settings)
        if self._as_json:
            print_json({"replicas": [asdict(row) for row in found]})
        else:
            print_replicas(found)

    def _help(self, _argument: str) -> None:
        self._tell({"help": dict(HELP)}, help_text())

    def _quit(self, _argument: str) -> None:
        raise Left

    # Printing.

    def _tell(self, told: dict[str, Any], text: str) -> None:
        if self._as_json:
            print_json(told)
        else:
            click.echo(text)

    def _note(self, text: str) -> None:
        """What is no answer: for people, beside it."""
        if not self._as_json:
            note(text)

    # Completion.

    def names(self) -> Vocabulary:
        """What can be completed now."""
        return replace(self._names, parameters=tuple(self.parameters))

    def look_up(self) -> None:
        """Learn the names that can be completed, from whichever replica is free; in any thread, and without fail."""
        try:
            asked = self._app.run_query.send_with_options(args=(_NAMES,), timeout=NAMES_S)
            [names] = asked.get(NAMES_S + GRACE_S)
        except Exception as error:  # noqa: BLE001 - names are a convenience: whoever types goes on without
            logger.info("names_unknown error=%r", error)
            return
        labels = tuple(name for name in names["labels"] if name != MARKER_LABEL)
        self._names = Vocabulary(labels, tuple(names["types"]), tuple(names["keys"]))


def level(argument: str) -> dict[str, Any] | None:
    """The options of a query that ``:level`` asks for; none for those of the session.

    Raises:
      InputUnusable: there is no such level.
    """
    name, _, value = argument.partition(" ")
    plain: dict[str, dict[str, Any] | None] = {"session": None, "any": {}, "linearizable": {"linearizable": True}}
    if name in plain and not value:
        return plain[name]
    if name == "max_lag":
        try:
            return dict([read_levels.Lag().convert(value, None, None)])
        except click.UsageError as error:
            raise InputUnusable(f":level max_lag: {error.message}") from error
    if name == "at_least" and value:
        if not value.isdecimal():
            read_token(value)
        return {"at_least": int(value) if value.isdecimal() else value}
    raise InputUnusable(f"there is no level {argument!r}; there are {', '.join(LEVELS)}")


def _words(fresh: dict[str, Any]) -> str:
    return " ".join(name if value is True else f"{name} {value}" for name, value in fresh.items()) or "any"
