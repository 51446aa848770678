"""Init, lead and valid times in any CF calendar, as integer seconds, so that arithmetic on them is exact.

A `TimeAxis` holds seconds since 1970-01-01T00:00 *counted in its own calendar*; durations are integer seconds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import cftime
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from .errors import ConfigError, DataError

EPOCH = "seconds since 1970-01-01 00:00:00"
STANDARD = "proleptic_gregorian"
CALENDARS = ("proleptic_gregorian", "standard", "gregorian", "julian", "noleap", "365_day", "all_leap", "366_day", "360_day")
_SYNONYMS = {"gregorian": "standard", "365_day": "noleap", "366_day": "all_leap"}
_NANOSECOND_RANGE = (-9_223_372_036, 9_223_372_036)
_GREGORIAN_REFORM = -12_219_292_800  # 1582-10-15: from here on the mixed calendar is the proleptic Gregorian one
_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 604800}
LAST_YEAR = 9999


def parse_duration(text: str | int) -> int:
    """Seconds in a duration such as `6h`, `10d`, `90min`, `1d12h`. Raises ConfigError for anything else."""
    parts = re.findall(r"(\d{1,12}(?:\.\d{1,12})?)\s*(min|s|h|d|w)", str(text))
    rebuilt = "".join(a + b for a, b in parts)
    if not parts or rebuilt != str(text).replace(" ", ""):
        raise ConfigError(f"'{text}' is not a duration", fix="write it as 6h, 10d, 90min or 1d12h")
    seconds = sum(Fraction(number) * _UNITS[unit] for number, unit in parts)
    if seconds > LAST_YEAR * 366 * 86400:
        raise ConfigError(f"'{text}' is longer than {LAST_YEAR} years", fix="write it as 6h, 10d or 90min")
    if seconds.denominator != 1 or seconds == 0:
        raise ConfigError(f"'{text}' is not a whole, positive number of seconds", fix="write it as 6h, 10d or 90min")
    return int(seconds)


def format_duration(seconds: int) -> str:
    """The shortest of `10d`, `6h`, `90min`, `45s` that is exact. Zero is `0h`."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds % size == 0 and (seconds != 0 or unit == "h"):
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def canonical_calendar(calendar: str) -> str:
    """One name for each calendar. Raises DataError for a name CF does not know."""
    name = calendar.lower()
    if name not in CALENDARS:
        raise DataError(f"unknown calendar '{calendar}'", fix=f"use one of {', '.join(CALENDARS)}")
    return _SYNONYMS.get(name, name)


