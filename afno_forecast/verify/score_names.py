"""From arrays of scores to a named dataset: the form of a score file.

A variable a quantity, dims (metric, region, lead_time, [level]); a quantity without some of the levels is NaN there and lists its own in
the attribute `available_levels`. The coordinate `metric` carries what a reader needs to draw any of them: `metric_units` ("variable":
those of the quantity, "1": none) and `better` ("lower", "higher", "zero", "one", or "" where neither is better).
"""

# M metric, R region, L lead time, C channel

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from .. import vocabulary
from ..channels import Channel, ChannelSet
from .sample import Float, Table

_RATIOS = ("acc", "vrmse", "spread_skill", "seeps", "sedi", "quantile_ratio")  # beginnings of scores without units
_BETTER = {"acc": "higher", "sedi": "higher", "bias": "zero", "spread_skill": "one", "quantile_ratio": "one", "spread": "", "skill": "lower",
           "activity": ""}


def is_ratio(metric: str) -> bool:
    """Whether a metric has no units, whatever the quantity."""
    return metric.startswith(_RATIOS) or ("_vs_" in metric and metric.endswith("_p"))


def better(metric: str) -> str:
    """Which values of a metric are good: `lower`, `higher`, `zero`, `one`, or nothing where neither is."""
    if "_vs_" in metric:
        return ""
    start = max((name for name in _BETTER if metric.startswith(name)), key=len, default=None)
    return "lower" if start is None else _BETTER[start]


def metric_coordinates(metrics: Sequence[str]) -> dict[str, Any]:
    """The coordinate `metric` and what is told along it."""
    return {"metric": list(metrics), "metric_units": ("metric", ["1" if is_ratio(m) else "variable" for m in metrics]),
            "better": ("metric", [better(m) for m in metrics])}


def name_scores(values_RLC: Mapping[str, Float], channels: ChannelSet, regions: Sequence[str], leads: Sequence[int]) -> xr.Dataset:
    """Scores by metric, (R, L, C) each, as a dataset; the RMSE of wind vectors is added where both components are scored."""
    metrics = tuple(values_RLC)
    stacked_MRLC = np.stack([values_RLC[m] for m in metrics])
    stacked_MRLC, everything = _with_vectors(stacked_MRLC, metrics, channels)
    coords = {**metric_coordinates(metrics), "region": list(regions), "lead_time": lead_times(leads)}
    result = _by_variable(stacked_MRLC, ("metric", "region", "lead_time"), everything, channels)
    return result.assign_coords(coords)


def name_table(tables: Iterable[Table], channels: ChannelSet, regions: Sequence[str], leads: Sequence[int]) -> xr.Dataset:
    """One table of each lead time as a dataset of variables `<variable>_<name>`, dims (lead_time, ..., [level])."""
    parts = list(tables)
    first = parts[0]
    values = np.stack([t.values for t in parts])
    named = _by_variable(values, ("lead_time", *first.dims), channels, channels)
    named = named.rename({name: f"{name}_{first.name}" for name in map(str, named.data_vars)})
    for item in named.data_vars.values():
        item.attrs = {k: v.format(units=item.attrs["units"]) if isinstance(v, str) else v for k, v in first.attrs.items()} | (
            {"available_levels": item.attrs["available_levels"]} if "available_levels" in item.attrs else {})
    coords: dict[str, Any] = {**first.coords, "lead_time": lead_times(leads)}
    if "region" in first.dims:
        coords["region"] = list(regions)
    return named.assign_coords(coords)


def lead_times(leads: Sequence[int]) -> NDArray[Any]:
    """Seconds as the coordinate `lead_time`."""
    return np.asarray(leads, dtype="timedelta64[s]").astype("timedelta64[ns]")


def _with_vectors(values_MRLC: Float, metrics: Sequence[str], channels: ChannelSet) -> tuple[Float, ChannelSet]:
    """Wind vectors as further channels: root of the sum of both components' mean square errors; every other metric NaN."""
    extra, columns = [], []
    rows = [i for i, m in enumerate(metrics) if m == "rmse"]
    for speed, u, v in vocabulary.WIND_SPEEDS:
        name = speed.replace("speed", "vector")
        for channel in channels:
            other = Channel(v, channel.level, channel.units).name
            if channel.variable != u or other not in channels.names or name in {c.variable for c in channels}:
                continue
            column = np.full(values_MRLC.shape[:-1], np.nan)
            pair = [channels.names.index(channel.name), channels.names.index(other)]
            column[rows] = np.hypot(values_MRLC[rows][..., pair[0]], values_MRLC[rows][..., pair[1]])
            columns.append(column)
            extra.append(Channel(name, channel.level, channel.units, "diagnostic"))
    if not extra:
        return values_MRLC, channels
    return np.concatenate([values_MRLC, np.stack(columns, axis=-1)], axis=-1), ChannelSet((*channels.channels, *extra))


def _by_variable(values: Float, dims: tuple[str, ...], channels: ChannelSet, scored: ChannelSet) -> xr.Dataset:
    """Split the last axis into variables with a level axis where they have levels."""
    levels = sorted({c.level for c in scored if c.level is not None})
    variables: dict[str, Any] = {}
    for name in dict.fromkeys(c.variable for c in channels):
        members = {c.level: i for i, c in enumerate(channels) if c.variable == name}
        attrs: dict[str, Any] = {"units": next(c.units for c in channels if c.variable == name), "long_name": vocabulary.label(name)}
        if None in members:
            variables[name] = (dims, values[..., members[None]], attrs)
            continue
        array = np.full((*values.shape[:-1], len(levels)), np.nan)
        for k, level in enumerate(levels):
            if level in members:
                array[..., k] = values[..., members[level]]
        attrs["available_levels"] = sorted(level for level in members if level is not None)
        variables[name] = ((*dims, "level"), array, attrs)
    result = xr.Dataset(variables)
    if not levels:
        return result
    attrs = {"units": "hPa", "standard_name": "air_pressure", "positive": "down"}
    return result.assign_coords(level=("level", np.asarray(levels, dtype=np.int32), attrs))
