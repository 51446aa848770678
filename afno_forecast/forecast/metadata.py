"""The form of a forecast file: WeatherBench 2's dimensions and names with CF attributes, the same for zarr and netCDF."""

# C channel, H latitude row, W longitude column

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Union

import numpy as np
from numpy.typing import NDArray

from .. import vocabulary
from ..channels import ChannelSet
from ..errors import ConfigError
from ..grid import BoxGrid, Geometry
from .selection import Crop, Selection

IDENTITY = "afno_forecast_identity"  # root attribute: hash of what made the file
_ALIASES = "valid_time forecast_reference_time forecast_period"
_INT32 = np.iinfo(np.int32)
WHOLE = Selection()

Source = Union[int, tuple[int, int], None]  # a channel, the two components of a wind, or nothing at this level


@dataclass(frozen=True, eq=False)
class ArraySpec:
    """One array of the file.

    Args:
        name, dims, shape, chunks, dtype, attrs: as written.
        values: a coordinate's values; None for a forecast variable.
        sources: for a forecast variable, where each of its maps (one a level, or one) comes from.
    """

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: str
    attrs: dict[str, Any]
    values: NDArray[Any] | None = None
    sources: tuple[Source, ...] = ()


@dataclass(frozen=True, eq=False)
class Layout:
    """Everything a forecast file holds but the numbers.

    Args:
        coordinates, variables: the arrays.
        attrs: of the file.
        geometry: the user's order of the horizontal axes.
        state_shape: of the states that are written, canonical; (C, H, W).
        num_inits, num_leads: extent of these dimensions.
        num_members: extent of `number`; None for a forecast without that dimension.
        crop: the region that is kept; None for the whole grid.
    """

    coordinates: tuple[ArraySpec, ...]
    variables: tuple[ArraySpec, ...]
    attrs: dict[str, str]
    geometry: Geometry
    state_shape: tuple[int, int, int]
    num_inits: int
    num_leads: int
    num_members: int | None = None
    crop: Crop | None = None

    @property
    def bytes_per_forecast(self) -> int:
        """Uncompressed size of one forecast: one init time, one member, all lead times."""
        return sum(4 * self.num_leads * int(np.prod(v.chunks)) for v in self.variables)

    @property
    def num_forecasts(self) -> int:
        """Init times times members."""
        return self.num_inits * (self.num_members or 1)

    def index(self, forecast: int, lead_index: int) -> tuple[int, ...]:
        """Position of a state on the leading dimensions; forecasts are counted by init time, then by member."""
        if self.num_members is None:
            return forecast, lead_index
        return forecast // self.num_members, forecast % self.num_members, lead_index

    def chunks_of(self, state: NDArray[Any]) -> Iterator[tuple[ArraySpec, NDArray[np.float32]]]:
        """Each variable's map or maps of one state (C, H, W) in canonical order, in the user's order: ([level], H, W)."""
        for spec in self.variables:
            maps = np.full((len(spec.sources), *state.shape[1:]), np.nan, dtype=np.float32)
            for k, source in enumerate(spec.sources):
                if isinstance(source, tuple):
                    np.hypot(state[source[0]], state[source[1]], out=maps[k])
                elif source is not None:
                    maps[k] = state[source]
            oriented = self.geometry.from_canonical(maps)
            oriented = oriented if self.crop is None else self.crop.apply(oriented)
            yield spec, np.ascontiguousarray(oriented if "level" in spec.dims else oriented[0])

    def digest(self, identity: str) -> str:
        """Hash of what produces the forecast and of the form it takes; attributes of the file excepted."""
        form = [[s.name, s.dims, s.shape, s.attrs, None if s.values is None else np.asarray(s.values).tolist()]
                for s in (*self.coordinates, *self.variables)]
        return hashlib.sha256(json.dumps([identity, form], sort_keys=True).encode()).hexdigest()


