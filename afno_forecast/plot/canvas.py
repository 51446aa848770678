"""Drawing on one figure: a map panel that can be shown again with other values, colour bars, titles, saving."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from matplotlib.path import Path as Path2D
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from ..errors import ConfigError, ResourceError
from ..grid import BoxGrid, Grid
from . import style
from .boxes import BoxView
from .outline import centres, raster
from .sampling import Method, make_sampler
from .style import FAINT, INK, MUTED, Scale, say
from .views import View

Float = NDArray[np.float64]
CREDIT = "Coastlines: Natural Earth"
_FORMATS = (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".webp")


class MapPanel:
    """One map on a figure. Outline, coastlines and graticule are drawn once; `show` changes the colours and contour lines.

    Args:
        figure: to draw on.
        box: (left, bottom, width, height) in fractions of the figure; keep the view's aspect.
        view: projection and background.
        grid: of the values that `show` will be given.
        scale: levels and colours.
        method: `smooth` (filled contours) or `cells` (one colour a grid cell).
        width: columns of the picture that is drawn; None takes the panel's pixels.
        detail: `full` draws thin contour lines between the colours and writes latitudes and longitudes; `plain` leaves out the lines,
            `small` both, with finer coastlines.
    """

    def __init__(self, figure: Figure, box: tuple[float, float, float, float], view: View | BoxView, grid: Grid, scale: Scale, *,
                 method: Method = "smooth", width: int | None = None, detail: Literal["full", "plain", "small"] = "full") -> None:
        self.view, self.scale, self._lines = view, scale, detail == "full" and method == "smooth"
        self.axes: Axes = figure.add_axes(box)
        self.axes.set_axis_off()
        left, right, bottom, top = view.extent
        self.axes.set(xlim=(left, right), ylim=(bottom, top), autoscale_on=False)
        device = figure.get_figwidth() * figure.dpi * box[2]
        columns = width or int(np.clip(device * (1.0 if method == "cells" else 0.6), 200, 1600))
        self._sampler = make_sampler(grid, *view.pixels(columns, rim=3), method)
        self._outline = Polygon(view.outline, closed=True, facecolor="none", edgecolor=INK, linewidth=0.8, zorder=6)
        self.axes.add_patch(self._outline)
        self._outline.set_clip_on(False)
        self._x = centres(left, right, columns)
        self._y = np.zeros(0)
        self.image: Any = None
        self._contours: Any = None
        self._background(float(np.clip(figure.get_figwidth() * box[2] / 5, 0.2, 0.45)) if detail == "small" else 1.0)
        if detail != "small":
            self._labels()

    def _background(self, thickness: float) -> None:
        for lines, colour, width, order in ((self.view.graticule, "#30363d", 0.35, 3), (self.view.coasts, "white", 1.7, 3.5),
                                            (self.view.coasts, style.COAST, 0.75, 4)):
            alpha = {3: 0.45, 3.5: 0.45, 4: 1.0}[order]
            drawn = LineCollection(list(lines), colors=colour, linewidths=width * thickness, alpha=alpha, zorder=order)
            self._clip(self.axes.add_collection(drawn, autolim=False))

    def _labels(self) -> None:
        gap = 0.012 * (self.view.extent[3] - self.view.extent[2])
        for x, y, text, ha, va, inside in self.view.labels:
            away = 0.0 if inside else gap * ((va == "bottom") - (va == "top"))
            shown = say(self.axes, x, y + away, text, size=7.5, color=INK if inside else MUTED, ha=ha, va=va, zorder=7)
            if inside:
                shown.set_path_effects([withStroke(linewidth=2, foreground="white")])

    def _clip(self, artist: Any) -> Any:
        artist.set_clip_path(self._outline)
        return artist

    def show(self, values: Float, is_vector: bool = False) -> None:
        """Draw the values of shape (H, W) in shown units, instead of those before."""
        shown = np.ma.masked_invalid(self._sampler(values, is_vector))
        left, right, bottom, top = self.view.extent
        if self.image is None:
            self._y = centres(bottom, top, len(shown))
            between = "bilinear" if self._sampler.method == "smooth" else "nearest"
            self.image = self._clip(self.axes.imshow(shown, extent=(left, right, bottom, top), origin="lower", aspect="auto", cmap=self.scale.cmap,
                                                     norm=self.scale.norm, zorder=1, interpolation=between, interpolation_stage="data"))
            self.axes.set(xlim=(left, right), ylim=(bottom, top))
        else:
            self.image.set_data(shown)
        if self._contours is not None:
            self._contours.remove()
            self._contours = None
        levels = _crossed(shown, self.scale.levels)
        if self._lines and len(levels):
            self._contours = self._clip(self.axes.contour(self._x, self._y, shown, levels=levels, colors="#101418", linewidths=0.35,
                                                          alpha=0.45, linestyles="solid", zorder=2))

    def moving(self) -> list[Any]:
        """The artists that `show` changes, in drawing order."""
        return [a for a in (self.image, self._contours) if a is not None]

    def overlay(self, values: Float, variable: str, grid: Grid, colour: str = "#7d1128") -> None:
        """Labelled contour lines of another variable, on its own grid; shape (H, W)."""
        shown = np.ma.masked_invalid(make_sampler(grid, *self.view.pixels(len(self._x), rim=3))(values))
        y = centres(*self.view.extent[2:], len(shown))
        levels = _crossed(shown, style.line_levels(variable, shown.compressed().astype(np.float64)))
        if not len(levels):
            return
        lines = self._clip(self.axes.contour(self._x, y, shown, levels=levels, colors=colour, linewidths=0.9, linestyles="solid", zorder=4.5))
        lines.set_path_effects([withStroke(linewidth=1.8, foreground=(1, 1, 1, 0.6))])
        middle = self.view.outline.mean(axis=0)
        inner = Path2D(middle + (self.view.outline - middle) * 0.93)
        for text in self.axes.clabel(lines, fontsize=7, fmt="%g", inline=False):
            if not inner.contains_point(text.get_position()):
                text.remove()
                continue
            text.set(fontfamily=style.FONT, zorder=5, fontweight="bold")
            text.set_path_effects([withStroke(linewidth=2.4, foreground=(1, 1, 1, 0.9))])

    def wind(self, u: Float, v: Float, grid: Grid, form: str, columns: int = 34) -> None:
        """Wind on an even raster of the page, turned with the projection; u east, v north in m/s, shape (H, W). `arrows` or `barbs`."""
        columns = columns if form == "arrows" else round(0.8 * columns)
        longitude, latitude = self.view.pixels(columns)
        on_globe = not isinstance(grid, BoxGrid)
        inside = np.isfinite(longitude) & (np.abs(latitude) < 88) if on_globe else np.ones(longitude.shape, dtype=bool)
        x, y = raster(self.view.extent, columns, self.view.aspect)
        inside &= self._outline.get_path().contains_points(np.column_stack([x.ravel(), y.ravel()])).reshape(x.shape)
        x, y, longitude, latitude = x[inside], y[inside], longitude[inside], latitude[inside]
        east, north = (make_sampler(grid, longitude, latitude)(part, is_vector=True).astype(np.float64) for part in (u, v))
        speed = np.hypot(east, north)
        tiny = (1e-3 if on_globe else 1e-5 * (self.view.extent[1] - self.view.extent[0])) / np.maximum(speed, 1e-9)
        narrowing = np.cos(np.deg2rad(latitude)) if on_globe else 1.0
        ahead_x, ahead_y = self.view.project(longitude + east * tiny / narrowing, latitude + north * tiny)
        towards_x, towards_y = ahead_x - x, (ahead_y - y) * self.view.stretch
        length = np.hypot(towards_x, towards_y)
        good = np.isfinite(length) & (length > 0) & (length < 0.01 * (self.view.extent[1] - self.view.extent[0])) & np.isfinite(speed)
        factor = speed[good] / length[good]
        shown = x[good], y[good], towards_x[good] * factor, towards_y[good] * factor
        if form == "barbs":
            self._clip(self.axes.barbs(*shown, length=4.6, linewidth=0.55, color=INK, flip_barb=(latitude[good] < 0) & on_globe, zorder=4.2,
                                       sizes={"emptybarb": 0.08, "spacing": 0.16, "height": 0.38},
                                       barb_increments={"half": 2.5, "full": 5, "flag": 25}))
            return
        longest = float(np.quantile(speed[good], 0.98)) if good.any() else 1.0
        reference = style.nice_step(max(longest, 1e-6), 1)
        arrows = self.axes.quiver(*shown, scale=reference * columns / 1.6, width=0.0014, headwidth=3.6, headlength=4, minlength=0.6, color=INK,
                                  pivot="middle", zorder=4.2)
        self._clip(arrows)
        page = self.axes.get_figure(root=True)
        height = 1.0 if page is None else page.get_figheight()
        self.axes.quiverkey(arrows, 0.885, 0.79 / height, reference, f"{reference:g} m/s", labelpos="E", coordinates="figure", labelsep=0.06,
                            fontproperties={"family": style.FONT, "size": 8}, labelcolor=MUTED)


def _crossed(shown: Any, levels: Float) -> Float:
    """The levels that the values of a masked array lie on both sides of: along the edge of a plateau there is no line."""
    there = shown.compressed()
    return levels[(levels > there.min()) & (levels < there.max())] if len(there) else levels[:0]


def colour_bar(figure: Figure, box: tuple[float, float, float, float], panel: MapPanel, label: str, units: str) -> Axes:
    """A horizontal colour bar of a panel that has been shown, with words and units below it; box in fractions of the figure."""
    axes: Axes = figure.add_axes(box)
    levels = panel.scale.levels
    steps = np.diff(levels)
    uneven = len(levels) > 2 and not ((levels < 0).any() and np.allclose(levels, -levels[::-1])) and bool(np.ptp(steps) > 1e-6 * steps.max())
    ticks = style.ticks(levels, 16 if uneven else 11)
    bar = Colorbar(axes, panel.image, orientation="horizontal", extend=panel.scale.extend, extendfrac=0.03, ticks=list(ticks), drawedges=False,
                   spacing="uniform" if uneven else "proportional")
    finish_bar(bar, ticks, label, units)
    return axes


def colormap(name: str) -> Colormap:
    """A colour map of matplotlib's with the colour of what is missing."""
    return matplotlib.colormaps[name].with_extremes(bad=style.MISSING)


