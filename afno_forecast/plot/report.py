"""One HTML file that opens from disk: maps with a slider over lead times, curves, score cards, spectra, tables, model card, credits."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from PIL import Image

from .. import times
from ..errors import DataError
from . import canvas, page, style
from .animate import MotionPage, truths_for
from .curves import build_scores, chosen_region, forecasts_text, metric_name, metrics_of, read_curves
from .fields import Field, clean, describe_source, lead_text
from .film import Film, in_few_colours
from .maps import ComparePage, persistence_of
from .scorecard import build_card, read_card
from .series import Series, available, require_values
from .spectra import build_spectra, read_spectra, spectral_names
from .views import view_for

_MAX_VARIABLES, _MAX_LEADS = 4, 9
_PREFERRED = ("z500", "t850", "t2m", "u250", "msl", "q700")
_WIDTH, _DPI, _COLUMNS = 11.0, 100.0, 320


@dataclass(frozen=True, eq=False)
class _Run:
    """One variable of one forecast: its maps, the analyses beside them (None where there is none), and the start."""

    fields: list[Field]
    truths: list[Field | None] | None
    persistence: Field | None


def _choose(forecast: xr.Dataset, variables: Sequence[str] | None) -> list[str]:
    if variables is not None:
        return list(variables)
    have = [name for name in available(forecast) if _has_values(forecast, name)]
    first = [name for name in _PREFERRED if name in have]
    return (first + [name for name in have if name not in first])[:_MAX_VARIABLES]


def _has_values(forecast: xr.Dataset, name: str) -> bool:
    """Whether the last map has values: files of others share a level axis among variables that lack some of the levels."""
    series = Series(forecast, name)
    if series.leads is None:
        return True  # told by who reads it
    field = series.at(series.instant("last"), int(series.leads.max()))
    return bool(np.isfinite(field.values).any())


def _leads(leads: np.ndarray[Any, np.dtype[np.int64]]) -> list[int]:
    """At most nine leads: all, or whole days spread evenly over them, the first and the last among them."""
    ordered = [int(v) for v in np.sort(leads)]
    if len(ordered) <= _MAX_LEADS:
        return ordered
    wanted = np.linspace(0, ordered[-1], _MAX_LEADS)
    cost = np.abs(np.asarray(ordered)[None, :] - wanted[1:-1, None]) + np.where(np.asarray(ordered) % 86400 == 0, 0, 10800)
    return sorted({ordered[0], *(ordered[int(i)] for i in cost.argmin(axis=1)), ordered[-1]})


def _read(forecast: xr.Dataset, truth: xr.Dataset | None, name: str, start: int, member: str | None = None) -> _Run:
    series = Series(forecast, name, member)
    if series.leads is None:
        raise DataError("the forecast has no lead times: it is an analysis", where=series.short, fix="give a forecast file")
    fields = [series.at(start, lead) for lead in _leads(series.leads)]
    require_values(fields)
    if truth is None:
        return _Run(fields, None, None)
    reference = Series(truth, name)
    return _Run(fields, truths_for(fields, reference), persistence_of(fields[0], reference))


def _png(image: Image.Image) -> bytes:
    """The image in at most 128 colours, as PNG."""
    buffer = io.BytesIO()
    in_few_colours([image], 128)[0].save(buffer, format="PNG", compress_level=7)
    return buffer.getvalue()


def _pages(run: _Run) -> list[Image.Image]:
    """A picture a lead, the same colours in all."""
    first = run.fields[0]
    view = view_for(first.grid)
    if run.truths is None:
        motion = MotionPage(view, run.fields, None, dpi=_DPI)
        pictures = []
        for field in run.fields:
            motion.show(field)
            pictures.append(motion.picture())
        return pictures
    pairs = [(f, t) for f, t in zip(run.fields, run.truths, strict=True) if t is not None]
    scale = style.magnitude(first.palette, [f.values for f in run.fields] + [t.values for _, t in pairs])
    compare = ComparePage(view, first, scale, style.symmetric([f.minus(t).values for f, t in pairs]), width=_WIDTH, dpi=_DPI, columns=_COLUMNS)
    pictures = []
    for field, there in zip(run.fields, run.truths, strict=True):
        compare.show(field, there, run.persistence)
        pictures.append(compare.picture())
    return pictures


def _maps(forecast: xr.Dataset, truth: xr.Dataset | None, names: Sequence[str], start: int) -> list[dict[str, Any]]:
    variables = []
    runs = [_read(forecast, truth, name, start) for name in names]
    runs += [_read(forecast, None, name, start, "spread") for name in names if Series(forecast, name).num_members > 1]
    for run in runs:
        frames = []
        for field, picture in zip(run.fields, _pages(run), strict=True):
            words = f"{'Forecast, truth and error' if run.truths else 'Forecast'} of {field.label}. {field.times_text()}"
            frames.append({"key": times.format_duration(field.lead or 0), "lead": lead_text(field.lead or 0), "words": words,
                           "image": page.data_uri(_png(picture))})
        name = run.fields[0].short + "-spread" * run.fields[0].is_spread
        variables.append({"name": name, "label": f"{run.fields[0].label} ({run.fields[0].short})", "frames": frames})
    return variables


def _scored(scores: xr.Dataset, names: Sequence[str]) -> list[str]:
    have = [c.short for c in read_curves(scores)]
    chosen = [n for n in names if n in have]
    return chosen + [n for n in have if n not in chosen]


def _curves(scores: xr.Dataset, names: Sequence[str]) -> str:
    html = ""
    for metric in ("rmse", "acc", "crps", "spread_skill"):
        if metric in metrics_of(scores) and (drawn := _with(scores, metric, names)):
            html += _card_of(build_scores(scores, metric=metric, variables=drawn, dpi=90), f"{metric_name(metric)} against lead time")
    return f'<section aria-labelledby="h-curves"><h2 id="h-curves">Scores against lead time</h2>{html}</section>' if html else ""


def _score_cards(scores: xr.Dataset) -> str:
    """RMSE against each reference there is, all variables and levels."""
    references = dict.fromkeys(name for curve in read_curves(scores) for name in curve.lines if name != "model")
    html = ""
    for reference in references:
        card = read_card(scores, reference=reference)
        html += _card_of(build_card(card, scores, metric="rmse", region=chosen_region(scores, None), dpi=90),
                         f"RMSE against {reference} by variable and lead time")
    return f'<section aria-labelledby="h-cards"><h2 id="h-cards">Score cards</h2>{html}</section>' if html else ""


def _spectra(scores: xr.Dataset, names: Sequence[str]) -> str:
    """Energy spectra of the first two variables that have them."""
    have = spectral_names(scores)
    chosen = [n for n in names if n in have][:2]
    html = "".join(_card_of(build_spectra(read_spectra(scores, name), scores, 90), f"Zonal energy spectrum of {name}") for name in chosen)
    return f'<section aria-labelledby="h-spectra"><h2 id="h-spectra">Energy spectra</h2>{html}</section>' if html else ""


def _card_of(figure: Figure, alt: str) -> str:
    """A figure as a picture in a frame."""
    return f'<div class="card"><img src="{page.data_uri(_png(Film(figure, ()).picture(())))}" alt="{page.escape(alt)}"></div>'


def _with(scores: xr.Dataset, metric: str, names: Sequence[str]) -> list[str]:
    try:
        have = [c.short for c in read_curves(scores, metric=metric)]
    except DataError:  # nothing is scored with it
        return []
    return [n for n in names if n in have][:9]


def _digits(values: np.ndarray[Any, np.dtype[np.float64]]) -> int:
    """Decimals that give the greatest value four digits."""
    top = float(np.nanmax(np.abs(values)))
    return int(np.clip(3 - np.floor(np.log10(top)), 0, 8)) if top > 0 else 2


def _tables(scores: xr.Dataset, names: Sequence[str]) -> str:
    """RMSE of model, persistence and climatology by lead, and the skill against persistence."""
    html = ""
    for curve in read_curves(scores, variables=names):
        model, persistence, climatology = (curve.lines.get(k) for k in ("model", "persistence", "climatology"))
        rows: list[tuple[str, str, str, str, float | None]] = []
        digits = _digits(np.concatenate(list(curve.lines.values())))
        for i, lead in enumerate(curve.leads):
            reference = float("nan") if persistence is None else float(persistence[i])
            skill = 1 - float(curve.lines["model"][i]) / reference if reference > 0 else float("nan")
            numbers = ["–" if v is None or not np.isfinite(v[i]) else f"{v[i]:.{digits}f}" for v in (model, persistence, climatology)]
            rows.append((times.format_duration(int(lead)), numbers[0], numbers[1], numbers[2], skill if np.isfinite(skill) else None))
        html += page.score_table(f"{curve.label}, {curve.short}", curve.units, rows)
    region = page.escape(chosen_region(scores, None))
    return (f'<section aria-labelledby="h-tables"><h2 id="h-tables">Tables: RMSE, {region}</h2><details class="card">'
            '<summary class="muted">Show. Skill is 1 − model / persistence; above zero: better than repeating the initial state.</summary>'
            f'<div class="tables">{html}</div></details></section>')


def write_report(out: Path, *, forecast: xr.Dataset, truth: xr.Dataset | None = None, scores: xr.Dataset | None = None,
                 model_card: Mapping[str, Any] | None = None, variables: Sequence[str] | None = None, init: str | None = None) -> Path:
    """Write a self-contained report of one forecast and, where given, of scores.

    Args:
        out: .html, in a folder that exists.
        forecast: dims time, prediction_timedelta, [level], latitude, longitude; canonical names and units, any order.
        truth: an analysis on the same grid; where it lacks a time, the page says so.
        scores: as `plot_scores`.
        model_card: names and values, shown as they are (nested mappings and lists allowed).
        variables: names a person may type; None takes up to four of those there are.
        init: `first`, `last` or an ISO date; None takes the first. Up to nine leads are drawn, the page says which init.

    Returns:
        `out`.

    Raises:
        DataError: no such variable, level or time; grids or units differ. ConfigError, ResourceError: `out` cannot be written.
    """
    out = canvas.check_output(out, (".html", ".htm"))
    names = _choose(forecast, variables)
    if not names:
        raise DataError("there is nothing to draw in the forecast", fix="give a file with latitude and longitude")
    first = Series(forecast, names[0])
    start = first.instant(init or "first")
    sections = [page.picker(_maps(forecast, truth, names, start))]
    if scores is not None:
        simulated = first.simulated or (truth is not None and describe_source(truth.attrs)[1])
        scores = scores.assign_attrs(institution="simulated, not observed") if simulated else scores
        scored = _scored(scores, [Series(forecast, n).short for n in names])
        sections += [_curves(scores, scored), _score_cards(scores), _spectra(scores, scored), _tables(scores, scored)]
    if model_card:
        card = page.facts(model_card)
        sections.append(f'<section aria-labelledby="h-card"><h2 id="h-card">Model card</h2><div class="card">{card}</div></section>')
    content = page.whole("Forecast report", _head(first, forecast, truth, scores, start), sections, _foot(forecast, truth))
    return canvas.write_bytes(out, content.encode("utf-8"))


def _head(series: Series, forecast: xr.Dataset, truth: xr.Dataset | None, scores: xr.Dataset | None, start: int) -> str:
    simulated = series.simulated or (truth is not None and describe_source(truth.attrs)[1])
    note = '<p><span class="note">Simulated, not observed</span></p>' if simulated else ""
    when = f"Maps: forecast from {times.format_instant(start, series.calendar).replace('T', ' ')} UTC"
    count = 1 if series.axis is None else len(series.axis)
    when += f", one of {count} in the file" if count > 1 else ""
    inits = "" if scores is None else forecasts_text(scores)
    when += f". Scores: {inits}" if inits else ""
    lines = [("Forecast", forecast)] + ([("Truth", truth)] if truth is not None else [])
    told = [(name, describe_source(ds.attrs)[0] or "source not given by the file") for name, ds in lines]
    said = "".join(f'<p class="muted">{name}: {page.escape(words)}</p>' for name, words in told)
    return f"{note}<p>{page.escape(when)}. Grid: {page.escape(series.grid.describe())}.</p>{said}"


def _foot(forecast: xr.Dataset, truth: xr.Dataset | None) -> str:
    rows: dict[str, str] = {"Coastlines": "Made with Natural Earth, public domain"} if "latitude" in forecast.dims else {}
    for name, ds in (("Forecast", forecast), ("Truth", truth)):
        for key in ("institution", "source", "license", "history", "references"):
            if ds is not None and ds.attrs.get(key):
                rows[f"{name}: {key}"] = clean(ds.attrs[key], 600)
    return f"<h2>Credits</h2>{page.facts(rows)}"
