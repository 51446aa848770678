"""Scores against lead time: a panel a variable, always with persistence and climatology."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .. import vocabulary
from ..errors import DataError
from . import canvas, style
from .fields import clean, describe_source, units_for
from .style import FAINT, MUTED, say

Float = NDArray[np.float64]
_USEFUL = 0.6  # anomaly correlation down to which a forecast is customarily called useful
_UNITLESS = ("acc", "vrmse", "spread_skill", "seeps", "sedi", "quantile_ratio")  # beginnings of their names, in files that do not say
_NAMES = {"rmse": "RMSE", "bias": "Bias", "acc": "Anomaly correlation", "acc_mean_of_inits": "Anomaly correlation (mean of inits)",
          "mae": "Mean absolute error", "crps": "CRPS", "spread": "Spread", "skill": "RMSE of the ensemble mean", "spread_skill": "Spread / skill",
          "vrmse": "VRMSE", "seeps": "SEEPS", "sedi": "SEDI"}
_LEAD_STEPS = {"days": (1,), "hours": (1, 3, 6), "minutes": (1, 5, 15), "seconds": (1, 5, 15)}
_LOOKS = {"model": ("#0b5fa5", "-", "o"), "persistence": ("#c8500a", "--", "s"), "climatology": ("#5a6470", ":", "")}
_OTHERS = (("#009e73", "-.", "^"), ("#cc79a7", "--", "v"), ("#b8860b", "-.", "D"))  # further rivals, told apart by eyes of all kinds


@dataclass(frozen=True)
class Metric:
    """What a score file says of a metric: whether its values have the quantity's units, and which are good."""

    has_units: bool
    better: str


@dataclass(frozen=True, eq=False)
class Curve:
    """Scores of one variable and region in shown units.

    Args:
        short: `z500`. label: words. units: of the score.
        leads: seconds; shape (L,).
        lines: `model` and the names of rivals to values, NaN where not scored; each of shape (L,).
    """

    short: str
    label: str
    units: str
    leads: NDArray[np.int64]
    lines: dict[str, Float]


def _strings(scores: xr.Dataset, name: str) -> list[str]:
    if name not in scores.coords:
        raise DataError(f"no '{name}' coordinate: this is no score file", fix="make one with afno-forecast evaluate")
    return [str(v) for v in np.atleast_1d(scores[name].values)]


def one_of(kind: str, asked: str, have: Sequence[str]) -> str:
    """What was asked for. Raises DataError, with what there is and the nearest name, when it is not there."""
    if asked not in have:
        near = get_close_matches(asked, have, 1, 0.5)
        raise DataError(f"no {kind} '{clean(asked, 60)}' in the scores; there are {', '.join(have)}",
                        fix=f"did you mean '{near[0]}'?" if near else "ask for one of these")
    return asked


def chosen_region(scores: xr.Dataset, region: str | None) -> str:
    """The region asked for; without one the globe, or the first where it is not scored. Raises DataError when it is not there."""
    have = _strings(scores, "region")
    return one_of("region", region, have) if region is not None else "global" if "global" in have else have[0]


def rivals_of(scores: xr.Dataset) -> list[str]:
    """Names of the forecasts a score file compares with, which end the names of their metrics."""
    named = str(scores.attrs.get("rivals", "")).split()
    return list(dict.fromkeys(["persistence", "climatology", *named]))


def metrics_of(scores: xr.Dataset) -> dict[str, Metric]:
    """All metrics of a score file, rivals' included; a file that does not say has units where the metric's name is of one that has."""
    names = _strings(scores, "metric")
    units = [str(v) for v in scores["metric_units"].values] if "metric_units" in scores.coords else [
        "1" if n.startswith(_UNITLESS) else "variable" for n in names]
    better = [str(v) for v in scores["better"].values] if "better" in scores.coords else [
        "higher" if n.startswith("acc") else "zero" if n.startswith("bias") else "lower" for n in names]
    return {n: Metric(u != "1", b) for n, u, b in zip(names, units, better, strict=True)}


def metric_name(metric: str) -> str:
    """Words: `RMSE`, `Anomaly correlation`."""
    return _NAMES.get(metric, metric.replace("_", " "))


