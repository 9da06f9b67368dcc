"""When a periodic actor is due: ``@dramatiq.actor(periodic=cron("0 3 * * *", tz="Europe/Berlin"))``.

A schedule is a value that can be written down: the worker that declares an actor writes its text into the log, and any
worker of the cluster, also one with other code, can say from the text when the next time is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TypeAlias
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from brokers.errors import WrongSchedule


#: Seconds by which a time may be missed, because no worker was there, and is made up for; periods in hours are too
#: common to skip, and what is older than an hour is rarely still wanted.
GRACE_S = 3600.0

#: Seconds that count as on time, whatever the grace: a timer that is killed is replaced in five.
ON_TIME_S = 10.0

#: The shortest period, in milliseconds: a transaction each costs 8 ms, and a message at least as much.
SHORTEST_MS = 1000

CRON_FIELDS = 5


@dataclass(frozen=True, slots=True)
class Cron:
    """Times by the fields of crontab(5), on the clocks of one time zone."""

    fields: str
    tz: str = "UTC"
    grace_s: float = GRACE_S
    _zone: tzinfo = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", " ".join(self.fields.split()))  # the dataclass is frozen
        object.__setattr__(self, "_zone", _zone(self.tz))
        _check_grace(self.grace_s)
        if len(self.fields.split()) != CRON_FIELDS:
            raise WrongSchedule(
                f"cron({self.fields!r}): it takes {CRON_FIELDS} fields: minute, hour, day of month, month, day of week"
            )
        try:
            CronSim(self.fields, datetime.now(self._zone))
        except CronSimError as exc:
            raise WrongSchedule(f"cron({self.fields!r}): {exc}") from exc
        if self.after(0) is None:
            raise WrongSchedule(f"cron({self.fields!r}): there is no such day")

    @property
    def text(self) -> str:
        """What `schedule_of` understands."""
        return f"cron {self.fields} {self.tz}"

    def after(self, ms: int) -> int | None:
        """The first time later than *ms*, both in milliseconds since 1970; none when there is no more.

        Where clocks are put forward, a time that does not exist is made up for right after the gap; where they are put
        back, a time that exists twice counts once.  Schedules with ``*`` for minute or hour go by elapsed time there.
        """
        start = datetime.fromtimestamp(ms // 1000, self._zone)
        if any(field.startswith("*") for field in self.fields.split()[:2]):
            return self._by_elapsed_time(ms, start)
        for found in CronSim(self.fields, start):
            at = _ms(found)
            if at > ms:  # an hour that comes again is found a second time, and is over
                return at
        return None

    def _by_elapsed_time(self, ms: int, start: datetime) -> int | None:
        """Whenever clocks show it: a time that they leave out is none, and one that they repeat is two."""
        # Of clocks that know no change: with others, cronsim gets lost where they change by half an hour.
        clock = start.replace(tzinfo=None, fold=0)
        repeated = abs(_offset(start.replace(fold=0)) - _offset(start.replace(fold=1)))
        found: list[int] = []
        for shown in CronSim(self.fields, clock - repeated):
            found += [at for at in self._moments(shown) if at > ms]
            if found and shown > clock + repeated:
                break
        return min(found, default=None)

    def _moments(self, shown: datetime) -> set[int]:
        """When clocks show this: once; in the hour that comes again twice, and in the one that is left out never."""
        moments = [shown.replace(tzinfo=self._zone, fold=fold).astimezone(UTC) for fold in (0, 1)]
        return {_ms(one) for one in moments if one.astimezone(self._zone).replace(tzinfo=None, fold=0) == shown}


@dataclass(frozen=True, slots=True)
class Every:
    """The multiples of a period since 1970 (UTC), so that all workers mean the same times whenever they started."""

    period_ms: int
    grace_s: float = GRACE_S

    def __post_init__(self) -> None:
        _check_grace(self.grace_s)
        if self.period_ms < SHORTEST_MS:
            raise WrongSchedule(f"every({self.period_ms / 1000:g}): a period has to be a second or longer")

    @property
    def text(self) -> str:
        """What `schedule_of` understands."""
        return f"every {self.period_ms / 1000:.15g} s"

    def after(self, ms: int) -> int | None:
        """The first time later than *ms*, both in milliseconds since 1970."""
        return (ms // self.period_ms + 1) * self.period_ms


Schedule: TypeAlias = Cron | Every


def cron(fields: str, *, tz: str = "UTC", grace: float | timedelta = GRACE_S) -> Cron:
    """The times of a crontab line's five fields: ``cron("*/5 * * * *")``.

    *tz* is a name such as ``Europe/Berlin``.  A time that passed while no worker was there is made up for once, if it
    is at most *grace* (seconds, or a timedelta) ago; ten seconds are no delay.

    Raises:
      WrongSchedule: the text says what is wrong with it.
    """
    return Cron(fields, tz, _seconds(grace))


def every(period: float | timedelta, *, grace: float | timedelta = GRACE_S) -> Every:
    """Every so many seconds: the multiples of *period* (seconds, or a timedelta) since 1970, UTC; *grace* as in `cron`.

    Raises:
      WrongSchedule: it is shorter than a second.
    """
    return Every(round(_seconds(period) * 1000), _seconds(grace))


def schedule_of(text: str, grace_s: float = GRACE_S) -> Schedule:
    """The schedule whose ``text`` this is.

    Raises:
      WrongSchedule: it is none, or this system does not know its time zone.
    """
    match text.split():
        case ["cron", *fields, tz]:
            return Cron(" ".join(fields), tz, grace_s)
        case ["every", seconds, "s"]:
            return every(_number(seconds), grace=grace_s)
    raise WrongSchedule(f"{text!r} is not a schedule")


def missed(schedule: Schedule, last_ms: int, now_ms: int) -> int | None:
    """The latest time after *last_ms*, up to *now_ms*, unless it is too long ago: of many missed ones, one counts."""
    grace_ms = int(max(schedule.grace_s, ON_TIME_S) * 1000)
    latest, at = None, schedule.after(max(last_ms, now_ms - grace_ms - 1))
    while at is not None and at <= now_ms:
        latest, at = at, schedule.after(at)
    return latest


def _ms(moment: datetime) -> int:
    return int(moment.timestamp()) * 1000


def _offset(moment: datetime) -> timedelta:
    return moment.utcoffset() or timedelta(0)


def _seconds(value: float | timedelta) -> float:
    seconds = value.total_seconds() if isinstance(value, timedelta) else float(value)
    if not math.isfinite(seconds):
        raise WrongSchedule(f"{value!r} is no number of seconds")
    return seconds


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as exc:
        raise WrongSchedule(f"{text!r} is no number of seconds") from exc


def _check_grace(grace_s: float) -> None:
    if grace_s < 0:
        raise WrongSchedule(f"grace={grace_s!r}: it is a number of seconds, 0 or more")


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC  # known also where there is no time zone data
    try:
        return ZoneInfo(name)
    except (OSError, ValueError) as exc:  # what ZoneInfo raises for a name that is a path, or a folder
        raise WrongSchedule(f"{name!r} is not the name of a time zone, such as 'Europe/Berlin'") from exc
    except KeyError as exc:
        raise WrongSchedule(
            f"time zone {name!r} is not known here; on a system without time zone data, install the package tzdata"
        ) from exc
