"""One variable of a dataset as maps: selection by name and time, units people read, words for titles."""

# H latitude row (ascending), W longitude column (ascending from 0..360)

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from .. import times, vocabulary
from ..errors import ConfigError, DataError
from ..grid import BoxGrid, Geometry, Grid, Orientation
from ..times import TimeAxis

Float = NDArray[np.float64]
LEAD = "prediction_timedelta"
_WINDS = {"wind_speed": ("u_component_of_wind", "v_component_of_wind"), "10m_wind_speed": ("10m_u_component_of_wind", "10m_v_component_of_wind")}
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Units:
    """Units people read: `shown = value * factor + offset` in `text`; differences are in `difference` and have no offset."""

    text: str
    factor: float = 1.0
    offset: float = 0.0
    difference: str = ""


@dataclass(frozen=True, eq=False)
class Field:
    """One map with all that its title needs.

    Args:
        values: in the units of `units`, latitude ascending, longitude ascending; shape (H, W); NaN where there is none.
        grid: the canonical grid.
        variable: canonical long name.
        level: hPa, or None.
        units: how the numbers are shown.
        label: words, for example `Geopotential height at 500 hPa`.
        init: start of the forecast, seconds since 1970 in `calendar`; None for an analysis.
        lead: seconds since `init`; None for an analysis.
        valid: the instant shown; None when the file gives none.
        calendar: CF name.
        source: what the file says of itself, one line.
        simulated: whether the file says that its weather is simulated.
    """

    values: Float
    grid: Grid
    variable: str
    level: int | None
    units: Units
    label: str
    init: int | None
    lead: int | None
    valid: int | None
    calendar: str
    source: str
    simulated: bool

    @property
    def is_vector(self) -> bool:
        """Whether it changes sign when a meridian is continued over a pole."""
        known = vocabulary.BY_NAME.get(self.variable)
        return known is not None and known.is_vector

    @property
    def short(self) -> str:
        """`z500`, `t2m`."""
        return vocabulary.short_name(self.variable, self.level)

    def minus(self, other: Field) -> Field:
        """This minus another of the same variable and grid, in units of differences. Raises DataError when the grids differ."""
        if not self.grid.matches(other.grid):
            raise DataError(f"forecast and truth are on different grids: {self.grid.describe()}; {other.grid.describe()}",
                            where=self.short, fix="give a truth on the forecast's grid")
        if self.units != other.units:
            raise DataError(f"forecast and truth differ in units: '{self.units.text}' and '{other.units.text}'", where=self.short,
                            fix="open both through afno_forecast.data.sources, which converts")
        return replace(self, values=self.values - other.values)

    def times_text(self) -> str:
        """`Init 2001-12-01 00 UTC   Lead +120 h (5 d)   Valid 2001-12-06 00 UTC`; an analysis has the valid time only."""
        valid = "Time not given by the file" if self.valid is None else f"Valid {clock(self.valid, self.calendar)}"
        if self.init is None or self.lead is None:
            return valid
        return f"Init {clock(self.init, self.calendar)}    Lead {lead_text(self.lead)}    {valid}"


def clock(seconds: int, calendar: str) -> str:
    """`2001-12-06 00 UTC`, with minutes where they are not zero, and the calendar where it is not the usual one."""
    text = times.format_instant(seconds, calendar).replace("T", " ")
    return f"{text} UTC" if calendar in (times.STANDARD, "standard") else f"{text} UTC ({calendar})"


def lead_text(seconds: int) -> str:
    """`+6 h`, `+120 h (5 d)`, `+1.5 h`."""
    hours = f"+{seconds / 3600:g} h"
    return f"{hours} ({seconds // 86400} d)" if seconds and seconds % 86400 == 0 else hours


