"""The regions of WeatherBench 2's score tables (boxes of cell centres, edges included), land and sea, and exact area means over them."""

# C channel, H latitude row, W longitude column, R region

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..grid import Grid, LatLonGrid

Bounds = tuple[float, float]
Float = NDArray[np.float64]
SURFACES = ("land", "sea")
_LAND_FRACTION = 0.5  # from here on a cell counts as land, as in WeatherBench and at ECMWF
# name: latitude bands (degrees north), longitude range (degrees east, may pass Greenwich) or None for all
_REGIONS: dict[str, tuple[tuple[Bounds, ...], Bounds | None]] = {
    "global": (((-90, 90),), None),
    "tropics": (((-20, 20),), None),
    "extra-tropics": (((-90, -20), (20, 90)), None),
    "northern-hemisphere": (((20, 90),), None),
    "southern-hemisphere": (((-90, -20),), None),
    "europe": (((35, 75),), (347.5, 42.5)),
    "north-america": (((25, 60),), (240, 285)),
    "north-atlantic": (((25, 65),), (290, 350)),
    "north-pacific": (((25, 60),), (145, 230)),
    "east-asia": (((25, 60),), (102.5, 150)),
    "ausnz": (((-45, -12.5),), (120, 175)),
    "arctic": (((60, 90),), None),
    "antarctic": (((-90, -60),), None),
}
REGION_NAMES: tuple[str, ...] = tuple(_REGIONS)
_EDGE = 1e-6  # coordinates kept as float32 are that far off


@dataclass(frozen=True, eq=False)
class Region:
    """Cells of a grid.

    Args:
        name: WeatherBench's name.
        rows: indices of the rows; shape (h,).
        columns: indices of the columns, shape (w,); None for all of them.
        cells: which cells of the whole grid belong, 1 or 0, shape (H, W); None for all in these rows and columns.
    """

    name: str
    rows: NDArray[np.int64]
    columns: NDArray[np.int64] | None
    cells: Float | None = None


def default_regions(grid: Grid, land_fraction: NDArray[np.floating] | None = None) -> tuple[str, ...]:
    """Every region that has cells: `global`, the whole domain; of all longitudes those of WeatherBench that the rows cover; land, sea if known."""
    surfaces = () if land_fraction is None else tuple(n for n in SURFACES if _surface(n, land_fraction).any())
    covered = (name for name in REGION_NAMES[1:] if isinstance(grid, LatLonGrid) and _covers(grid, name) and _cells(name, grid) is not None)
    return ("global", *covered, *surfaces)


def make_regions(names: Sequence[str], grid: Grid, land_fraction: NDArray[np.floating] | None = None) -> tuple[Region, ...]:
    """The named regions on a grid.

    Args:
        names: WeatherBench's names, `land`, `sea`.
        grid: the canonical grid.
        land_fraction: part of each cell that is land; shape (H, W).

    Raises:
        ConfigError: an unknown name, one without cells, land or sea without a land fraction.
    """
    regions = []
    for name in dict.fromkeys(names):
        if name in SURFACES:
            regions.append(_surface_region(name, grid, land_fraction))
            continue
        if name not in _REGIONS:
            known = (*REGION_NAMES, *SURFACES)
            near = get_close_matches(name, known, 1, 0.4)
            raise ConfigError(f"unknown region '{name}'", fix=f"did you mean '{near[0]}'?" if near else f"use one of {', '.join(known)}")
        if name == "global":
            regions.append(Region(name, np.arange(grid.shape[0]), None))
            continue
        if not isinstance(grid, LatLonGrid) or not _covers(grid, name):
            raise ConfigError(f"region '{name}' needs a grid with all longitudes and its latitudes, this one is {grid.describe()}",
                              fix="use --regions global: the whole domain")
        region = _cells(name, grid)
        if region is None:
            raise ConfigError(f"region '{name}' has no cell on the grid {grid.describe()}", fix="leave it out of --regions")
        regions.append(region)
    if not regions:
        raise ConfigError("no region to score", fix="use --regions global")
    return tuple(regions)


def _covers(grid: LatLonGrid, name: str) -> bool:
    """Whether a grid has all longitudes and the region's latitudes, or lacks less than one row of them."""
    rows = np.sort(grid.latitude)
    edges = np.sort(grid.latitude_edges())
    south, north = edges[0] - (rows[1] - rows[0]), edges[-1] + (rows[-1] - rows[-2])
    return grid.periodic and all(south < low and high < north for low, high in _REGIONS[name][0])


