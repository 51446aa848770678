"""Channels made of others while a source is opened: wind speeds, and precipitation summed over six hours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches

import dask.array as da
import numpy as np

from ..errors import ConfigError, DataError
from ..times import common_step, format_duration
from ..vocabulary import BY_NAME, find_variable
from .sources_combine import Field, at_times, shared_times
from .sources_notes import Ledger

SPEEDS = {f"{height}wind_speed": tuple(f"{height}{c}_component_of_wind" for c in "uv") for height in ("", "10m_", "100m_")}
SUM, SUMMED, HOURS = "total_precipitation_6hr", "total_precipitation", 6
DERIVED = (*SPEEDS, SUM)


def derive(fields: Sequence[Field], names: Sequence[str], ledger: Ledger, where: str) -> list[Field]:
    """The fields and further ones made of them, each on the times of what it is made of.

    Args:
        fields: of a source, each on its own times.
        names: any names of `DERIVED`; those that are among the fields already stay as they are.
        ledger: is told what is made of what.
        where: the files.

    Raises:
        ConfigError: a name that cannot be derived.
        DataError: what it is made of is missing, or accumulations that do not add up to six hours.
    """
    made = {field.variable: field for field in fields}
    for asked in names:
        known = find_variable(asked)
        name = known.name if known else asked
        if name not in DERIVED:
            near = get_close_matches(asked, DERIVED, 1, 0.5)
            raise ConfigError(f"'{asked}' cannot be derived; there are {', '.join(DERIVED)}", where="derive",
                              fix=f"did you mean '{near[0]}'?" if near else "use one of these")
        if name in made:
            continue
        of = (SUMMED,) if name == SUM else SPEEDS[name]
        missing = [part for part in of if part not in made or made[part].times is None]
        if missing:
            raise DataError(f"'{name}' is made of {' and '.join(of)}; {', '.join(missing)} is not here", where=where,
                            fix=f"give files that have it, or leave '{name}' out of `derive`")
        made[name] = _six_hours(made[SUMMED], ledger, where) if name == SUM else _speed(name, made[of[0]], made[of[1]], ledger)
    return list(made.values())


def ingredients(names: Sequence[str]) -> set[str]:
    """The variables that derived ones are, or are made of."""
    known = {variable.name if (variable := find_variable(name)) else name for name in names}
    return known.union(*(SPEEDS.get(name, (SUMMED,)) for name in known))


def _named(field: Field, name: str, long_name: str, units: str) -> Field:
    attrs = {"long_name": long_name, "standard_name": BY_NAME[name].standard_name if name in BY_NAME else "wind_speed"}
    return replace(field, variable=name, units=units, piece=replace(field.piece, file_name=name, variable=name, units=units, attrs=attrs))


def _speed(name: str, u: Field, v: Field, ledger: Ledger) -> Field:
    """Of the wind's components, on the levels and at the times that both have."""
    times = shared_times({f.variable: f.times for f in (u, v)}, ledger)
    levels = None if u.levels is None or v.levels is None else tuple(level for level in u.levels if level in v.levels)
    parts = [at_times(f.data if levels is None or f.levels is None else f.data[:, [f.levels.index(level) for level in levels]], f.times, times)
             for f in (u, v)]
    ledger.note(f"'{name}' derived from {u.variable} and {v.variable}")
    return _named(replace(u, levels=levels, times=times, data=da.hypot(*parts)), name, name.replace("_", " "), "m s-1")


def _six_hours(field: Field, ledger: Ledger, where: str) -> Field:
    """The sum of the accumulations that end in the last six hours; times without all of them are left out."""
    assert field.times is not None
    seconds = field.times.seconds
    step = common_step(seconds)
    if HOURS * 3600 % step or step > HOURS * 3600:
        raise DataError(f"accumulations over {format_duration(step)} do not add up to {HOURS} h", where=where, fix=f"leave '{SUM}' out of `derive`")
    wanted = seconds[:, None] - np.arange(HOURS * 3600 // step, dtype=np.int64) * step
    found = np.minimum(np.searchsorted(seconds, wanted), len(seconds) - 1)
    whole = (seconds[found] == wanted).all(axis=1)
    if not whole.any():
        raise DataError(f"no {HOURS} hours of accumulations follow each other", where=where, fix=f"leave '{SUM}' out of `derive`")
    total = sum(field.data[column] for column in found[whole].T)
    lost = int((~whole).sum())
    ledger.note(f"'{SUM}' is the sum of {found.shape[1]} accumulations over {format_duration(step)}, taken to end at their times"
                + (f"; {lost} times without all of them are left out" if lost else ""))
    summed = replace(field, times=field.times.at(whole), data=total.astype(np.float32))
    return _named(summed, SUM, "precipitation of the last 6 hours", BY_NAME[SUM].units)
