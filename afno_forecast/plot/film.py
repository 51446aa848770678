"""Many pictures from one figure: what stays is drawn once, what moves is drawn under it for each picture."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image


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
        self._still = self._drawn()
        figure.patch.set_alpha(None)
        for artist in artists:
            artist.set_visible(True)

    def _drawn(self) -> Image.Image:
        return Image.fromarray(np.array(self._canvas.buffer_rgba()))

    def picture(self, moving: Iterable[Any]) -> Image.Image:
        """The figure with its moving artists as they are now, drawn in this order, as an RGB image."""
        renderer = self._canvas.get_renderer()
        renderer.clear()
        for artist in moving:
            artist.draw(renderer)
        drawn = self._drawn()
        page = Image.new("RGBA", drawn.size, "white")
        page.alpha_composite(drawn)
        page.alpha_composite(self._still)
        return page.convert("RGB")
