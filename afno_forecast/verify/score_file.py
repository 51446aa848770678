"""Score files, and the table people read: names, writing beside a CSV, what must not be written over."""

from __future__ import annotations

import csv
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import netCDF4
import numpy as np
import xarray as xr

from .. import vocabulary
from ..errors import ConfigError, ResourceError, printable
from ..grid import Grid
from ..times import format_duration
from .scores import pick, scored_channels

_MARK = "afno_forecast_scores"  # attribute of every score file
_COLUMNS = ("variable", "level", "metric", "region", "lead_hours", "value")


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
    for file, is_ours in ((path, _is_score_file), (path.with_suffix(".csv"), _is_table)):
        real = file.resolve()
        taken = [i for i in inputs if real == i.resolve() or (i.resolve() in real.parents and _is_zarr(i))]
        if taken:
            raise ConfigError(f"the scores would be written over what is read, '{taken[0]}'", where=f"--out {path}", fix="choose another --out")
        if os.path.lexists(file) and not is_ours(file):
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
    try:
        encoding = {"lead_time": {"units": "seconds", "dtype": "int32"}}
        scores.assign_attrs({_MARK: "1"}).to_netcdf(drafts[0], engine="netcdf4", encoding=encoding)
        with drafts[1].open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(_COLUMNS)
            writer.writerows(_table_rows(scores))
        for draft, final in zip(drafts, (path, table), strict=True):
            draft.replace(final)
    except OSError as error:
        for draft in drafts:
            draft.unlink(missing_ok=True)
        raise ResourceError(f"cannot write the scores: {error.strerror or error}", where=str(path), fix="choose another --out") from error
    return path, table


def _table_rows(scores: xr.Dataset) -> Iterator[list[object]]:
    """Rows of the CSV: by variable and level, metric, region, lead time."""
    hours = [f"{h:g}" for h in scores["lead_time"].values / np.timedelta64(1, "h")]
    metrics, regions = scores["metric"].values.tolist(), scores["region"].values.tolist()
    for name in scored_channels(scores):
        variable, level = vocabulary.split_name(name)
        item = scores[variable] if level is None else scores[variable].sel(level=level)
        values_MRL = item.transpose("metric", "region", "lead_time").values
        for m, r, k in np.ndindex(values_MRL.shape):
            yield [variable, "" if level is None else level, metrics[m], regions[r], hours[k], repr(float(values_MRL[m, r, k]))]


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
        shown, factor = vocabulary.error_units(variable, str(scores[variable].attrs.get("units", "?")))
        lines += [f"{name}  {vocabulary.label(variable, level)}, RMSE{'' if shown == '1' else f' in {shown}'}, {region}",
                  f"{'lead':>6} | {'model':>10} | {'persistence':>11} | {'climatology':>11} | {'skill':>6}"]
        columns = [None if v is None else factor * v.values for v in (model, *(pick(scores, name, f"rmse_{k}", region=region)
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
