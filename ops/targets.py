"""Which database a command about one replica means, and who runs its worker."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ops.connection import connected, local_kafka_runs, settings_for
from ops.errors import InputUnusable
from ops.replicas import ASK_S
from ops.stack import Stack
from settings import bolt_uri
from tasks.registry import registrations


if TYPE_CHECKING:
    from pathlib import Path

    from ops.progress import Progress
    from settings import Settings


@dataclass(frozen=True, slots=True)
class Target:
    """One replica's settings.  *number*: which one of the local stack it is; none elsewhere."""

    settings: Settings
    stack: Stack
    number: int | None

    def start_worker(self, show: Progress) -> bool:
        """Start its worker, if it is one of the local stack; whether it was."""
        if self.number is None:
            return False
        self.stack.start_workers([self.number], progress=show)
        return True

    @property
    def hint(self) -> str:
        """How a person starts it."""
        given = {"GROUP_ID": self.settings.group_id, "NEO4J_URI": self.settings.neo4j_uri}
        given |= {"STREAM": self.settings.stream} if self.settings.stream else {}
        given |= {"NEO4J_USER": self.settings.neo4j_user} if self.settings.neo4j_user != "neo4j" else {}
        words = [f"{name}={shlex.quote(value)}" for name, value in given.items()]
        words += ["NEO4J_PASS=..."] if self.settings.neo4j_password else []  # a terminal is no place for a password
        return f"{' '.join(words)} neo4j-kafka worker"


def given(state_dir: Path, name: str, uri: str, user: str | None) -> Target:
    """The replica *name* on the database at *uri*.

    The password is that of the settings, or of the local stack where the database is one of its.

    Raises:
      InputUnusable: no replica can have that name, or no database that address.
    """
    try:
        bolt_uri(uri)
    except ValueError as exc:
        raise InputUnusable(str(exc)) from exc
    if "/" in name:
        raise InputUnusable(
            f"{name!r}: a replica's name has no slash, which is what tells a stream's groups from names"
        )
    stack, settings = Stack(state_dir), settings_for(state_dir)
    changed = {"group_id": name, "neo4j_uri": uri} | ({"neo4j_user": user} if user else {})
    number = _number(stack, uri)
    if number is not None:
        changed["neo4j_user"], changed["neo4j_password"] = stack.login
    at_home = number is not None and not settings.stream and name == f"replica-{number}" and local_kafka_runs(state_dir)
    at_home = at_home and stack.environment(number or 1)["BROKERS"] == settings.brokers
    return Target(settings.model_copy(update=changed), stack, number if at_home else None)


def registered(state_dir: Path, name: str, uri: str | None, user: str | None) -> Target:
    """The replica *name* on the database with which it was registered, unless *uri* says another one.

    Raises:
      InputUnusable: nobody says which.
    """
    with connected(settings_for(state_dir)) as app:
        one = registrations(app.broker, app.replicas_topic, timeout_s=ASK_S).get(name)
    found = uri or (one.neo4j_uri if one is not None else None)
    if found is None:
        raise InputUnusable(f"no replica {name!r} is registered; if it is to be one, give --neo4j-uri")
    return given(state_dir, name, found, user)


def _number(stack: Stack, uri: str) -> int | None:
    """Which database of the stack has that address."""
    for row in stack.status():
        if row.kind == "neo4j" and row.uri == uri:
            return int(re.sub(r"\D", "", row.name.removeprefix("neo4j-")))
    return None