def read_curves(scores: xr.Dataset, *, metric: str = "rmse", variables: Sequence[str] | None = None, region: str | None = None) -> list[Curve]:
    """The scores of one metric and region, by variable and level, in shown units.

    Args:
        scores: variables by canonical long name with dims metric, region, lead_time (timedelta64), [level].
        metric: rmse, bias, acc, ...; its baselines are `<metric>_persistence` and `<metric>_climatology`.
        variables: names a person may type, in this order; None takes all that are scored.
        region: None takes the globe, or the first region where it is not scored.

    Raises:
        DataError: no such metric, region or variable (those there are named).
    """
    metrics, rivals = metrics_of(scores), rivals_of(scores)
    if "_vs_" not in metric:
        one_of("metric", metric, [m for m in metrics if "_vs_" not in m and not m.endswith(tuple(f"_{r}" for r in rivals))])
    columns = {"model": metric} | {rival: f"{metric}_{rival}" for rival in rivals}
    region = chosen_region(scores, region)
    times = np.atleast_1d(scores["lead_time"].values)
    if not np.issubdtype(times.dtype, np.timedelta64):
        raise DataError(f"lead_time holds {times.dtype}, not durations", fix="open the file with decode_timedelta=True")
    leads = times.astype("timedelta64[s]").astype(np.int64)
    order = np.argsort(leads)
    curves: dict[str, Curve] = {}
    for name, item in scores.data_vars.items():
        if not {"metric", "region", "lead_time"} <= set(item.dims):
            continue
        levels = np.atleast_1d(item["level"].values).tolist() if "level" in item.dims else [None]
        for level in levels:
            part = (item if level is None else item.sel(level=level)).sel(region=region).transpose("metric", "lead_time")
            curve = _curve(part, str(name), None if level is None else int(level), columns, metrics)
            if curve is not None:
                curves[curve.short] = Curve(curve.short, curve.label, curve.units, leads[order], {k: v[order] for k, v in curve.lines.items()})
    if variables is None:
        if not curves:
            raise DataError(f"nothing is scored with {metric} in {region}")
        return list(curves.values())
    return [curves[one_of("variable", vocabulary.short_name(*vocabulary.split_name(v)), list(curves))] for v in variables]


def _curve(item: xr.DataArray, variable: str, level: int | None, columns: dict[str, str], metrics: dict[str, Metric]) -> Curve | None:
    has_units = columns["model"] in metrics and metrics[columns["model"]].has_units
    units = units_for(variable, item.attrs.get("units"))
    lines = {}
    for name, metric in columns.items():
        if metric in metrics:
            values = np.asarray(item.values[list(metrics).index(metric)], dtype=np.float64) * (units.factor if has_units else 1.0)
            if np.isfinite(values).any():
                lines[name] = values
    if "model" not in lines:
        return None
    return Curve(vocabulary.short_name(variable, level), vocabulary.label(variable, level), units.difference if has_units else "",
                 np.zeros(0, dtype=np.int64), lines)


def forecasts_text(scores: xr.Dataset) -> str:
    """`60 forecasts`, `1 forecast`, `58 to 60 forecasts, by lead`, or nothing when the file does not say (variable `num_inits`)."""
    if "num_inits" not in scores.data_vars:
        return ""
    counts = np.atleast_1d(scores["num_inits"].values)
    low, high = int(counts.min()), int(counts.max())
    return f"{high} forecast{'s' * (high != 1)}" if low == high else f"{low} to {high} forecasts, by lead"


