"""One opened dataset to canonical pieces: axes found by their metadata, variables named, units converted, order canonical."""

# T time, L level, H latitude row, W longitude column

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from afno_forecast.errors import DataError, ForecastError
from afno_forecast.grid import Geometry, Orientation
from afno_forecast.times import TimeAxis
from afno_forecast.vocabulary import BY_NAME, split_name

from .sources_horizontal import attribute, find_horizontal
from .sources_identify import identify
from .sources_notes import Ledger
from .units import parse

_LEVEL = ("level", "levels", "lev", "plev", "pressure_level", "isobaricinhpa", "isobaricinpa", "isobaric", "pressure", "plevel", "pfull")
_NOT_PRESSURE = re.compile(r"(?i)hybrid|sigma|model[_ ]?level|eta\b|ocean|depth|height|theta|isentrop")
_STEP = ("step", "prediction_timedelta", "lead_time", "leadtime", "forecast_hour", "forecast_period")
_ENSEMBLE = ("number", "member", "realization", "ensemble", "ens", "realisation")
_NETCDF_FILL = 9.969209968386869e36  # what netCDF puts where nothing was written
_PRESSURE = parse("Pa")


@dataclass(frozen=True)
class Finding:
    """One variable of a file and what became of it.

    Args:
        path: the file.
        file_name: its name there.
        dims: its dimensions there, with sizes.
        units_from, units_to: units in the file and canonical ones; empty when none.
        variable: canonical name; empty when refused.
        levels: hPa; empty when it has none.
        refused: why it is not used; empty when it is.
        array: as the file has it, lazily.
    """

    path: str
    file_name: str
    dims: tuple[tuple[str, int], ...]
    units_from: str = ""
    units_to: str = ""
    variable: str = ""
    levels: tuple[int, ...] = ()
    refused: str = ""
    array: xr.DataArray | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, eq=False)
class Piece:
    """A variable of one file in canonical form: `data` is float32 (T, L, H, W), without T for a constant and L without levels."""

    path: str
    file_name: str
    variable: str
    units: str
    levels: tuple[int, ...] | None
    times: TimeAxis | None
    data: da.Array
    attrs: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Part:
    """One opened dataset in canonical form; `trajectories` when its times are those of independent trajectories, a year each."""

    path: str
    orientation: Geometry | None
    pieces: tuple[Piece, ...]
    findings: tuple[Finding, ...]
    attrs: dict[str, Any]
    trajectories: bool = False


@dataclass(frozen=True)
class Axes:
    """The dimensions of a dataset by meaning; `time` and `level` map a dimension (or "" for a scalar) to its values."""

    rows: str
    columns: str
    time: dict[str, TimeAxis]
    level: dict[str, NDArray[np.float64]]
    step: str
    height: float | None
    auxiliary: frozenset[str]


def find_axes(ds: xr.Dataset, path: str, ledger: Ledger) -> tuple[Axes, Geometry]:
    """The axes of a dataset. Raises DataError when there is no usable horizontal mesh or the times are not dates."""
    rows, columns, orientation = find_horizontal(ds, path, ledger.boundary)
    step = next((str(n) for n in ds.variables if str(n).lower() in _STEP or attribute(ds[n], "standard_name") == "forecast_period"
                 or ds[n].dtype.kind == "m"), "")
    coordinates = {str(n): ds[n] for n in ds.variables if n in ds.coords or str(n).lower() in (*_LEVEL, "time", "valid_time", "height")}
    auxiliary = {str(attribute(ds[n], key)) for n in ds.variables for key in ("bounds", "climatology", "grid_mapping")} - {""}
    level: dict[str, NDArray[np.float64]] = {}
    height = None
    for name, coordinate in coordinates.items():
        if coordinate.ndim > 1 or coordinate.dtype.kind not in "fiu" or coordinate.size == 0:
            continue
        dim = _dim(coordinate)
        if dim not in ("", name) and dim in ds.coords:
            continue  # a quantity along another axis, not an axis
        hpa = _pressure(coordinate, name, path, ledger)
        if hpa is not None:
            level.setdefault(dim, hpa)
        elif (coordinate.size == 1 and (name.lower().startswith("height") or attribute(coordinate, "standard_name") == "height")
              and attribute(coordinate, "units") in ("m", "metre", "meter", "metres", "meters", "")):
            height = float(coordinate.values.reshape(-1)[0])
    time = _times(ds, coordinates, step, path, ledger)
    used = {n for n, c in coordinates.items() if c.ndim < 2}
    return Axes(rows, columns, time, level, step, height, frozenset(auxiliary | used)), orientation


