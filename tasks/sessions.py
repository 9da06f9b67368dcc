"""Causal sessions: whoever reads in one sees what it has written, and never goes back.

What Neo4j's drivers do with bookmarks in a cluster.  A session remembers the newest offset of the command log that it
has to do with: of the commands that it sent, and of the answers that it got.  Each of its queries asks for a replica
that is at least there.

    with session() as s:
        s.command("MERGE (u:User {name: $name})", name="user_1")
        rows = s.query("MATCH (u:User) RETURN u.name AS name").get()      # has user_1, whichever replica answers
    token = s.token                                                        # goes on elsewhere: session(token)

Its position is of what its answers *may* have shown: commands go on while rows are read, so the position from before
them would let the next read go back behind some of them.
"""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, Any, Self

from tasks.errors import LevelRefused


if TYPE_CHECKING:
    from types import TracebackType

    from tasks.app import App
    from tasks.receipts import Receipt
    from tasks.results import Result

#: A token: its version, the log's id, the offset.
_token = re.compile(r"nk1:([A-Za-z0-9_+/=-]+):(\d{1,19})")


def token_of(topic_id: str, position: int | None) -> str:
    """What `read_token` reads; empty for a session that has to do with no command yet."""
    return "" if position is None else f"nk1:{topic_id}:{position}"


def read_token(token: str) -> tuple[int | None, str]:
    """The offset in a session's *token*, none where it has seen nothing; and the id of its log.

    Raises:
      LevelRefused: it is no token.
    """
    if not token:
        return None, ""
    found = _token.fullmatch(token)
    if found is None:
        raise LevelRefused(f"{token!r} is not the token of a session: these look like nk1:<log>:<offset>")
    return int(found[2]), found[1]


class Session:
    """Reads that follow from writes and from each other.  Any thread; nothing is held open, so `with` is a courtesy."""

    def __init__(self, app: App, *tokens: str) -> None:
        self._app = app
        self._lock = threading.Lock()
        self.position: int | None = None  #: The newest offset that it has to do with.
        self.topic_id = ""  #: The log that this is an offset of.
        for token in tokens:
            self.join(token)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The session can be used on."""

    @property
    def token(self) -> str:
        """Where it is, to be printed and passed: `session(token)` goes on there, in any process."""
        with self._lock:
            return token_of(self.topic_id, self.position)

    def join(self, token: str) -> None:
        """Be at least where the session of *token* was, too.

        Raises:
          LevelRefused: it is no token, or of another log.
        """
        position, topic_id = read_token(token)
        if position is not None:
            self._move(position, topic_id)

    def command(self, command: Any, /, *args: Any, **kwargs: Any) -> Receipt:
        """Send a text with its parameters, a statement, statements, or a command function with its arguments.

        Raises as `run_command.send` does.
        """
        actor, given = _actor(command, self._app.run_command)
        receipt: Receipt = actor.send(*given, *args, **kwargs)
        self.see(receipt)
        return receipt

    def query(self, query: Any, /, *args: Any, **kwargs: Any) -> Result:
        """Ask a text with its parameters, or a query function with its arguments; see `ask` for options.

        Raises as `run_query.send` does.
        """
        return self.ask(query, args=args, kwargs=kwargs)

    def ask(
        self, query: Any, /, *, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None, **options: Any
    ) -> Result:
        """`query` with the options of `send_with_options`."""
        actor, given = _actor(query, self._app.run_query)
        result: Result = actor.send_with_options(args=(*given, *args), kwargs=kwargs, at_least=self, **options)
        return result

    def see(self, receipt: Receipt) -> None:
        """Read, from now on, what *receipt*'s command has written; for commands that were sent in another way.

        Raises:
          RuntimeError: Kafka has not confirmed it yet.
        """
        self._move(receipt.position(), self._app.log.topic_id())

    def saw(self, position: int | None) -> None:
        """An answer has come that may show all commands up to *position*."""
        if position is not None:
            self._move(position, self._app.log.topic_id())

    def _move(self, position: int, topic_id: str) -> None:
        with self._lock:
            if self.topic_id not in {"", topic_id}:
                raise LevelRefused(f"the session is of log {self.topic_id}, and this is of log {topic_id}")
            self.topic_id = topic_id
            self.position = max(position, -1 if self.position is None else self.position)

    def __repr__(self) -> str:
        return f"<Session {self.token or '(nothing yet)'}>"


def _actor(what: Any, of_texts: Any) -> tuple[Any, tuple[Any, ...]]:
    """Who sends *what*, and the arguments that come of it."""
    return (what, ()) if hasattr(what, "send_with_options") else (of_texts, (what,))
