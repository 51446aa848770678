"""The one scorer of validation, rollout and command line: RMSE, bias and anomaly correlation by WeatherBench's definitions.

With area weights w (exact cell areas, sum 1), forecast f, truth o, climatology c of the valid time, and the mean over inits:
RMSE = sqrt(mean sum w (f-o)^2), bias = mean sum w (f-o), anomaly correlation uncentred, in both forms in use:
`acc` = mean(cov) / sqrt(mean(var_f) mean(var_o)) and `acc_mean_of_inits` = mean(cov / sqrt(var_f var_o)).
"""

# B batch, C channel, H latitude row, W longitude column, R region, Q statistic

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Union

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from .. import vocabulary
from ..channels import ChannelSet
from ..errors import DataError, DivergenceError
from ..grid import Grid
from ..times import STANDARD, format_duration, format_instant
from .regions import Region, default_regions, make_regions

if TYPE_CHECKING:
    from torch import Tensor

Array = Union["Tensor", NDArray[np.float32], NDArray[np.float64]]
Float = NDArray[np.float64]
KEY_CHANNELS = ("z500", "t850", "u250", "v250", "q700", "sp", "t2m")
_ERROR, _SQUARED, _COVARIANCE, _VARIANCE, _VARIANCE_TRUTH = range(5)
_BLOCK = 1 << 23  # cells in float64 held at once: 64 MB an array
_log = logging.getLogger(__name__)


