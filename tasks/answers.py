"""Answers on the response topic: a header, parts that are numbered, and an end.  Pure.

    header     seq 0: which replica answers, its position, the level that was asked for, the columns
    parts      rows, each part well below Kafka's record limit
    end        ``end``: whether it was cut, why it failed if it did, and a summary

All three share records where they can: an answer that fits one is one record, with header, rows and end.  There is an
end in any case, also without rows and after an error.  *run* tells the answers of two workers apart, when the first was
killed half-way: their parts must not be mixed.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec

from tasks import outcomes


if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

#: Bytes of rows in one record; well below the megabyte that Kafka takes by default.
CHUNK_BYTES = 400_000

#: Seconds after which rows are sent, although there is room for more, to a caller who reads them as they come.
PROMPT_S = 0.25


class Failure(msgspec.Struct, frozen=True):
    """Why there is no answer, or no more of it.  *retryable*: the same question may be answered later."""

    code: str
    message: str
    retryable: bool = False


class Ending(msgspec.Struct, frozen=True, omit_defaults=True):
    """The summary at the end of an answer; times in milliseconds.

    *waited_ms*: from the caller's send to the worker's begin, by both clocks.  *took_ms*: the worker, from its begin to
    the end.  *available_ms*, *consumed_ms*: the server, to the first row, and from there to the last.
    """

    rows: int = 0
    waited_ms: int = 0
    took_ms: float = 0.0
    query_type: str | None = None
    server: str = ""
    available_ms: int | None = None
    consumed_ms: int | None = None
    counters: dict[str, int] = {}
    notifications: tuple[dict[str, Any], ...] = ()
    plan: str = ""


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """One record of an answer.  Rows and value are typed JSON; *position* is what the replica had applied at least.

    *seen*, at the end of an answer in a session: no later command has left a trace in it.
    """

    id: str
    run: str
    seq: int
    end: bool
    replica: str
    position: int | None = None
    seen: int | None = None
    level: str | None = None
    columns: tuple[str, ...] | None = None
    rows: tuple[Any, ...] | None = None
    value: Any = None
    truncated: bool = False
    error: Failure | None = None
    summary: Ending | None = None


def chunks(
    rows: Iterable[list[Any]],
    limit: int = CHUNK_BYTES,
    *,
    prompt_s: float = float("inf"),
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[tuple[list[bytes], bool]]:
    """*rows* as JSON, in lists of at most *limit* bytes, each with whether it is the last; at least one, if empty.

    One row that is larger is a list of its own.  A list that is *prompt_s* old when a row comes is not filled further.
    """
    chunk: list[bytes] = []
    room, begun = limit, 0.0
    for row in rows:
        one = msgspec.json.encode(row)
        size = len(one) + 1  # and a comma
        if chunk and (size > room or clock() - begun > prompt_s):
            yield chunk, False
            chunk, room = [], limit
        if not chunk:
            begun = clock()
        chunk.append(one)
        room -= size
    yield chunk, True


def decode(value: bytes | None) -> Answer | None:
    """The answer in a record, or none when it is something else."""
    found: Answer | None = outcomes.decode(value, Answer)
    return found


def together(rows: Iterable[bytes]) -> tuple[msgspec.Raw, ...]:
    """A list of `chunks` as an answer has it: what is JSON already is not encoded again."""
    return tuple(map(msgspec.Raw, rows))


def encode(answer: Answer) -> bytes:
    """The record's value."""
    return msgspec.json.encode(answer)
