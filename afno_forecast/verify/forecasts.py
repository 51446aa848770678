"""Reading forecasts in WeatherBench 2's layout, ours and other people's, in one form: canonical names and order, lazily."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import cftime
import numpy as np
import xarray as xr
import zarr

from .. import vocabulary
from ..channels import Channel, ChannelSet
from ..data.sources_files import READ_ERRORS
from ..data.units import canonical, convert
from ..errors import DataError
from ..grid import BoxGrid, Grid, LatLonGrid, Orientation
from ..times import TimeAxis, format_duration
from ..vocabulary import COMPLETE_ATTRIBUTE

_DIMENSIONS = {"time": ("init_time", "forecast_reference_time"), "prediction_timedelta": ("step", "lead_time", "lead", "forecast_period"),
               "number": ("realization", "member", "sample"), "level": ("isobaricInhPa", "pressure_level", "plev"),
               "latitude": ("lat",), "longitude": ("lon",)}
_SECONDS = {"nanoseconds": 1e-9, "microseconds": 1e-6, "milliseconds": 1e-3, "seconds": 1.0, "minutes": 60.0, "hours": 3600.0, "days": 86400.0}
_LEADING = ("time", "prediction_timedelta")
MEMBER = "number"
"""The dimension of an ensemble's members, from 1."""


def open_forecast(path: Path | str) -> xr.Dataset:
    """A forecast file, opened lazily, in canonical form.

    Args:
        path: zarr store (v2 or v3) or netCDF file in WeatherBench 2's layout. Latitude and longitude in any order and convention, dims
            in any order, variables with a level axis or one a level (`z500`), any name of the vocabulary.

    Returns:
        Dataset of variables (time, [number], prediction_timedelta, [level], latitude, longitude), or (..., y, x) for a box; canonical names;
        `number` only where there are two members or more;
        level int hPa ascending, latitude ascending, longitude ascending from 0..360; `prediction_timedelta` timedelta64[ns]. A
        variable that lacks some of the levels lists its own in the attribute `available_levels`.

    Raises:
        DataError: not there, marked incomplete, damaged, or not in this layout.
    """
    path = Path(path)
    raw = _open_raw(path)
    if raw.attrs.get(COMPLETE_ATTRIBUTE, "yes") != "yes":
        raise DataError("the forecast is incomplete: its rollout was interrupted", where=str(path), fix="run the same rollout command again")
    if path.is_dir() and COMPLETE_ATTRIBUTE in raw.attrs:
        _require_chunks(path, raw)
    ds = _rename(raw, path)
    missing = [d for d in _LEADING if d not in ds.dims]
    if missing:
        raise DataError(f"not a forecast in WeatherBench's layout: no dimension {', '.join(missing)}; there are {', '.join(map(str, ds.dims))}",
                        where=str(path), fix="give a file with init times along 'time' and lead times along 'prediction_timedelta'")
    ds = _require_form(ds.squeeze(MEMBER, drop=True) if ds.sizes.get(MEMBER) == 1 else ds, path)
    ds = ds.assign_coords(time=("time", _init_times(ds, path).values()), prediction_timedelta=("prediction_timedelta", _lead_times(ds, path)))
    return _order(_gather_levels(ds, path))


def forecast_grid(ds: xr.Dataset, *, like: Grid | None = None) -> Grid:
    """The grid of a dataset in canonical form; files do not say whether a box wraps: `like` does, both directions without it."""
    if "latitude" in ds.dims:
        return LatLonGrid(ds["latitude"].values, ds["longitude"].values)
    wraps, rows_wrap = (like.wraps, like.rows_wrap) if isinstance(like, BoxGrid) else (True, True)
    return BoxGrid(ds["y"].values, ds["x"].values, wraps, rows_wrap)


