"""Channels made of others while a store is built: wind speeds, and precipitation summed over six hours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches

import dask.array as da
import numpy as np
import xarray as xr

from ..channels import Channel, ChannelSet
from ..errors import ConfigError, DataError
from ..times import common_step, format_duration
from ..vocabulary import BY_NAME, find_variable
from .sources import Source
from .sources_notes import Note

SPEEDS = {f"{height}wind_speed": tuple(f"{height}{c}_component_of_wind" for c in "uv") for height in ("", "10m_", "100m_")}
SUM, SUMMED, HOURS = "total_precipitation_6hr", "total_precipitation", 6
DERIVED = (*SPEEDS, SUM)


def derive(source: Source, names: Sequence[str]) -> Source:
    """The source with further channels.

    Args:
        source: the record.
        names: any names of `DERIVED`; those that the source has already stay as they are.

    Raises:
        ConfigError: a name that cannot be derived.
        DataError: what it is made of is missing, or accumulations over more than six hours.
    """
    for asked in names:
        known = find_variable(asked)
        name = known.name if known else asked
        if name not in DERIVED:
            near = get_close_matches(asked, DERIVED, 1, 0.5)
            raise ConfigError(f"'{asked}' cannot be derived; there are {', '.join(DERIVED)}", where="derive",
                              fix=f"did you mean '{near[0]}'?" if near else "use one of these")
        if name not in source.dataset:
            source = _six_hours(source) if name == SUM else _speed(source, name)
    return source


def _require(source: Source, made: str, of: Sequence[str]) -> None:
    missing = [name for name in of if name not in source.dataset or "time" not in source.dataset[name].dims]
    if missing:
        raise DataError(f"'{made}' is made of {' and '.join(of)}; {', '.join(missing)} is not here", where=", ".join(source.paths),
                        fix=f"give files that have it, or leave '{made}' out of `derive`")


def _with(source: Source, item: xr.DataArray, made: Sequence[Channel], note: str) -> Source:
    return replace(source, dataset=source.dataset.assign({made[0].variable: item}), channels=ChannelSet((*source.channels, *made)),
                   notes=(*source.notes, Note("note", note)))


def _speed(source: Source, name: str) -> Source:
    """Of the wind's components, on the levels that both have."""
    u, v = SPEEDS[name]
    _require(source, name, (u, v))
    there = set(source.channels.names)
    levels = [c.level for c in source.channels if c.variable == u and Channel(v, c.level, c.units).name in there]
    blocks = da.hypot(source.dataset[u].data, source.dataset[v].data)
    attrs = {"units": "m s-1", "standard_name": "wind_speed", "long_name": name.replace("_", " ")}
    item = source.dataset[u].copy(data=blocks).drop_attrs().assign_attrs(attrs)
    return _with(source, item, [Channel(name, level, "m s-1") for level in levels], f"'{name}' derived from {u} and {v}")


def _six_hours(source: Source) -> Source:
    """The sum of the accumulations that end in the last six hours; times without all of them are left out."""
    _require(source, SUM, (SUMMED,))
    seconds = source.times.seconds
    step = common_step(seconds)
    if HOURS * 3600 % step or step > HOURS * 3600:
        raise DataError(f"accumulations over {format_duration(step)} do not add up to {HOURS} h", where=", ".join(source.paths),
                        fix=f"leave '{SUM}' out of `derive`")
    wanted = seconds[:, None] - np.arange(HOURS * 3600 // step, dtype=np.int64) * step
    found = np.minimum(np.searchsorted(seconds, wanted), len(seconds) - 1)
    whole = (seconds[found] == wanted).all(axis=1)
    if not whole.any():
        raise DataError(f"no {HOURS} hours of accumulations follow each other", where=", ".join(source.paths), fix=f"leave '{SUM}' out of `derive`")
    data = source.dataset[SUMMED].data
    total = sum(data[column] for column in found[whole].T)
    units = BY_NAME[SUM].units
    attrs = {"units": units, "standard_name": BY_NAME[SUM].standard_name, "long_name": "precipitation of the last 6 hours"}
    dataset = source.dataset.isel(time=np.flatnonzero(whole))
    item = dataset[SUMMED].copy(data=total.astype(np.float32)).drop_attrs().assign_attrs(attrs)
    numbers = None if source.trajectories is None else source.trajectories[whole]
    shorter = replace(source, dataset=dataset, times=source.times.at(whole), trajectories=numbers)
    lost = int((~whole).sum())
    note = f"'{SUM}' is the sum of {found.shape[1]} accumulations over {format_duration(step)}, taken to end at their times"
    return _with(shorter, item, [Channel(SUM, None, units)], note + (f"; {lost} times without all of them are left out" if lost else ""))
