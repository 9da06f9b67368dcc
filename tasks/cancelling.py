"""Ending a query: who wants it ended says so to all workers, and whoever has it ends it on the server, and answers.

An exception that is raised in the thread of a query would not arrive while that waits for the server, and in between
could leave a connection in the middle of a message.  So the transaction is terminated instead, from another connection:
the server tells the thread.  A query that is cancelled before it begins does not begin, and is answered, too.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Self

from dramatiq.middleware import Middleware

from brokers.errors import Dropped, Expired
from replica.errors import QueryRejected, QueryUnavailable
from tasks.answers import Failure
from tasks.errors import CANCELLED


if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    import dramatiq

    from tasks.replying import Reply

logger = logging.getLogger("tasks.queries")

#: The code of an answer to a query whose caller waits no longer.
EXPIRED = "Replica.QueryExpired"

#: Seconds between two looks for the transaction of a query that is about to begin.
LOOK_EVERY_S = 0.05


class Stop:
    """One execution of a query that can be stopped, by a call.  Use it in a `with` block, around the query.

    *terminate* ends it on the server, if it is there yet.
    """

    def __init__(self, terminate: Callable[[], object]) -> None:
        self.asked = False
        self._terminate = terminate
        self._over = threading.Event()

    def __call__(self) -> None:
        """Stop it.  Any thread; does not wait."""
        self.asked = True
        threading.Thread(target=self._run, name="query-stop", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()

    def check(self) -> None:
        """Raise `QueryRejected` where it is to stop."""
        if self.asked:
            raise QueryRejected(CANCELLED, "somebody has cancelled it")

    def _run(self) -> None:
        """Until it is over: what has not begun on the server when it is looked for may begin just after."""
        while not self._over.is_set():
            try:
                self._terminate()
            except QueryUnavailable as exc:  # then its thread hears of that, too
                logger.info("query_not_terminated reason=%s", exc)
            self._over.wait(LOOK_EVERY_S)


class AnswersDropped(Middleware):
    """Answers queries that were taken back, or came too late, before they began: somebody waits for them.

    *reply* makes the way back for a message, *let_go* is told of its id.
    """

    def __init__(
        self, queue_name: str, reply: Callable[[dramatiq.MessageProxy], Reply], let_go: Callable[[str], None]
    ) -> None:
        self._queue_name = queue_name
        self._reply = reply
        self._let_go = let_go

    def after_skip_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
        """Dramatiq's."""
        if message.queue_name != self._queue_name:
            return
        self._let_go(message.message_id)
        reason = message._exception  # noqa: SLF001 - Dramatiq has no getter
        if isinstance(reason, Dropped):
            code = EXPIRED if isinstance(reason, Expired) else CANCELLED
            self._reply(message).fail(Failure(code, str(reason)))