def forecast_channels(ds: xr.Dataset) -> ChannelSet:
    """The channels of a forecast in canonical form, in its order; units as the file has them, canonical when it has none."""
    channels = []
    for name, item in ds.data_vars.items():
        if not set(_LEADING) <= set(item.dims):
            continue
        known = vocabulary.BY_NAME.get(str(name))
        text = item.attrs.get("units")
        units = known.units if text is None and known else (canonical(str(text)) or str(text) if text is not None else "1")
        levels = np.atleast_1d(item.attrs.get("available_levels", ds["level"].values)) if "level" in item.dims else [None]
        channels += [Channel(str(name), None if level is None else int(level), units) for level in levels]
    return ChannelSet(tuple(channels))


def num_members(ds: xr.Dataset) -> int:
    """Members of an ensemble in canonical form; 1 for a single forecast."""
    return int(ds.sizes.get(MEMBER, 1))


def read_channels(ds: xr.Dataset, channels: ChannelSet, init_index: int, leads: slice) -> np.ndarray[Any, np.dtype[np.float32]]:
    """States of one init time of a single forecast; float32, shape (L, C, H, W). See `read_members`."""
    if num_members(ds) > 1:
        raise DataError(f"an ensemble of {num_members(ds)} members where a single forecast is wanted", fix="give one member, or their mean")
    return read_members(ds, channels, init_index, leads)[:, 0]


