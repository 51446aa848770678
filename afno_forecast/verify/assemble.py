"""The scores of a forecast, its rivals and 24 h precipitation put together in one dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from .precipitation import DAILY
from .score_names import lead_times, metric_coordinates
from .scores import Scorer


def versus(metric: str, rival: str) -> str:
    """`rmse_low` against persistence -> `rmse_vs_persistence_low`."""
    kind, _, ending = metric.partition("_")
    return f"{kind}_vs_{rival}" + (f"_{ending}" if ending else "")


def with_rain(scores: xr.Dataset, scorers: Mapping[str, Scorer]) -> xr.Dataset:
    """24 h precipitation as one more variable, NaN at lead times and metrics where it has no score; a forecast's own keeps its scores."""
    parts = [(name, s.finalize()) for name, s in scorers.items() if len(s)]
    if not parts:
        return scores
    rain = xr.concat([(p if name == "" else renamed(p, name))[[DAILY.variable]] for name, p in parts], dim="metric", join="outer",
                     data_vars="all", coords="different", compat="equals", combine_attrs="override")
    names = [str(m) for m in scores["metric"].values]
    names += [m for m in map(str, rain["metric"].values) if m not in names]
    scores = scores.reindex(metric=names).assign_coords(metric_coordinates(names))
    rain = rain.reindex(metric=names, lead_time=scores["lead_time"].values)
    summed = rain[DAILY.variable].drop_vars(["metric_units", "better"])
    own = scores.get(DAILY.variable)
    return scores.assign({DAILY.variable: summed if own is None else own.combine_first(summed).transpose(*own.dims).assign_attrs(own.attrs)})


def renamed(part: xr.Dataset, name: str, *, with_crps: bool = False) -> xr.Dataset:
    """A rival's scores: its name after each metric's; `with_crps` the mean absolute error once more as the CRPS that a single forecast has."""
    if with_crps and "crps" not in part["metric"].values:
        own = part[[str(n) for n, item in part.data_vars.items() if "metric" in item.dims]]
        extra = own.sel(metric=["mae"]).assign_coords(metric=["crps"])
        part = xr.concat([own, extra], dim="metric", data_vars="all", coords="different", compat="equals", join="outer", combine_attrs="override")
    return part.assign_coords(metric=[f"{m}_{name}" for m in part["metric"].values])


def joined(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """Scores of all along `metric`; tables and counts are the forecast's."""
    named = [str(name) for name, item in parts[0].data_vars.items() if "metric" in item.dims]
    scores = xr.concat([p[[n for n in named if n in p]] for p in parts], dim="metric", data_vars="all", coords="different", compat="equals",
                       join="outer", combine_attrs="override")
    scores = scores.assign_coords(metric_coordinates([str(m) for m in scores["metric"].values]))
    return scores.assign({str(n): parts[0][n] for n in parts[0].data_vars if str(n) not in named})


def per_lead(counts: NDArray[np.int64], lead_seconds: NDArray[np.int64], scores: xr.Dataset, text: str) -> xr.DataArray:
    """Counts of all planned lead times on those that the scores have."""
    array = xr.DataArray(counts, dims="lead_time", coords={"lead_time": lead_times(lead_seconds.tolist())}, attrs={"long_name": text, "units": "1"})
    return array.sel(lead_time=scores["lead_time"])
