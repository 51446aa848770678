"""One map with all that its title needs: units people read, words, times, source."""

# H latitude row (ascending), W longitude column (ascending from 0..360)

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import times, vocabulary
from ..errors import DataError
from ..grid import Grid
from .style import SUPERSCRIPT

Float = NDArray[np.float64]


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
        is_spread: whether it is the standard deviation of an ensemble's members.
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
    is_spread: bool = False

    @property
    def is_vector(self) -> bool:
        """Whether it changes sign when a meridian is continued over a pole."""
        known = vocabulary.BY_NAME.get(self.variable)
        return known is not None and known.is_vector and not self.is_spread

    @property
    def palette(self) -> str:
        """What decides levels and colours: the variable, or `spread`."""
        return "spread" if self.is_spread else self.variable

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


def lowered(label: str) -> str:
    """A label within a sentence: its first letter small unless it is a digit or an abbreviation."""
    return label if label[:2].isupper() else label[:1].lower() + label[1:]


def pretty_units(text: str) -> str:
    """`m s-1` and `m s**-1` become `m s⁻¹`; `1` becomes nothing."""
    if text.strip() in ("1", ""):
        return ""
    return re.sub(r"(?<=[A-Za-z])(?:\*\*|\^)?(-?\d+)", lambda m: m.group(1).translate(SUPERSCRIPT), clean(text, 40))


def units_for(variable: str, given: object) -> Units:
    """How the numbers of a variable are shown. Without a conversion known for exactly these units they stay as they are."""
    variable = variable.replace("wind_vector", "wind_speed")  # scores have both
    text = "" if given is None else str(given)
    display = vocabulary.display_units(variable, text)
    if display is not None:
        return Units(*display, vocabulary.error_units(variable, text)[0])
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


def scores_of(forecast: Field, truth: Field) -> tuple[float, float]:
    """(RMSE, bias) of one map with exact cell areas, in units of differences; cells missing in either are left out."""
    error = forecast.minus(truth).values
    there = np.isfinite(error)
    weights = forecast.grid.cell_areas()[there]
    if not there.any():
        return float("nan"), float("nan")
    return (float(np.sqrt(np.average(error[there] ** 2, weights=weights))), float(np.average(error[there], weights=weights)))
