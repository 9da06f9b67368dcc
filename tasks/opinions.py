"""The second opinion: a replica's server compiles a command before it is sent.  Off unless asked for.

It costs a round trip to a database that a sender may not even have, so it is the sender's choice: for each command, or
for all of them by `EXPLAIN_COMMANDS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from replica import opinion, plan
from replica.transactions import Database
from tasks.errors import CommandRefused


if TYPE_CHECKING:
    from collections.abc import Callable

    import neo4j

    from replica.statement import Command
    from settings import Settings

#: Seconds for the server to compile one text.
ASK_S: Final = 10.0


class SecondOpinion:
    """Asks the database that this process's settings name.  Any thread."""

    def __init__(self, settings: Settings, driver: Callable[[], neo4j.Driver]) -> None:
        #: Whether a command is checked that does not say.
        self.default = settings.explain_commands
        self._name = settings.neo4j_database
        self._driver = driver

    def require(self, command: Command) -> None:
        """Return if the server has nothing against *command* and its condition; it runs nothing.

        Raises:
          CommandRefused: it has; with what it says.
          Unavailable: it does not answer, or not about them.  Nothing is known then, and nothing was sent.
        """
        database = Database(self._driver(), self._name, ASK_S)
        for statement in plan.texts(command):
            against = opinion.ask(database, statement, condition=statement is command.when).contradictions
            if against:
                raise CommandRefused(f"a replica's server has something against it: {'; '.join(against)}")