def finish_bar(bar: Colorbar, ticks: Float, label: str, units: str = "") -> None:
    """Ticks and words of a horizontal colour bar: `Relative vorticity (10⁻⁷ s⁻¹)`, so that numbers stay short enough not to meet."""
    exponent = style.common_exponent(ticks)
    power = f"10{str(exponent).translate(style.SUPERSCRIPT)}" if exponent else ""
    units = f"{power} {units}".strip()
    bar.outline.set_linewidth(0.6)
    bar.ax.tick_params(labelsize=8, length=3, width=0.6, color=MUTED, labelcolor=INK, labelfontfamily=style.FONT)
    bar.ax.set_xticks(ticks, [f"{t:g}".replace("-", "−") for t in ticks / 10.0**exponent])
    bar.ax.minorticks_off()
    words = f"{label} ({units})" if label and units else label or units
    bar.ax.set_xlabel(style.drawable(words), fontsize=9, color=INK, fontfamily=style.FONT, labelpad=3, parse_math=False)


def legend(figure: Figure, entries: Sequence[tuple[Any, str]], below: float) -> None:
    """One line of a legend at the right, `below` inches under the upper edge; each of several equal words once."""
    width, height = figure.get_figwidth(), figure.get_figheight()
    handles = {words: handle for handle, words in reversed(entries)}
    names = list(dict.fromkeys(words for _, words in entries))
    drawn = figure.legend([handles[name] for name in names], [style.drawable(name) for name in names], loc="lower right", ncols=len(names),
                          frameon=False, bbox_to_anchor=(1 - 0.3 / width, 1 - below / height), prop={"family": style.FONT, "size": 9},
                          handlelength=2.6, columnspacing=1.4, borderaxespad=0)
    for text in drawn.get_texts():
        text.set_parse_math(False)


