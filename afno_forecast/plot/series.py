"""One variable of a dataset at all its times: found by name, level, member and time."""

# E member, H latitude row (ascending), W longitude column (ascending from 0..360)

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from .. import times, vocabulary
from ..errors import ConfigError, DataError
from ..grid import BoxGrid, Geometry, Orientation
from ..times import TimeAxis
from .fields import Field, Float, Units, clean, describe_source, lowered, parse_lead, units_for

LEAD = "prediction_timedelta"
_ALL = slice(None)
_WINDS = {speed: (u, v) for speed, u, v in vocabulary.WIND_SPEEDS}


def _shorten(items: Sequence[str]) -> str:
    if len(items) <= 8:
        return ", ".join(items) or "none"
    return f"{', '.join(items[:3])}, ... {items[-1]} ({len(items)} in all)"


def levels_of(item: xr.DataArray) -> list[int]:
    """Levels of a variable: of the axis that all variables share those it lists as its own, where it lists any."""
    own = item.attrs.get("available_levels")
    listed = None if own is None else {int(v) for v in np.atleast_1d(own)}
    return [int(v) for v in np.atleast_1d(item["level"].values) if listed is None or int(v) in listed]


def available(ds: xr.Dataset) -> list[str]:
    """Short names of all that can be drawn from a dataset, levels spelt out; a level that a variable lacks is left out."""
    names = []
    for name, item in ds.data_vars.items():
        if _horizontal(item) is None:
            continue
        levels = levels_of(item) if "level" in item.coords else [None]
        names += [vocabulary.short_name(str(name), None if level is None else int(level)) for level in levels]
    return names


def _missing(ds: xr.Dataset, asked: str) -> DataError:
    have = available(ds)
    near = get_close_matches(asked, have, 1, 0.6)
    return DataError(f"no '{clean(asked, 60)}' in this file; there are {_shorten(have) if len(have) > 40 else ', '.join(have) or 'no maps'}",
                     fix=f"did you mean '{near[0]}'?" if near else "ask for one of these")


def _pick(ds: xr.Dataset, asked: str) -> tuple[tuple[xr.DataArray, ...], str, int | None]:
    """The variable at its level, or the two components of a speed; dims left for members, time, lead, rows and columns only."""
    variable, level = vocabulary.split_name(asked)
    if variable in ds.data_vars:
        parts = [ds[variable]]
    elif variable in _WINDS and all(name in ds.data_vars for name in _WINDS[variable]):
        parts = [ds[name] for name in _WINDS[variable]]
    else:
        raise _missing(ds, asked)
    if "level" in parts[0].coords:
        levels = sorted(set.intersection(*(set(levels_of(part)) for part in parts)))
        if level is None and len(levels) == 1:
            level = levels[0]
        if level is None or level not in levels:
            raise _missing(ds, asked)
        parts = [part.sel(level=level) if "level" in part.dims else part for part in parts]
    elif level is not None:
        raise _missing(ds, asked)
    for part in parts:
        horizontal = _horizontal(part)
        if horizontal is None or set(part.dims) - {"number", "time", LEAD, *horizontal}:
            raise DataError(f"'{asked}' has dims {part.dims}; a map needs latitude and longitude, beside number, time and {LEAD} only",
                            fix="select along the others")
    return tuple(parts), variable, level


def _horizontal(item: xr.DataArray) -> tuple[str, str] | None:
    """The names of rows and columns; None where there is no map."""
    return next((pair for pair in (("latitude", "longitude"), ("y", "x")) if set(pair) <= set(item.dims)), None)


def _geometry(item: xr.DataArray, horizontal: tuple[str, str]) -> Geometry:
    """The order of the rows and columns; a box that does not say otherwise wraps, which shows in its outermost half cells only."""
    rows, columns = (np.asarray(item[name].values, dtype=np.float64) for name in horizontal)
    return Orientation(rows, columns) if horizontal[0] == "latitude" else BoxGrid(rows, columns)


