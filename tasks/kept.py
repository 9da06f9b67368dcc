"""Answers that are kept in Redis, for whoever asks by the query's id, later and in any process.

Two keys for each such query, after the topics' prefix:

    kept:asked:<id>     a hash, written before the query is sent: ``asked_ms``, later ``answered_ms`` and ``ttl_s``.  It
                        outlives the answer by a day, so that what has expired is told from what nobody has asked
    kept:answer:<id>    all parts of the answer, a JSON array of `Answer`, until its time to live is over

Times are milliseconds of the wall clocks of caller and worker, and only for people to read.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
import redis
from dramatiq.middleware import MiddlewareError
from dramatiq.results import ResultMissing, ResultTimeout
from dramatiq.results.backends.redis import RedisBackend

from tasks.answers import Answer
from tasks.errors import ResultExpired, ResultNotYet, ResultUnknown, StoreUnreachable
from tasks.options import STORE
from tasks.results import opened


if TYPE_CHECKING:
    from collections.abc import Sequence

    import dramatiq

#: Seconds that the note about a query outlives its answer; the request topic keeps a query no longer either.
NOTED_S: Final = 86_400

#: Seconds between two looks at an answer that is waited for: at first, and at most.
LOOK_S: Final = (0.02, 0.25)

#: Seconds for Redis to say anything.
REACH_S: Final = 4.0


@dataclass(frozen=True, slots=True)
class _Seen:
    """What Redis has at one moment."""

    note: dict[bytes, bytes]
    answer: bytes | None


class _Unreachable(MiddlewareError, StoreUnreachable):
    """The one kind of error that Dramatiq lets a middleware stop an enqueue with."""


class Kept:
    """The store.  Connects at first use; any thread, and any process that was forked."""

    def __init__(self, url: str, prefix: str) -> None:
        self._redis: Any = redis.Redis.from_url(url, socket_timeout=REACH_S, socket_connect_timeout=REACH_S)
        self._prefix = f"{prefix}kept:"

    def note(self, message_id: str, ttl_s: float) -> None:
        """Remember that somebody has asked; a second time changes nothing but how long.

        Raises:
          StoreUnreachable: Redis does not answer.
        """
        key = f"{self._prefix}asked:{message_id}"
        try:
            with self._redis.pipeline() as pipe:
                pipe.hsetnx(key, "asked_ms", _now_ms())
                pipe.pexpire(key, _ms(ttl_s + NOTED_S))
                pipe.execute()
        except redis.RedisError as exc:
            raise _Unreachable(f"the answer could not be kept, so nothing was sent: Redis: {exc}") from exc

    def keep(self, message_id: str, parts: Sequence[bytes], ttl_s: float) -> None:
        """Keep the parts of an answer, all of them, in place of what a run before has left.  Raises as redis does."""
        key = f"{self._prefix}asked:{message_id}"
        with self._redis.pipeline() as pipe:
            pipe.set(f"{self._prefix}answer:{message_id}", b"[" + b",".join(parts) + b"]", px=_ms(ttl_s))
            pipe.hset(key, mapping={"answered_ms": _now_ms(), "ttl_s": ttl_s})
            pipe.pexpire(key, _ms(ttl_s + NOTED_S))
            pipe.execute()

    def fetch(self, message_id: str, timeout_s: float) -> list[Answer]:
        """The answer to a query, when it comes within *timeout_s* or is there.

        Raises:
          ResultUnknown, ResultExpired, ResultNotYet, StoreUnreachable: see `tasks.errors`.
        """
        deadline, pause = time.monotonic() + timeout_s, LOOK_S[0]
        while True:
            seen = self._look(message_id)
            if seen.answer is not None:
                return _decoded(message_id, seen.answer)
            _refuse_vain(message_id, seen.note)
            if time.monotonic() >= deadline:
                asked_s = (_now_ms() - int(seen.note.get(b"asked_ms", b"0"))) / 1000
                raise ResultNotYet(f"query {message_id} was asked {asked_s:,.0f} s ago, and no answer to it has come")
            time.sleep(min(pause, max(deadline - time.monotonic(), 0)))
            pause = min(2 * pause, LOOK_S[1])

    def result(self, message_id: str, timeout_s: float) -> Any:
        """What `fetch` gives, as rows or a value.  Raises as it does; and `QueryFailed`: the answer is an error."""
        return opened(self.fetch(message_id, timeout_s))

    def close(self) -> None:
        """Let the connections go.  Idempotent; it can be used again."""
        self._redis.close()

    def _look(self, message_id: str) -> _Seen:
        try:
            with self._redis.pipeline() as pipe:
                pipe.hgetall(f"{self._prefix}asked:{message_id}")
                pipe.get(f"{self._prefix}answer:{message_id}")
                return _Seen(*pipe.execute())
        except redis.RedisError as exc:
            raise StoreUnreachable(f"kept answers cannot be read: Redis: {exc}") from exc


def _decoded(message_id: str, answer: bytes) -> list[Answer]:
    try:
        return msgspec.json.decode(answer, type=list[Answer])
    except msgspec.MsgspecError as exc:
        raise ResultUnknown(f"what is kept for query {message_id} is no answer that this version can read") from exc


def _refuse_vain(message_id: str, note: dict[bytes, bytes]) -> None:
    if not note:
        raise ResultUnknown(
            f"nobody has asked query {message_id} to be kept, or that was more than a day ago, or Redis has lost it:"
            f' say send_with_options(..., {STORE}="redis"), and fetch it in time'
        )
    if b"answered_ms" in note:
        raise ResultExpired(
            f"the answer to query {message_id} came, was kept for {float(note[b'ttl_s']):,g} s, and is gone: ask again,"
            " or with a longer ttl"
        )


def _now_ms() -> int:
    return int(time.time() * 1000)


def _ms(seconds: float) -> int:
    return max(int(seconds * 1000), 1)


class KeptResults(RedisBackend):
    """Dramatiq's results, of ordinary actors as ever; of queries what is kept, for groups and pipelines to gather."""

    def __init__(self, url: str, kept: Kept) -> None:
        super().__init__(url=url)  # type: ignore[no-untyped-call]  # Dramatiq's gap
        self._kept = kept

    def get_result(self, message: dramatiq.Message[Any], *, block: bool = False, timeout: int | None = None) -> Any:
        """As Dramatiq's, times in milliseconds.  The answer to a query that failed is raised: `QueryFailed`."""
        if message.options.get(STORE) is None:
            return super().get_result(message, block=block, timeout=timeout)  # type: ignore[no-untyped-call]  # as above
        timeout_s = (10_000 if timeout is None else timeout) / 1000 if block else 0.0
        try:
            return self._kept.result(message.message_id, timeout_s)
        except ResultNotYet as exc:
            missing: Any = ResultTimeout if block else ResultMissing
            raise missing(message) from exc
        except (ResultUnknown, ResultExpired) as exc:
            missing = ResultMissing
            raise missing(str(exc)) from exc