def thinned(leads: list[int], most: int) -> list[int]:
    """All leads, or the whole days among them, or every so many of those, so that at most `most` remain; the last one always."""
    if len(leads) <= most:
        return leads
    days = [lead for lead in leads if lead % 86400 == 0 or lead == leads[-1]]
    days = days if len(days) > 1 else leads
    stride = -(-len(days) // most)
    return days[::-1][::stride][::-1]


def parse_instant(text: str, calendar: str = STANDARD) -> int:
    """Seconds since the epoch of an ISO date or date-time (`2020-01-01`, `2020-01-01T06`, `2020-02-30T00:00` on 360_day).

    Raises ConfigError when the text is not a date, or not one of the calendar.
    """
    year, month, day, hour, minute, second = _date_fields(text)
    first = 1 if canonical_calendar(calendar) in {"standard", "julian"} else 0  # CF gives them no year 0
    if not first <= year <= LAST_YEAR:
        raise ConfigError(f"'{text}' is not in the years {first} to {LAST_YEAR}", fix="write it as 2020-01-01 or 2020-01-01T06")
    try:
        date = cftime.datetime(year, month, day, hour, minute, second, calendar=canonical_calendar(calendar))
        return int(cftime.date2num(date, EPOCH, calendar=canonical_calendar(calendar)))
    except ValueError as error:
        raise ConfigError(f"'{text}' is not a date of the {calendar} calendar: {error}", fix="give a date that exists") from error


def any_date(text: str) -> tuple[int, ...]:
    """Year, month, day, hour, minute and second of a date that some calendar has; they order dates. Raises ConfigError."""
    date = _date_fields(text)
    parse_instant(text, "360_day" if date[1:3] == (2, 30) else "all_leap")
    return date


def _date_fields(text: str) -> tuple[int, ...]:
    match = re.fullmatch(r"(-?\d{1,6})-(\d{1,2})-(\d{1,2})(?:[T ](\d{1,2})(?::?(\d{2}))?(?::?(\d{2}))?Z?)?", str(text).strip())
    if not match:
        raise ConfigError(f"'{text}' is not an ISO date", fix="write it as 2020-01-01 or 2020-01-01T06")
    return tuple(int(g or 0) for g in match.groups())


def format_instant(seconds: int, calendar: str = STANDARD) -> str:
    """ISO text of an instant, `2020-01-01T06` when on the hour, with minutes (and seconds) when not."""
    date = cftime.num2date(int(seconds), EPOCH, calendar=calendar)
    text = f"{date.year:04d}-{date.month:02d}-{date.day:02d}T{date.hour:02d}"
    if date.second:
        return f"{text}:{date.minute:02d}:{date.second:02d}"
    return f"{text}:{date.minute:02d}" if date.minute else text


@dataclass(frozen=True, eq=False)
class TimeAxis:
    """Instants as int64 seconds since 1970-01-01T00:00 in `calendar`; shape (T,)."""

    seconds: NDArray[np.int64]
    calendar: str = STANDARD

    def __len__(self) -> int:
        return len(self.seconds)

    @classmethod
    def from_xarray(cls, coordinate: xr.DataArray) -> TimeAxis:
        """From a decoded time coordinate: datetime64 of any unit, or cftime objects of one calendar. Raises DataError."""
        values = np.atleast_1d(coordinate.values)
        if np.issubdtype(values.dtype, np.datetime64):
            if np.isnat(values).any():
                raise DataError("missing values (NaT) in the time coordinate", where=str(coordinate.name))
            thousandths = values.astype("datetime64[ms]").astype(np.int64)
            return cls((thousandths + 500) // 1000, STANDARD)  # to the nearest second: times stored as fractions of a day are a little off
        calendars = {canonical_calendar(v.calendar) for v in values if isinstance(v, cftime.datetime)}
        if len(calendars) != 1 or not all(isinstance(v, cftime.datetime) for v in values):
            raise DataError(f"not real datetimes of one calendar (found {sorted(calendars) or values.dtype})", where=str(coordinate.name),
                            fix="give the time coordinate CF units such as 'hours since 2000-01-01' and a calendar")
        calendar = calendars.pop()
        exact = np.asarray(cftime.date2num(values, EPOCH, calendar=calendar), dtype=np.float64)
        seconds = np.rint(exact).astype(np.int64)
        if calendar == "standard" and (len(seconds) == 0 or seconds.min() >= _GREGORIAN_REFORM):
            calendar = STANDARD
        return cls(seconds, calendar)

    def values(self) -> NDArray[Any]:
        """For xarray: datetime64[ns], datetime64[s] outside its range, cftime objects on other calendars."""
        if self.calendar == STANDARD:
            inside = len(self.seconds) == 0 or (self.seconds.min() > _NANOSECOND_RANGE[0] and self.seconds.max() < _NANOSECOND_RANGE[1])
            return self.seconds.astype("datetime64[s]").astype("datetime64[ns]" if inside else "datetime64[s]")
        return np.asarray(cftime.num2date(self.seconds, EPOCH, calendar=self.calendar), dtype=object)

    def dates(self) -> NDArray[Any]:
        """cftime objects of the axis' own calendar; shape (T,)."""
        return np.asarray(cftime.num2date(self.seconds, EPOCH, calendar=self.calendar), dtype=object)

    def day_of_year(self) -> NDArray[np.int64]:
        """Day of year, from 1, in the axis' own calendar; shape (T,)."""
        return np.asarray([d.dayofyr for d in self.dates()], dtype=np.int64)

    def second_of_day(self) -> NDArray[np.int64]:
        """Seconds since midnight UTC; shape (T,)."""
        return np.asarray(np.mod(self.seconds, 86400), dtype=np.int64)

    def year_fraction(self) -> NDArray[np.float64]:
        """Position in the year, 0 at its first instant, below 1, with the length that year has in the calendar; shape (T,)."""
        years = np.asarray([d.year for d in self.dates()])
        starts = {int(y): [int(cftime.date2num(cftime.datetime(int(v), 1, 1, calendar=self.calendar), EPOCH, calendar=self.calendar))
                           for v in (y, y + 1)] for y in np.unique(years)}
        begin = np.asarray([starts[int(y)][0] for y in years])
        end = np.asarray([starts[int(y)][1] for y in years])
        return np.asarray((self.seconds - begin) / (end - begin), dtype=np.float64)

    def at(self, index: Any) -> TimeAxis:
        """A part of the axis, by any numpy index."""
        return TimeAxis(np.atleast_1d(self.seconds[index]), self.calendar)

    def format(self, index: int) -> str:
        """ISO text of one instant."""
        return format_instant(int(self.seconds[index]), self.calendar)


def comparable(first: TimeAxis, second: TimeAxis) -> bool:
    """Whether equal seconds are the same instant on both axes: one calendar, or the mixed Julian and Gregorian one and the proleptic
    Gregorian one where the latter's instants all lie after the reform of 1582, from which on the two are one."""
    if first.calendar == second.calendar:
        return True
    plain = [a for a in (first, second) if a.calendar == STANDARD]
    return {first.calendar, second.calendar} == {STANDARD, "standard"} and bool((plain[0].seconds >= _GREGORIAN_REFORM).all())


def common_step(seconds: NDArray[np.int64]) -> int:
    """The most frequent difference of neighbouring instants, in seconds; the smallest of equals. Raises DataError for fewer than two."""
    if len(seconds) < 2:
        raise DataError("fewer than two times: there is no time step")
    steps, counts = np.unique(np.diff(seconds), return_counts=True)
    return int(steps[np.argmax(counts)])


def missing_instants(seconds: NDArray[np.int64], step: int, runs: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """The instants between first and last, every `step` seconds, that `seconds` lacks.

    Args:
        seconds: sorted, unique; shape (T,).
        step: seconds.
        runs: a number for each instant, the same in each run of the record; between two runs nothing is missing. None for one run.

    Returns:
        shape (M,).
    """
    if len(seconds) == 0:
        return seconds
    parts = [seconds] if runs is None else np.split(seconds, np.flatnonzero(np.diff(runs)) + 1)
    return np.concatenate([np.setdiff1d(np.arange(p[0], p[-1] + 1, step, dtype=np.int64), p, assume_unique=True) for p in parts])
