"""A forecast at one place: a plume of members with quantile bands, or one line; the analyses beside it when given."""

# L lead, E member

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..errors import ConfigError, DataError
from ..grid import Grid, LatLonGrid
from . import canvas, style
from .dates import marks
from .fields import Float, clock
from .sampling import make_sampler
from .series import Series
from .style import FAINT, INK, say
from .views import degrees_text

_BLUE, _TRUTH = "#0b5fa5", INK
_BANDS = ((0.0, 1.0, "#dbe8f4", "all members"), (0.1, 0.9, "#aecde8", "10–90 %"), (0.25, 0.75, "#6fa8d6", "25–75 %"))
_EARTH_RADIUS_KM = 6371.0
_MOST_LINES = 60  # members drawn as lines of their own


@dataclass(frozen=True, eq=False)
class Plume:
    """One variable at one place.

    Args:
        series: the variable. values_LE: shown units. valid: instants, seconds; shape (L,).
        truth: (instants, values) of the analyses at valid times, or None.
    """

    series: Series
    values_LE: Float
    valid: NDArray[np.int64]
    truth: tuple[NDArray[np.int64], Float] | None


def nearest_cell(grid: Grid, latitude: float, longitude: float) -> tuple[int, int, float]:
    """(row, column, distance in km) of the grid point nearest to a place.

    Raises:
        ConfigError: no place on Earth. DataError: it is off the grid, or the grid is a box.
    """
    if not isinstance(grid, LatLonGrid):
        raise DataError("a box has no latitudes and longitudes", fix="draw it with plot map or plot hovmoller")
    if not (abs(latitude) <= 90 and -360 <= longitude <= 360):
        raise ConfigError(f"no place {latitude:g},{longitude:g}", where="--place", fix="give latitude and longitude in degrees: --place 52.5,13.4")
    if not np.isfinite(make_sampler(grid, np.array([longitude]), np.array([latitude]), "cells")(np.zeros(grid.shape))[0]):
        raise DataError(f"the place {latitude:g},{longitude:g} is off the grid", where=grid.describe(), fix="give a place within it")
    rows, columns = np.meshgrid(np.deg2rad(grid.latitude), np.deg2rad(grid.longitude), indexing="ij")
    here, there = np.deg2rad(latitude), np.deg2rad(longitude)
    half = np.sin((rows - here) / 2) ** 2 + np.cos(rows) * np.cos(here) * np.sin((columns - there) / 2) ** 2
    row, column = np.unravel_index(int(half.argmin()), grid.shape)
    return int(row), int(column), float(2 * _EARTH_RADIUS_KM * np.arcsin(np.sqrt(min(float(half.min()), 1.0))))


def read_plume(forecast: xr.Dataset, truth: xr.Dataset | None, name: str, init: str | None, place: tuple[float, float]) -> Plume:
    """The values at the grid point nearest to `place` (latitude, longitude). Raises DataError, ConfigError."""
    series = Series(forecast, name)
    if series.leads is None:
        raise DataError("the forecast has no lead times: it is an analysis", where=series.short, fix="give a forecast file")
    start = series.instant(init)
    row, column, _ = nearest_cell(series.grid, *place)
    leads = np.sort(series.leads)
    values_LE = np.stack([series.point(start, int(lead), row, column) for lead in leads])
    if not np.isfinite(values_LE).any():
        raise DataError(f"every value of '{series.short}' is missing at this place", fix="give another place or variable")
    found = None
    if truth is not None:
        analyses = Series(truth, name)
        if not analyses.grid.matches(series.grid) or analyses.units != series.units or analyses.calendar != series.calendar:
            raise DataError("forecast and truth differ in grid, units or calendar", where=series.short, fix="give a truth on the forecast's grid")
        if analyses.is_forecast:
            raise DataError("the truth has lead times: it is a forecast", where=series.short, fix="give an analysis")
        instants = np.array([t for t in (start + leads).tolist() if analyses.has(t)], dtype=np.int64)
        if len(instants):
            found = instants, np.array([analyses.point(int(t), None, row, column)[0] for t in instants])
    return Plume(series, values_LE, start + leads, found)


