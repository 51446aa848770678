"""The rectangle around a map's outline, and the raster of pixels over it."""

# H row (bottom first), W column

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Extent = tuple[float, float, float, float]


def extent_of(outline: Float) -> Extent:
    """(left, right, bottom, top) of a ring of points; shape (N, 2)."""
    (left, bottom), (right, top) = outline.min(axis=0), outline.max(axis=0)
    return float(left), float(right), float(bottom), float(top)


def aspect_of(extent: Extent, stretch: float = 1.0) -> float:
    """Height by width on the page, where a unit of y is `stretch` times as long as one of x."""
    left, right, bottom, top = extent
    return (top - bottom) * stretch / (right - left)


def centres(low: float, high: float, count: int) -> Float:
    """The middles of `count` equal parts; shape (count,)."""
    return low + (np.arange(count) + 0.5) / count * (high - low)


def raster(extent: Extent, width: int, aspect: float) -> tuple[Float, Float]:
    """x and y at the centres of `width` columns of square pixels, each of shape (H, W)."""
    left, right, bottom, top = extent
    x, y = np.meshgrid(centres(left, right, width), centres(bottom, top, max(round(width * aspect), 2)))
    return x, y