def spacing_text(grid: Grid, method: Method) -> str:
    """`Grid 32 × 64 (5.625°), smooth between grid points`."""
    if isinstance(grid, BoxGrid):
        return f"Grid {grid.shape[0]} × {grid.shape[1]}, {'linear between cell centres' if method == 'smooth' else 'one colour a cell'}"
    rows, columns = (float(np.median(np.abs(np.diff(v)))) for v in (grid.latitude, grid.longitude))
    size = f"{columns:.4g}°" if abs(rows - columns) < 0.01 * columns else f"{rows:.4g}° × {columns:.4g}°"
    return f"Grid {grid.shape[0]} × {grid.shape[1]} ({size}), {'smooth between grid points' if method == 'smooth' else 'one colour a cell'}"


def credit(grid: Grid) -> str:
    """Whose lines the map shows; a box shows none."""
    return "" if isinstance(grid, BoxGrid) else CREDIT


def check_output(out: Path, formats: tuple[str, ...] = _FORMATS) -> Path:
    """The path, when a picture can be written there. Raises ConfigError for another ending, ResourceError for the folder."""
    out = Path(out)
    if out.suffix.lower() not in formats:
        raise ConfigError(f"'{out.name}' has no ending that can be written", fix=f"end it in {', '.join(formats)}")
    if not out.parent.is_dir():
        raise ResourceError(f"the folder '{out.parent}' does not exist", fix="make it first")
    if out.is_dir() or not os.access(out.parent, os.W_OK):
        raise ResourceError(f"'{out}' cannot be written", fix="give a file in a folder that you may write to")
    return out


