"""The one scorer of validation, rollout and command line: a row of statistics for each forecast and lead time, added up at the end.

What is computed of one forecast stands in the families: `deterministic.py`, `ensemble.py`, `spectra.py`, `extremes.py`,
`precipitation.py`. Every statistic is reduced on its own in float64 and added in the order of init time: batches, chunks, order of
arrival and division among processes change no digit.
"""

# B batch, E member, C channel, H latitude row, W longitude column, R region, L lead time

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Union

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from .. import vocabulary
from ..channels import ChannelSet
from ..errors import DataError, DivergenceError
from ..grid import Grid
from ..times import STANDARD, format_duration, format_instant
from .deterministic import Deterministic
from .regions import AreaMeans, default_regions, make_regions
from .sample import Family, Float, Rows, Sample
from .score_names import name_scores, name_table

if TYPE_CHECKING:
    from torch import Tensor

Array = Union["Tensor", NDArray[np.float32], NDArray[np.float64]]
KEY_CHANNELS = ("z500", "t850", "u250", "v250", "q700", "sp", "t2m")
_BLOCK = 1 << 21  # cells in float64 held at once: 16 MB an array
_log = logging.getLogger(__name__)


class Scorer:
    """Scores that add: any order, batch size, or division among scorers gives the same digits.

    Args:
        channels: what is scored, in the order of the arrays.
        grid: the canonical grid of the arrays.
        regions: WeatherBench's region names, `land`, `sea`; None for all that have cells (a limited area or a box: `global`, the whole
            domain, and land and sea where the land fraction is given).
        calendar: of the init times, for messages.
        missing_ok: whether a prediction may have missing values, as a climatology has: its scores are then NaN, not an error.
        families: scores to compute; None for `Deterministic` alone.
        land_fraction: part of each cell that is land, for the regions `land` and `sea`; shape (H, W).
        rival: name of the rival whose predictions are scored, for messages; empty for the forecast itself.

    Raises:
        ConfigError: an unknown region, or one the grid has no cells in.
    """

    def __init__(self, channels: ChannelSet, grid: Grid, *, regions: Sequence[str] | None = None, calendar: str = STANDARD,
                 missing_ok: bool = False, families: Sequence[Family] | None = None,
                 land_fraction: NDArray[np.floating] | None = None, rival: str = "") -> None:
        self.channels = channels
        self.grid = grid
        self.calendar = calendar
        self.families: tuple[Family, ...] = (Deterministic(),) if families is None else tuple(families)
        self._missing_ok = missing_ok
        self._rival = rival
        self.areas = AreaMeans(grid, make_regions(default_regions(grid, land_fraction) if regions is None else regions, grid, land_fraction))
        self.rows: dict[tuple[int, int], Rows] = {}  # (init, lead) -> statistics

    def __len__(self) -> int:
        return len(self.rows)

    def update(self, init_seconds: NDArray[np.int64], lead_seconds: int, prediction: Array, truth: Array, climatology: Array | None = None) -> None:
        """Add forecasts of one lead time.

        Args:
            init_seconds: init times, seconds since 1970; shape (B,).
            lead_seconds: lead time.
            prediction: physical units, latitude ascending; shape (B, C, H, W), or (B, E, C, H, W) of an ensemble, whole.
            truth: the analysis at the valid times; shape (B, C, H, W).
            climatology: expected values at the valid times, NaN on days without; same shape, or None for no anomaly correlation.

        Raises:
            DivergenceError: the forecast is not finite: channel, init and lead are named.
            DataError: a shape does not fit, the truth or a rival is not finite, or an (init, lead) comes twice.
        """
        inits = [int(s) for s in np.atleast_1d(init_seconds)]
        predicted = to_numpy(prediction)
        predicted = predicted[:, None] if predicted.ndim == 4 else predicted
        arrays = [to_numpy(truth)] + ([] if climatology is None else [to_numpy(climatology)])
        wanted = (len(inits), len(self.channels), *self.grid.shape)
        shapes = [(predicted.shape[0], *predicted.shape[2:]), *(a.shape for a in arrays)]
        for name, shape in zip(("prediction", "truth", "climatology"), shapes, strict=False):
            if shape != wanted:
                raise DataError(f"{name} has shape {shape}, wanted {wanted} (init, channel, row, column)")
        for b, init in enumerate(inits):
            key = (init, int(lead_seconds))
            self._refuse_twice([key])
            self.rows[key] = self._reduce(key, predicted[b], arrays[0][b], None if climatology is None else arrays[1][b])

    def merge(self, other: Scorer) -> None:
        """Add the rows of another scorer of the same channels, grid and regions. Raises DataError when they differ or a row comes twice."""
        if self.channels.names != other.channels.names or not self.grid.matches(other.grid) or self.region_names != other.region_names:
            raise DataError("two scorers of different channels, grids or regions cannot be merged")
        self.add_rows(other.rows)

    def add_rows(self, rows: Mapping[tuple[int, int], Rows]) -> None:
        """Add statistics by (init, lead). Raises DataError when one is there already."""
        self._refuse_twice(rows)
        self.rows.update(rows)

    def _refuse_twice(self, keys: Mapping[tuple[int, int], Any] | Sequence[tuple[int, int]]) -> None:
        twice = sorted(k for k in keys if k in self.rows)
        if twice:
            raise DataError(f"the forecast from {format_instant(twice[0][0], self.calendar)} at lead {format_duration(twice[0][1])} is scored twice",
                            fix="give each init time once")

    @property
    def region_names(self) -> tuple[str, ...]:
        """Names of the regions, in order."""
        return tuple(r.name for r in self.areas.regions)

    @property
    def leads(self) -> list[int]:
        """Lead times of the rows in seconds, ascending."""
        return sorted({lead for _, lead in self.rows})

    def inits(self, lead: int) -> list[int]:
        """Init times scored at a lead time, ascending."""
        return sorted(init for init, k in self.rows if k == lead)

    def mean(self, lead: int) -> Rows:
        """Means over inits of every statistic at a lead time, added in the order of init time."""
        rows = [self.rows[init, lead] for init in self.inits(lead)]
        result = {}
        for name, first in rows[0].items():
            total = first.copy()
            for row in rows[1:]:
                total += row[name]
            result[name] = total / len(rows)
        return result

    def scores_of(self, mean: Mapping[str, Float]) -> dict[str, Float]:
        """Scores by name from means of statistics, those of all families; each (..., R, C)."""
        return {name: value for family in self.families for name, value in family.scores(mean).items()}

    def finalize(self) -> xr.Dataset:
        """The scores of everything added.

        Returns:
            Dataset with one variable per quantity, dims (metric, region, lead_time, [level]), float64, in the quantity's units
            (correlations: 1); tables of the families beside it; `num_inits` and `num_inits_without_climatology` per lead_time; attribute
            `notes` says what is missing.

        Raises:
            DataError: nothing was added.
        """
        if not self.rows:
            raise DataError("no forecast was scored: no init and valid time has truth", fix="give a truth file that covers the forecast")
        leads = self.leads
        means = [self.mean(lead) for lead in leads]
        scores = [self.scores_of(mean) for mean in means]
        counts = [len(self.inits(lead)) for lead in leads]
        known = self._has_climatology()
        unclimatic = [self._without_climatology(lead, known) for lead in leads]
        names = [m for m in scores[0] if unclimatic != counts or not m.startswith(("acc", "activity")) or not self._blank(m, scores)]
        stacked = {m: np.stack([s[m] for s in scores], axis=1) for m in names}
        result = name_scores(stacked, self.channels, self.region_names, leads)
        for tables in zip(*([t for f in self.families for t in f.tables(mean)] for mean in means), strict=True):
            result = result.merge(name_table(tables, self.channels, self.region_names, leads))
        result["num_inits"] = ("lead_time", np.asarray(counts, dtype=np.int64), {"long_name": "forecasts scored", "units": "1"})
        result["num_inits_without_climatology"] = ("lead_time", np.asarray(unclimatic, dtype=np.int64),
                                                   {"long_name": "of these, valid times with a channel that has no climatology", "units": "1"})
        result.attrs["notes"] = self._notes(leads, unclimatic, "acc" in names)
        return result

    @staticmethod
    def _blank(metric: str, scores: Sequence[Mapping[str, Float]]) -> bool:
        return all(bool(np.isnan(s[metric]).all()) for s in scores)

    def _without_climatology(self, lead: int, known: NDArray[np.bool_]) -> int:
        """Forecasts without climatology in a channel that has one at other times, or in all where none has one."""
        rows = (self.rows[init, lead] for init in self.inits(lead))
        return sum("covariance" not in row or not known.any() or bool(np.isnan(row["covariance"][..., known]).any()) for row in rows)

    def _has_climatology(self) -> NDArray[np.bool_]:
        """Which channels have a climatology in any row; (C,)."""
        known = np.zeros(len(self.channels), dtype=bool)
        for row in self.rows.values():
            if "covariance" in row:
                known |= np.isfinite(row["covariance"]).any(axis=0)
        return known

    def _notes(self, leads: Sequence[int], unclimatic: Sequence[int], has_climatology: bool) -> str:
        if not has_climatology or not any(unclimatic):
            return ""
        where = ", ".join(f"{n} at {format_duration(lead)}" for lead, n in zip(leads, unclimatic, strict=True) if n)
        note = f"no climatology on the valid day of some forecasts ({where}): acc is NaN for the leads and channels concerned"
        _log.warning(note)
        return note

    def _reduce(self, key: tuple[int, int], members_ECHW: NDArray[Any], truth_CHW: NDArray[Any], climatology_CHW: NDArray[Any] | None) -> Rows:
        """Statistics of one forecast, in blocks of channels so that memory is bounded."""
        size = len(members_ECHW) * self.grid.shape[0] * self.grid.shape[1]
        block = max(1, _BLOCK // size)
        parts: list[Rows] = []
        for first in range(0, len(self.channels), block):
            at = slice(first, min(first + block, len(self.channels)))
            sample = Sample(*key, at, members_ECHW[:, at], truth_CHW[at], None if climatology_CHW is None else climatology_CHW[at])
            self._refuse_missing(sample)
            parts.append({name: value for family in self.families for name, value in family.reduce(sample, self.areas).items()})
        return {name: np.concatenate([part[name] for part in parts], axis=-1) for name in parts[0]}

    def _refuse_missing(self, sample: Sample) -> None:
        where = f"init {format_instant(sample.init_seconds, self.calendar)}, lead {format_duration(sample.lead_seconds)}"
        for array, kind in ((sample.members_ECHW, "forecast"), (sample.truth_CHW[None], "truth")):
            if np.isfinite(np.asarray(array).sum(dtype=np.float64)):
                continue
            bad = [self.channels.channels[sample.channels.start + i].short for i in range(array.shape[1]) if not np.isfinite(array[:, i]).all()]
            if bad and kind == "forecast" and self._rival and not self._missing_ok:
                raise DataError(f"{self._rival}, which the forecast is compared with, has missing or infinite values in {', '.join(bad)}",
                                where=where, fix="fill or leave out these variables there, or score these leads without it")
            if bad and kind == "forecast" and not self._missing_ok and sample.lead_seconds == 0:
                raise DataError(f"the forecast has missing values in {', '.join(bad)} at lead 0h", where=where,
                                fix="choose other leads with --leads, or leave the variable out of the file")
            if bad and kind == "forecast" and not self._missing_ok:
                raise DivergenceError(f"the forecast is not finite in {', '.join(bad)}", where=where,
                                      fix="score the leads before it with --leads, or forecast again with another model")
            if bad and kind == "truth":
                raise DataError(f"the truth has missing or infinite values in {', '.join(bad)}", where=where,
                                fix="fill or leave out these variables in the truth")


def to_numpy(array: Array) -> NDArray[Any]:
    """A tensor or array as numpy; half precision becomes float32."""
    if isinstance(array, np.ndarray):
        return array
    tensor = array.detach().cpu()
    return np.asarray((tensor if tensor.is_floating_point() and tensor.element_size() >= 4 else tensor.float()).numpy())


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
