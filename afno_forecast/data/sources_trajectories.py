"""Independent trajectories on one axis of time: trajectory n has the year 2000 + n to itself, and no pair of states crosses a year.

A time without physical units is counted in steps of the record: one step is one hour on the axis. What one hour stands for is
written down in the attribute `time_mapping`.
"""

# N trajectory, T time

from __future__ import annotations

import math
from dataclasses import dataclass

import cftime
import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from afno_forecast.errors import DataError
from afno_forecast.times import STANDARD, TimeAxis

from .sources_notes import Ledger
from .units import parse

DIM = "trajectory"
FIRST_YEAR = 2000
STEP_SECONDS = 3600
_YEAR_SECONDS = 365 * 86400


@dataclass
class Numbering:
    """Numbers trajectories through all files of a source, in their order, where the files do not number them; holds all to one mapping of time."""

    next: int = 0
    first: tuple[float, str] | None = None  # the step and the path of the first file

    def take(self, count: int) -> NDArray[np.int64]:
        """The next `count` numbers."""
        first, self.next = self.next, self.next + count
        return np.arange(first, first + count, dtype=np.int64)

    def hold(self, step: float, path: str) -> None:
        """Raises DataError when an hour of the axis stands for another step than in the first file; to a thousandth, for times kept as float32."""
        self.first = self.first or (step, path)
        if not math.isclose(step, self.first[0], rel_tol=1e-3):
            raise DataError(f"two mappings of time: {_mapping(self.first[0])}; {_mapping(step)}", where=f"{self.first[1]} and {path}",
                            fix="bring the files to one step of time, or open them apart")


def _mapping(step: float) -> str:
    """What an hour on the axis of time stands for."""
    return f"1 hour on the axis of time is {step:g} of the model's own units of time" if step else "times are physical"


def trajectory_numbers(times: TimeAxis) -> NDArray[np.int64]:
    """The trajectory of each instant; shape (T,)."""
    years = times.seconds.astype("datetime64[s]").astype("datetime64[Y]").astype(np.int64) + 1970
    return np.asarray(years - FIRST_YEAR, dtype=np.int64)


def unroll(ds: xr.Dataset, path: str, ledger: Ledger, numbering: Numbering) -> xr.Dataset:
    """A dataset of dims (trajectory, time, ...) as one of (time, ...), with the coordinate `trajectory` along time.

    Args:
        ds: time as durations in any unit, as numbers without a unit, or as dates, of which the elapsed time counts; its own numbers
            of trajectories in the coordinate `trajectory`, where it has one.
        path: for messages.
        ledger: is told what is left out.
        numbering: gives numbers to trajectories that have none.

    Raises:
        DataError: no time, times that do not ascend or are mapped otherwise than those of files before, a trajectory longer than a year, or
            numbers that cannot be used.
    """
    if DIM not in ds.dims:
        return ds
    if "time" not in ds.variables or "time" not in ds.dims:
        raise DataError("trajectories without a coordinate 'time'", where=path, fix="give the dimension 'time' a coordinate of that name")
    numbers = _numbers(ds, path, numbering)
    seconds_NT, step = _elapsed(ds["time"], len(numbers), path)
    mapping = _mapping(step)
    if (np.diff(seconds_NT, axis=1) <= 0).any():
        raise DataError("times of a trajectory do not ascend, or not by whole seconds", where=f"{path}, time", fix="correct the times of the file")
    if seconds_NT.max() >= _YEAR_SECONDS:
        raise DataError(f"a trajectory of {seconds_NT.max() / 86400:g} days on the axis of time, where each has one year", where=path,
                        fix=f"cut it into trajectories of at most {_YEAR_SECONDS // STEP_SECONDS} steps")
    if seconds_NT.shape[1] > 1:
        numbering.hold(step, path)
    starts = (np.datetime64(FIRST_YEAR - 1970, "Y") + numbers).astype("datetime64[s]").astype(np.int64)
    axis = TimeAxis((starts[:, None] + seconds_NT).reshape(-1), STANDARD)
    kept = {}
    for name, item in ds.data_vars.items():
        dims = set(item.dims) & {DIM, "time"}
        if dims == {DIM, "time"}:
            kept[name] = _flat(item)
        elif not dims:
            kept[name] = item
        else:
            reason = "changes with the trajectory but not with time" if dims == {DIM} else "is one series of time for all trajectories"
            ledger.refuse(f"'{name}' {reason}: it is neither a state nor a constant field", f"{path}, {name}")
    coords = {name: c for name, c in ds.coords.items() if not set(c.dims) & {DIM, "time"}}
    coords["time"] = xr.DataArray(axis.values(), dims="time", attrs={"standard_name": "time"})
    coords[DIM] = xr.DataArray(np.repeat(numbers, ds.sizes["time"]), dims="time", attrs={"long_name": "number of the trajectory"})
    ledger.note(f"{len(numbers)} trajectories, number n in the year {FIRST_YEAR} + n; {mapping}", path)
    return xr.Dataset(kept, coords, {**ds.attrs, "time_mapping": mapping})


