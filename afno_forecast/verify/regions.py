"""The regions of WeatherBench 2's score tables: boxes of cell centres, edges included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..grid import Grid, LatLonGrid

Bounds = tuple[float, float]
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
    """

    name: str
    rows: NDArray[np.int64]
    columns: NDArray[np.int64] | None


def default_regions(grid: Grid) -> tuple[str, ...]:
    """Every region that has cells on a global grid; `global`, meaning the whole domain, on any other."""
    if not isinstance(grid, LatLonGrid) or not grid.is_global:
        return ("global",)
    return tuple(name for name in REGION_NAMES if _cells(name, grid) is not None)


def make_regions(names: Sequence[str], grid: Grid) -> tuple[Region, ...]:
    """The named regions on a grid. Raises ConfigError for an unknown name, a repeated one, or one without cells."""
    regions = []
    for name in dict.fromkeys(names):
        if name not in _REGIONS:
            near = get_close_matches(name, REGION_NAMES, 1, 0.4)
            raise ConfigError(f"unknown region '{name}'", fix=f"did you mean '{near[0]}'?" if near else f"use one of {', '.join(REGION_NAMES)}")
        if name == "global":
            regions.append(Region(name, np.arange(grid.shape[0]), None))
            continue
        if not isinstance(grid, LatLonGrid) or not grid.is_global:
            raise ConfigError(f"region '{name}' needs a global grid, this one is {grid.describe()}", fix="use --regions global: the whole domain")
        region = _cells(name, grid)
        if region is None:
            raise ConfigError(f"region '{name}' has no cell on the grid {grid.describe()}", fix="leave it out of --regions")
        regions.append(region)
    if not regions:
        raise ConfigError("no region to score", fix="use --regions global")
    return tuple(regions)


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