def make_layout(channels: ChannelSet, geometry: Geometry, init_seconds: NDArray[np.int64], lead_seconds: NDArray[np.int64], calendar: str,
                attrs: Mapping[str, str], *, members: int | None = None, selection: Selection = WHOLE) -> Layout:
    """The layout of a forecast.

    Args:
        channels: order of the channels of the states.
        geometry: the user's order of the axes, or the box of a PDE.
        init_seconds: init times, ascending, seconds since 1970 in `calendar`; shape (I,).
        lead_seconds: lead times, ascending; shape (L,).
        calendar: CF calendar of the init times.
        attrs: attributes of the file (title, source, institution, ...).
        members: extent of the dimension `number`, counted from 1; None for a forecast without it.
        selection: variables, levels and region that are kept.

    Raises:
        ConfigError: no channel, no init or lead time, times that do not ascend, a variable both with and without levels, or a selection of
            what is not there.
    """
    for name, seconds in (("init", init_seconds), ("lead", lead_seconds)):
        if len(seconds) == 0 or (np.diff(seconds) <= 0).any():
            raise ConfigError(f"{name} times must ascend strictly, got {len(seconds)}: {[int(s) for s in seconds[:4]]} s ...",
                              fix=f"give at least one {name} time, in order, without repeats")
    kept = _kept(channels, selection)
    levels = sorted({level for _, _, sources in kept for level in sources if level is not None})
    crop = selection.crop(geometry)
    horizontal = _horizontal(geometry if crop is None else crop.orientation)
    coordinates = [*_time_coordinates(init_seconds, lead_seconds, calendar), *horizontal]
    if members is not None:
        coordinates.append(_coordinate("number", ("number",), np.arange(1, members + 1, dtype=np.int32),
                                       {"standard_name": "realization", "long_name": "ensemble member", "units": "1"}))
    if levels:
        coordinates.append(_coordinate("level", ("level",), np.asarray(levels, dtype=np.int32),
                                       {"standard_name": "air_pressure", "long_name": "pressure", "units": "hPa", "positive": "down", "axis": "Z"}))
    leading = {"time": len(init_seconds), **({} if members is None else {"number": members}), "prediction_timedelta": len(lead_seconds)}
    variables = tuple(_variable(name, units, sources, levels, leading, horizontal) for name, units, sources in kept)
    texts = {"Conventions": "CF-1.8", **{str(k): str(v) for k, v in attrs.items()}}
    return Layout(tuple(coordinates), variables, texts, geometry, (len(channels), *geometry.grid().shape), len(init_seconds), len(lead_seconds),
                  members, crop)


def _kept(channels: ChannelSet, selection: Selection) -> list[tuple[str, str, dict[int | None, Source]]]:
    """What of the channels and of what is derived from them is written. Raises ConfigError when it is nothing, or asked for and not there."""
    whole = list(_variables(channels, sorted({c.level for c in channels if c.level is not None})))
    selection.require_known([(name, level) for name, _, sources in whole for level in sources])
    kept = [(name, units, {level: s for level, s in sources.items() if selection.keeps(name, level)}) for name, units, sources in whole]
    kept = [item for item in kept if item[2]]
    if not kept:
        raise ConfigError("there is no channel to write", fix="select fewer levels or more variables" if len(channels) else "")
    return kept


def _variable(name: str, units: str, sources: Mapping[int | None, Source], levels: list[int], leading: Mapping[str, int],
              horizontal: tuple[ArraySpec, ArraySpec]) -> ArraySpec:
    on_levels = sources.keys() != {None}
    ordered = tuple(sources.get(level) for level in levels) if on_levels else (sources[None],)
    present = [level for level, source in zip(levels, ordered, strict=False) if source is not None] if on_levels else []
    whole = (*((len(levels),) if on_levels else ()), *(s.shape[0] for s in horizontal))
    dims = (*leading, *(("level",) if on_levels else ()), *(s.name for s in horizontal))
    attrs = _attributes(name, units) | ({"available_levels": present} if on_levels and len(present) < len(levels) else {})
    return ArraySpec(name, dims, (*leading.values(), *whole), (*(1 for _ in leading), *whole), "float32", attrs, sources=ordered)


def _variables(channels: ChannelSet, levels: list[int]) -> Iterator[tuple[str, str, dict[int | None, Source]]]:
    """(name, units, source by level), wind speeds derived where both components exist."""
    found: dict[str, dict[int | None, Source]] = {}
    for i, channel in enumerate(channels):
        found.setdefault(channel.variable, {})[channel.level] = i
    units = {c.variable: c.units for c in channels}
    for speed, u, v in vocabulary.WIND_SPEEDS:
        both = [level for level in (None, *levels) if level in found.get(u, {}) and level in found.get(v, {})]
        if both and speed not in found and units[u] == units[v]:
            found[speed] = {level: (_index(found[u][level]), _index(found[v][level])) for level in both}
            units[speed] = units[u]
    for name, sources in found.items():
        if None in sources and len(sources) > 1:
            raise ConfigError(f"'{name}' is given with and without a level: a variable of a file cannot be both", fix="rename one of them")
        yield name, units[name], sources


