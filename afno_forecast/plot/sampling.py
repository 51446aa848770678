"""From a latitude-longitude grid to any points, right over the poles and the date line."""

# H latitude row (ascending), W longitude column (ascending); PAD rows and columns are added on each side

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..grid import BoxGrid, Grid, LatLonGrid
from .boxes import BoxSampler

Float = NDArray[np.float64]
Method = Literal["smooth", "cells"]
PAD = 2


def padded(values: Float, grid: LatLonGrid, is_vector: bool = False) -> Float:
    """Two more rows and columns on each side, continued round the globe and over the poles; edges are repeated elsewhere.

    Args:
        values: shape (H, W), latitude ascending.
        is_vector: a vector component, which changes sign over a pole.

    Returns:
        shape (H + 4, W + 4).
    """
    def over(rows: Float) -> Float:
        half = rows.shape[-1] // 2
        turned = np.roll(rows, half, axis=-1)
        if rows.shape[-1] % 2:
            turned = (turned + np.roll(rows, half + 1, axis=-1)) / 2
        return -turned if is_vector else turned

    south, north = (touches and grid.periodic for touches in grid.touches_poles)
    on_south, on_north = (bool(abs(abs(grid.latitude[i]) - 90) < 1e-3) for i in (0, -1))
    below = over(values[on_south: on_south + PAD][::-1]) if south else np.repeat(values[:1], PAD, axis=0)
    last = len(values) - on_north
    above = over(values[last - PAD: last][::-1]) if north else np.repeat(values[-1:], PAD, axis=0)
    tall = np.concatenate([below, values, above])
    return np.pad(tall, ((0, 0), (PAD, PAD)), mode="wrap" if grid.periodic else "edge")


def _row_positions(grid: LatLonGrid) -> Float:
    """Latitudes of the padded rows, mirrored at a pole, continued with the edge's spacing elsewhere; shape (H + 4,)."""
    rows = grid.latitude
    south, north = (touches and grid.periodic for touches in grid.touches_poles)
    on_south, on_north = (bool(abs(abs(rows[i]) - 90) < 1e-3) for i in (0, -1))
    below = -180 - rows[on_south: on_south + PAD][::-1] if south else rows[0] - (rows[1] - rows[0]) * np.array([2.0, 1.0])
    last = len(rows) - on_north
    above = 180 - rows[last - PAD: last][::-1] if north else rows[-1] + (rows[-1] - rows[-2]) * np.array([1.0, 2.0])
    return np.concatenate([below, rows, above])


def _cubic(t: Float) -> NDArray[np.float32]:
    """Catmull-Rom weights of the four neighbours at fraction t; shape (4, ...)."""
    return np.stack([((2 - t) * t - 1) * t / 2, (t * t * (3 * t - 5) + 2) / 2, ((4 - 3 * t) * t + 1) * t / 2, (t - 1) * t * t / 2]).astype(np.float32)


def make_sampler(grid: Grid, longitude: Float, latitude: Float, method: Method = "smooth") -> Sampler | BoxSampler:
    """What takes maps of a grid to points: degrees on the globe, x and y in a box."""
    return BoxSampler(grid, longitude, latitude, method) if isinstance(grid, BoxGrid) else Sampler(grid, longitude, latitude, method)


class Sampler:
    """Takes maps on one grid to fixed points.

    Args:
        grid: canonical; latitude ascending.
        longitude, latitude: degrees, any shape; NaN where there is nothing to show.
        method: `smooth` passes a cubic through the values of the grid points, never beyond the map's range; `cells` shows each
            cell in one colour.
    """

    def __init__(self, grid: LatLonGrid, longitude: Float, latitude: Float, method: Method = "smooth") -> None:
        self._grid, self.method, self._shape = grid, method, longitude.shape
        self._width = grid.shape[1] + 2 * PAD
        unseen = ~(np.isfinite(longitude) & np.isfinite(latitude))
        longitude, latitude = np.where(unseen, grid.longitude[0], longitude).ravel(), np.where(unseen, grid.latitude[0], latitude).ravel()
        edges = grid.latitude_edges()
        unseen = unseen.ravel() | (latitude < edges[0] - 1e-6) | (latitude > edges[-1] + 1e-6)
        first, columns = float(grid.longitude[0]), len(grid.longitude)
        if grid.periodic:
            across = np.mod(longitude - first, 360) * columns / 360
        else:
            half = (grid.longitude[1] - first) / 2, (grid.longitude[-1] - grid.longitude[-2]) / 2
            turned = np.mod(longitude - (first - half[0]), 360) + first - half[0]
            unseen |= turned > grid.longitude[-1] + half[1] + 1e-6
            across = np.interp(turned, grid.longitude, np.arange(columns, dtype=np.float64))
        self._unseen = unseen
        if method == "cells":
            column = np.floor(across + 0.5).astype(np.int64)
            if not grid.periodic:
                middle = (grid.longitude[1:] + grid.longitude[:-1]) / 2
                column = np.searchsorted(middle, turned)
            row = np.clip(np.searchsorted(edges, latitude, side="right") - 1, 0, grid.shape[0] - 1)
            self._nearest = (row + PAD) * self._width + column + PAD
            return
        down = np.interp(latitude, _row_positions(grid), np.arange(grid.shape[0] + 2 * PAD, dtype=np.float64))
        i = np.clip(np.floor(down), 1, grid.shape[0] + PAD - 1).astype(np.int64)
        j = np.floor(across).astype(np.int64)
        self._fraction = down - i, across - j
        self._corner = i * self._width + j + PAD
        self._weights = _cubic(self._fraction[0]), _cubic(self._fraction[1])
        self._nearest = (i + (self._fraction[0] >= 0.5)) * self._width + j + PAD + (self._fraction[1] >= 0.5)

    def __call__(self, values: Float, is_vector: bool = False) -> NDArray[np.float32]:
        """The map at the points; NaN where they are off the grid or the nearest grid point is missing; the points' shape."""
        wide = padded(values, self._grid, is_vector).astype(np.float32).ravel()
        missing = np.isnan(wide)
        if self.method == "cells":
            result = wide[self._nearest]
        elif missing.any():
            result = self._bilinear(wide, missing)
        else:
            result = np.zeros(len(self._corner), dtype=np.float32)
            for a in range(4):
                row = np.zeros_like(result)
                for b in range(4):
                    row += self._weights[1][b] * wide[self._corner + ((a - 1) * self._width + b - 1)]
                result += self._weights[0][a] * row
            reach = float(np.abs(values).max()) if is_vector else 0.0
            np.clip(result, -reach if is_vector else values.min(), reach if is_vector else values.max(), out=result)
        result = np.where(self._unseen, np.float32(np.nan), result)
        return result.reshape(self._shape)

    def _bilinear(self, wide: NDArray[np.float32], missing: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Between the grid points that are there; missing where the nearest one is."""
        filled = np.where(missing, np.float32(0), wide)
        total, weight = np.zeros(len(self._corner)), np.zeros(len(self._corner))
        for a in (0, 1):
            for b in (0, 1):
                index = self._corner + a * self._width + b
                share = np.abs(1 - a - self._fraction[0]) * np.abs(1 - b - self._fraction[1]) * ~missing[index]
                total += share * filled[index]
                weight += share
        there = ~missing[self._nearest] & (weight > 0)
        return np.where(there, total / np.where(there, weight, 1), np.nan).astype(np.float32)
