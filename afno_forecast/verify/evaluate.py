"""A forecast against the truth, with persistence and climatology beside it: scores, score files, the table people read."""

# L lead time, C channel, H latitude row, W longitude column

from __future__ import annotations

import csv
import logging
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import netCDF4
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from .. import vocabulary
from ..channels import ChannelSet
from ..errors import ConfigError, DataError, ResourceError, printable
from ..grid import Grid
from ..times import TimeAxis, format_duration
from .baselines import climatology_states, persistence, require_climatology_fits
from .forecasts import forecast_channels, forecast_grid, open_forecast, read_channels
from .scores import Scorer, pick, scored_channels

if TYPE_CHECKING:
    from ..data.climatology import Climatology
    from ..data.states import States

_BLOCK_BYTES = 1 << 27  # of float32 read at once from each source
_MARK = "afno_forecast_scores"  # attribute of every score file
_COLUMNS = ("variable", "level", "metric", "region", "lead_hours", "value")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Plan:
    """What is compared: channels, init times, and lead times with their positions in the forecast."""

    channels: ChannelSet
    init_seconds: NDArray[np.int64]
    lead_seconds: NDArray[np.int64]
    lead_index: NDArray[np.int64]
    left_out: tuple[str, ...]


def evaluate(forecast: xr.Dataset | Path, truth: States, *, climatology: Climatology | None, regions: Sequence[str] | None = None,
             leads: Sequence[int] | None = None) -> xr.Dataset:
    """Score every channel common to forecast and truth, at every init and valid time the truth has.

    Args:
        forecast: a file in WeatherBench 2's layout, or what `open_forecast` gave.
        truth: the analyses.
        climatology: of the training period; None for no anomaly correlation and no climatology scores.
        regions: WeatherBench's names; None for all that have cells.
        leads: lead times in seconds; None for all of the forecast.

    Returns:
        Dataset (metric, region, lead_time, [level]): `rmse`, `bias`, `acc`, `acc_mean_of_inits`, and where they exist the same with
        `_persistence` and `_climatology`; `num_inits` and `num_inits_skipped` per lead; attribute `notes`: all that is not scored.

    Raises:
        DataError: another grid or calendar, a climatology of another grid or in other units, no common channel, a lead the
            forecast lacks, or nothing the truth covers.
        DivergenceError: a forecast that is not finite.
    """
    ds = forecast if isinstance(forecast, xr.Dataset) else open_forecast(forecast)
    _require_same(forecast_grid(ds, wraps=truth.grid.periodic), truth.grid, TimeAxis.from_xarray(ds["time"]).calendar, truth.times.calendar)
    plan = _plan(ds, truth.channels, leads)
    if climatology is not None:
        require_climatology_fits(climatology, plan.channels, truth.grid)
    calendar = truth.times.calendar
    scorers = {kind: Scorer(plan.channels, truth.grid, regions=regions, calendar=calendar, missing_ok=kind == "_climatology")
               for kind in ("", "_persistence", "_climatology")}
    skipped = np.zeros(len(plan.lead_seconds), dtype=np.int64)
    available = set(truth.times.seconds.tolist())
    block = max(1, _BLOCK_BYTES // (4 * max(len(truth.channels), len(plan.channels)) * truth.grid.shape[0] * truth.grid.shape[1]))
    for i, init in enumerate(plan.init_seconds.tolist()):
        usable = np.asarray([init in available and init + lead in available for lead in plan.lead_seconds.tolist()])
        skipped += ~usable
        positions = np.flatnonzero(usable)
        for first in range(0, len(positions), block):
            _score_block(ds, truth, climatology, plan, scorers, i, positions[first:first + block])
    scores = _assemble(scorers, plan, skipped, climatology)
    scores.attrs |= {key: ds.attrs[key] for key in ("title", "model", "source", "institution", "license") if key in ds.attrs}
    return scores


def _score_block(ds: xr.Dataset, truth: States, climatology: Climatology | None, plan: _Plan, scorers: dict[str, Scorer], i: int,
                 positions: NDArray[np.int64]) -> None:
    """Score some lead times of one init time."""
    init = int(plan.init_seconds[i])
    leads = plan.lead_seconds[positions]
    where = plan.lead_index[positions]
    predicted_LCHW = read_channels(ds, plan.channels, i, slice(int(where[0]), int(where[-1]) + 1))[where - where[0]]
    index = [truth.channels.index(name) for name in plan.channels.names]
    truth_LCHW = truth.read(truth.index_of(init + leads))[:, index]
    persistence_LCHW = persistence(truth, plan.channels, init, len(leads))
    expected_LCHW = None if climatology is None else climatology_states(climatology, plan.channels, init + leads, truth.times.calendar)
    for k, lead in enumerate(leads.tolist()):
        at, key = slice(k, k + 1), np.asarray([init], dtype=np.int64)
        expected = None if expected_LCHW is None else expected_LCHW[at]
        scorers[""].update(key, lead, predicted_LCHW[at], truth_LCHW[at], expected)
        scorers["_persistence"].update(key, lead, persistence_LCHW[at], truth_LCHW[at], expected)
        if expected is not None:
            scorers["_climatology"].update(key, lead, expected, truth_LCHW[at])


def _require_same(grid: Grid, truth_grid: Grid, calendar: str, truth_calendar: str) -> None:
    if not grid.matches(truth_grid):
        raise DataError(f"the forecast is on {grid.describe()}; the truth on {truth_grid.describe()}", fix="give truth on the forecast's grid")
    if calendar != truth_calendar:
        raise DataError(f"the forecast counts time on the {calendar} calendar; the truth on {truth_calendar}", fix="give truth on the same calendar")


def _plan(ds: xr.Dataset, truth_channels: ChannelSet, leads: Sequence[int] | None) -> _Plan:
    offered = forecast_channels(ds)
    offered_names = [n for n, c in zip(offered.names, offered, strict=True) if not _is_blank(ds, c.variable, c.level)]
    common = tuple(c for c in truth_channels if c.name in offered_names)
    if not common:
        raise DataError(f"forecast ({', '.join(offered.shorts)}) and truth ({', '.join(truth_channels.shorts)}) have no channel in common",
                        fix="give truth with the forecast's variables")
    left_out = [f"{c.short} (not in the truth)" for c in offered if c.name not in truth_channels.names and c.name in offered_names]
    left_out += [f"{c.short} (not in the forecast)" for c in truth_channels if c.name not in offered_names and c.role in ("prognostic", "diagnostic")]
    lead_seconds = ds["prediction_timedelta"].values.astype("timedelta64[s]").astype(np.int64)
    wanted = lead_seconds if leads is None else np.unique(np.asarray(leads, dtype=np.int64))
    absent = [format_duration(int(s)) for s in wanted if s not in lead_seconds]
    if absent:
        raise DataError(f"the forecast has no lead {', '.join(absent)}; it has {format_duration(int(lead_seconds[0]))} to "
                        f"{format_duration(int(lead_seconds[-1]))}, {len(lead_seconds)} of them", fix="ask for leads it has")
    return _Plan(ChannelSet(common), TimeAxis.from_xarray(ds["time"]).seconds, wanted, np.searchsorted(lead_seconds, wanted), tuple(left_out))


def _is_blank(ds: xr.Dataset, variable: str, level: int | None) -> bool:
    """Whether a level of a variable that does not list its levels is one it lacks: missing in the whole first map."""
    item = ds[variable]
    if level is None or "available_levels" in item.attrs:
        return False
    return bool(np.isnan(item.isel(time=0, prediction_timedelta=0).sel(level=level).values).all())


def _assemble(scorers: dict[str, Scorer], plan: _Plan, skipped: NDArray[np.int64], climatology: Climatology | None) -> xr.Dataset:
    notes = []
    parts = [scorers[""].finalize()]
    for kind in ("_persistence", "_climatology"):
        if len(scorers[kind]):
            part = scorers[kind].finalize()
            parts.append(part.assign_coords(metric=[f"{m}{kind}" for m in part["metric"].values]))
    named = [name for name, item in parts[0].data_vars.items() if "metric" in item.dims]
    scores = xr.concat([p[named] for p in parts], dim="metric", combine_attrs="override")
    scores = scores.assign({n: parts[0][n] for n in ("num_inits", "num_inits_without_climatology")})
    lead_time = plan.lead_seconds.astype("timedelta64[s]").astype("timedelta64[ns]")
    counts = xr.DataArray(skipped, dims="lead_time", coords={"lead_time": lead_time},
                          attrs={"long_name": "forecasts not scored because the truth lacks their init or valid time", "units": "1"})
    scores["num_inits_skipped"] = counts.sel(lead_time=scores["lead_time"])
    if skipped.any():
        where = ", ".join(f"{format_duration(int(s))}: {n}" for s, n in zip(plan.lead_seconds, skipped, strict=True) if n)
        notes.append(f"truth lacks the init or valid time of some forecasts, which are not scored ({where})")
    if plan.left_out:
        notes.append(f"not scored: {', '.join(plan.left_out)}")
    if climatology is None:
        notes.append("no climatology was given: no anomaly correlation, no climatology scores")
    for note in notes:
        _log.warning(note)
    notes = [n for n in (parts[0].attrs["notes"],) if n] + notes
    scores.attrs = {"notes": "\n".join(notes), "num_forecasts": len(plan.init_seconds)}
    return scores


def default_name(model: str, target: str, grid: Grid, year: int | str) -> str:
    """WeatherBench's name of a score file: `<model>_vs_<target>_<lonxlat>_<year>.nc`; of the names only letters, digits and `._-` are kept."""
    return f"{_file_name_part(model)}_vs_{_file_name_part(target)}_{grid.shape[1]}x{grid.shape[0]}_{_file_name_part(str(year))}.nc"


def _file_name_part(text: str) -> str:
    """Names come from files of others: nothing of them may lead out of a folder, hide a file or steer a terminal."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._")[:100] or "unnamed"


def check_scores_path(path: Path, inputs: Sequence[Path] = ()) -> None:
    """See that scores can be written to `path`, and a table beside it, without loss of anything but earlier scores.

    Args:
        path: of the netCDF file to come.
        inputs: what is read: neither file may be one of these, or lie in a store among them.

    Raises:
        ConfigError: a file is an input, or one that is there and holds no scores of this program.
        ResourceError: the folder does not exist.
    """
    if not path.parent.is_dir():
        raise ResourceError("the folder of the scores does not exist", where=str(path.parent), fix=f"mkdir -p {shlex.quote(str(path.parent))}")
    ours = _is_score_file(path)
    for file in (path, path.with_suffix(".csv")):
        real = file.resolve()
        taken = [i for i in inputs if real == i.resolve() or (i.resolve() in real.parents and _is_zarr(i))]
        if taken:
            raise ConfigError(f"the scores would be written over what is read, '{taken[0]}'", where=f"--out {path}", fix="choose another --out")
        if os.path.lexists(file) and not ours and not (file != path and _is_table(file)):
            raise ConfigError(f"'{file}' is there and holds no scores of this program", where=f"--out {path}", fix="choose another --out")


def _is_zarr(path: Path) -> bool:
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zmetadata"))


def _is_score_file(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        with netCDF4.Dataset(path) as file:
            return _MARK in file.ncattrs()
    except OSError:
        return False


def _is_table(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.readline(200).strip() == ",".join(_COLUMNS).encode()


def write_scores(scores: xr.Dataset, path: Path) -> tuple[Path, Path]:
    """Write the scores as netCDF and, beside it, as CSV (variable, level, metric, region, lead_hours, value); both appear whole.

    Returns:
        the two paths.

    Raises:
        ConfigError: another file is there. ResourceError: they cannot be written.
    """
    path = Path(path)
    check_scores_path(path)
    table = path.with_suffix(".csv")
    drafts = [p.with_name(f".{p.name}.partial") for p in (path, table)]
    hours = scores["lead_time"].values / np.timedelta64(1, "h")
    try:
        encoding = {"lead_time": {"units": "seconds", "dtype": "int32"}}
        scores.assign_attrs({_MARK: "1"}).to_netcdf(drafts[0], engine="netcdf4", encoding=encoding)
        with drafts[1].open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(_COLUMNS)
            for name in scored_channels(scores):
                variable, level = vocabulary.split_name(name)
                for metric in scores["metric"].values:
                    for region in scores["region"].values:
                        values = pick(scores, name, str(metric), region=str(region))
                        for hour, value in zip(hours, [] if values is None else values.values, strict=True):
                            writer.writerow([variable, "" if level is None else level, metric, region, f"{hour:g}", repr(float(value))])
        for draft, final in zip(drafts, (path, table), strict=True):
            draft.replace(final)
    except OSError as error:
        for draft in drafts:
            draft.unlink(missing_ok=True)
        raise ResourceError(f"cannot write the scores: {error.strerror or error}", where=str(path), fix="choose another --out") from error
    return path, table


def format_table(scores: xr.Dataset, variables: Sequence[str] = ("z500", "t850", "u250", "t2m"), leads: Sequence[int] | None = None, *,
                 region: str | None = None) -> str:
    """RMSE by lead for each variable: lead, model, persistence, climatology, skill (1 - RMSE / RMSE of persistence).

    Args:
        scores: what `evaluate` returned.
        variables: names a person may type; those without a score are said to have none.
        leads: lead times in seconds; None for all.
        region: one of the scores' regions; None takes the globe, or the first where it is not scored. The table names it.
    """
    regions = [str(r) for r in scores["region"].values]
    region = region or ("global" if "global" in regions else regions[0])
    seconds = scores["lead_time"].values.astype("timedelta64[s]").astype(np.int64).tolist()
    wanted = seconds if leads is None else list(leads)
    lines: list[str] = []
    for name in variables:
        model = pick(scores, name, "rmse", region=region)
        if model is None:
            lines += [f"{name}: not scored", ""]
            continue
        variable, level = vocabulary.split_name(name)
        lines += [f"{name}  {vocabulary.label(variable, level)}, RMSE in {scores[variable].attrs.get('units', '?')}, {region}",
                  f"{'lead':>6} | {'model':>10} | {'persistence':>11} | {'climatology':>11} | {'skill':>6}"]
        columns = [None if v is None else v.values for v in (model, *(pick(scores, name, f"rmse_{k}", region=region)
                                                                      for k in ("persistence", "climatology")))]
        for lead in wanted:
            values = [float("nan") if column is None or lead not in seconds else float(column[seconds.index(lead)]) for column in columns]
            lines.append(_table_line(lead, *values))
        lines.append("")
    notes = [f"note: {line}" for line in str(scores.attrs.get("notes", "")).splitlines() if line]
    return "\n".join(printable(line) for line in (*lines, *notes)).rstrip() + "\n"


def _table_line(lead: int, model: float, persistence_rmse: float, climatology_rmse: float) -> str:
    lost = [name for name, other in (("persistence", persistence_rmse), ("climatology", climatology_rmse)) if model >= other]
    numbers = [f"{v:.4g}" if np.isfinite(v) else "-" for v in (model, persistence_rmse, climatology_rmse)]
    skill = f"{1 - model / persistence_rmse:6.3f}" if np.isfinite(persistence_rmse) and persistence_rmse > 0 else f"{'-':>6}"
    mark = f"  loses to {' and '.join(lost)}" if lost else ""
    return f"{format_duration(lead):>6} | {numbers[0]:>10} | {numbers[1]:>11} | {numbers[2]:>11} | {skill}{mark}"
