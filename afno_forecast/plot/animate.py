"""A forecast in motion: one frame a lead, the same colours in all, as GIF or MP4."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from PIL import Image

from ..errors import ConfigError, DataError
from . import canvas, style
from .boxes import BoxView
from .canvas import MapPanel
from .choices import Look, When
from .fields import Field
from .film import Film, as_gif, write_mp4
from .maps import method_of, seen, source_text, title_of
from .series import Series, require_values, truth_for
from .style import MUTED, say
from .views import View, view_for

_FIRST, _LIGHT = When(), Look(dpi=90)


class MotionPage:
    """One map, or forecast and truth side by side, built once and shown again for each lead.

    Args:
        view: of the maps.
        fields: every forecast map to come, for shared colours. truths: the analyses at the same times, None where there is none.
        dpi: dots an inch; the page is 8 inches wide, with a truth 12.
        style_name: `smooth` or `cells`.
    """

    def __init__(self, view: View | BoxView, fields: Sequence[Field], truths: Sequence[Field | None] | None, *, dpi: float = 100,
                 style_name: str = "smooth") -> None:
        method, count, first = method_of(style_name), 1 if truths is None else 2, fields[0]
        width, edge, gap = (8.0, 0.5, 0.0) if count == 1 else (12.0, 0.5, 0.34)
        wide = min((width - 2 * edge - (count - 1) * gap) / count, 5.2 / view.aspect)
        tall = wide * view.aspect
        top = 1.12 if count == 1 else 1.34
        height = top + tall + 1.24
        self._width = width
        self._film: Film | None = None
        self.figure: Figure = style.new_figure(width, height, dpi)
        scale = style.magnitude(first.palette, seen([*fields, *(t for t in truths or () if t is not None)], view, method))
        left = (width - count * wide - (count - 1) * gap) / 2
        boxes = [((left + i * (wide + gap)) / width, 1.2 / height, wide / width, tall / height) for i in range(count)]
        self.panels = [MapPanel(self.figure, box, view, first.grid, scale, method=method) for box in boxes]
        if count == 2:
            for box, head in zip(boxes, ("Forecast", "Truth (analysis)"), strict=True):
                say(self.figure, box[0], box[1] + box[3] + 0.06 / height, head, size=10, weight="bold", ha="left", va="bottom")
        self._absent = say(self.figure, boxes[-1][0] + boxes[-1][2] / 2, boxes[-1][1] + boxes[-1][3] / 2, "no analysis at this time", size=10,
                           color=MUTED, ha="center", va="center", zorder=10)
        self.texts = canvas.heading(self.figure, title_of(first), "", source_text(first))
        self.show(first, truths[0] if truths else None)
        canvas.colour_bar(self.figure, (0.2, 0.7 / height, 0.6, 0.14 / height), self.panels[0], first.label, first.units.text)
        canvas.footer(self.figure, f"{canvas.spacing_text(first.grid, method)}.  {canvas.credit(first.grid)}")

    def show(self, field: Field, truth: Field | None = None) -> None:
        """Draw one lead."""
        self.panels[0].show(field.values, field.is_vector)
        if len(self.panels) == 2:
            self.panels[1].show(np.full(field.grid.shape, np.nan) if truth is None else truth.values, field.is_vector)
        self._absent.set_visible(len(self.panels) == 2 and truth is None)
        self.texts[1].set_text(style.drawable(style.fit(field.times_text(), self._width - 0.6, 10)))

    def moving(self) -> list[Any]:
        """The artists that `show` changes, in drawing order."""
        return [a for panel in self.panels for a in panel.moving()] + [self._absent, self.texts[1]]

    def picture(self) -> Image.Image:
        """What is shown now, as an RGB image."""
        self._film = self._film or Film(self.figure, self.moving())
        return self._film.picture(self.moving())


def animate(forecast: xr.Dataset, variable: str, out: Path, *, truth: xr.Dataset | None = None, when: When = _FIRST, look: Look = _LIGHT,
            fps: float = 4.0) -> Path:
    """Draw a forecast's leads as an animation, with one set of colours over all frames.

    Args:
        forecast: dims [number], time, prediction_timedelta, [level], latitude, longitude; canonical names and units, any order.
        variable: any name a person may type.
        out: .gif, or .mp4 with the extra [video]; in a folder that exists.
        truth: an analysis to show beside it, on the same grid; where it lacks a time, the frame says so.
        when: init time and member. look: as for `plot_map`.
        fps: frames a second; the last frame stays for a second longer.

    Returns:
        `out`.

    Raises:
        DataError: no such variable or time, no lead times, or a truth that lacks all of them. ConfigError.
        ResourceError: `out` cannot be written, or the extra is not installed.
    """
    out = canvas.check_output(out, (".gif", ".mp4"))
    if not 0.1 <= fps <= 50:
        raise ConfigError(f"{fps:g} frames a second cannot be shown", fix="give --fps between 0.1 and 50")
    if truth is not None and when.member == "spread":
        raise ConfigError("there is no truth of an ensemble's spread", fix="leave --truth out, or give --member mean")
    series = Series(forecast, variable, when.member)
    if series.leads is None:
        raise DataError("the forecast has no lead times: it is an analysis", where=series.short, fix="give a forecast file")
    start = series.instant(when.init)
    fields = [series.at(start, int(lead)) for lead in np.sort(series.leads)]
    require_values(fields)
    truths = None if truth is None else truths_for(fields, Series(truth, variable))
    page = MotionPage(view_for(series.grid, look.projection, look.region, look.center), fields, truths, dpi=look.dpi, style_name=look.style)
    frames = []
    for index, field in enumerate(fields):
        page.show(field, truths[index] if truths else None)
        frames.append(page.picture())
    return write_mp4(out, frames, fps) if out.suffix.lower() == ".mp4" else canvas.write_bytes(out, as_gif(frames, fps))


def truths_for(fields: Sequence[Field], truth: Series) -> list[Field | None]:
    """The analyses at the valid times, None where there is none. Raises DataError when there is none at all, or grids or units differ."""
    found = [truth_for(f, truth) if f.valid is not None and truth.has(f.valid) else None for f in fields]
    for field, there in zip(fields, found, strict=True):
        if there is not None:
            field.minus(there)
    if all(there is None for there in found):
        truth_for(fields[0], truth)
    return found
