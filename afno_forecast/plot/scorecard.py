"""A table of colours: each variable and level by lead time, better or worse than a reference, and where chance may explain it."""

# R row of the card (variable and level), L lead time

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from .. import times
from ..errors import DataError
from . import canvas, style
from .curves import chosen_region, forecasts_text, metric_name, metrics_of, one_of, read_curves, rivals_of
from .fields import Float, clean, describe_source
from .style import INK, MUTED, say

_RELATIVE = np.array([1.0, 2.0, 5.0, 10.0, 20.0, 50.0])  # per cent
_ABSOLUTE = np.array([0.01, 0.02, 0.05, 0.1, 0.2, 0.5])  # of scores without units
_MOST_LEADS = 24
_LEVEL = 0.05  # of the test of significance


@dataclass(frozen=True, eq=False)
class Card:
    """What is drawn.

    Args:
        rows: (label, level in words, short name). leads: seconds; shape (L,).
        change_RL: per cent of the reference for scores with units, differences for those without; NaN where there is none.
        p_RL: that the difference is chance, by the score file's test; NaN where it was not tested, None without a test.
        relative: whether the changes are per cent. higher_is_better: of the metric. reference: its name.
    """

    rows: list[tuple[str, str, str]]
    leads: NDArray[np.int64]
    change_RL: Float
    p_RL: Float | None
    relative: bool
    higher_is_better: bool
    reference: str


def read_card(scores: xr.Dataset, *, metric: str = "rmse", reference: str | None = None, against: xr.Dataset | None = None,
              region: str | None = None) -> Card:
    """The comparison of a score file with one of its rivals, or with the same metric of another score file.

    Args:
        scores: as `curves.read_curves`.
        metric: of which more, less or a certain value is better.
        reference: a rival in the file; None takes the first other forecast named, else persistence.
        against: another score file, in place of a rival.
        region: None takes the globe, or the first region.

    Raises:
        DataError: no such metric, reference or region, a metric of which neither end is better, or nothing in common.
    """
    region = chosen_region(scores, region)
    ours = read_curves(scores, metric=metric, region=region)
    better = metrics_of(scores)[metric].better
    if not better:
        raise DataError(f"neither more nor less of the score '{clean(metric, 40)}' is better: it makes no score card", where="--metric",
                        fix=f"draw it against lead time with: afno-forecast plot scores SCORES.nc --metric {clean(metric, 40)} --out scores.png")
    theirs: dict[str, tuple[NDArray[np.int64], Float]]
    if against is None:
        have = [r for r in rivals_of(scores) if any(r in c.lines for c in ours)]
        if not have:
            raise DataError(f"no reference has a score '{clean(metric, 40)}'", fix="choose another metric, or give a second file: --against")
        others = [r for r in have if r not in ("persistence", "climatology")]
        reference = one_of("reference", reference, have) if reference else (others or have)[0]
        theirs = {c.short: (c.leads, c.lines[reference]) for c in ours if reference in c.lines}
    else:
        reference = clean(against.attrs.get("model") or "the other forecast", 60)
        theirs = {c.short: (c.leads, c.lines["model"]) for c in read_curves(against, metric=metric, region=region)}
    curves = [c for c in ours if c.short in theirs]
    common = sorted(set.intersection(*(set(c.leads.tolist()) & set(theirs[c.short][0].tolist()) for c in curves))) if curves else []
    if not common:
        raise DataError("the scores have no variable and lead in common with the reference", fix="give score files of the same variables and leads")
    leads = times.thinned(common, _MOST_LEADS)
    relative = metrics_of(scores)[metric].has_units
    change, p = [], []
    tests = None if against is not None else _significant(scores, metric, reference, region)
    for curve in curves:
        model = curve.lines["model"][[curve.leads.tolist().index(lead) for lead in leads]]
        steps, values = theirs[curve.short]
        change.append(_change(model, values[[steps.tolist().index(lead) for lead in leads]], better, relative))
        if tests is not None:
            tested = tests.get(curve.short, np.full(len(curve.leads), np.nan))
            p.append(tested[[curve.leads.tolist().index(lead) for lead in leads]])
    rows = [(c.label[:1].upper() + c.label[1:].partition(" at ")[0], c.label.partition(" at ")[2], c.short) for c in curves]
    return Card(rows, np.array(leads), np.stack(change), np.stack(p) if tests is not None else None, relative, better == "higher", reference)


def _change(model: Float, reference: Float, better: str, relative: bool) -> Float:
    """Change of a score; of one that is best at zero or one, of its distance from there."""
    best = {"zero": 0.0, "one": 1.0}.get(better)
    if best is not None:
        model, reference = np.abs(model - best), np.abs(reference - best)
    with np.errstate(invalid="ignore", divide="ignore"):
        change = 100 * (model / reference - 1) if relative else model - reference
    return np.where(np.isfinite(change), change, np.nan)


def _significant(scores: xr.Dataset, metric: str, reference: str, region: str) -> dict[str, Float] | None:
    """The p values of the file's own test by variable, without those that were not tested; None where it has none."""
    name = f"{metric}_vs_{reference}_p"
    if name not in metrics_of(scores):
        return None
    found = (v.sel(metric=name, region=region) for v in scores.data_vars.values() if {"metric", "region"} <= set(v.dims))
    return {c.short: c.lines["model"] for c in read_curves(scores, metric=name, region=region)} if any(v.notnull().any() for v in found) else {}


