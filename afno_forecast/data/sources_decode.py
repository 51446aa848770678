"""One opened dataset to canonical pieces: variables named, units converted, order canonical."""

# T time, L level, H latitude row, W longitude column

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from afno_forecast.errors import DataError
from afno_forecast.grid import Geometry, Orientation
from afno_forecast.times import TimeAxis
from afno_forecast.vocabulary import BY_NAME, split_name

from .sources_axes import LEVEL_NAMES, NOT_PRESSURE, STEP_NAMES, Axes, find_axes
from .sources_horizontal import attribute
from .sources_identify import identify
from .sources_notes import Ledger

_ENSEMBLE = ("number", "member", "realization", "ensemble", "ens", "realisation")
_NETCDF_FILL = 9.969209968386869e36  # what netCDF puts where nothing was written


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
    if time_dim is None and set(axes.time) == {""}:  # beside times along a dimension, a scalar one is not that of a field without
        time_dim = ""
    for member in _ENSEMBLE:
        if member in array.coords and array[member].ndim == 0 and np.any(array[member].values != 0):
            ledger.note(f"ensemble member {array[member].values} of a file; its number is dropped", where)
    return time_dim, level_dim


def _no_place(array: xr.DataArray, dim: str, size: int, axes: Axes, name: str) -> str:
    """Why a dimension has no place in an analysis series, and what to do."""
    if dim == axes.step or dim.lower() in STEP_NAMES:
        starts = max((len(a) for d, a in axes.time.items()), default=1)
        return (f"'{name}' is a forecast of {size} steps from {starts} start{'s' * (starts != 1)}, not a series of analyses; "
                f"choose one step first, for example isel({dim}=0), and save that")
    if dim.lower() in _ENSEMBLE:
        return f"'{name}' is an ensemble of {size} members; choose one first, for example isel({dim}=0), and save that"
    if dim.lower() in ("time", "valid_time"):
        return f"'{name}' runs along '{dim}', whose values are not dates; give it CF units such as 'hours since 2000-01-01'"
    if dim.lower() == "expver":
        return f"'{name}' mixes ERA5 and preliminary ERA5T along 'expver'; combine them first and drop 'expver'"
    if dim in array.coords and (NOT_PRESSURE.search(f"{dim} {attribute(array[dim], 'standard_name')} {attribute(array[dim], 'long_name')}")
                                or dim.lower() in LEVEL_NAMES):
        return f"'{name}' is on '{dim}', which is not pressure; interpolate it to pressure levels first"
    return (f"'{name}' has a dimension '{dim}' of size {size} that is not time, level, latitude or longitude; choose one index of it first")


def _levels(axes: Axes, array: xr.DataArray, level_dim: str, name: str, where: str,
            ledger: Ledger) -> tuple[tuple[int, ...] | None, NDArray[np.int64] | None]:
    """(levels in hPa ascending, their positions); a level that is not a whole number of hPa is refused."""
    if level_dim:
        values = axes.level[level_dim]
    elif "" in axes.level and any(c.ndim == 0 and str(n).lower() in LEVEL_NAMES for n, c in array.coords.items()):
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