def _pressure(coordinate: xr.DataArray, name: str, path: str, ledger: Ledger) -> NDArray[np.float64] | None:
    """Levels in hPa when a coordinate is pressure by units, standard name or name; else None."""
    units, standard_name = attribute(coordinate, "units"), attribute(coordinate, "standard_name")
    words = f"{standard_name} {attribute(coordinate, 'long_name')}"
    known = parse(units) if units else None
    values = np.atleast_1d(coordinate.values).astype(np.float64)
    is_level = standard_name == "air_pressure" or name.lower() in _LEVEL
    if not is_level and not (coordinate.ndim == 1 and coordinate.dims[0] == name):
        return None
    if known is not None and _PRESSURE is not None and known.dimension == _PRESSURE.dimension:
        return np.asarray(values * known.factor / 100.0)
    if units or not is_level or _NOT_PRESSURE.search(words):
        return None
    if name.lower() in ("isobaricinhpa", "isobaricinpa"):
        return values / (1.0 if name.lower() == "isobaricinhpa" else 100.0)
    if len(values) > 1 and values.min() <= 1 and (np.abs(np.diff(values)) == 1).all():
        return None  # 1, 2, 3, ...: numbers of model levels
    in_pascal = bool(values.max() > 1200)
    ledger.note(f"level coordinate '{name}' has no units: taken as {'Pa' if in_pascal else 'hPa'}", path)
    return values / (100.0 if in_pascal else 1.0)


def _times(ds: xr.Dataset, coordinates: dict[str, xr.DataArray], step: str, path: str, ledger: Ledger) -> dict[str, TimeAxis]:
    """Time axes by dimension; valid time where a single forecast step is given."""
    dated = {n: c for n, c in coordinates.items() if c.ndim <= 1 and c.size and (c.dtype.kind == "M" or _is_cftime(c))}
    for name, coordinate in coordinates.items():
        if name.lower() in ("time", "valid_time") and name not in dated and coordinate.ndim == 1:
            units = attribute(coordinate, "units")
            ledger.refuse(f"'{name}' is not a series of dates (units '{units or 'none'}')" if name in ds.dims else f"'{name}' is not a date",
                          path)
    if step and ds[step].size > 1:
        return {_dim(c): TimeAxis.from_xarray(c) for n, c in dated.items() if attribute(c, "standard_name") != "time" or c.ndim}
    single = _step_seconds(ds[step]) if step else 0
    axes: dict[str, TimeAxis] = {}
    order = sorted(dated, key=lambda n: (attribute(dated[n], "standard_name") == "forecast_reference_time", n not in ("time", "valid_time"), n))
    for name in order:
        coordinate, dim = dated[name], _dim(dated[name])
        if dim in axes:
            continue
        try:
            axis = TimeAxis.from_xarray(coordinate)
        except ForecastError as error:
            raise DataError(error.what, where=f"{path}, {name}", fix=error.fix or "remove or repair these times") from error
        if step and single and attribute(coordinate, "standard_name") != "time":
            axis = TimeAxis(axis.seconds + single, axis.calendar)
        axes[dim] = axis
    if single and axes:
        ledger.note(f"a forecast {single / 3600:g} h after its start, taken at its valid time", path)
    return axes


def _dim(coordinate: xr.DataArray) -> str:
    return str(coordinate.dims[0]) if coordinate.ndim else ""


def _is_cftime(coordinate: xr.DataArray) -> bool:
    return coordinate.dtype == object and hasattr(np.atleast_1d(coordinate.values)[0], "calendar")


def _step_seconds(step: xr.DataArray) -> int:
    value = np.atleast_1d(step.values)[0]
    if step.dtype.kind == "m":
        return int(np.timedelta64(value, "s").astype(np.int64))
    unit = parse(attribute(step, "units").split(" since")[0])
    if unit is None:
        raise DataError(f"forecast step '{step.name}' has no time unit", fix="set its units, for example to 'hours'")
    return round(float(value) * unit.factor)