def build_card(card: Card, scores: xr.Dataset, *, metric: str, region: str, dpi: float = 150) -> Figure:
    """The page as a figure; its size follows the table."""
    num_rows, num_leads = card.change_RL.shape
    cell = float(np.clip(9.0 / num_leads, 0.4, 0.62))
    tall, left, right, top, bottom = 0.26, 2.95, 0.35, 1.45, 1.12
    width = max(left + num_leads * cell + right, 7.4)
    height = top + num_rows * tall + bottom
    figure = style.new_figure(width, height, dpi)
    axes = figure.add_axes((left / width, bottom / height, num_leads * cell / width, num_rows * tall / height))
    levels = _RELATIVE if card.relative else _ABSOLUTE
    bounds = np.concatenate([-levels[::-1], levels])
    cmap = canvas.colormap("RdBu" if card.higher_is_better else "RdBu_r")
    norm = BoundaryNorm(bounds, cmap.N, extend="both")
    image = ScalarMappable(norm, cmap)
    _cells(axes, card, image, digits=0 if card.relative else 2)
    _words(axes, card, left / cell / num_leads, 0.35 / cell / num_leads)
    name = metric_name(metric)
    facts = f"Region: {region}    {forecasts_text(scores) or 'number of forecasts not given'}"
    source, simulated = describe_source(scores.attrs)
    canvas.heading(figure, f"{name}: model against {card.reference}", facts, f"{'Simulated, not observed.  ' if simulated else ''}{source}")
    long = min(5.4, width - 1.4)
    bar = Colorbar(figure.add_axes(((width - long) / 2 / width, 0.66 / height, long / width, 0.13 / height)), image, orientation="horizontal",
                   extend="both", extendfrac=0.06, spacing="uniform", ticks=list(bounds))
    label = f"{name}, model relative to {card.reference} (%)" if card.relative else f"{name}, model − {card.reference}"
    canvas.finish_bar(bar, bounds, f"{label}; blue: the model is better, red: worse")
    canvas.footer(figure, f"{_test_words(card)}.")
    return figure


def _test_words(card: Card) -> str:
    """What the hatches and dots say."""
    if card.p_RL is None:
        return "Significance not tested: the score file has no test (evaluate --significance)"
    untested = np.isnan(card.p_RL) & np.isfinite(card.change_RL)
    dotted = "; dotted: not tested, as the score file's notes say" if untested.any() else ""
    return f"Hatched: chance may explain the difference (block bootstrap over init times, 5 %){dotted}"


def _cells(axes: Axes, card: Card, image: ScalarMappable, digits: int) -> None:
    num_rows, num_leads = card.change_RL.shape
    axes.set(xlim=(0, num_leads), ylim=(num_rows, 0))
    for row, column in np.ndindex(num_rows, num_leads):
        value = float(card.change_RL[row, column])
        if not np.isfinite(value):
            axes.add_patch(Rectangle((column, row), 1, 1, facecolor=style.MISSING, edgecolor="white", linewidth=0.8))
            continue
        colour = tuple(float(c) for c in image.to_rgba(np.array([value]))[0])
        p = 0.0 if card.p_RL is None else float(card.p_RL[row, column])
        hatch = "" if p < _LEVEL else "...." if np.isnan(p) else "////"
        axes.add_patch(Rectangle((column, row), 1, 1, facecolor=colour, edgecolor="white", linewidth=0.8))
        light = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
        if hatch:
            stroke = "#6b737c" if light > 0.45 else "#b9c6d2"
            axes.add_patch(Rectangle((column, row), 1, 1, facecolor="none", edgecolor=stroke, hatch=hatch, linewidth=0))
        words = (f"{value:+.{digits}f}" if round(value, digits) else f"{0:.{digits}f}").replace("-", "−") if abs(value) < 1000 else ">999"
        shown = say(axes, column + 0.5, row + 0.53, words, size=7, color=INK if light > 0.55 else "white", ha="center", va="center")
        if hatch:
            shown.set_bbox({"facecolor": colour, "edgecolor": "none", "pad": 0.8})


def _words(axes: Axes, card: Card, reach: float, margin: float) -> None:
    """Variables and levels at the left, from the page's margin on, lead times above; both lengths in widths of the table."""
    axes.spines[:].set_visible(False)
    axes.set_yticks([])
    axes.set_xticks(np.arange(len(card.leads)) + 0.5, [times.format_duration(int(lead)) for lead in card.leads])
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0, labelsize=8, labelcolor=INK, labelfontfamily=style.FONT)
    before = ""
    for row, (label, level, _) in enumerate(card.rows):
        if label != before:
            say(axes, -reach + margin, row + 0.53, style.fit(label, 2.0, 9), size=8.5, weight="bold", ha="left", va="center",
                transform=axes.get_yaxis_transform())
            axes.plot([-reach + margin, 1], [row, row], color=style.FAINT, linewidth=0.6, transform=axes.get_yaxis_transform(), clip_on=False)
        say(axes, -0.01, row + 0.53, level, size=8, color=MUTED, ha="right", va="center", transform=axes.get_yaxis_transform())
        before = label


def plot_scorecard(scores: xr.Dataset, out: Path, *, metric: str = "rmse", reference: str | None = None, against: xr.Dataset | None = None,
                   region: str | None = None, dpi: float = 150) -> Path:
    """Draw a score card: each variable and level by lead time, coloured by the change against a reference.

    Args:
        scores, metric, reference, against, region: as `read_card`.
        out: .png, .pdf, .svg, .jpg or .webp, in a folder that exists.

    Returns:
        `out`.

    Raises:
        DataError: no such metric, reference or region. ConfigError, ResourceError: `out` cannot be written.
    """
    out = canvas.check_output(out)
    card = read_card(scores, metric=metric, reference=reference, against=against, region=region)
    return canvas.save(build_card(card, scores, metric=metric, region=chosen_region(scores, region), dpi=dpi), out, dpi)