def clean(text: object, width: int = 200) -> str:
    """One printable line of a file's own words: control characters and runs of blanks become one blank; cut at `width` characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return line if len(line) <= width else line[: width - 1].rstrip() + "…"


def pretty_units(text: str) -> str:
    """`m s-1` and `m s**-1` become `m s⁻¹`; `1` becomes nothing."""
    if text.strip() in ("1", ""):
        return ""
    return re.sub(r"(?<=[A-Za-z])(?:\*\*|\^)?(-?\d+)", lambda m: m.group(1).translate(_SUPERSCRIPT), clean(text, 40))


def units_for(variable: str, given: object) -> Units:
    """How the numbers of a variable are shown. Without a conversion known for exactly these units they stay as they are."""
    known = vocabulary.BY_NAME.get(variable)
    text = "" if given is None else str(given)
    if known is not None and known.display is not None and text == known.units:
        name, factor, offset = known.display
        return Units(name, factor, offset, "K" if name == "°C" else name)
    shown = pretty_units(text) if given is not None else "units not given"
    return Units(shown, difference=shown)


def describe_source(attrs: Mapping[Any, Any]) -> tuple[str, bool]:
    """(one line of the file's own words, whether it says that its weather is simulated)."""
    words = [clean(attrs[k]) for k in ("title", "source") if attrs.get(k)]
    said = " ".join(str(attrs.get(k, "")) for k in ("institution", "title", "source", "comment")).lower()
    institution = clean(attrs.get("institution", ""))
    if institution and "simulated" not in institution.lower():
        words.append(institution)
    return clean(". ".join(words), 400), "simulated" in said


def parse_lead(value: object) -> int:
    """Seconds of a lead time: `5d`, `120h`, `0h`, a whole number of seconds, or a timedelta64. Raises ConfigError."""
    if isinstance(value, np.timedelta64):
        return int(value / np.timedelta64(1, "s"))
    if isinstance(value, int):
        return value
    return 0 if re.fullmatch(r"0(?:s|min|h|d|w)?", str(value).strip()) else times.parse_duration(str(value))


def _shorten(items: Sequence[str]) -> str:
    if len(items) <= 8:
        return ", ".join(items) or "none"
    return f"{', '.join(items[:3])}, ... {items[-1]} ({len(items)} in all)"


def _levels(item: xr.DataArray) -> list[int]:
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
        levels = _levels(item) if "level" in item.coords else [None]
        names += [vocabulary.short_name(str(name), None if level is None else int(level)) for level in levels]
    return names


def _missing(ds: xr.Dataset, asked: str) -> DataError:
    have = available(ds)
    near = get_close_matches(asked, have, 1, 0.6)
    return DataError(f"no '{clean(asked, 60)}' in this file; there are {_shorten(have) if len(have) > 40 else ', '.join(have) or 'no maps'}",
                     fix=f"did you mean '{near[0]}'?" if near else "ask for one of these")


def _pick(ds: xr.Dataset, asked: str) -> tuple[xr.DataArray, str, int | None]:
    """The variable at its level, with dims left for time, lead, latitude and longitude only."""
    variable, level = vocabulary.split_name(asked)
    if variable in ds.data_vars:
        item = ds[variable]
    elif variable in _WINDS and all(name in ds.data_vars for name in _WINDS[variable]):
        u, v = (ds[name] for name in _WINDS[variable])
        item = ((u**2 + v**2) ** 0.5).drop_attrs().assign_attrs(units=u.attrs.get("units"))
        if "level" in item.coords:
            item.attrs["available_levels"] = sorted(set(_levels(u)) & set(_levels(v)))
    else:
        raise _missing(ds, asked)
    if "level" in item.coords:
        levels = _levels(item)
        if level is None and len(levels) == 1:
            level = levels[0]
        if level is None or level not in levels:
            raise _missing(ds, asked)
        item = item.sel(level=level) if "level" in item.dims else item
    elif level is not None:
        raise _missing(ds, asked)
    if "number" in item.dims:
        if item.sizes["number"] > 1:
            raise DataError(f"'{asked}' has {item.sizes['number']} ensemble members", where="dimension 'number'",
                            fix="choose one (ds.isel(number=0)) or their mean (ds.mean('number', keep_attrs=True)) before drawing")
        item = item.isel(number=0)
    horizontal = _horizontal(item)
    if horizontal is None or set(item.dims) - {"time", LEAD, *horizontal}:
        raise DataError(f"'{asked}' has dims {item.dims}; a map needs latitude and longitude, beside time and {LEAD} only",
                        fix="select along the others")
    return item, variable, level


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
        ds: canonical names; dims [time], [prediction_timedelta], [level], latitude, longitude in any order and direction, or y, x.
        name: any name a person may type: `z500`, `geopotential@500`, `2m_temperature`, `wind_speed@850`.

    Raises:
        DataError: no such variable or level (those there are named); dims or coordinates that make no map.
    """

    def __init__(self, ds: xr.Dataset, name: str) -> None:
        item, self.variable, self.level = _pick(ds, name)
        horizontal = _horizontal(item)
        assert horizontal is not None
        self._item = item.transpose(..., *horizontal)
        self._orientation = _geometry(item, horizontal)
        self.grid = self._orientation.grid()
        self.units = units_for(self.variable, item.attrs.get("units"))
        self.short = vocabulary.short_name(self.variable, self.level)
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

    def at(self, instant: int | None, lead: int | None = None) -> Field:
        """The map at exactly this instant (the init time of a forecast) and lead, both in seconds. Raises DataError when it is not there."""
        item = self._item
        if instant is not None and self.axis is not None:
            if not self.has(instant):
                raise DataError(f"no time {times.format_instant(instant, self.calendar)} in this file; it has "
                                f"{self.axis.format(0)} to {self.axis.format(-1)}", where=self.short, fix="give a file that has it, or another time")
            if "time" in item.dims:
                item = item.isel(time=int(np.flatnonzero(self.axis.seconds == instant)[0]))
        if lead is not None and LEAD in item.dims and self.leads is not None:
            item = item.isel({LEAD: int(np.flatnonzero(self.leads == lead)[0])})
        values = self._orientation.to_canonical(np.asarray(item.values, dtype=np.float64))
        valid = instant if lead is None or instant is None else instant + lead
        return Field(values * self.units.factor + self.units.offset, self.grid, self.variable, self.level, self.units, self.label,
                     instant if self.is_forecast else None, lead, valid, self.calendar, self.source, self.simulated)

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


def scores_of(forecast: Field, truth: Field) -> tuple[float, float]:
    """(RMSE, bias) of one map with exact cell areas, in units of differences; cells missing in either are left out."""
    error = forecast.minus(truth).values
    there = np.isfinite(error)
    weights = forecast.grid.cell_areas()[there]
    if not there.any():
        return float("nan"), float("nan")
    return (float(np.sqrt(np.average(error[there] ** 2, weights=weights))), float(np.average(error[there], weights=weights)))
