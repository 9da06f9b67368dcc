"""Answers on the response topic: chunks that are numbered, and an end.  Pure.

A small answer is one record.  A large one comes in several, each below Kafka's record limit; the last one says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from replica import values


if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: Bytes of rows, about, in one record; well below the megabyte that Kafka takes by default.
CHUNK_BYTES = 400_000


class Failure(msgspec.Struct, frozen=True):
    """Why there is no answer, or no more of it.  *retryable*: the same question may be answered later."""

    code: str
    message: str
    retryable: bool = False


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """One record of an answer.  Rows and value are typed JSON; *position* is what the replica had applied at least.

    *seen*, at the end of an answer in a session: no later command has left a trace in it.

    *run* tells the answers of two workers apart, when the first was killed half-way: their parts must not be mixed.
    """

    id: str
    run: str
    seq: int
    end: bool
    replica: str
    position: int | None = None
    seen: int | None = None
    columns: tuple[str, ...] | None = None
    rows: tuple[Any, ...] | None = None
    value: Any = None
    truncated: bool = False
    error: Failure | None = None


def chunks(rows: Iterable[list[Any]], limit: int = CHUNK_BYTES) -> Iterator[tuple[list[list[Any]], bool]]:
    """*rows* in lists of about *limit* bytes of JSON, each with whether it is the last; at least one, if empty."""
    chunk: list[list[Any]] = []
    room = limit
    for row in rows:
        size = values.size(row)
        if chunk and size > room:
            yield chunk, False
            chunk, room = [], limit
        chunk.append(row)
        room -= size
    yield chunk, True


def decode(value: bytes | None) -> Answer | None:
    """The answer in a record, or none when it is something else."""
    try:
        return msgspec.json.decode(value or b"", type=Answer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def encode(answer: Answer) -> bytes:
    """The record's value."""
    return msgspec.json.encode(answer)
