"""Many pictures from one figure: what stays is drawn once, what moves is drawn under it for each picture."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image


def _over(lower: NDArray[np.uint8], upper: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGBA `upper` (not premultiplied) over opaque RGB `lower`; both of shape (rows, columns, ...)."""
    alpha = upper[..., 3:].astype(np.uint16)
    return ((lower * (255 - alpha) + upper[..., :3] * alpha + 127) // 255).astype(np.uint8)


class Film:
    """Pictures of one figure whose moving artists lie below all that stays.

    Args:
        figure: with its Agg canvas, drawn upon already.
        moving: the artists that change; they must not overlap what stays in a way that needs them on top.
    """

    def __init__(self, figure: Figure, moving: Iterable[Any]) -> None:
        self._canvas: Any = figure.canvas
        artists = [a for a in moving if a.get_visible()]
        for artist in artists:
            artist.set_visible(False)
        figure.patch.set_alpha(0)
        self._canvas.draw()
        self._still = np.array(self._canvas.buffer_rgba())
        figure.patch.set_alpha(1)
        for artist in artists:
            artist.set_visible(True)

    def picture(self, moving: Iterable[Any]) -> Image.Image:
        """The figure with its moving artists as they are now, drawn in this order, as an RGB image."""
        renderer = self._canvas.get_renderer()
        renderer.clear()
        for artist in moving:
            artist.draw(renderer)
        drawn = np.asarray(self._canvas.buffer_rgba())
        white = np.full((*drawn.shape[:2], 3), 255, dtype=np.uint8)
        return Image.fromarray(_over(_over(white, drawn), self._still))