def _index(source: Source) -> int:
    assert isinstance(source, int)
    return source


def _attributes(name: str, units: str) -> dict[str, Any]:
    known = vocabulary.BY_NAME.get(name)
    attrs: dict[str, Any] = {"long_name": name.replace("_", " "), "units": units}
    if known is not None and known.units == units:
        attrs["standard_name"] = known.standard_name
    return attrs | {"coordinates": _ALIASES}


def _coordinate(name: str, dims: tuple[str, ...], values: NDArray[Any], attrs: dict[str, Any]) -> ArraySpec:
    return ArraySpec(name, dims, values.shape, values.shape, str(values.dtype), attrs, values)


def _horizontal(geometry: Geometry) -> tuple[ArraySpec, ArraySpec]:
    if isinstance(geometry, BoxGrid):
        y, x = (_coordinate(n, (n,), v, {"long_name": f"{n} coordinate", "axis": n.upper()}) for n, v in (("y", geometry.y), ("x", geometry.x)))
        return y, x
    latitude = _coordinate("latitude", ("latitude",), np.asarray(geometry.latitude, dtype=np.float64),
                           {"standard_name": "latitude", "long_name": "latitude", "units": "degrees_north", "axis": "Y"})
    longitude = _coordinate("longitude", ("longitude",), np.asarray(geometry.longitude, dtype=np.float64),
                            {"standard_name": "longitude", "long_name": "longitude", "units": "degrees_east", "axis": "X"})
    return (longitude, latitude) if geometry.transposed else (latitude, longitude)


def _time_coordinates(init_seconds: NDArray[np.int64], lead_seconds: NDArray[np.int64], calendar: str) -> tuple[ArraySpec, ...]:
    """Init, lead and valid time with their CF aliases; in the largest whole unit, so that 32 bits hold any date.

    The dimension `time` is the init time, as WeatherBench has it; CF's own name for it is on the alias `forecast_reference_time`.
    """
    valid = np.asarray(init_seconds, dtype=np.int64)[:, None] + np.asarray(lead_seconds, dtype=np.int64)[None, :]
    init_values, init_unit = _largest_unit(np.asarray(init_seconds, dtype=np.int64))
    valid_values, valid_unit = _largest_unit(valid)
    lead_values, lead_unit = _largest_unit(np.asarray(lead_seconds, dtype=np.int64))
    instant = {"units": f"{init_unit} since 1970-01-01 00:00:00", "calendar": calendar}
    reference = {"standard_name": "forecast_reference_time", "long_name": "init time of the forecast", **instant}
    period = {"standard_name": "forecast_period", "long_name": "lead time", "units": lead_unit, "dtype": "timedelta64[ns]"}
    return (
        _coordinate("time", ("time",), init_values, {"standard_name": "time", "long_name": "init time of the forecast", "axis": "T", **instant}),
        _coordinate("prediction_timedelta", ("prediction_timedelta",), lead_values, period),
        _coordinate("forecast_reference_time", ("time",), init_values, reference),
        _coordinate("forecast_period", ("prediction_timedelta",), lead_values, dict(period)),
        _coordinate("valid_time", ("time", "prediction_timedelta"), valid_values,
                    {"standard_name": "time", "long_name": "valid time", "units": f"{valid_unit} since 1970-01-01 00:00:00", "calendar": calendar}),
    )


def _largest_unit(seconds: NDArray[np.int64]) -> tuple[NDArray[Any], str]:
    for size, unit in ((3600, "hours"), (60, "minutes")):
        if (seconds % size == 0).all() and np.abs(seconds // size).max() <= _INT32.max:
            return (seconds // size).astype(np.int32), unit
    return (seconds.astype(np.int32) if np.abs(seconds).max() <= _INT32.max else seconds.astype(np.float64)), "seconds"