class Series:
    """One variable of a dataset, on one level, at all its times. Values are read only when a map is asked for.

    Args:
        ds: canonical names; dims [number], [time], [prediction_timedelta], [level], latitude, longitude in any order and direction, or y, x.
        name: any name a person may type: `z500`, `geopotential@500`, `2m_temperature`, `wind_speed@850`.
        member: of an ensemble: `mean`, `spread` (standard deviation of the members, with M - 1) or a member's number; None takes the mean.

    Raises:
        DataError: no such variable, level or member (those there are named); dims or coordinates that make no map.
    """

    def __init__(self, ds: xr.Dataset, name: str, member: str | int | None = None) -> None:
        parts, self.variable, self.level = _pick(ds, name)
        item = parts[0]
        horizontal = _horizontal(item)
        assert horizontal is not None
        self._parts = tuple(part.transpose("number", ..., *horizontal, missing_dims="ignore") for part in parts)
        self._orientation = _geometry(item, horizontal)
        self.grid = self._orientation.grid()
        self.units = units_for(self.variable, item.attrs.get("units"))
        self.num_members = int(item.sizes.get("number", 1))
        self.numbers = [int(n) for n in np.atleast_1d(item["number"].values)] if "number" in item.coords else list(range(1, self.num_members + 1))
        self.member = self._chosen(member)
        self.label = self._words(item)
        self.source, self.simulated = describe_source(ds.attrs)
        self.axis = TimeAxis.from_xarray(item["time"]) if "time" in item.coords else None
        self.leads: NDArray[np.int64] | None = None
        if LEAD in item.coords:
            leads = np.atleast_1d(item[LEAD].values)
            if not np.issubdtype(leads.dtype, np.timedelta64):
                raise DataError(f"{LEAD} holds {leads.dtype}, not durations", fix="open the file with decode_timedelta=True")
            self.leads = leads.astype("timedelta64[s]").astype(np.int64)

    def _words(self, item: xr.DataArray) -> str:
        known = vocabulary.BY_NAME.get(self.variable)
        if known is None:
            text = clean(item.attrs.get("long_name") or self.variable.replace("_", " "), 80)
            return text if self.level is None else f"{text} at {self.level} hPa"
        text = vocabulary.label(self.variable, self.level)
        if self.variable == "geopotential" and self.units.text != "m":
            return text.replace("Geopotential height", "Geopotential")
        return text

    def _chosen(self, member: str | int | None) -> str | int | None:
        """`mean`, `spread`, a number, or None for what is no ensemble."""
        asked = str(member)
        if self.num_members == 1:
            if member is None or (asked.isdecimal() and int(asked) in self.numbers):
                return None
            raise DataError(f"no ensemble: there is one forecast, and --member asks for '{clean(asked, 40)}'", where=self.short,
                            fix="leave --member out")
        if member is None or asked in ("mean", "spread"):
            return "mean" if member is None else asked
        if not (asked.isascii() and asked.isdecimal() and int(asked) in self.numbers):
            raise DataError(f"no member '{clean(asked, 40)}'; there are {self.numbers[0]} to {self.numbers[-1]}", where=self.short,
                            fix=f"give --member mean, --member spread or --member {self.numbers[0]}")
        return int(asked)

    @property
    def short(self) -> str:
        """`z500`, `t2m`."""
        return vocabulary.short_name(self.variable, self.level)

    @property
    def is_forecast(self) -> bool:
        """Whether it has lead times."""
        return self.leads is not None

    @property
    def calendar(self) -> str:
        """CF name of the calendar."""
        return times.STANDARD if self.axis is None else self.axis.calendar

    def instant(self, asked: str | int | None, what: str = "init") -> int:
        """Seconds of one of the file's times: `first`, `last`, an ISO date, or the only one when `asked` is None. Raises DataError."""
        if self.axis is None or not len(self.axis):
            raise DataError(f"'{self.short}' has no times", fix=f"leave --{what} out")
        seconds = self.axis.seconds
        have = _shorten([self.axis.format(i) for i in range(min(len(seconds), 3))] if len(seconds) <= 3 else
                        [self.axis.format(0), self.axis.format(1), "...", self.axis.format(-1)])
        if asked is None:
            if len(seconds) > 1:
                raise DataError(f"{len(seconds)} times to choose from: {have}", where=self.short,
                                fix=f"choose one: --{what} first, --{what} last or a date")
            return int(seconds[0])
        if asked in ("first", "last"):
            return int(seconds.min() if asked == "first" else seconds.max())
        wanted = asked if isinstance(asked, int) else times.parse_instant(asked, self.calendar)
        if wanted not in seconds:
            raise DataError(f"no time {times.format_instant(wanted, self.calendar)} in this file; there are {have}", where=self.short,
                            fix=f"give --{what} first, --{what} last or one of these")
        return wanted

    def lead(self, asked: object) -> int:
        """Seconds of one of the file's lead times, or the only one when `asked` is None. Raises DataError, ConfigError."""
        if self.leads is None:
            raise ConfigError(f"'{self.short}' is no forecast: it has no lead times", fix="leave --lead out, and give --time")
        have = _shorten([times.format_duration(int(v)) for v in self.leads])
        if asked is None:
            if len(self.leads) > 1:
                raise DataError(f"{len(self.leads)} lead times to choose from: {have}", where=self.short,
                                fix=f"choose one, for example --lead {times.format_duration(int(self.leads[0]))}")
            return int(self.leads[0])
        wanted = parse_lead(asked)
        if wanted not in self.leads:
            raise DataError(f"no lead time {times.format_duration(wanted)} in this file; there are {have}", where=self.short,
                            fix="ask for one of these")
        return wanted

    def has(self, instant: int) -> bool:
        """Whether the file has this instant."""
        return self.axis is not None and bool((self.axis.seconds == instant).any())

    def _read(self, instant: int | None, lead: int | None, rows: int | slice = _ALL, columns: int | slice = _ALL) -> Float:
        """Shown values of all members, in the file's order of rows and columns; (E, H, W), without E where there is no member axis."""
        where: dict[str, int] = {}
        if instant is not None and self.axis is not None:
            if not self.has(instant):
                raise DataError(f"no time {times.format_instant(instant, self.calendar)} in this file; it has "
                                f"{self.axis.format(0)} to {self.axis.format(-1)}", where=self.short, fix="give a file that has it, or another time")
            where["time"] = int(np.flatnonzero(self.axis.seconds == instant)[0])
        if lead is not None and self.leads is not None:
            where[LEAD] = int(np.flatnonzero(self.leads == lead)[0])
        parts = [np.asarray(part.isel({k: v for k, v in where.items() if k in part.dims})[..., rows, columns].values, dtype=np.float64)
                 for part in self._parts]
        values = parts[0] if len(parts) == 1 else np.hypot(parts[0], parts[1])
        return np.asarray(values * self.units.factor + self.units.offset)

    def members(self, instant: int | None, lead: int | None = None) -> Float:
        """The maps of all members at an instant and lead, shown units, canonical rows and columns; shape (E, H, W), one for no ensemble."""
        values = self._orientation.to_canonical(self._read(instant, lead))
        return values.reshape(-1, *values.shape[-2:])

    def point(self, instant: int | None, lead: int | None, row: int, column: int) -> Float:
        """Values of all members in one cell of `grid`, shown units; shape (E,). Only that cell is asked of the file."""
        rows, columns = self._parts[0].shape[-2:]
        cells = self._orientation.to_canonical(np.arange(rows * columns).reshape(rows, columns))
        there = divmod(int(cells[row, column]), columns)
        return self._read(instant, lead, *there).reshape(-1)

    def at(self, instant: int | None, lead: int | None = None) -> Field:
        """The map at exactly this instant (the init time of a forecast) and lead, both in seconds. Raises DataError when it is not there."""
        members_EHW = self.members(instant, lead)
        label, units, values = self.label, self.units, members_EHW[0]
        if self.member == "spread":
            label, units = f"Ensemble spread of {lowered(label)}", Units(units.difference, units.factor, 0.0, units.difference)
            values = members_EHW.std(axis=0, ddof=1)
        elif self.member == "mean":
            label, values = f"{label}, mean of {self.num_members} members", members_EHW.mean(axis=0)
        elif self.member is not None:
            label, values = f"{label}, member {self.member} of {self.num_members}", members_EHW[self.numbers.index(int(self.member))]
        valid = instant if lead is None or instant is None else instant + lead
        return Field(values, self.grid, self.variable, self.level, units, label, instant if self.is_forecast else None, lead, valid, self.calendar,
                     self.source, self.simulated, is_spread=self.member == "spread")

    def find(self, *, init: str | int | None = None, lead: object = None, time: str | int | None = None) -> Field:
        """The map a person asked for.

        Args:
            init: start of a forecast: `first`, `last`, an ISO date; None takes the only one.
            lead: lead time of a forecast, `5d`; None takes the only one.
            time: instant of an analysis; of a forecast the valid time, together with either `init` or `lead`.

        Raises:
            DataError: not in the file, or without any value; what there is is named. ConfigError: a choice that makes no sense.
        """
        field = self._find(init, lead, time)
        require_values([field])
        return field

    def _find(self, init: str | int | None, lead: object, time: str | int | None) -> Field:
        if not self.is_forecast:
            if lead is not None or (init is not None and time is not None):
                raise ConfigError(f"'{self.short}' is an analysis: it has no lead times", fix="give --time alone")
            if self.axis is None:
                if time is not None or init is not None:
                    raise DataError(f"'{self.short}' has no times", fix="leave --time out")
                return self.at(None)
            return self.at(self.instant(time if time is not None else init, "time"))
        if time is None:
            return self.at(self.instant(init), self.lead(lead))
        valid = times.parse_instant(time, self.calendar) if isinstance(time, str) else time
        if init is not None and lead is None:
            start = self.instant(init)
            return self.at(start, self.lead(np.timedelta64(valid - start, "s")))
        if lead is not None and init is None:
            seconds = self.lead(lead)
            return self.at(self.instant(valid - seconds), seconds)
        raise ConfigError("a forecast's valid time goes with either init or lead", fix="give two of --init, --lead and --time")


def require_values(fields: Sequence[Field]) -> None:
    """See that there is something to draw. Raises DataError when every value of every map is missing."""
    if not any(np.isfinite(f.values).any() for f in fields):
        raise DataError(f"every value of '{fields[0].short}' is missing", where=fields[0].times_text(),
                        fix="draw another variable, level or time, or see why the file has no values there")


def truth_for(field: Field, truth: Series) -> Field:
    """The analysis valid at a forecast's valid time. Raises DataError when the calendars differ or it is not there."""
    if truth.is_forecast:
        raise DataError("the truth has lead times: it is a forecast", where=truth.short, fix="give an analysis")
    if truth.axis is not None and truth.calendar != field.calendar:
        raise DataError(f"the forecast's calendar is {field.calendar}, the truth's {truth.calendar}", fix="give a truth on the forecast's calendar")
    return truth.at(field.valid)