def write_bytes(out: Path, content: bytes) -> Path:
    """Write under a temporary name and rename, so that a reader never meets half a file. Raises ResourceError."""
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(out)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ResourceError(f"could not write the picture: {error.strerror}", where=str(out), fix="free space or give another folder") from error
    return out


def save(figure: Figure, out: Path, dpi: float) -> Path:
    """Save a figure in the format of its ending, the same bytes each time. Raises ResourceError."""
    buffer = io.BytesIO()
    kind = out.suffix.lower().lstrip(".")
    undated: dict[str, dict[str, Any]] = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
                                          "svg": {"Date": None}}
    with matplotlib.rc_context({"svg.hashsalt": "afno-forecast"}):
        figure.savefig(buffer, format=kind, dpi=dpi, facecolor="white", metadata=undated.get(kind))
    return write_bytes(out, buffer.getvalue())


def heading(figure: Figure, title: str, times: str, source: str, *, top: float = 0.12) -> list[Any]:
    """Title, times and source at the top left, `top` inches below the upper edge; returns the three texts."""
    width, height = figure.get_figwidth(), figure.get_figheight()
    x = 0.35 / width
    size = float(np.clip(13.5 * (width - 0.6) * 72 / (13.5 * 0.62 * max(len(title), 1)), 8.5, 13.5))
    return [say(figure, x, 1 - (top + 0.02) / height, style.fit(title, width - 0.6, size * 1.1), size=size, weight="bold", ha="left", va="top"),
            say(figure, x, 1 - (top + 0.33) / height, style.fit(times, width - 0.6, 10), size=10, ha="left", va="top"),
            say(figure, x, 1 - (top + 0.58) / height, style.fit(source, width - 0.6, 8), size=8, color=MUTED, ha="left", va="top")]


def footer(figure: Figure, text: str) -> None:
    """Small print at the bottom left."""
    width = figure.get_figwidth()
    say(figure, 0.35 / width, 0.07 / figure.get_figheight(), style.fit(text, width - 0.6, 7), size=7, color=FAINT, ha="left", va="bottom")