class Scorer:
    """Scores that add: any order, batch size, or division among scorers gives the same digits.

    Each (init, lead) keeps one row of area means, reduced on its own in float64; `finalize` adds the rows in the order of init time.

    Args:
        channels: what is scored, in the order of the arrays.
        grid: the canonical grid of the arrays.
        regions: WeatherBench's region names; None for all that have cells (a limited area or a box: `global`, the whole domain).
        calendar: of the init times, for messages.
        missing_ok: whether a prediction may have missing values, as a climatology has: its scores are then NaN, not an error.

    Raises:
        ConfigError: an unknown region, or one the grid has no cells in.
    """

    def __init__(self, channels: ChannelSet, grid: Grid, *, regions: Sequence[str] | None = None, calendar: str = STANDARD,
                 missing_ok: bool = False) -> None:
        self.channels = channels
        self.grid = grid
        self.calendar = calendar
        self._missing_ok = missing_ok
        self.regions = make_regions(default_regions(grid) if regions is None else regions, grid)
        areas = grid.cell_areas()
        self._row_weights: Float = areas.sum(axis=1)
        columns = areas.sum(axis=0)
        self._column_weights: Float | None = None if np.allclose(columns, columns[0], rtol=1e-12) else columns / columns.mean()
        self._rows: dict[tuple[int, int], Float] = {}  # (init, lead) -> (Q, R, C)

    def __len__(self) -> int:
        return len(self._rows)

    def update(self, init_seconds: NDArray[np.int64], lead_seconds: int, prediction: Array, truth: Array, climatology: Array | None = None) -> None:
        """Add forecasts of one lead time.

        Args:
            init_seconds: init times, seconds since 1970; shape (B,).
            lead_seconds: lead time.
            prediction: physical units, latitude ascending; shape (B, C, H, W).
            truth: the analysis at the valid times; same shape.
            climatology: expected values at the valid times, NaN on days without; same shape, or None for no anomaly correlation.

        Raises:
            DivergenceError: the prediction is not finite: channel, init and lead are named.
            DataError: a shape does not fit, the truth is not finite, or an (init, lead) comes twice.
        """
        inits = [int(s) for s in np.atleast_1d(init_seconds)]
        arrays = [_numpy(a) for a in (prediction, truth)] + ([] if climatology is None else [_numpy(climatology)])
        wanted = (len(inits), len(self.channels), *self.grid.shape)
        for name, array in zip(("prediction", "truth", "climatology"), arrays, strict=False):
            if array.shape != wanted:
                raise DataError(f"{name} has shape {array.shape}, wanted {wanted} (init, channel, row, column)")
        for b, init in enumerate(inits):
            key = (init, int(lead_seconds))
            if key in self._rows:
                raise DataError(f"the forecast from {format_instant(init, self.calendar)} at lead {format_duration(key[1])} is scored twice",
                                fix="give each init time once")
            self._rows[key] = self._reduce(key, [a[b] for a in arrays])

    def merge(self, other: Scorer) -> None:
        """Add the rows of another scorer of the same channels, grid and regions. Raises DataError when they differ or a row comes twice."""
        if self.channels.names != other.channels.names or not self.grid.matches(other.grid) or self.region_names != other.region_names:
            raise DataError("two scorers of different channels, grids or regions cannot be merged")
        twice = sorted(self._rows.keys() & other._rows.keys())
        if twice:
            init, lead = twice[0]
            raise DataError(f"the forecast from {format_instant(init, self.calendar)} at lead {format_duration(lead)} is scored twice")
        self._rows.update(other._rows)

    @property
    def region_names(self) -> tuple[str, ...]:
        """Names of the regions, in order."""
        return tuple(r.name for r in self.regions)

    def finalize(self) -> xr.Dataset:
        """The scores of everything added.

        Returns:
            Dataset with one variable per quantity, dims (metric, region, lead_time, [level]), float64, in the quantity's units
            (correlations: 1); `num_inits` and `num_inits_without_climatology` per lead_time; attribute `notes` says what is missing.

        Raises:
            DataError: nothing was added.
        """
        if not self._rows:
            raise DataError("no forecast was scored: no init and valid time has truth", fix="give a truth file that covers the forecast")
        leads = sorted({lead for _, lead in self._rows})
        values: dict[str, list[Float]] = {}
        counts, unclimatic = [], []
        for lead in leads:
            rows_NQRC = np.stack([self._rows[key] for key in sorted(self._rows) if key[1] == lead])
            counts.append(len(rows_NQRC))
            unclimatic.append(int(np.isnan(rows_NQRC[:, _COVARIANCE]).any(axis=(1, 2)).sum()))
            for metric, value_RC in _metrics(rows_NQRC).items():
                values.setdefault(metric, []).append(value_RC)
        if unclimatic == counts and all(np.isnan(row[_COVARIANCE:]).all() for row in self._rows.values()):
            values = {m: v for m, v in values.items() if not m.startswith("acc")}
        stacked_MRLC = np.stack([np.stack(v, axis=1) for v in values.values()])
        scores = _name(stacked_MRLC, self.channels, tuple(values), self.region_names, leads)
        scores["num_inits"] = ("lead_time", np.asarray(counts, dtype=np.int64), {"long_name": "forecasts scored", "units": "1"})
        scores["num_inits_without_climatology"] = ("lead_time", np.asarray(unclimatic, dtype=np.int64),
                                                   {"long_name": "of these, valid times with a channel that has no climatology", "units": "1"})
        scores.attrs["notes"] = self._notes(leads, unclimatic, "acc" in values)
        return scores

    def _notes(self, leads: Sequence[int], unclimatic: Sequence[int], has_climatology: bool) -> str:
        if not has_climatology or not any(unclimatic):
            return ""
        where = ", ".join(f"{n} at {format_duration(lead)}" for lead, n in zip(leads, unclimatic, strict=True) if n)
        note = f"no climatology on the valid day of some forecasts ({where}): acc is NaN for the leads and channels concerned"
        _log.warning(note)
        return note

    def _reduce(self, key: tuple[int, int], arrays: list[NDArray[Any]]) -> Float:
        """Area means of one sample, (C, H, W) arrays -> (Q, R, C), in blocks of channels so that memory is bounded."""
        num_channels, size = len(self.channels), self.grid.shape[0] * self.grid.shape[1]
        block = max(1, _BLOCK // size)
        row = np.full((5, len(self.regions), num_channels), np.nan)
        for first in range(0, num_channels, block):
            part = [a[first:first + block] for a in arrays]
            fields = [np.subtract(part[0], part[1], dtype=np.float64, order="C")]
            if len(part) == 3:
                fields += [np.subtract(a, part[2], dtype=np.float64, order="C") for a in part[:2]]
            row[:2 if len(part) == 2 else 5, :, first:first + block] = self._means(fields)
            if not np.isfinite(row[:2, :, first:first + block]).all() or not np.isfinite(fields[0].sum()):
                self._refuse(key, first, part[0], part[1])
        return row

    def _means(self, fields: list[Float]) -> Float:
        """Area means of the statistics of (error, forecast anomaly, truth anomaly) in each region; (C, H, W) each -> (Q, R, C)."""
        full_QCH = _row_sums(fields, self._column_weights)
        result = np.empty((len(full_QCH), len(self.regions), len(fields[0])))
        for r, region in enumerate(self.regions):
            weights = self._row_weights[region.rows]
            if region.columns is None:
                sums_QCH = np.take(full_QCH, region.rows, axis=2)
            else:
                columns = None if self._column_weights is None else self._column_weights[region.columns]
                sums_QCH = _row_sums([np.take(np.take(f, region.rows, axis=1), region.columns, axis=2) for f in fields], columns)
            result[:, r] = (sums_QCH * weights).sum(axis=-1) / (weights.sum() * self._width(region))
        return result

    def _width(self, region: Region) -> float:
        """Sum of the column weights of a region."""
        weights = np.ones(self.grid.shape[1]) if self._column_weights is None else self._column_weights
        return float(weights.sum() if region.columns is None else weights[region.columns].sum())

    def _refuse(self, key: tuple[int, int], first: int, prediction: NDArray[Any], truth: NDArray[Any]) -> None:
        where = f"init {format_instant(key[0], self.calendar)}, lead {format_duration(key[1])}"
        for array, kind in ((prediction, "forecast"), (truth, "truth")):
            bad = [self.channels.channels[first + i].short for i in range(len(array)) if not np.isfinite(array[i]).all()]
            if bad and kind == "forecast" and not self._missing_ok:
                raise DivergenceError(f"the forecast is not finite in {', '.join(bad)}", where=where,
                                      fix="score the leads before it with --leads, or forecast again with another model")
            if bad and kind == "truth":
                raise DataError(f"the truth has missing or infinite values in {', '.join(bad)}", where=where,
                                fix="fill or leave out these variables in the truth")


def _numpy(array: Array) -> NDArray[Any]:
    if isinstance(array, np.ndarray):
        return array
    tensor = array.detach().cpu()
    return np.asarray((tensor if tensor.is_floating_point() and tensor.element_size() >= 4 else tensor.float()).numpy())


def _row_sums(fields: list[Float], columns: Float | None) -> Float:
    """Sums along the columns of every statistic, (C, H, W) each -> (Q, C, H); arrays in C order, so that the order of adding is one."""
    weighted = fields if columns is None else [f * columns for f in fields]
    sums = [weighted[0].sum(axis=-1), np.einsum("chw,chw->ch", weighted[0], fields[0])]
    if len(fields) == 3:
        sums += [np.einsum("chw,chw->ch", weighted[a], fields[b]) for a, b in ((1, 2), (1, 1), (2, 2))]
    return np.stack(sums)


def _metrics(rows_NQRC: Float) -> dict[str, Float]:
    mean_QRC = rows_NQRC.sum(axis=0) / len(rows_NQRC)
    with np.errstate(invalid="ignore", divide="ignore"):
        each_NRC = rows_NQRC[:, _COVARIANCE] / np.sqrt(rows_NQRC[:, _VARIANCE] * rows_NQRC[:, _VARIANCE_TRUTH])
        acc = mean_QRC[_COVARIANCE] / np.sqrt(mean_QRC[_VARIANCE] * mean_QRC[_VARIANCE_TRUTH])
    return {"rmse": np.sqrt(mean_QRC[_SQUARED]), "bias": mean_QRC[_ERROR], "acc": acc, "acc_mean_of_inits": each_NRC.sum(axis=0) / len(each_NRC)}


def _name(values_MRLC: Float, channels: ChannelSet, metrics: tuple[str, ...], regions: tuple[str, ...], leads: Sequence[int]) -> xr.Dataset:
    """Name the axes; a variable without some of the levels is NaN there and lists its own in `available_levels`."""
    levels = sorted({c.level for c in channels if c.level is not None})
    coords: dict[str, Any] = {"metric": list(metrics), "region": list(regions),
                              "lead_time": np.asarray(leads, dtype="timedelta64[s]").astype("timedelta64[ns]")}
    if levels:
        coords["level"] = ("level", np.asarray(levels, dtype=np.int32), {"units": "hPa", "standard_name": "air_pressure", "positive": "down"})
    variables: dict[str, Any] = {}
    for name in dict.fromkeys(c.variable for c in channels):
        members = {c.level: i for i, c in enumerate(channels) if c.variable == name}
        attrs: dict[str, Any] = {"units": next(c.units for c in channels if c.variable == name), "long_name": vocabulary.label(name)}
        if None in members:
            variables[name] = (("metric", "region", "lead_time"), values_MRLC[..., members[None]], attrs)
            continue
        array = np.full((*values_MRLC.shape[:-1], len(levels)), np.nan)
        for k, level in enumerate(levels):
            if level in members:
                array[..., k] = values_MRLC[..., members[level]]
        attrs["available_levels"] = sorted(level for level in members if level is not None)
        variables[name] = (("metric", "region", "lead_time", "level"), array, attrs)
    return xr.Dataset(variables, coords=coords)


def pick(scores: xr.Dataset, name: str, metric: str, *, region: str = "global") -> xr.DataArray | None:
    """One metric of a channel by any name a person may type, dims (lead_time); None when it was not scored."""
    variable, level = vocabulary.split_name(name)
    if variable not in scores or metric not in scores["metric"].values:
        return None
    item = scores[variable].sel(metric=metric, region=region)
    if "level" not in item.dims:
        return item if level is None else None
    available = np.atleast_1d(item.attrs.get("available_levels", scores["level"].values))
    return item.sel(level=level) if level in available else None


def relative_to_persistence(scores: xr.Dataset, leads_hours: Sequence[int] = (24, 72, 120, 240), channels: Sequence[str] | None = None) -> float:
    """Mean over channels and leads of RMSE / RMSE of persistence, global: below 1 is better than persistence.

    Args:
        scores: with metrics `rmse` and `rmse_persistence`.
        leads_hours: lead times in hours; all must be there.
        channels: names; None for those of z500, t850, u250, v250, q700, sp, t2m that were scored, or all where none of them was.

    Raises:
        DataError: a lead, a named channel or persistence is missing.
    """
    if channels is None:
        channels = [c for c in KEY_CHANNELS if pick(scores, c, "rmse") is not None] or scored_channels(scores)
    leads = [np.timedelta64(int(h), "h").astype("timedelta64[ns]") for h in leads_hours]
    absent = [int(h) for h, lead in zip(leads_hours, leads, strict=True) if lead not in scores["lead_time"].values]
    if absent:
        raise DataError(f"no score at lead {', '.join(map(str, absent))} h", fix="forecast that far, or ask for leads that were scored")
    ratios = []
    for name in channels:
        model, persistence = (pick(scores, name, metric) for metric in ("rmse", "rmse_persistence"))
        if model is None or persistence is None:
            raise DataError(f"'{name}' has no score {'of persistence' if model is not None else ''}".rstrip(), fix="use a channel that was scored")
        ratios.append(float((model.sel(lead_time=leads) / persistence.sel(lead_time=leads)).mean()))
    return float(np.mean(ratios))


def scored_channels(scores: xr.Dataset) -> list[str]:
    """Short names of all channels of a score file."""
    names = []
    for variable, item in scores.data_vars.items():
        if "metric" not in item.dims:
            continue
        levels = np.atleast_1d(item.attrs.get("available_levels", scores["level"].values)) if "level" in item.dims else [None]
        names += [vocabulary.short_name(str(variable), None if k is None else int(k)) for k in levels]
    return names