def decode(ds: xr.Dataset, path: str, ledger: Ledger) -> Part:
    """The canonical pieces of one opened dataset, and what became of each of its variables.

    Raises:
        DataError: no usable horizontal mesh, or times that are not dates (with a ledger that only reports: remembered instead).
    """
    try:
        axes, orientation = find_axes(ds, path, ledger)
    except DataError as error:
        ledger.fail(error)
        refused = tuple(replace(_finding(v, path), refused=error.what) for v in ds.data_vars.values())
        return Part(path, None, (), refused, dict(ds.attrs))
    names: list[Hashable] = [n for n in ds.variables if n not in axes.auxiliary and n not in (axes.rows, axes.columns)]
    if isinstance(orientation, Orientation):
        orientation = replace(orientation, transposed=_transposed(ds, names, axes))
    pieces: list[Piece] = []
    findings: list[Finding] = []
    for name in names:
        array = ds[name]
        if name in ds.coords and not {axes.rows, axes.columns} <= set(array.dims):
            continue
        if array.ndim == 0 or str(name).endswith(("_bnds", "_bounds")):
            continue
        finding = _finding(array, path)
        try:
            piece = _piece(array, path, axes, orientation, ledger)
        except DataError as error:
            reason = error.what + (f"; {error.fix}" if error.fix else "")
            ledger.refuse(reason, f"{path}, {name}")
            findings.append(replace(finding, refused=reason))
            continue
        pieces.append(piece)
        findings.append(replace(finding, variable=piece.variable, units_to=piece.units, levels=piece.levels or ()))
    return Part(path, orientation, tuple(pieces), tuple(findings), dict(ds.attrs), "trajectory" in ds.coords)


def _finding(array: xr.DataArray, path: str) -> Finding:
    return Finding(path, str(array.name), tuple((str(d), n) for d, n in array.sizes.items()), attribute(array, "units"), array=array)


def _transposed(ds: xr.Dataset, names: list[Hashable], axes: Axes) -> bool:
    """Whether columns come before rows in the first variable that has both."""
    for name in names:
        dims = [str(d) for d in ds[name].dims]
        if axes.rows in dims and axes.columns in dims:
            return dims.index(axes.columns) < dims.index(axes.rows)
    return False


def _piece(array: xr.DataArray, path: str, axes: Axes, orientation: Geometry, ledger: Ledger) -> Piece:
    """One variable in canonical form. Raises DataError when it cannot be used."""
    name = str(array.name)
    where = f"{path}, {name}"
    if array.dtype.kind not in "fiub":
        raise DataError(f"'{name}' is not numeric ({array.dtype})")
    if array.size == 0:
        raise DataError(f"'{name}' is empty")
    if not {axes.rows, axes.columns} <= set(map(str, array.dims)):
        raise DataError(f"'{name}' has dimensions {tuple(map(str, array.dims))}, without {axes.rows} and {axes.columns}")
    time_dim, level_dim = _roles(array, axes, name, where, ledger)
    levels, keep = _levels(axes, array, level_dim, name, where, ledger)
    if levels is not None and not level_dim and (named := BY_NAME.get(split_name(name)[0])) is not None and not named.on_levels:
        ledger.note(f"scalar level {levels[0]} hPa beside '{name}' is not its level: ignored", where)
        levels = None
    times = axes.time.get(time_dim) if time_dim is not None else None
    identity = identify(name, array.attrs, on_pressure=levels is not None, height=_height(array, axes), varies=times is not None)
    if identity.remark:
        ledger.note(identity.remark, where)
    if identity.level is not None:
        if levels is not None and levels != (identity.level,):
            raise DataError(f"'{name}' says {identity.level} hPa, its level coordinate {levels}", fix="rename it or correct the coordinate")
        levels = (identity.level,)
    dims = [d for d in (time_dim, level_dim) if d] + [axes.rows, axes.columns]
    squeezed = array.isel({d: 0 for d in array.dims if d not in dims})
    data = squeezed.transpose(*dims).data
    data = da.asarray(data) if not isinstance(data, da.Array) else data
    if keep is not None and level_dim and not np.array_equal(keep, np.arange(array.sizes[level_dim])):
        data = data[(slice(None), keep) if time_dim else (keep,)]
    if levels is not None and not level_dim:
        data = data[:, None] if time_dim else data[None]
    if time_dim == "":
        data = data[None]
    filled = "_FillValue" in array.encoding or "missing_value" in array.encoding
    data = _canonical(data, orientation, identity.factor, identity.offset, mask=not filled and array.dtype.kind == "f")
    return Piece(path, name, identity.variable, identity.units, levels, times, data, dict(array.attrs))


def _height(array: xr.DataArray, axes: Axes) -> float | None:
    """The height of a scalar coordinate; a file with several such coordinates attaches each to its own variables."""
    for name, coordinate in array.coords.items():
        if str(name).lower().startswith("height") and coordinate.size == 1 and coordinate.dtype.kind in "fiu":
            return float(coordinate.values.reshape(-1)[0])
    return axes.height


