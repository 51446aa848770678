"""Maps of one instant: one field (`plot_map`), or forecast, truth and error on one page (`plot_compare`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.path import Path as MplPath
from numpy.typing import NDArray
from PIL import Image

from .. import vocabulary
from ..errors import ConfigError, DataError
from ..grid import LatLonGrid
from . import canvas, style
from .boxes import BoxView
from .canvas import MapPanel
from .choices import Look, When
from .fields import Field, lowered, scores_of
from .film import Film
from .outline import raster
from .sampling import Method, make_sampler
from .series import Series, levels_of, require_values, truth_for
from .style import MUTED, Scale, say
from .views import View, view_for

_NOW, _PLAIN = When(), Look()
_SEEN_COLUMNS = 600
_WIND, _WIND_10M = (components for _, *components in vocabulary.WIND_SPEEDS)


def method_of(text: str) -> Method:
    """`smooth` or `cells`. Raises ConfigError for anything else."""
    if text == "smooth":
        return "smooth"
    if text == "cells":
        return "cells"
    raise ConfigError(f"no style '{text}'", fix="use smooth (filled contours) or cells (one colour a grid cell)")


def source_text(field: Field) -> str:
    """`Simulated, not observed. <source>`: what a reader must know of where the numbers come from."""
    said = field.source or "Source not given by the file"
    return f"Simulated, not observed.  {said}" if field.simulated else said


def title_of(field: Field) -> str:
    """`Geopotential height at 500 hPa (m)`."""
    return f"{field.label} ({field.units.text})" if field.units.text else field.label


def beside(member: str | None) -> str | None:
    """The member whose lines and wind are drawn over a map: the same, over a spread the mean."""
    return None if member == "spread" else member


def _wind_of(ds: xr.Dataset, field: Field, member: str | None = None) -> tuple[Field, Field]:
    """Wind at the field's level; for a field without one at 10 m, or, where there is none, the file's only wind, level named or not."""
    level, names = field.level, list(_WIND_10M)
    if level is None and _WIND_10M[0] not in ds.data_vars and _WIND[0] in ds.data_vars:
        levels = np.atleast_1d(ds[_WIND[0]].coords.get("level", []))
        names = names if len(levels) else list(_WIND)
        level = int(levels[0]) if len(levels) == 1 else None
    if level is not None:
        names = [f"{name}@{level}" for name in _WIND]
    elif names[0] not in ds.data_vars:
        heights = levels_of(ds[_WIND[0]]) if _WIND[0] in ds.data_vars else []
        there = f"at {', '.join(map(str, heights))} hPa alone" if heights else "nowhere"
        raise DataError(f"over {field.label} --wind draws wind at 10 m; this file has wind {there}",
                        fix="leave --wind out, or draw a variable at a level that has wind" if heights else "leave --wind out")
    pair = [_same_time(Series(ds, name, beside(member)), field) for name in names]
    return pair[0], pair[1]


def _height_of(wind: Field) -> str:
    if wind.level is not None:
        return f"at {wind.level} hPa"
    return "at 10 m" if wind.variable == _WIND_10M[0] else "(level not given by the file)"


def _same_time(series: Series, field: Field) -> Field:
    start = field.init if field.init is not None else field.valid
    found = series.at(start if series.axis is not None else None, field.lead)
    require_values([found])
    return found


def seen(fields: Sequence[Field], view: View | BoxView, method: Method) -> list[NDArray[np.float64]]:
    """Values that a view shows of fields on one grid, for colours that fit them; NaN outside its outline. Raises DataError where it shows none."""
    if view.is_global:
        return [field.values for field in fields]
    sampler = make_sampler(fields[0].grid, *view.pixels(_SEEN_COLUMNS), method)
    x, y = raster(view.extent, _SEEN_COLUMNS, view.aspect)
    inside = MplPath(view.outline).contains_points(np.column_stack([x.ravel(), y.ravel()])).reshape(x.shape)
    shown = [np.where(inside, sampler(field.values, field.is_vector), np.nan).astype(np.float64) for field in fields]
    if not any(np.isfinite(part).any() for part in shown) and any(np.isfinite(field.values).any() for field in fields):
        raise DataError(f"the map shows no value of {fields[0].label}: the data are on {fields[0].grid.describe()}", where="--region",
                        fix="give a region that the data cover")
    return shown


def within(field: Field, view: View | BoxView) -> Field:
    """The field without the cells whose centres a view does not show, for scores of what is seen."""
    if view.is_global or not isinstance(field.grid, LatLonGrid):
        return field
    x, y = view.project(*np.meshgrid(field.grid.longitude, field.grid.latitude))
    points, edge = np.column_stack([x.ravel(), y.ravel()]), 1e-3 * (view.extent[1] - view.extent[0])
    outline = MplPath(view.outline)
    inside = outline.contains_points(points, radius=edge) | outline.contains_points(points, radius=-edge)  # those on the edge, either way it runs
    return replace(field, values=np.where(inside.reshape(field.grid.shape), field.values, np.nan))


def build_map(field: Field, view: View | BoxView, look: Look = _PLAIN, *, overlay: Field | None = None, wind: tuple[Field, Field] | None = None,
              wind_form: str = "arrows") -> Figure:
    """The page of one map as a figure, 10 inches wide."""
    method = method_of(look.style)
    page, room = 10.0, 0.75
    wide = min(page - 2 * room, 6.6 / view.aspect)
    tall = wide * view.aspect
    height = 1.12 + tall + 1.28
    figure = style.new_figure(page, height, look.dpi)
    (visible,) = seen([field], view, method)
    scale = style.magnitude(field.palette, [visible])
    box = ((page - wide) / 2 / page, 1.22 / height, wide / page, tall / height)
    panel = MapPanel(figure, box, view, field.grid, scale, method=method,
                     detail="full" if overlay is None and wind is None else "plain")
    panel.show(field.values, field.is_vector)
    title = title_of(field)
    if overlay is not None:
        panel.overlay(overlay.values, overlay.variable, overlay.grid)
        title += f";  lines: {_lines_text(field, overlay)} ({overlay.units.text})"
    if wind is not None:
        panel.wind(wind[0].values, wind[1].values, wind[0].grid, wind_form)
        title += f";  wind {wind_form} {_height_of(wind[0])}"
    canvas.heading(figure, title, field.times_text(), source_text(field))
    bar = min(0.62, wide / page)
    canvas.colour_bar(figure, ((1 - bar) / 2, 0.72 / height, bar, 0.15 / height), panel, field.label, field.units.text)
    there = visible[np.isfinite(visible)]
    span = "No values"
    if len(there):
        span = f"Least {there.min():.4g}, greatest {there.max():.4g} {field.units.text}".rstrip().replace("-", "−")
    barbs = "Barbs: half 2.5, full 5, flag 25 m/s.  " if wind is not None and wind_form == "barbs" else ""
    canvas.footer(figure, f"{span}.  {barbs}{canvas.spacing_text(field.grid, method)}.  {canvas.credit(field.grid)}")
    return figure


def _lines_text(field: Field, overlay: Field) -> str:
    """What the lines show, without what the title says already."""
    if field.is_spread and overlay.short == field.short:
        return "ensemble mean"
    shared = field.label.partition(", ")[2]
    return lowered(overlay.label.removesuffix(f", {shared}") if shared else overlay.label)


def plot_map(ds: xr.Dataset, variable: str, out: Path, *, when: When = _NOW, look: Look = _PLAIN, wind: str | None = None,
             contours: str | None = None) -> Path:
    """Draw one variable at one instant.

    Args:
        ds: a forecast (dims [number], time, prediction_timedelta, [level], latitude, longitude) or an analysis (time, ...), canonical
            names and units, any order of dims, latitude and longitude.
        variable: any name a person may type: `z500`, `t2m`, `wind_speed@850`.
        out: .png, .pdf, .svg, .jpg or .webp, in a folder that exists.
        when: the instant and, of an ensemble, mean, spread or member.
        look: projection, region, style; the page is 10 inches wide.
        wind: `arrows` or `barbs`: wind at the same level, or at 10 m for a variable without one (on the file's only level where it has
            no wind at 10 m).
        contours: another variable, drawn as labelled lines; over a spread its mean.

    Returns:
        `out`.

    Raises:
        DataError: no such variable, level or time (those there are named). ConfigError: a choice that makes no sense.
        ResourceError: `out` cannot be written.
    """
    out = canvas.check_output(out)
    field = Series(ds, variable, when.member).find(init=when.init, lead=when.lead, time=when.time)
    view = view_for(field.grid, look.projection, look.region, look.center)
    if wind not in (None, "arrows", "barbs"):
        raise ConfigError(f"no wind style '{wind}'", fix="use arrows or barbs")
    overlay = _same_time(Series(ds, contours, beside(when.member)), field) if contours else None
    figure = build_map(field, view, look, overlay=overlay, wind=_wind_of(ds, field, when.member) if wind else None, wind_form=wind or "arrows")
    return canvas.save(figure, out, look.dpi)


def _labelled_around(view: View | BoxView) -> bool:
    """Whether coordinates are written above the map too."""
    return any(side == "bottom" and not inside for *_, side, inside in view.labels)


class ComparePage:
    """Forecast, truth and error on one page, built once and shown again for other leads; scores of the part that is seen.

    Args:
        view: of the three maps.
        first: any of the fields to come: grid, words and units.
        scale: colours of forecast and truth. error_scale: of their difference.
        method: `smooth` or `cells`.
        width: inches; the height follows. dpi: dots an inch.
        columns: picture columns a map is sampled at; None for the panel's pixels.
    """

    def __init__(self, view: View | BoxView, first: Field, scale: Scale, error_scale: Scale, *, method: Method = "smooth", width: float = 12.0,
                 dpi: float = 150, columns: int | None = None) -> None:
        self._view = view
        gap, edge, lift = (0.9, 0.5, 0.22) if _labelled_around(view) else (0.34, 0.5, 0.0)
        wide = min((width - 2 * edge - gap) / 2, 5.4 / view.aspect)
        tall = wide * view.aspect
        height = tall * 2 + 3.62 + 2 * lift
        self.figure = style.new_figure(width, height, dpi)
        left = (width - 2 * wide - gap) / 2
        upper, lower = height - 1.32 - lift - tall, 1.08
        self._boxes = [(left, upper), (left + wide + gap, upper), (left, lower)]
        self._size = (width, height, wide, tall)
        self.panels = [MapPanel(self.figure, (x / width, y / height, wide / width, tall / height), view, first.grid, s, method=method, width=columns)
                       for (x, y), s in zip(self._boxes, (scale, scale, error_scale), strict=True)]
        self._heads = [say(self.figure, x / width, (y + tall + 0.07 + lift) / height, "", size=10.5, weight="bold", ha="left", va="bottom")
                       for x, y in self._boxes]
        self._absent = say(self.figure, (self._boxes[1][0] + wide / 2) / width, (upper + tall / 2) / height, "no analysis at this time",
                           size=10, color=MUTED, ha="center", va="center", zorder=10)
        self.texts = canvas.heading(self.figure, title_of(first), "", "")
        self._numbers = [say(self.figure, (left + wide + gap + 0.42 + dx) / width, (lower + tall - 0.12) / height, "", size=10, ha="left", va="top",
                             linespacing=1.75) for dx in (0.0, 2.5)]
        self._bars_done = False
        self._film: Film | None = None
        canvas.footer(self.figure, f"{canvas.spacing_text(first.grid, method)}; scores with exact cell areas.  {canvas.credit(first.grid)}")

    def show(self, forecast: Field, truth: Field | None, persistence: Field | None = None) -> None:
        """Draw one lead. `persistence`: the truth at init time, for its score; all in the same units and on the same grid."""
        units = forecast.units.difference
        error = None if truth is None else forecast.minus(truth)
        for panel, field in zip(self.panels, (forecast, truth, error), strict=True):
            panel.show(np.full(forecast.grid.shape, np.nan) if field is None else field.values, forecast.is_vector)
        self._absent.set_visible(truth is None)
        for text, words in zip(self.texts, (title_of(forecast), forecast.times_text(), _sources(forecast, truth)), strict=True):
            text.set_text(style.drawable(style.fit(words, self._size[0] - 0.6, text.get_fontsize())))
        heads, names, numbers = ["Forecast", "Truth (analysis)", "Forecast − truth"], "", ""
        if truth is not None:
            forecast, truth = within(forecast, self._view), within(truth, self._view)
            rmse, bias = scores_of(forecast, truth)
            heads[2] += f":  RMSE {_number(rmse, '.4g', units)},  bias {_number(bias, '+.3g', units)}"
            rows = _score_rows(forecast, truth, persistence, rmse, bias)
            names, numbers = ("\n".join(column) for column in zip(*rows, strict=True))
        for text, words in zip((*self._heads, *self._numbers), (*heads, names, numbers), strict=True):
            text.set_text(style.drawable(words))
        if not self._bars_done:
            self._bars(forecast)

    def moving(self) -> list[Any]:
        """The artists that `show` changes, in drawing order."""
        return [a for panel in self.panels for a in panel.moving()] + [self._absent, *self.texts, *self._heads, *self._numbers]

    def picture(self) -> Image.Image:
        """What is shown now, as an RGB image."""
        self._film = self._film or Film(self.figure, self.moving())
        return self._film.picture(self.moving())

    def _bars(self, field: Field) -> None:
        width, height, wide, _ = self._size
        (left, upper), (right, _), (_, lower) = self._boxes
        long = 0.6 * (right + wide - left)
        middle = (left + right + wide) / 2
        upper_bar = ((middle - long / 2) / width, (upper - 0.42) / height, long / width, 0.13 / height)
        lower_bar = ((left + 0.1 * wide) / width, (lower - 0.42) / height, 0.8 * wide / width, 0.13 / height)
        canvas.colour_bar(self.figure, upper_bar, self.panels[0], field.label, field.units.text)
        canvas.colour_bar(self.figure, lower_bar, self.panels[2], f"Error of {lowered(field.label)}", field.units.difference)
        self._bars_done = True


def _sources(forecast: Field, truth: Field | None) -> str:
    if truth is None or not truth.source or truth.source == forecast.source:
        return source_text(forecast)
    simulated = "Simulated, not observed.  " if forecast.simulated or truth.simulated else ""
    return f"{simulated}Forecast: {forecast.source or 'source not given'}.  Truth: {truth.source}"


def _score_rows(forecast: Field, truth: Field, persistence: Field | None, rmse: float, bias: float) -> list[tuple[str, str]]:
    units = forecast.units.difference
    error = forecast.values - truth.values
    rows = [("This map", ""), ("RMSE", _number(rmse, ".4g", units)), ("Bias", _number(bias, "+.3g", units))]
    if np.isfinite(error).any():
        rows.append(("Greatest error", _number(error.flat[np.nanargmax(np.abs(error))], "+.4g", units)))
    if persistence is not None:
        reference = scores_of(replace(persistence, units=forecast.units), truth)[0]
        rows.append(("RMSE of persistence", _number(reference, ".4g", units)))
        rows.append(("Skill, 1 − RMSE / persistence", _number(1 - rmse / reference, "+.2f", "") if reference > 0 else "undefined"))
    return rows


def _number(value: float, form: str, units: str) -> str:
    """With a minus sign as printed, and with its units where it has any."""
    return f"{value:{form}} {units}".replace("-", "−").rstrip()


def persistence_of(forecast: Field, truth: Series) -> Field | None:
    """The truth at the forecast's init time, when it is there."""
    if forecast.init is None or not truth.has(forecast.init):
        return None
    return truth.at(forecast.init)


