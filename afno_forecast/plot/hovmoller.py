"""Longitude against time or lead: the mean over a band of latitudes, as a row of each instant."""

# L instant or lead, W longitude column (or x)

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..errors import ConfigError, DataError
from ..grid import BoxGrid, Grid
from . import canvas, style
from .choices import Look, When
from .dates import marks
from .fields import Field, Float, clock
from .maps import method_of, source_text, title_of
from .series import Series, require_values
from .style import Scale, say
from .views import degrees_text

Band = tuple[float, float]
_NOW, _PLAIN = When(), Look()
_USUAL: Band = (30.0, 60.0)


@dataclass(frozen=True, eq=False)
class Section:
    """Band means in time.

    Args:
        first: the first map, for words and units. instants: valid times, seconds; shape (L,). values_LW: shown units, NaN where missing.
    """

    first: Field
    instants: NDArray[np.int64]
    values_LW: Float


def band_rows(grid: Grid, band: Band | None) -> tuple[NDArray[np.int64], str]:
    """(rows whose centres are in the band, words). Raises ConfigError for a band that is none, DataError when the grid has no row in it."""
    if isinstance(grid, BoxGrid):
        low, high = band or (float(grid.y[0]), float(grid.y[-1]))
        positions, words = grid.y, f"mean over y from {low:.4g} to {high:.4g}"
    else:
        low, high = band or _USUAL
        positions, words = grid.latitude, f"mean over {degrees_text(low, False)} to {degrees_text(high, False)}"
    if not low < high:
        raise ConfigError(f"{low:g}/{high:g} is no band", where="--latitudes", fix="give south and north: --latitudes 30/60")
    rows = np.flatnonzero((positions >= low - 1e-6) & (positions <= high + 1e-6))
    if not len(rows):
        raise DataError(f"no row of the grid between {low:g} and {high:g}", where=grid.describe(),
                        fix=f"give a band within {positions[0]:.4g} to {positions[-1]:.4g}")
    return rows, words


def band_mean(field: Field, rows: NDArray[np.int64]) -> Float:
    """Mean over rows with exact cell areas, of the cells that are there; shape (W,), NaN where none is."""
    values, weights = field.values[rows], field.grid.cell_areas()[rows]
    weights = np.where(np.isfinite(values), weights, 0.0)
    total = weights.sum(axis=0)
    return np.where(total > 0, (weights * np.nan_to_num(values)).sum(axis=0) / np.where(total > 0, total, 1.0), np.nan)


def read_section(series: Series, band: Band | None, init: str | None) -> Section:
    """All leads of a forecast from one init time, or all times of an analysis. Raises DataError, ConfigError."""
    rows, _ = band_rows(series.grid, band)
    if series.leads is not None:
        start = series.instant(init)
        moments: list[tuple[int, int | None]] = [(start, int(lead)) for lead in np.sort(series.leads)]
    elif series.axis is not None:
        moments = [(int(t), None) for t in np.sort(series.axis.seconds)]
    else:
        raise DataError(f"'{series.short}' has no times", fix="give a file with several times")
    return _section(series, rows, moments)


def _section(series: Series, rows: NDArray[np.int64], moments: list[tuple[int, int | None]]) -> Section:
    if len(moments) < 2:
        raise DataError("one instant makes no diagram against time", where=series.short, fix="give a file with several leads or times")
    first = series.at(*moments[0])
    lines = [band_mean(first, rows)] + [band_mean(series.at(*moment), rows) for moment in moments[1:]]
    return Section(first, np.array([t + (lead or 0) for t, lead in moments]), np.stack(lines))


def _analyses(truth: Series, like: Section, rows: NDArray[np.int64]) -> Section:
    if truth.is_forecast or truth.calendar != like.first.calendar:
        raise DataError("the truth is a forecast, or in another calendar", where=truth.short, fix="give an analysis in the forecast's calendar")
    there = [t for t in like.instants.tolist() if truth.has(t)]
    if not there:
        raise DataError("the truth has none of the forecast's valid times", where=truth.short, fix="give a truth of these days")
    found = _section(truth, rows, [(t, None) for t in there])
    like.first.minus(found.first)
    values = np.full(like.values_LW.shape, np.nan)
    values[np.isin(like.instants, there)] = found.values_LW
    return Section(found.first, like.instants, values)


def _draw(axes: Axes, section: Section, scale: Scale, method: str) -> None:
    grid = section.first.grid
    x = grid.x if isinstance(grid, BoxGrid) else grid.longitude
    values, time = section.values_LW, section.instants.astype(np.float64)
    step = float(np.median(np.diff(x)))
    if method == "smooth":
        if grid.periodic:
            x, values = np.append(x, x[0] + step * len(x)), np.append(values, values[:, :1], axis=1)
        axes.set_facecolor(style.MISSING)
        axes.contourf(x, time, np.ma.masked_invalid(values), levels=scale.levels, cmap=scale.cmap, norm=scale.norm, extend=scale.extend)
        axes.set(xlim=(x[0], x[-1]), ylim=(time[-1], time[0]))
    else:
        half = np.diff(time) / 2
        rows = np.concatenate([[time[0] - half[0]], time[:-1] + half, [time[-1] + half[-1]]])
        columns = np.append(x - step / 2, x[-1] + step / 2)
        axes.pcolormesh(columns, rows, np.ma.masked_invalid(values), cmap=scale.cmap, norm=scale.norm)
        axes.set(xlim=(columns[0], columns[-1]), ylim=(rows[-1], rows[0]))
    if not isinstance(grid, BoxGrid):
        low, high = axes.get_xlim()
        apart = next((s for s in (5.0, 10.0, 20.0, 30.0) if (high - low) / s <= 7), 60.0)
        ticks = np.arange(np.ceil(low / apart), np.floor(high / apart) + 1) * apart
        axes.set_xticks(ticks, [degrees_text(float(t), True) for t in ticks])