def build_scores(scores: xr.Dataset, *, metric: str = "rmse", variables: Sequence[str] | None = None, region: str | None = None,
                 dpi: float = 150) -> Figure:
    """The page of curves as a figure, at most three panels a row."""
    region = chosen_region(scores, region)
    curves = read_curves(scores, metric=metric, variables=variables, region=region)
    columns = min(len(curves), 3) if len(curves) != 4 else 2
    rows = -(-len(curves) // columns)
    tall, gap_x, gap_y, left, right, top, bottom = 2.15, 0.85, 0.95, 0.85, 0.35, 1.5, 0.62
    wide = max(3.2, (6.8 - left - right - (columns - 1) * gap_x) / columns)
    width = left + columns * wide + (columns - 1) * gap_x + right
    height = top + rows * tall + (rows - 1) * gap_y + bottom
    figure = style.new_figure(width, height, dpi)
    source, simulated = describe_source(scores.attrs)
    source = f"{'Simulated, not observed.  ' if simulated else ''}{source}"
    facts = f"Region: {region}    {forecasts_text(scores) or 'number of forecasts not given'}"
    canvas.heading(figure, f"{metric_name(metric)} against lead time", facts, source)
    for index, curve in enumerate(curves):
        row, column = divmod(index, columns)
        corner = (left + column * (wide + gap_x)) / width, 1 - (top + row * (tall + gap_y) + tall) / height
        _panel(figure.add_axes((*corner, wide / width, tall / height)), curve, metric, metrics_of(scores)[metric].better)
    lines = [line for axes in figure.axes for line in axes.get_lines() if not str(line.get_label()).startswith("_")]
    canvas.legend(figure, [(line, str(line.get_label())) for line in lines], top - 0.34)
    return figure


def _panel(axes: Axes, curve: Curve, metric: str, better: str) -> None:
    unit, seconds = _lead_unit(float(curve.leads[-1]) if len(curve.leads) else 0.0)
    leads = curve.leads / seconds
    others = iter(_OTHERS * 4)
    for name, values in curve.lines.items():
        colour, dash, marker = _LOOKS.get(name) or next(others)
        ours = name == "model"
        axes.plot(leads, values, dash, color=colour, marker=marker if len(leads) <= 24 else "", markersize=3.4, linewidth=2.0 if ours else 1.5,
                  label=name.replace("_", " "), zorder=4 if ours else 3)
    _limits(axes, curve, metric, better)
    last = float(leads[-1]) if len(leads) else 1.0
    axes.set_xlim(0, last * 1.02 or 1.0)
    step = next((n for n in _LEAD_STEPS[unit] if last <= 8 * n), style.nice_step(last, 8, np.array([1.0, 2.0, 5.0])))
    axes.set_xticks(np.arange(0, last * 1.02 + 1e-9, step))
    style.ruled(axes)
    say(axes, 0, 1.05, style.fit(curve.label, 3.4, 9.5), size=9.5, weight="bold", ha="left", va="bottom", transform=axes.transAxes)
    style.name_axes(axes, f"lead time ({unit})", curve.units)


def _lead_unit(last: float) -> tuple[str, int]:
    """The unit in which leads up to this one, seconds, are read, and its seconds."""
    return next(((unit, seconds) for unit, seconds in (("days", 86400), ("hours", 3600), ("minutes", 60)) if last > 2 * seconds), ("seconds", 1))


def _limits(axes: Axes, curve: Curve, metric: str, better: str) -> None:
    """From zero, about zero, or up to one, with a line where the metric has a mark."""
    everything = np.concatenate(list(curve.lines.values()))
    least, most = float(np.nanmin(everything)), float(np.nanmax(everything))
    if metric.startswith("acc"):
        axes.axhline(_USEFUL, color=FAINT, linewidth=0.9, zorder=2)
        say(axes, 0.985, _USEFUL, "0.6", size=7.5, color=MUTED, ha="right", va="bottom", transform=axes.get_yaxis_transform())
        axes.set_ylim(min(0.0, least * 1.05), 1.02)
    elif better == "zero":
        axes.axhline(0, color=FAINT, linewidth=0.9, zorder=2)
        reach = max(most, -least) * 1.1 or 1.0
        axes.set_ylim(-reach, reach)
    elif better == "one":
        axes.axhline(1, color=FAINT, linewidth=0.9, zorder=2)
        axes.set_ylim(min(0.0, least), max(most, 1.0) * 1.08)
    else:
        axes.set_ylim(min(0.0, least * 1.08), max(axes.get_ylim()[1], most * 1.04))


def plot_scores(scores: xr.Dataset, out: Path, *, metric: str = "rmse", variables: Sequence[str] | None = None, region: str | None = None,
                dpi: float = 150) -> Path:
    """Draw scores against lead time, a panel a variable and level: model, persistence and climatology.

    Args:
        scores: as `read_curves`; the variable `num_inits` (lead_time) is the number of forecasts.
        out: .png, .pdf, .svg, .jpg or .webp, in a folder that exists.
        metric, variables, region: as `read_curves`.

    Returns:
        `out`.

    Raises:
        DataError: no such metric, region or variable. ConfigError, ResourceError: `out` cannot be written.
    """
    out = canvas.check_output(out)
    return canvas.save(build_scores(scores, metric=metric, variables=variables, region=region, dpi=dpi), out, dpi)
