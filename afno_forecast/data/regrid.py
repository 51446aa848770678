"""A source on another latitude-longitude grid: first-order conservative by exact overlaps of cells, or bilinear; lazily, block by block."""

# H, W rows and columns of the source; R, C of the target

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..config import Strict
from ..errors import ConfigError, DataError
from ..grid import LatLonGrid, Orientation
from .sources import Source
from .sources_notes import Note

Float = NDArray[np.float64]
_COVERED = 1 - 1e-6


class RegridConfig(Strict):
    """Another global grid for the store."""

    rows: int = Field(ge=2)
    """Latitude rows."""
    columns: int = Field(ge=2)
    """Longitude columns, the first at 0 degrees east."""
    latitudes: Literal["centres", "poles", "gaussian"] = "centres"
    """Equal spacing with cell centres off the poles, with rows on the poles, or Gaussian."""
    method: Literal["conservative", "bilinear"] = "conservative"
    """First-order conservative, which keeps area means; or bilinear between cell centres."""

    def grid(self) -> LatLonGrid:
        """The grid, latitude ascending."""
        middle = -90 + 180 / self.rows * (np.arange(self.rows) + 0.5)
        latitudes = {"gaussian": np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(self.rows)[0])), "poles": np.linspace(-90, 90, self.rows),
                     "centres": middle}
        return LatLonGrid(np.asarray(latitudes[self.latitudes], np.float64), 360 / self.columns * np.arange(self.columns, dtype=np.float64))


def regrid(source: Source, config: RegridConfig) -> Source:
    """The source on another grid; a target cell that needs a missing value is missing.

    Raises:
        ConfigError: a source that is not on latitude and longitude.
        DataError: the target reaches beyond the source.
    """
    old, new = source.grid, config.grid()
    if not isinstance(old, LatLonGrid):
        raise ConfigError(f"a {old.describe()} cannot be regridded to latitude and longitude", where="regrid", fix="leave `regrid` out")
    make = conservative_weights if config.method == "conservative" else bilinear_weights
    rows_RH, columns_CW = make(old, new)
    short = min(float(rows_RH.sum(axis=1).min()), float(columns_CW.sum(axis=1).min()))
    if short < _COVERED:
        raise DataError(f"the grid of the files, {old.describe()}, does not cover {new.describe()}", where=", ".join(source.paths),
                        fix="leave `regrid` out, or give global files")
    variables = {}
    for name, item in source.dataset.data_vars.items():
        blocks: Any = item.data.rechunk({item.ndim - 2: -1, item.ndim - 1: -1})
        chunks = (*blocks.chunks[:-2], (new.shape[0],), (new.shape[1],))
        data = blocks.map_blocks(apply_weights, rows_RH, columns_CW, dtype=np.float32, chunks=chunks, meta=np.empty((0,) * item.ndim, np.float32))
        variables[name] = (item.dims, data, item.attrs)
    about = {name: source.dataset[name].attrs for name in new.axes}
    dataset = source.dataset.drop_dims(list(new.axes))
    dataset = dataset.assign_coords({name: (name, values, about[name]) for name, values in new.axes.items()}).assign(variables)
    note = Note("note", f"regridded ({config.method}) from {old.describe()} to {new.describe()}")
    return replace(source, dataset=dataset, orientation=Orientation(new.latitude, new.longitude), notes=(*source.notes, note))


def apply_weights(values: NDArray[Any], rows_RH: Float, columns_CW: Float) -> NDArray[np.float32]:
    """Maps (..., H, W) to (..., R, C) in float64; missing where a value with weight is missing."""
    missing = np.isnan(values)
    filled = np.where(missing, 0.0, values).astype(np.float64)
    made = rows_RH @ filled @ columns_CW.T
    if missing.any():
        made = np.where(rows_RH @ missing.astype(np.float64) @ columns_CW.T > 1e-9, np.nan, made)
    return made.astype(np.float32)


def conservative_weights(old: LatLonGrid, new: LatLonGrid) -> tuple[Float, Float]:
    """Shares of each target cell that source cells cover: rows by sin(latitude) (R, H), columns by longitude (C, W); rows of ones where covered."""
    sines = [np.sin(np.deg2rad(g.latitude_edges())) for g in (old, new)]
    return _overlaps(sines[0], sines[1], None), _overlaps(_longitude_edges(old), _longitude_edges(new), 360.0)


def _longitude_edges(grid: LatLonGrid) -> Float:
    middle = (grid.longitude[1:] + grid.longitude[:-1]) / 2
    first, last = grid.longitude[0] - (middle[0] - grid.longitude[0]), 2 * grid.longitude[-1] - middle[-1]
    return np.concatenate([[first], middle, [first + 360.0 if grid.periodic else last]])


def _overlaps(old: Float, new: Float, period: float | None) -> Float:
    """Overlap of intervals between ascending edges, as a share of the new ones; (new, old)."""
    total = np.zeros((len(new) - 1, len(old) - 1))
    for shift in (0.0,) if period is None else (-period, 0.0, period):
        low = np.maximum(new[:-1, None], old[None, :-1] + shift)
        high = np.minimum(new[1:, None], old[None, 1:] + shift)
        total += np.clip(high - low, 0, None)
    return total / np.diff(new)[:, None]


def bilinear_weights(old: LatLonGrid, new: LatLonGrid) -> tuple[Float, Float]:
    """Linear between neighbouring rows (R, H) and columns (C, W); beyond the last row next to a pole, that row."""
    rows = _linear(old.latitude, np.clip(new.latitude, *_reach(old)))
    if not old.periodic:
        return rows, _linear(old.longitude, new.longitude)
    wrapped = np.concatenate([old.longitude, [old.longitude[0] + 360]])
    wide = _linear(wrapped, np.mod(new.longitude - old.longitude[0], 360) + old.longitude[0])
    columns = wide[:, :-1].copy()
    columns[:, 0] += wide[:, -1]
    return rows, columns


def _reach(grid: LatLonGrid) -> tuple[float, float]:
    """The latitudes between which values stand; to the poles where the outermost rows are next to them."""
    south, north = grid.touches_poles
    return float(grid.latitude[0]) if south else -90.0, float(grid.latitude[-1]) if north else 90.0


def _linear(points: Float, wanted: Float) -> Float:
    """Weights of linear interpolation; a row of zeros outside the points."""
    weights = np.zeros((len(wanted), len(points)))
    at = np.clip(np.searchsorted(points, wanted, side="right") - 1, 0, len(points) - 2)
    share = (wanted - points[at]) / (points[at + 1] - points[at])
    inside = (share >= -1e-9) & (share <= 1 + 1e-9)
    index = np.arange(len(wanted))
    weights[index, at], weights[index, at + 1] = np.where(inside, 1 - share, 0), np.where(inside, share, 0)
    return weights
