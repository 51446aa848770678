"""Boxes of PDEs on the page: no projection, no coastlines; x to the right, y upwards, in the box's own units."""

# H row (y ascending), W column (x ascending)

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..grid import BoxGrid
from .outline import Label, Outlined, raster
from .style import nice_step

Float = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class BoxView(Outlined):
    """What `views.View` is for the globe: outline and background of a box, in its own coordinates.

    Args:
        outline: closed ring; shape (N, 2).
        labels: coordinates written along the edges, see `outline.Label`.
    """

    outline: Float
    labels: tuple[Label, ...]
    name: str = "box"
    stretch: float = 1.0
    coasts: tuple[Float, ...] = ()
    graticule: tuple[Float, ...] = ()
    is_global: bool = True

    def project(self, x: Float, y: Float) -> tuple[Float, Float]:
        """The points themselves."""
        return np.asarray(x), np.asarray(y)

    def pixels(self, width: int, rim: int = 0) -> tuple[Float, Float]:
        """x and y at the centres of `width` columns of pixels over the box, bottom row first; shape (rows, width). A box has no rim."""
        return raster(self.extent, width, self.aspect)


def box_view(grid: BoxGrid) -> BoxView:
    """The whole box, cell edges included, with coordinates written below it and inside its left edge."""
    (bottom, top), (left, right) = _ends(grid.y), _ends(grid.x)
    ring = np.asarray([[left, bottom], [right, bottom], [right, top], [left, top], [left, bottom]])
    labels = [(x, bottom, f"{x:.4g}", "center", "top", False) for x in _ticks(left, right)]
    labels += [(left, y, f" {y:.4g}", "left", "center", True) for y in _ticks(bottom, top)]
    return BoxView(ring, tuple((float(x), float(y), text.replace("-", "−"), h, v, inside) for x, y, text, h, v, inside in labels))


def _ends(values: Float) -> tuple[float, float]:
    half = (values[1] - values[0]) / 2
    return float(values[0] - half), float(values[-1] + half)


def _ticks(low: float, high: float) -> Float:
    """Round numbers between two ends, none next to them."""
    step = nice_step(high - low, 5)
    ticks = np.round(np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step, 10)
    return np.asarray(ticks[(ticks > low + 0.05 * (high - low)) & (ticks < high - 0.05 * (high - low))])


class BoxSampler:
    """Takes fields on a box to fixed points, as `sampling.Sampler` does on the globe: linear between cell centres, or one colour a cell.

    Args:
        grid: the box; where it wraps, so does the interpolation.
        x, y: points inside the box, any shape.
        method: `smooth` or `cells`.
    """

    def __init__(self, grid: BoxGrid, x: Float, y: Float, method: Literal["smooth", "cells"] = "smooth") -> None:
        self.method = method
        self._rows = _neighbours(grid.y, y, grid.boundary == "periodic", method)
        self._columns = _neighbours(grid.x, x, grid.wraps, method)

    def __call__(self, values: Float, is_vector: bool = False) -> NDArray[np.float32]:
        """The field at the points; NaN where a cell it needs has no value."""
        (below, above, up), (left, right, along) = self._rows, self._columns
        lower = values[below, left] * (1 - along) + values[below, right] * along
        upper = values[above, left] * (1 - along) + values[above, right] * along
        return np.asarray(lower * (1 - up) + upper * up, dtype=np.float32)


def _neighbours(centres: Float, points: Float, wraps: bool, method: str) -> tuple[NDArray[np.int64], NDArray[np.int64], Float]:
    """(cell before, cell after, share of the one after) along one direction."""
    position = (points - centres[0]) / (centres[1] - centres[0])
    if method == "cells":
        nearest = np.clip(np.rint(position), 0, len(centres) - 1).astype(np.int64)
        return nearest, nearest, np.zeros_like(position)
    if not wraps:
        position = np.clip(position, 0, len(centres) - 1)
    before = np.floor(position).astype(np.int64)
    after = before + 1
    share = position - before
    if wraps:
        return before % len(centres), after % len(centres), share
    return before, np.minimum(after, len(centres) - 1), share