def _draw(axes: Axes, plume: Plume) -> None:
    hours, values_LE = plume.valid, plume.values_LE
    if values_LE.shape[1] > 1:
        for low, high, colour, label in _BANDS:
            edges = np.quantile(values_LE, [low, high], axis=1)
            axes.fill_between(hours, edges[0], edges[1], color=colour, linewidth=0, label=label, zorder=1)
        if values_LE.shape[1] <= _MOST_LINES:
            axes.plot(hours, values_LE, color="#2f6da3", linewidth=0.45, alpha=0.55, zorder=2)
        axes.plot(hours, np.median(values_LE, axis=1), color=_BLUE, linewidth=2.0, label="median", zorder=3)
    else:
        axes.plot(hours, values_LE[:, 0], color=_BLUE, linewidth=2.0, marker="o" if len(hours) <= 24 else None, markersize=3.2, label="forecast",
                  zorder=3, clip_on=False)
    if plume.truth is not None:
        axes.plot(*plume.truth, color=_TRUTH, linewidth=1.2, linestyle="--", marker="s" if len(hours) <= 60 else None, markersize=2.6,
                  label="truth (analysis)", zorder=4, clip_on=False)


def build_meteogram(plumes: Sequence[Plume], place: tuple[float, float], dpi: float = 150) -> Figure:
    """The page as a figure, 10 inches wide, a panel a variable."""
    width, left, right, top, bottom, tall, gap = 10.0, 0.85, 0.35, 1.55, 0.62, 1.6, 0.5
    height = top + len(plumes) * tall + (len(plumes) - 1) * gap + bottom
    figure = style.new_figure(width, height, dpi)
    series = plumes[0].series
    row, column, away = nearest_cell(series.grid, *place)
    assert isinstance(series.grid, LatLonGrid)
    calendar, valid = series.calendar, plumes[0].valid
    ticks = marks(valid, calendar, 12)
    for index, plume in enumerate(plumes):
        low = height - top - (index + 1) * tall - index * gap
        axes = figure.add_axes((left / width, low / height, (width - left - right) / width, tall / height))
        _draw(axes, plume)
        style.ruled(axes)
        axes.set_xlim(valid[0], valid[-1] if len(valid) > 1 else valid[0] + 1)
        axes.set_xticks([t for t, _ in ticks], [words for _, words in ticks])
        axes.margins(y=0.08)
        style.name_axes(axes, "valid time (UTC)" if index == len(plumes) - 1 else "", plume.series.units.text)
        say(axes, 0, 1.04, style.fit(plume.series.label, 7, 9.5), size=9.5, weight="bold", ha="left", va="bottom", transform=axes.transAxes)
        if plume.series.units.text == "°C" and axes.get_ylim()[0] < 0 < axes.get_ylim()[1]:
            axes.axhline(0, color=FAINT, linewidth=0.9, zorder=0.9)
    spot = f"{_dms(place[0], False)} {_dms(place[1], True)}"
    cell = f"{_dms(float(series.grid.latitude[row]), False)} {_dms(float(series.grid.longitude[column]), True)}"
    leads = f"Init {clock(int(valid[0] - np.sort(series.leads)[0]), calendar)}" if series.leads is not None else ""
    members = f"    {series.num_members} members" if series.num_members > 1 else ""
    said = series.source or "Source not given by the file"
    canvas.heading(figure, f"Forecast for {spot}", f"{leads}{members}    Grid point {cell}, {away:.0f} km away",
                   f"{'Simulated, not observed.  ' if series.simulated else ''}{said}")
    canvas.legend(figure, [line for axes in figure.axes for line in zip(*axes.get_legend_handles_labels(), strict=True)], top - 0.42)
    return figure


def _dms(degrees: float, east: bool) -> str:
    return degrees_text(round(degrees, 2), east)


def plot_meteogram(forecast: xr.Dataset, variables: Sequence[str], place: tuple[float, float], out: Path, *, truth: xr.Dataset | None = None,
                   init: str | None = None, dpi: float = 150) -> Path:
    """Draw a forecast at the grid point nearest to a place, a panel a variable.

    Args:
        forecast: dims [number], time, prediction_timedelta, [level], latitude, longitude; canonical names and units, any order.
        variables: names a person may type. place: (latitude, longitude) in degrees.
        out: .png, .pdf, .svg, .jpg or .webp, in a folder that exists.
        truth: analyses on the same grid, drawn where they are there. init: `first`, `last` or an ISO date; a single one picks itself.

    Returns:
        `out`.

    Raises:
        DataError: no such variable, level or time, a place off the grid, another grid of the truth. ConfigError, ResourceError.
    """
    out = canvas.check_output(out)
    plumes = [read_plume(forecast, truth, name, init, place) for name in variables]
    return canvas.save(build_meteogram(plumes, place, dpi), out, dpi)