def _numbers(ds: xr.Dataset, path: str, numbering: Numbering) -> NDArray[np.int64]:
    if DIM not in ds.coords:
        return numbering.take(ds.sizes[DIM])
    values = ds[DIM].values
    if values.dtype.kind not in "iu" or values.min() < 0 or len(np.unique(values)) != len(values):
        raise DataError(f"the coordinate '{DIM}' does not hold different whole numbers from 0", where=path,
                        fix="number the trajectories 0, 1, 2, ...")
    return np.asarray(values, dtype=np.int64)


def _elapsed(time: xr.DataArray, count: int, path: str) -> tuple[NDArray[np.int64], float]:
    """(seconds since each trajectory's first state, shape (N, T); the step in the model's units that is an hour, 0 where times are physical)."""
    values = np.broadcast_to(time.transpose(*(d for d in (DIM, "time") if d in time.dims)).values, (count, time.sizes["time"]))
    units = str(time.attrs.get("units", time.encoding.get("units", ""))).strip()
    known = parse(units) if units and " since " not in units else None
    if values.dtype.kind in "mM":
        steps = (values - values[:, :1]).astype("timedelta64[ms]").astype(np.int64)
        return np.rint(steps / 1000).astype(np.int64), 0.0
    if values.dtype == object and isinstance(values.flat[0], cftime.datetime):
        return np.asarray([[round((v - row[0]).total_seconds()) for v in row] for row in values], dtype=np.int64), 0.0
    numbers = np.asarray(values, dtype=np.float64)
    elapsed = numbers - numbers[:, :1]
    if not np.isfinite(elapsed).all():
        raise DataError("missing values among the times", where=f"{path}, time", fix="correct the times of the file")
    if known is not None and known.dimension == (0, 0, 1, 0, 0, 0):
        return np.rint(elapsed * known.factor).astype(np.int64), 0.0
    step = float(np.median(np.diff(elapsed, axis=1))) if elapsed.shape[1] > 1 else 1.0
    if not (math.isfinite(step) and step > 0):
        raise DataError("times of a trajectory do not ascend", where=f"{path}, time", fix="correct the times of the file")
    step = float(f"{step:.6g}")  # times are often kept as float32
    seconds = np.rint(elapsed / step * STEP_SECONDS).astype(np.int64)
    nearest = np.rint(seconds / STEP_SECONDS).astype(np.int64) * STEP_SECONDS
    seconds = np.where(np.abs(seconds - nearest) <= STEP_SECONDS // 100, nearest, seconds)
    return seconds, step


def _flat(item: xr.DataArray) -> xr.DataArray:
    """(trajectory, time, ...) as (time, ...), block by block."""
    rest = [d for d in item.dims if d not in (DIM, "time")]
    array = da.asarray(item.transpose(DIM, "time", *rest).data)
    array = array.rechunk({0: 1}) if array.chunks[0] != (1,) * array.shape[0] else array
    shape = (array.shape[0] * array.shape[1], *array.shape[2:])
    return xr.DataArray(array.reshape(shape, merge_chunks=False), dims=("time", *rest), attrs=item.attrs)
