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
├── OptionRefused       (a ValueError) a value that such an option cannot have; nothing was sent
├── ArgumentRefused     (a TypeError) not what the query function says it takes; nothing was sent
├── AnnotationRefused   (a TypeError) no query function can take that; told when it is decorated
├── LevelRefused        (a ValueError) no query can be as fresh as that; nothing was sent
├── StoreMissing        (a ValueError) an answer is to be kept, and no setting says where; nothing was sent
├── StoreUnreachable    Redis does not answer
├── ResultUnknown       (a LookupError) nobody has asked that query to be kept
├── ResultExpired       (a LookupError) its answer was kept, and is gone
└── WaitTimeout         (a TimeoutError) no answer in time; the text says whose
    └── ResultNotYet    it was asked, and no answer has been kept so far
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
        apart = "\n" if "\n" in message else " "  # the last line may point at a place of the one above it
        super().__init__(f"{code}: {message}{apart}(answered by {replica})")
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


class OptionRefused(TasksError, ValueError):
    """A value that an option cannot have; nothing was sent."""


class ArgumentRefused(TasksError, TypeError):
    """Not what the query function says it takes; the text names the argument, what was given and what is wanted."""


class AnnotationRefused(TasksError, TypeError):
    """No query function can take that: the annotation means nothing to JSON and Neo4j, or cannot be read."""


class StoreMissing(TasksError, ValueError):
    """An answer is to be kept, and no setting says where; nothing was sent."""


class StoreUnreachable(TasksError):
    """Redis does not answer; what could not be noted was not sent.  Trying again can help."""


class ResultUnknown(TasksError, LookupError):
    """Nobody has asked that query to be kept, or too long ago for anybody to know."""


class ResultExpired(TasksError, LookupError):
    """The answer was kept for as long as its caller had said, and is gone."""


class WaitTimeout(TasksError, TimeoutError):
    """No answer in time; the text says whose."""


class ResultNotYet(WaitTimeout):
    """The query was asked, and no answer has been kept so far; asking again can help."""