def build_hovmoller(section: Section, band: Band | None, truth: Section | None = None, look: Look = _PLAIN) -> Figure:
    """The page as a figure: one diagram, or forecast and truth side by side in the same colours."""
    method, shown = method_of(look.style), [section] + ([truth] if truth else [])
    width, left, right, gap, tall, bottom = (8.0 if truth is None else 12.0), 1.3, 0.45, 0.5, 4.4, 1.4
    top = 1.15 if truth is None else 1.45
    height, wide = top + tall + bottom, (width - left - right - gap * (len(shown) - 1)) / len(shown)
    figure = style.new_figure(width, height, look.dpi)
    first = section.first
    scale = style.magnitude(first.palette, [s.values_LW for s in shown])
    ticks = marks(section.instants, first.calendar, 11)
    start = first.init
    for index, (part, head) in enumerate(zip(shown, ("Forecast", "Truth (analysis)"), strict=False)):
        axes = figure.add_axes(((left + index * (wide + gap)) / width, bottom / height, wide / width, tall / height))
        _draw(axes, part, scale, method)
        axes.tick_params(labelsize=8, color=style.MUTED, labelcolor=style.INK, labelfontfamily=style.FONT, length=3)
        words = [w if start is None else f"{w}   {_after(t - start)}" for t, w in ticks]
        axes.set_yticks([t for t, _ in ticks], words if index == 0 else [""] * len(ticks))
        style.name_axes(axes, "x" if isinstance(first.grid, BoxGrid) else "")
        if truth is not None:
            say(axes, 0, 1.015, head, size=10, weight="bold", ha="left", va="bottom", transform=axes.transAxes)
    span = f"{clock(int(section.instants[0]), first.calendar)} to {clock(int(section.instants[-1]), first.calendar)}"
    when = f"Valid {span}" if start is None else f"Init {clock(start, first.calendar)}    Valid {span}"
    canvas.heading(figure, f"{title_of(first)}, {band_rows(first.grid, band)[1]}", when, source_text(first))
    bar = figure.add_axes((0.2, 0.72 / height, 0.6, 0.14 / height))
    _bar(bar, scale, first)
    canvas.footer(figure, f"{canvas.spacing_text(first.grid, method)}; band means with exact cell areas.")
    return figure


def _after(seconds: int) -> str:
    """`+1.5 d`, or `+7 h` within the first day and for what is no half day."""
    return f"+{seconds / 86400:g} d" if seconds >= 86400 and seconds % 43200 == 0 else f"+{seconds / 3600:g} h"


def _bar(axes: Axes, scale: Scale, field: Field) -> None:
    from matplotlib.cm import ScalarMappable

    ticks = style.ticks(scale.levels, 11)
    bar = Colorbar(axes, ScalarMappable(scale.norm, scale.cmap), orientation="horizontal", extend=scale.extend, extendfrac=0.03, ticks=list(ticks),
                   spacing="proportional")
    canvas.finish_bar(bar, ticks, field.label, field.units.text)


def plot_hovmoller(ds: xr.Dataset, variable: str, out: Path, *, band: Band | None = None, truth: xr.Dataset | None = None, when: When = _NOW,
                   look: Look = _PLAIN) -> Path:
    """Draw the mean over a band of latitudes against longitude and time.

    Args:
        ds: a forecast (its leads from one init time) or an analysis (all its times).
        variable: any name a person may type. out: .png, .pdf, .svg, .jpg or .webp, in a folder that exists.
        band: (south, north) in degrees, or of y in a box; None takes 30 to 60 degrees north, or the whole box.
        truth: analyses at the valid times, beside the forecast. when: init time and member. look: style and dpi.

    Returns:
        `out`.

    Raises:
        DataError: no such variable or time, no row in the band, a truth on another grid. ConfigError, ResourceError.
    """
    out = canvas.check_output(out)
    series = Series(ds, variable, when.member)
    section = read_section(series, band, when.init)
    if not np.isfinite(section.values_LW).any():
        require_values([section.first])
    rows, _ = band_rows(series.grid, band)
    if truth is not None and series.leads is None:
        raise DataError("the file has no lead times: it is an analysis already", where=series.short, fix="leave --truth out")
    if truth is not None and when.member == "spread":
        raise ConfigError("there is no truth of an ensemble's spread", fix="leave --truth out, or give --member mean")
    there = None if truth is None else _analyses(Series(truth, variable), section, rows)
    return canvas.save(build_hovmoller(section, band, there, look), out, look.dpi)