def _roles(array: xr.DataArray, axes: Axes, name: str, where: str, ledger: Ledger) -> tuple[str | None, str]:
    """(time dimension, "" for a scalar time, None without; level dimension or ""). Raises DataError for a dimension that has no place."""
    time_dim: str | None = None
    level_dim = ""
    for dim, size in ((str(d), n) for d, n in array.sizes.items()):
        if dim in (axes.rows, axes.columns):
            continue
        if dim in axes.time and time_dim is None:
            time_dim = dim
        elif dim in axes.level and not level_dim:
            level_dim = dim
        elif size == 1:
            if dim not in (axes.step, "time", "valid_time"):
                value = array[dim].values[0] if dim in array.coords else "unlabelled"
                ledger.note(f"dimension '{dim}' of size one ({value}) dropped", where)
        else:
            raise DataError(_no_place(array, dim, size, axes, name))
    if time_dim is None and "" in axes.time:
        time_dim = ""
    for member in _ENSEMBLE:
        if member in array.coords and array[member].ndim == 0 and np.any(array[member].values != 0):
            ledger.note(f"ensemble member {array[member].values} of a file; its number is dropped", where)
    return time_dim, level_dim


def _no_place(array: xr.DataArray, dim: str, size: int, axes: Axes, name: str) -> str:
    """Why a dimension has no place in an analysis series, and what to do."""
    if dim == axes.step or dim.lower() in _STEP:
        starts = max((len(a) for d, a in axes.time.items()), default=1)
        return (f"'{name}' is a forecast of {size} steps from {starts} start{'s' * (starts != 1)}, not a series of analyses; "
                f"choose one step first, for example isel({dim}=0), and save that")
    if dim.lower() in _ENSEMBLE:
        return f"'{name}' is an ensemble of {size} members; choose one first, for example isel({dim}=0), and save that"
    if dim.lower() in ("time", "valid_time"):
        return f"'{name}' runs along '{dim}', whose values are not dates; give it CF units such as 'hours since 2000-01-01'"
    if dim.lower() == "expver":
        return f"'{name}' mixes ERA5 and preliminary ERA5T along 'expver'; combine them first and drop 'expver'"
    if dim in array.coords and (_NOT_PRESSURE.search(f"{dim} {attribute(array[dim], 'standard_name')} {attribute(array[dim], 'long_name')}")
                                or dim.lower() in _LEVEL):
        return f"'{name}' is on '{dim}', which is not pressure; interpolate it to pressure levels first"
    return (f"'{name}' has a dimension '{dim}' of size {size} that is not time, level, latitude or longitude; choose one index of it first")


def _levels(axes: Axes, array: xr.DataArray, level_dim: str, name: str, where: str,
            ledger: Ledger) -> tuple[tuple[int, ...] | None, NDArray[np.int64] | None]:
    """(levels in hPa ascending, their positions); a level that is not a whole number of hPa is refused."""
    if level_dim:
        values = axes.level[level_dim]
    elif "" in axes.level and any(c.ndim == 0 and str(n).lower() in _LEVEL for n, c in array.coords.items()):
        values = axes.level[""]
    else:
        return None, None
    whole = np.isclose(values, np.rint(values), atol=1e-3) & (values > 0)
    if not whole.any():
        raise DataError(f"'{name}' is on levels {values.tolist()[:6]} hPa, none of them a whole number")
    if not whole.all():
        ledger.refuse(f"levels {values[~whole].tolist()} hPa are not whole numbers and are left out", where)
    rounded = np.rint(values).astype(np.int64)
    keep = np.flatnonzero(whole)
    keep = keep[np.argsort(rounded[keep], kind="stable")]
    if (np.diff(rounded[keep]) == 0).any():
        raise DataError(f"'{name}' has a level twice: {rounded[keep].tolist()} hPa", fix="drop the repeated level")
    return tuple(int(v) for v in rounded[keep]), keep


def _canonical(data: da.Array, orientation: Geometry, factor: float, offset: float, *, mask: bool) -> da.Array:
    """Canonical row and column order, units and float32, in one step for each block; (..., H, W) in the file's rows and columns."""
    data = data.rechunk({data.ndim - 2: -1, data.ndim - 1: -1})
    order = replace(orientation, transposed=False) if isinstance(orientation, Orientation) else orientation
    blocks: Any = data
    mapped: da.Array = blocks.map_blocks(_canonical_block, order, factor, offset, mask, dtype=np.float32, meta=np.empty((0,) * data.ndim, np.float32))
    return mapped


def _canonical_block(block: NDArray[Any], order: Geometry, factor: float, offset: float, mask: bool) -> NDArray[np.float32]:
    values = order.to_canonical(block)
    if mask:
        values = np.where(np.abs(values) >= 0.99 * _NETCDF_FILL, np.nan, values)
    if (factor, offset) != (1.0, 0.0):
        values = values.astype(np.float64) * factor + offset
    with np.errstate(over="ignore", invalid="ignore"):
        return np.ascontiguousarray(values, dtype=np.float32)


