"""Dates, times and durations as ISO 8601 text and back, exact to the nanosecond.  Pure."""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING, Any, Final

import pytz  # type: ignore[import-untyped]  # ships no types; the driver itself brings it
from neo4j.time import Date, DateTime, Duration, Time


if TYPE_CHECKING:
    from collections.abc import Callable

_DATE: Final = re.compile(r"(-?\d{4,})-(\d\d)-(\d\d)", re.ASCII)
_CLOCK: Final = re.compile(
    r"(\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d(?::\d\d)?)?(?:\[([^\[\]]+)\])?", re.ASCII
)
_DURATION: Final = re.compile(r"P(-?\d+)M(-?\d+)DT(-?)(\d+)(?:\.(\d{9}))?S", re.ASCII)
_UTC: Final = dt.UTC


def date_text(value: Date | dt.date) -> str:
    """`2024-02-29`."""
    return f"{value.year:04d}-{value.month:02d}-{value.day:02d}"


def clock_text(value: Time | dt.time | DateTime | dt.datetime) -> str:
    """`12:00:00`, with as many digits of the second as there are, and no zone."""
    nanoseconds = getattr(value, "nanosecond", None)
    if nanoseconds is None:
        nanoseconds = value.microsecond * 1000
    fraction = f".{nanoseconds:09d}".rstrip("0") if nanoseconds else ""
    return f"{value.hour:02d}:{value.minute:02d}:{value.second:02d}{fraction}"


def offset_text(value: Any) -> str:
    """`+01:00`, with seconds where the offset has any; raises ValueError where it has none or is finer."""
    clock = isinstance(value, (Time, dt.time))
    offset: dt.timedelta | None = value.tzinfo.utcoffset(None) if clock else value.utcoffset()
    if offset is None:
        msg = "a time with a named zone has no fixed offset: use a date and time, or a fixed offset"
        raise ValueError(msg)
    if offset.microseconds:
        msg = "an offset finer than a second"
        raise ValueError(msg)
    seconds = offset.days * 86_400 + offset.seconds
    sign, seconds = ("-", -seconds) if seconds < 0 else ("+", seconds)
    text = f"{sign}{seconds // 3600:02d}:{seconds // 60 % 60:02d}"
    return text + (f":{seconds % 60:02d}" if seconds % 60 else "")


def zone_name(value: DateTime | dt.datetime) -> str | None:
    """The name of the zone, of pytz or of zoneinfo; None for a fixed offset.

    The driver gives pytz's UTC for the offset zero and for the zone of that name; the offset is what people store.
    """
    if value.tzinfo is pytz.UTC:
        return None
    zone = getattr(value.tzinfo, "zone", None) or getattr(value.tzinfo, "key", None)
    return zone if isinstance(zone, str) else None


def datetime_text(value: DateTime | dt.datetime) -> str:
    """`2024-01-01T12:00:00.000000001+01:00[Europe/Paris]`; the zone and the offset only where there are any."""
    text = f"{date_text(value)}T{clock_text(value)}"
    if value.tzinfo is None:
        return text
    zone = zone_name(value)
    return text + offset_text(value) + (f"[{zone}]" if zone else "")


def duration_text(value: Duration | dt.timedelta) -> str:
    """`P14M3DT4.500000000S`: months, days and seconds, which Neo4j never converts into each other."""
    if isinstance(value, Duration):
        months, days, seconds, nanoseconds = value.months, value.days, value.seconds, value.nanoseconds
    else:
        months, days = 0, value.days
        seconds, nanoseconds = value.seconds, value.microseconds * 1000
    total = seconds * 1_000_000_000 + nanoseconds
    sign, total = ("-", -total) if total < 0 else ("", total)
    fraction = f".{total % 1_000_000_000:09d}" if total % 1_000_000_000 else ""
    return f"P{months}M{days}DT{sign}{total // 1_000_000_000}{fraction}S"


def parse_date(text: str) -> Date:
    """The inverse of `date_text`; raises ValueError."""
    return Date(*_date_parts(text))


def parse_time(text: str) -> Time:
    """The inverse of `clock_text` with or without `offset_text`; raises ValueError."""
    hour, minute, second, nanosecond, offset, zone = _clock_parts(text)
    if zone:
        raise ValueError(text)
    return Time(hour, minute, second, nanosecond, _fixed_for_time(offset) if offset else None)


def parse_datetime(text: str) -> DateTime:
    """The inverse of `datetime_text`; raises ValueError, also for a zone that this machine does not know."""
    date, separator, clock = text.partition("T")
    hour, minute, second, nanosecond, offset, zone = _clock_parts(clock)
    if not separator or (zone and not offset):
        raise ValueError(text)
    value = DateTime(*_date_parts(date), hour, minute, second, nanosecond)
    if not offset:
        return value
    fixed = _localized(value, _fixed(offset))
    if not zone:
        return fixed
    # By way of UTC, so that the hour that a clock shows twice in autumn stays the right one of the two.
    return fixed.as_timezone(_zone(zone))


def parse_duration(text: str) -> Duration:
    """The inverse of `duration_text`; raises ValueError."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(text)
    months, days, sign, seconds, fraction = match.groups()
    total = int(seconds) * 1_000_000_000 + int(fraction or 0)
    return Duration(months=int(months), days=int(days), nanoseconds=-total if sign else total)


def _date_parts(text: str) -> tuple[int, int, int]:
    match = _DATE.fullmatch(text)
    if match is None:
        raise ValueError(text)
    return int(match[1]), int(match[2]), int(match[3])


def _clock_parts(text: str) -> tuple[int, int, int, int, str | None, str | None]:
    match = _CLOCK.fullmatch(text)
    if match is None:
        raise ValueError(text)
    hour, minute, second, fraction, offset, zone = match.groups()
    return int(hour), int(minute), int(second), int((fraction or "").ljust(9, "0")), offset, zone


def _fixed(offset: str) -> dt.tzinfo:
    if offset == "Z":
        return _UTC
    hours, minutes, *seconds = offset[1:].split(":")
    delta = dt.timedelta(hours=int(hours), minutes=int(minutes), seconds=int(seconds[0]) if seconds else 0)
    return dt.timezone(-delta if offset[0] == "-" else delta)


def _fixed_for_time(offset: str) -> dt.tzinfo:
    """The driver sends a time only with a zone of pytz, which counts in minutes."""
    fixed = _fixed(offset)
    minutes, rest = divmod(int((fixed.utcoffset(None) or dt.timedelta()).total_seconds()), 60)
    zone: dt.tzinfo = fixed if rest else pytz.FixedOffset(minutes)
    return zone


def _zone(name: str) -> Any:
    try:
        return pytz.timezone(name)
    except pytz.UnknownTimeZoneError as error:
        msg = f"unknown time zone {name}"
        raise ValueError(msg) from error


def _localized(value: DateTime, zone: dt.tzinfo) -> DateTime:
    replace: Callable[..., DateTime] = value.replace
    return replace(tzinfo=zone)
