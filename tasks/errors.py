"""What a caller of commands and queries can be told.

TasksError
├── CommandRefused      the sender's check says that no replica could apply it; nothing was sent
├── CommandRejected     every replica gave the same error; the graphs are as before
├── ReplicasDisagree    one replica applied what another rejected
├── QueryFailed         the query was answered with an error
│   ├── QueryCancelled  somebody has cancelled it
│   └── StaleRead       no replica was as fresh as asked for, in time
├── AnswerBroken        a part of the answer is gone, or was given out before its worker was lost; ask again
├── OptionUnknown       (a TypeError) an option that commands or queries do not have
├── LevelRefused        (a ValueError) no query can be as fresh as that; nothing was sent
└── WaitTimeout         (a TimeoutError) no answer in time; the text says whose
"""

from __future__ import annotations


class TasksError(Exception):
    """Base of all of them."""


class CommandRefused(TasksError):
    """The sender's check says that no replica could apply it; nothing was sent."""


class CommandRejected(TasksError):
    """The command at *offset* changed nothing, on every replica, because of *code*."""

    def __init__(self, offset: int, code: str, message: str) -> None:
        super().__init__(f"command {offset} was rejected: {code}: {message}")
        self.offset = offset
        self.code = code
        self.message = message


class ReplicasDisagree(TasksError):
    """One replica applied what another rejected: their graphs differ from here on."""


class QueryFailed(TasksError):
    """The query was answered with an error.  *retryable*: the same query may succeed later."""

    def __init__(self, code: str, message: str, *, replica: str, retryable: bool) -> None:
        super().__init__(f"{code}: {message} (answered by {replica})")
        self.code = code
        self.message = message
        self.replica = replica
        self.retryable = retryable


class StaleRead(QueryFailed):
    """No replica was as fresh as asked for, in time; the text says which level, and how far the last one was."""


class AnswerBroken(TasksError):
    """A part of the answer is gone, or was given out before its worker was lost: the same query may succeed again."""


class QueryCancelled(QueryFailed):
    """Somebody has cancelled it: its caller, or an operator."""


#: The codes of answers that are errors of their own.
STALE_READ = "Replica.StaleRead"
CANCELLED = "Replica.QueryCancelled"


def query_failed(code: str, message: str, *, replica: str, retryable: bool) -> QueryFailed:
    """The error for an answer's *code*."""
    kind = {STALE_READ: StaleRead, CANCELLED: QueryCancelled}.get(code, QueryFailed)
    return kind(code, message, replica=replica, retryable=retryable)


class LevelRefused(TasksError, ValueError):
    """No query can be as fresh as that; nothing was sent."""


class OptionUnknown(TasksError, TypeError):
    """An option that commands or queries do not have."""


class WaitTimeout(TasksError, TimeoutError):
    """No answer in time; the text says whose."""
