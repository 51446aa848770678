"""The rectangle around a map's outline, and the raster of pixels over it."""

# H row (bottom first), W column

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Extent = tuple[float, float, float, float]
Label = tuple[float, float, str, str, str, bool]
"""x, y, text, horizontal alignment, vertical alignment, whether inside the map."""


class Outlined:
    """What has an outline on the page: the rectangle around it."""

    outline: Float
    stretch: float

    @property
    def extent(self) -> Extent:
        """(left, right, bottom, top)."""
        (left, bottom), (right, top) = self.outline.min(axis=0), self.outline.max(axis=0)
        return float(left), float(right), float(bottom), float(top)

    @property
    def aspect(self) -> float:
        """Height by width on the page, where a unit of y is `stretch` times as long as one of x."""
        left, right, bottom, top = self.extent
        return (top - bottom) * self.stretch / (right - left)


def centres(low: float, high: float, count: int) -> Float:
    """The middles of `count` equal parts; shape (count,)."""
    return low + (np.arange(count) + 0.5) / count * (high - low)


def raster(extent: Extent, width: int, aspect: float) -> tuple[Float, Float]:
    """x and y at the centres of `width` columns of square pixels, each of shape (H, W)."""
    left, right, bottom, top = extent
    x, y = np.meshgrid(centres(left, right, width), centres(bottom, top, max(round(width * aspect), 2)))
    return x, y