def read_members(ds: xr.Dataset, channels: ChannelSet, init_index: int, leads: slice) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Forecast states of one init time, in the units of `channels`.

    Args:
        ds: in canonical form.
        channels: what to read, in order.
        init_index: position along `time`.
        leads: positions along `prediction_timedelta`.

    Returns:
        float32, shape (L, E, C, H, W); one member when it is no ensemble.

    Raises:
        DataError: units that cannot be converted, or a chunk that cannot be read.
    """
    arrays: dict[str, Any] = {}
    result = []
    for channel in channels:
        if channel.variable not in arrays:
            arrays[channel.variable] = _load(ds, channel.variable, init_index, leads)
        values = arrays[channel.variable]
        if channel.level is not None:
            values = values[:, :, int(np.flatnonzero(ds["level"].values == channel.level)[0])]
        factor, offset = _conversion(ds[channel.variable], channel)
        result.append(values if (factor, offset) == (1.0, 0.0) else values * factor + offset)
    return np.moveaxis(np.stack(result, axis=2), 0, 1).astype(np.float32, copy=False)


def _load(ds: xr.Dataset, variable: str, init_index: int, leads: slice) -> Any:
    """One variable of one init time; (E, L, [level], H, W)."""
    try:
        values = ds[variable].isel(time=init_index, prediction_timedelta=leads).values
        return values if MEMBER in ds[variable].dims else values[None]
    except READ_ERRORS as error:
        raise DataError(f"'{variable}' cannot be read: {error}", where=f"forecast from {str(ds['time'].values[init_index])[:16]}",
                        fix="copy the file again, or run the rollout again") from error


def _conversion(item: xr.DataArray, channel: Channel) -> tuple[float, float]:
    units = item.attrs.get("units")
    if units is None:
        return 1.0, 0.0  # WeatherBench's own files have none; its names imply them
    found = convert(str(units), channel.units, channel.variable)
    if found is None:
        raise DataError(f"'{channel.variable}' is in '{units}', the truth in '{channel.units}'", fix="convert one of them")
    return found


def _open_raw(path: Path) -> xr.Dataset:
    partial = path.with_name(path.name + ".partial")
    if not path.exists():
        if partial.exists():
            raise DataError("the forecast is incomplete: its rollout was interrupted", where=str(path), fix="run the same rollout command again")
        raise DataError("there is no forecast", where=str(path), fix="check the path, or make it with afno-forecast rollout")
    engine = "zarr" if path.is_dir() else None
    try:
        ds = xr.open_dataset(path, engine=engine, decode_times=False, cache=False)  # times are decoded here, exactly, in their own calendar
        per_level = any(vocabulary.split_name(str(name))[1] is not None for name in ds.data_vars)
        return ds.chunk() if per_level else ds  # to be stacked along level without reading them
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"not a readable forecast: {error}", where=str(path), fix="give a zarr store or a netCDF file") from error


def _require_chunks(path: Path, raw: xr.Dataset) -> None:
    """A lost chunk reads as missing values without a word; every chunk of our own files must be there."""
    root: Any = zarr.open_group(str(path), mode="r")
    for name, array in root.arrays():
        counts = [-(-n // c) for n, c in zip(array.shape, array.chunks, strict=True)]
        for index in product(*(range(n) for n in counts)):
            if not (path / name / array.metadata.encode_chunk_key(index)).is_file():
                init = f", init {_init_times(raw, path).format(index[0])}" if name in raw.data_vars else ""
                raise DataError(f"a chunk of '{name}' is lost: {array.metadata.encode_chunk_key(index)}", where=f"{path}{init}",
                                fix="remove the forecast and run the rollout again")


def _rename(ds: xr.Dataset, path: Path) -> xr.Dataset:
    """Canonical names of dimensions and variables; level in whole hPa."""
    names: dict[str, str] = {}
    for wanted, others in _DIMENSIONS.items():
        if wanted not in ds.dims:
            names |= {other: wanted for other in others if other in ds.dims}
    extra = [c for c in ds.coords if c not in ds.dims]
    ds = ds.drop_vars(extra).rename(names)
    variables = {}
    for name in map(str, ds.data_vars):
        known = vocabulary.find_variable(name)
        if known is not None and known.name != name:
            variables[name] = known.name
    repeated = sorted({v for v in variables.values() if v in ds.data_vars or list(variables.values()).count(v) > 1})
    if repeated:
        raise DataError(f"{', '.join(repeated)} comes under two names", where=str(path), fix="keep one of them")
    ds = ds.rename(variables)
    if "level" in ds.dims:
        values = np.asarray(ds["level"].values, dtype=np.float64)
        values = values / 100 if str(ds["level"].attrs.get("units", "")) == "Pa" else values
        if not np.allclose(values, np.rint(values)):
            raise DataError(f"pressure levels {values.tolist()} are not whole hPa", where=str(path), fix="give levels in hPa")
        ds = ds.assign_coords(level=("level", np.rint(values).astype(np.int32), {"units": "hPa"}))
    return ds


def _require_form(ds: xr.Dataset, path: Path) -> xr.Dataset:
    """Without dimensions of size 1 that are no axis of a forecast. Raises DataError for longer ones, and for members of some variables only."""
    states = [name for name, item in ds.data_vars.items() if set(_LEADING) <= set(item.dims)]
    strange = {d for name in states for d in ds[name].dims} - {*_DIMENSIONS, "y", "x"}
    ds = ds.squeeze([d for d in strange if ds.sizes[d] == 1], drop=True)
    for name in states:
        longer = [d for d in ds[name].dims if d in strange]
        if longer:
            raise DataError(f"'{name}' has {ds.sizes[longer[0]]} values along '{longer[0]}', which is no axis of a forecast", where=str(path),
                            fix="keep one of them, or leave the variable out")
        if MEMBER in ds.dims and MEMBER not in ds[name].dims:
            raise DataError(f"'{name}' has no members where other variables have {ds.sizes[MEMBER]}", where=str(path),
                            fix="give all variables members, or leave it out")
    return ds


def _init_times(ds: xr.Dataset, path: Path) -> TimeAxis:
    coordinate = ds["time"]
    if not np.issubdtype(coordinate.dtype, np.datetime64):
        units, calendar = str(coordinate.attrs.get("units", "")), str(coordinate.attrs.get("calendar", "standard"))
        try:
            coordinate = xr.DataArray(cftime.num2date(coordinate.values, units, calendar=calendar), dims="time", name="time")
        except (ValueError, OverflowError) as error:
            raise DataError(f"time has the units '{units}', calendar '{calendar}': {error}", where=str(path),
                            fix="give it CF units, for example 'hours since 2000-01-01'") from error
    axis = TimeAxis.from_xarray(coordinate)
    if (np.diff(axis.seconds) <= 0).any():
        raise DataError("init times do not ascend, or come twice", where=str(path), fix="sort the file along time and drop repeats")
    return axis


def _lead_times(ds: xr.Dataset, path: Path) -> Any:
    coordinate = ds["prediction_timedelta"]
    units = str(coordinate.attrs.get("units", ""))
    factor = _SECONDS.get(units, _SECONDS.get(f"{units}s"))
    if np.issubdtype(coordinate.dtype, np.timedelta64):
        coordinate, factor = coordinate.astype("timedelta64[ns]").astype(np.int64), 1e-9
    if factor is None:
        raise DataError(f"prediction_timedelta has {'the units ' + repr(units) if units else 'no units'}", where=str(path),
                        fix="set its attribute, for example units = 'hours'")
    seconds = np.rint(np.asarray(coordinate.values, dtype=np.float64) * factor)
    if (np.diff(seconds) <= 0).any():
        shown = ", ".join(format_duration(int(s)) for s in seconds[:6])
        raise DataError(f"lead times do not ascend: {shown}", where=str(path), fix="sort the file along prediction_timedelta")
    return seconds.astype("timedelta64[s]").astype("timedelta64[ns]")


def _gather_levels(ds: xr.Dataset, path: Path) -> xr.Dataset:
    """Variables of one level each (`z500`) stacked along `level`."""
    single: dict[str, dict[int, str]] = {}
    for name in map(str, ds.data_vars):
        variable, level = vocabulary.split_name(name)
        if level is not None and "level" not in ds[name].dims:
            single.setdefault(variable, {})[level] = name
    if not single:
        return ds
    clash = sorted(v for v in single if v in ds.data_vars)
    if clash or "level" in ds.dims:
        raise DataError(f"both a level axis and variables of one level ({next(iter(next(iter(single.values())).values()))})", where=str(path),
                        fix="keep one of the two forms")
    levels = sorted({level for members in single.values() for level in members})
    whole: dict[str, xr.DataArray] = {}
    for variable, members in single.items():
        template = ds[next(iter(members.values()))]
        maps = [ds[members[level]].transpose(*template.dims) if level in members else xr.full_like(template, np.nan) for level in levels]
        whole[variable] = xr.concat([m.rename(variable) for m in maps], dim="level", coords="minimal", compat="override", combine_attrs="override")
        whole[variable].attrs = {**template.attrs, "available_levels": sorted(members)}
    rest = ds.drop_vars([name for members in single.values() for name in members.values()])
    return rest.assign(whole).assign_coords(level=("level", np.asarray(levels, dtype=np.int32), {"units": "hPa"}))


def _order(ds: xr.Dataset) -> xr.Dataset:
    """Canonical order of every axis; lazily, and untouched where it is canonical already."""
    if "level" in ds.dims and (np.diff(ds["level"].values) < 0).any():
        ds = ds.isel(level=np.argsort(ds["level"].values, kind="stable"))
    horizontal: tuple[str, ...] = ("y", "x")
    if "latitude" in ds.dims and "longitude" in ds.dims:
        horizontal = ("latitude", "longitude")
        orientation = Orientation(ds["latitude"].values, ds["longitude"].values)
        if not orientation.is_canonical:
            order = orientation.to_canonical(np.arange(ds.sizes["longitude"])[None, :].repeat(ds.sizes["latitude"], axis=0))[0]
            rows = slice(None, None, -1 if orientation.latitude[0] > orientation.latitude[-1] else 1)
            ds = ds.isel(latitude=rows, longitude=order).assign_coords(longitude=("longitude", orientation.grid().longitude, ds["longitude"].attrs))
    return ds.transpose("time", MEMBER, "prediction_timedelta", "level", *horizontal, missing_dims="ignore")