def build_compare(forecast: Field, truth: Field, view: View | BoxView, look: Look = _PLAIN, *, persistence: Field | None = None) -> ComparePage:
    """The page of forecast, truth and error; forecast and truth share their levels, the error's are symmetric about zero."""
    method = method_of(look.style)
    scale = style.magnitude(forecast.palette, seen([forecast, truth], view, method))
    page = ComparePage(view, forecast, scale, style.symmetric(seen([forecast.minus(truth)], view, method)), method=method, dpi=look.dpi)
    page.show(forecast, truth, persistence)
    return page


def plot_compare(forecast: xr.Dataset, truth: xr.Dataset, variable: str, out: Path, *, when: When = _NOW, look: Look = _PLAIN) -> Path:
    """Draw forecast, truth and error on one page, with the RMSE and bias of this map and the RMSE of persistence where the truth has it.

    Args:
        forecast, truth: as for `plot_map`; the truth is taken at exactly the valid time, on the same grid.
        variable, out, when, look: as for `plot_map`; no spread, of which there is no truth.

    Returns:
        `out`.

    Raises:
        DataError: no such variable, level or time in either, or other grids, calendars or units. ConfigError, ResourceError.
    """
    out = canvas.check_output(out)
    if when.member == "spread":
        raise ConfigError("there is no truth of an ensemble's spread", fix="give --member mean or a member's number, or draw it with plot map")
    series, reference = Series(forecast, variable, when.member), Series(truth, variable)
    if not series.is_forecast:
        raise DataError("the forecast has no lead times: it is an analysis", where=series.short, fix="give a forecast file first, then the truth")
    field = series.find(init=when.init, lead=when.lead, time=when.time)
    there = truth_for(field, reference)
    require_values([there])
    page = build_compare(field, there, view_for(field.grid, look.projection, look.region, look.center), look,
                         persistence=persistence_of(field, reference))
    return canvas.save(page.figure, out, look.dpi)