def _cells(name: str, grid: LatLonGrid) -> Region | None:
    bands, longitudes = _REGIONS[name]
    inside = np.zeros(grid.shape[0], dtype=bool)
    for low, high in bands:
        inside |= (grid.latitude >= low - _EDGE) & (grid.latitude <= high + _EDGE)
    rows = np.flatnonzero(inside)
    columns = None
    if longitudes is not None:
        west, width = longitudes[0], (longitudes[1] - longitudes[0]) % 360
        columns = np.flatnonzero(np.mod(grid.longitude - west + _EDGE, 360) <= width + 2 * _EDGE)
    if len(rows) == 0 or (columns is not None and len(columns) == 0):
        return None
    return Region(name, rows, columns)


def _surface(name: str, land_fraction: NDArray[np.floating]) -> NDArray[np.bool_]:
    land = np.asarray(land_fraction) >= _LAND_FRACTION
    return land if name == "land" else ~land


def _surface_region(name: str, grid: Grid, land_fraction: NDArray[np.floating] | None) -> Region:
    if land_fraction is None:
        raise ConfigError(f"region '{name}' needs the land fraction, which the truth does not hold",
                          fix="give truth with the static field land_sea_mask, or leave the region out")
    if np.shape(land_fraction) != grid.shape:
        raise ConfigError(f"the land fraction has shape {np.shape(land_fraction)}, the grid {grid.shape}", fix="give it on the grid of the truth")
    cells = _surface(name, land_fraction)
    if not cells.any():
        raise ConfigError(f"region '{name}' has no cell on the grid {grid.describe()}", fix="leave it out of --regions")
    return Region(name, np.arange(grid.shape[0]), None, cells.astype(np.float64))


class AreaMeans:
    """Means over regions with exact cell areas as weights, in float64; each value is added up on its own, so no division of the work changes it.

    Args:
        grid: the canonical grid.
        regions: regions of that grid.
    """

    def __init__(self, grid: Grid, regions: Sequence[Region]) -> None:
        self.regions = tuple(regions)
        areas = grid.cell_areas()
        self._rows: Float = areas.sum(axis=1)
        columns = areas.sum(axis=0)
        self._columns: Float | None = None if np.allclose(columns, columns[0], rtol=1e-12) else columns / columns.mean()
        self.cell_weights: Float = self._rows[:, None] * (np.ones(grid.shape[1]) if self._columns is None else self._columns)
        self._totals: Float = self._sums(np.ones((1, *grid.shape)))[:, 0]

    def weights(self, region: Region) -> Float:
        """Weights of a region's cells, 0 outside; shape (H, W)."""
        inside = np.zeros_like(self.cell_weights)
        columns = slice(None) if region.columns is None else region.columns
        inside[region.rows[:, None], np.arange(inside.shape[1])[columns][None, :]] = 1
        return np.asarray(self.cell_weights * (inside if region.cells is None else inside * region.cells))

    def __call__(self, field_CHW: Float, inside: Float | None = None) -> Float:
        """Area means of fields over every region.

        Args:
            field_CHW: fields; shape (C, H, W).
            inside: weights that cells have besides their area, such as 0 for those that do not count; same shape. Where none is left the
                mean is NaN.

        Returns:
            shape (R, C).
        """
        field = np.ascontiguousarray(field_CHW, dtype=np.float64)
        if inside is None:
            return self._sums(field) / self._totals[:, None]
        weights = np.ascontiguousarray(inside, dtype=np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self._sums(np.where(weights == 0, 0.0, field * weights)) / self._sums(weights))

    def _sums(self, field: Float) -> Float:
        """Weighted sums over every region; (C, H, W) -> (R, C)."""
        whole_CH = self._row_sums(field, self._columns)
        sums = []
        for region in self.regions:
            if region.cells is not None:
                sums_CH = np.take(self._row_sums(field * region.cells, self._columns), region.rows, axis=1)
            elif region.columns is not None:
                part = np.take(np.take(field, region.rows, axis=1), region.columns, axis=2)
                sums_CH = self._row_sums(part, None if self._columns is None else self._columns[region.columns])
            else:
                sums_CH = np.take(whole_CH, region.rows, axis=1)
            sums.append((sums_CH * self._rows[region.rows]).sum(axis=-1))
        return np.stack(sums)

    @staticmethod
    def _row_sums(field: Float, columns: Float | None) -> Float:
        return np.asarray((field if columns is None else field * columns).sum(axis=-1))
