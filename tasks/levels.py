"""How fresh a read has to be: what a caller may ask for, and what of it travels with the query.

    any               nothing: whichever replica is free.  The default.
    max_lag           the replica lacks at most so many offsets of the log (``max_lag``), or none that is older than so
                      many seconds (``max_lag_s``); both may be asked for.
    at_least          the replica has applied the command at this offset: a number, a receipt (read your writes), a
                      session or its token (never backwards either).
    linearizable      every command that anybody's Kafka had confirmed before the query was sent.
    snapshot          beside any of these: the rows are of one position, not of commands that come in between.

*linearizable* is ``at_least`` of the log's end, and the sender asks for that: Kafka, not a replica, which knows only
what it has read.  Why that is linearizable.  A command is confirmed when all in-sync copies of the log have it, and
then it lies below the high watermark of the partition's leader.  The sender asks that leader for the high watermark
after the caller has called, so whatever was confirmed before the call lies below the answer, and the watermark never
goes back, not even when the leader changes (a new one gives no answer until it has caught up: KIP-207).  The replica
answers from a graph that has applied all of it; since rows are read after the position, they are at least that new.
Two such reads, one after the other, never go backwards: what the first one saw, a replica had read from the log, below
the high watermark, before the second one asked.  The worker could ask just as well, later, and would wait longer; the
sender's number stays with the query when it is passed on or delivered again, and stands in the error.  What it rests
on: the leader that answers is the leader.  A server that was deposed, does not know it, and is cut off from the others
but not from this caller, would answer with an old end; only a write into the log could tell.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import msgspec

from tasks.errors import LevelRefused
from tasks.receipts import Receipt
from tasks.sessions import Session, read_token


if TYPE_CHECKING:
    from collections.abc import Mapping

    import dramatiq

    from tasks.log import CommandLog

#: The options of `QueryActor.send_with_options` that make up a level.
OPTIONS = frozenset({"at_least", "max_lag", "max_lag_s", "linearizable", "snapshot", "wait"})

#: The message option in which the level travels.
OPTION = "level"

#: Longest wait, in seconds, that a caller may ask for.
LONGEST_WAIT_S = 3600.0

#: Of a query's ``timeout``, the part in which a fresh replica has to be found, unless ``wait`` says otherwise.
SHARE = 0.8


class Level(msgspec.Struct, frozen=True, omit_defaults=True):
    """What travels.  Times are milliseconds of the sender's wall clock.

    *topic_id*: the log that *at_least* is an offset of.  *until_ms*: when the caller would rather have an error.
    *pass_ms*: when the replica that has the query now hands it to another one.  *seen*: the caller wants to know what
    the newest command is that its rows may show, since a session goes on from there.
    """

    until_ms: int
    pass_ms: int
    sent_ms: int
    name: str = "any"
    at_least: int | None = None
    topic_id: str = ""
    max_lag: int | None = None
    max_lag_s: float | None = None
    snapshot: bool = False
    seen: bool = False

    def passed_on(self, now_ms: int) -> Level:
        """The level as the next replica gets it: it may wait for half of the time that is left."""
        return msgspec.structs.replace(self, pass_ms=half_way(now_ms, self.until_ms))

    @property
    def limits_lag(self) -> bool:
        """Whether it matters where the log ends."""
        return self.max_lag is not None or self.max_lag_s is not None

    @property
    def wanted(self) -> str:
        """What was asked for, in the words of whoever asked."""
        parts = []
        if self.at_least is not None:
            parts.append(f"linearizable ({self.at_least})" if self.name == "linearizable" else self._at_least)
        if self.max_lag is not None:
            parts.append(f"max_lag={self.max_lag}")
        if self.max_lag_s is not None:
            parts.append(f"max_lag_s={self.max_lag_s:g}")
        if self.snapshot:
            parts.append("snapshot")
        return " and ".join(parts) or self.name

    @property
    def _at_least(self) -> str:
        return f"at_least={self.at_least}"


def half_way(now_ms: int, until_ms: int) -> int:
    """When to pass a query on that may wait until *until_ms*; at the end, when little is left."""
    left = until_ms - now_ms
    return until_ms if left < 500 else now_ms + left // 2  # noqa: PLR2004 - ms; below, passing on costs more than waiting


def of(message: dramatiq.Message[Any] | dramatiq.MessageProxy) -> Level | None:
    """The level that *message* asks for; none for any, and for what cannot be read."""
    given = message.options.get(OPTION)
    if given is None:
        return None
    try:
        return msgspec.convert(given, Level)
    except msgspec.ValidationError:
        return None


def packed(level: Level) -> dict[str, Any]:
    """*level* as a message's option."""
    plain: dict[str, Any] = msgspec.to_builtins(level)
    return plain


class Asking:
    """The sender's side.  *wait_s*: how long a query waits for a fresh replica, unless it says otherwise."""

    def __init__(self, log: CommandLog, wait_s: float) -> None:
        self._log = log
        self._wait_s = wait_s

    def sent_now(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """*options* with the level that they ask for, for a query that is sent this moment.

        Raises:
          LevelRefused: they contradict each other, or are none.
          Unreachable: Kafka does not tell where the log ends.
        """
        given = {name: value for name, value in options.items() if name in OPTIONS and not _left_out(value)}
        others = {name: value for name, value in options.items() if name not in OPTIONS}
        if not given:
            return others
        _refuse_contradictions(given)
        level = self._level(given, self._wait(given, others.get("timeout")))
        return others if level is None else others | {OPTION: packed(level)}

    def _wait(self, given: Mapping[str, Any], timeout: object) -> float:
        """Less than the caller's own *timeout*, or it would be told that nothing came, and not why."""
        wait_s = _waited(given, timeout)
        return min(self._wait_s, _limit(timeout) * SHARE) if wait_s is None else wait_s

    def _level(self, given: Mapping[str, Any], wait_s: float) -> Level | None:
        max_lag_s = _seconds(given["max_lag_s"], "max_lag_s", math.inf) if "max_lag_s" in given else None
        max_lag = _offset(given["max_lag"], "max_lag") if "max_lag" in given else None
        source = given.get("at_least")
        name, at_least, topic_id = "any", None, ""
        if "linearizable" in given:
            name, at_least, topic_id = "linearizable", self._log.end() - 1, self._log.topic_id()
        elif source is not None:
            at_least, topic_id = self._position(source)
            name = "any" if at_least is None else "at_least"
        if max_lag is not None or max_lag_s is not None:
            name = "max_lag" if at_least is None else name
        if at_least is not None and at_least < 0:  # an empty log: whoever is there is fresh
            at_least = None
        now_ms = int(time.time() * 1000)
        until_ms = now_ms + int(wait_s * 1000)
        return Level(
            until_ms,
            half_way(now_ms, until_ms),
            now_ms,
            name,
            at_least,
            topic_id,
            max_lag,
            max_lag_s,
            snapshot="snapshot" in given,
            seen=isinstance(source, Session),
        )

    def _position(self, source: object) -> tuple[int | None, str]:
        if isinstance(source, Session):
            return source.position, source.topic_id
        if isinstance(source, str):
            return read_token(source)
        if isinstance(source, Receipt):
            try:
                return source.position(), self._log.topic_id()
            except RuntimeError as exc:
                raise LevelRefused(f"at_least: {exc}") from exc
        return _offset(source, "at_least"), self._log.topic_id()


def refuse_wrong(options: Mapping[str, Any]) -> None:
    """Refuse levels that no query could have, whenever it is sent.

    Raises:
      LevelRefused: they contradict each other, or are none.
    """
    given = {name: value for name, value in options.items() if name in OPTIONS and not _left_out(value)}
    if not given:
        return
    _refuse_contradictions(given)
    if "max_lag" in given:
        _offset(given["max_lag"], "max_lag")
    if "max_lag_s" in given:
        _seconds(given["max_lag_s"], "max_lag_s", math.inf)
    _waited(given, options.get("timeout"))


def refused_later(options: Mapping[str, Any]) -> None:
    """Refuse levels for a message that is made now and sent at some other time.

    Raises:
      LevelRefused: names them.
    """
    given = sorted(OPTIONS & options.keys())
    if given:
        raise LevelRefused(
            f"{', '.join(given)}: how fresh a read has to be is settled when it is sent; use send_with_options, not a"
            " message for a group or a pipeline"
        )


def _left_out(value: object) -> bool:
    return value is None or value is False  # 0 is neither


def _refuse_contradictions(given: Mapping[str, Any]) -> None:
    fresh = given.keys() & {"at_least", "max_lag", "max_lag_s"}
    if "linearizable" in given and fresh:
        raise LevelRefused(
            f"linearizable is at least as fresh as {' and '.join(sorted(fresh))} can be: leave one of them out"
        )
    if "linearizable" in given and given["linearizable"] is not True:
        raise LevelRefused(f"linearizable is True or False, not {given['linearizable']!r}")
    if "snapshot" in given and given["snapshot"] is not True:
        raise LevelRefused(f"snapshot is True or False, not {given['snapshot']!r}")
    if given.keys() == {"wait"}:
        raise LevelRefused("wait says how long a query waits for a replica that is fresh enough: name a level, too")


def _limit(timeout: object) -> float:
    return timeout if isinstance(timeout, (int, float)) else math.inf


def _waited(given: Mapping[str, Any], timeout: object) -> float | None:
    """The seconds of ``wait``, where it is given."""
    if "wait" not in given:
        return None
    wait_s = _seconds(given["wait"], "wait", LONGEST_WAIT_S)
    if wait_s > _limit(timeout):
        raise LevelRefused(f"wait={wait_s:g} is longer than the query may take at all: timeout={_limit(timeout):g}")
    return wait_s


def _seconds(value: object, name: str, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= most or math.isinf(value):
        limit = "" if math.isinf(most) else f", at most {most:g}"
        raise LevelRefused(f"{name} is a number of seconds above zero{limit}; not {value!r}")
    return float(value)


def _offset(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        more = ", a receipt, a session or its token" if name == "at_least" else ""
        raise LevelRefused(f"{name} is a number of offsets from 0{more}; not {value!r}")
    return value
