"""What the axes of a dataset mean, found by their metadata: rows, columns, times, levels."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from afno_forecast.errors import DataError, ForecastError
from afno_forecast.grid import Geometry
from afno_forecast.times import TimeAxis

from .sources_horizontal import attribute, find_horizontal
from .sources_notes import Ledger
from .units import parse

LEVEL_NAMES = ("level", "levels", "lev", "plev", "pressure_level", "isobaricinhpa", "isobaricinpa", "isobaric", "pressure", "plevel", "pfull")
NOT_PRESSURE = re.compile(r"(?i)hybrid|sigma|model[_ ]?level|eta\b|ocean|depth|height|theta|isentrop")
STEP_NAMES = ("step", "prediction_timedelta", "lead_time", "leadtime", "forecast_hour", "forecast_period")
_PRESSURE = parse("Pa")


@dataclass(frozen=True)
class Axes:
    """The dimensions of a dataset by meaning; `time` and `level` map a dimension (or "" for a scalar) to its values."""

    rows: str
    columns: str
    time: dict[str, TimeAxis]
    level: dict[str, NDArray[np.float64]]
    step: str
    height: float | None
    auxiliary: frozenset[str]


def find_axes(ds: xr.Dataset, path: str, ledger: Ledger) -> tuple[Axes, Geometry]:
    """The axes of a dataset. Raises DataError when there is no usable horizontal mesh or the times are not dates."""
    rows, columns, orientation = find_horizontal(ds, path, ledger.boundary)
    step = next((str(n) for n in ds.variables if str(n).lower() in STEP_NAMES or attribute(ds[n], "standard_name") == "forecast_period"
                 or ds[n].dtype.kind == "m"), "")
    coordinates = {str(n): ds[n] for n in ds.variables if n in ds.coords or str(n).lower() in (*LEVEL_NAMES, "time", "valid_time", "height")}
    auxiliary = {str(attribute(ds[n], key)) for n in ds.variables for key in ("bounds", "climatology", "grid_mapping")} - {""}
    level: dict[str, NDArray[np.float64]] = {}
    height = None
    for name, coordinate in coordinates.items():
        if coordinate.ndim > 1 or coordinate.dtype.kind not in "fiu" or coordinate.size == 0:
            continue
        dim = _dim(coordinate)
        if dim not in ("", name) and dim in ds.coords:
            continue  # a quantity along another axis, not an axis
        hpa = _pressure(coordinate, name, path, ledger)
        if hpa is not None:
            level.setdefault(dim, hpa)
        elif (coordinate.size == 1 and (name.lower().startswith("height") or attribute(coordinate, "standard_name") == "height")
              and attribute(coordinate, "units") in ("m", "metre", "meter", "metres", "meters", "")):
            height = float(coordinate.values.reshape(-1)[0])
    time = _times(ds, coordinates, step, path, ledger)
    used = {n for n, c in coordinates.items() if c.ndim < 2}
    return Axes(rows, columns, time, level, step, height, frozenset(auxiliary | used)), orientation


def _pressure(coordinate: xr.DataArray, name: str, path: str, ledger: Ledger) -> NDArray[np.float64] | None:
    """Levels in hPa when a coordinate is pressure by units, standard name or name; else None."""
    units, standard_name = attribute(coordinate, "units"), attribute(coordinate, "standard_name")
    words = f"{standard_name} {attribute(coordinate, 'long_name')}"
    known = parse(units) if units else None
    values = np.atleast_1d(coordinate.values).astype(np.float64)
    is_level = standard_name == "air_pressure" or name.lower() in LEVEL_NAMES
    if not is_level and not (coordinate.ndim == 1 and coordinate.dims[0] == name):
        return None
    if known is not None and _PRESSURE is not None and known.dimension == _PRESSURE.dimension:
        return np.asarray(values * known.factor / 100.0)
    if units or not is_level or NOT_PRESSURE.search(words):
        return None
    if name.lower() in ("isobaricinhpa", "isobaricinpa"):
        return values / (1.0 if name.lower() == "isobaricinhpa" else 100.0)
    if len(values) > 1 and values.min() <= 1 and (np.abs(np.diff(values)) == 1).all():
        return None  # 1, 2, 3, ...: numbers of model levels
    in_pascal = bool(values.max() > 1200)
    ledger.note(f"level coordinate '{name}' has no units: taken as {'Pa' if in_pascal else 'hPa'}", path)
    return values / (100.0 if in_pascal else 1.0)


def _times(ds: xr.Dataset, coordinates: dict[str, xr.DataArray], step: str, path: str, ledger: Ledger) -> dict[str, TimeAxis]:
    """Time axes by dimension; valid time where a single forecast step is given."""
    dated = {n: c for n, c in coordinates.items() if c.ndim <= 1 and c.size and (c.dtype.kind == "M" or _is_cftime(c))}
    for name, coordinate in coordinates.items():
        if name.lower() in ("time", "valid_time") and name not in dated and coordinate.ndim == 1:
            units = attribute(coordinate, "units")
            ledger.refuse(f"'{name}' is not a series of dates (units '{units or 'none'}')" if name in ds.dims else f"'{name}' is not a date",
                          path)
    if step and ds[step].size > 1:
        return {_dim(c): TimeAxis.from_xarray(c) for n, c in dated.items() if attribute(c, "standard_name") != "time" or c.ndim}
    single = _step_seconds(ds[step]) if step else 0
    axes: dict[str, TimeAxis] = {}
    order = sorted(dated, key=lambda n: (attribute(dated[n], "standard_name") == "forecast_reference_time", n not in ("time", "valid_time"), n))
    for name in order:
        coordinate, dim = dated[name], _dim(dated[name])
        if dim in axes:
            continue
        try:
            axis = TimeAxis.from_xarray(coordinate)
        except ForecastError as error:
            raise DataError(error.what, where=f"{path}, {name}", fix=error.fix or "remove or repair these times") from error
        if step and single and attribute(coordinate, "standard_name") != "time":
            axis = TimeAxis(axis.seconds + single, axis.calendar)
        axes[dim] = axis
    if single and axes:
        ledger.note(f"a forecast {single / 3600:g} h after its start, taken at its valid time", path)
    return axes


def _dim(coordinate: xr.DataArray) -> str:
    return str(coordinate.dims[0]) if coordinate.ndim else ""


def _is_cftime(coordinate: xr.DataArray) -> bool:
    return coordinate.dtype == object and hasattr(np.atleast_1d(coordinate.values)[0], "calendar")


def _step_seconds(step: xr.DataArray) -> int:
    value = np.atleast_1d(step.values)[0]
    if step.dtype.kind == "m":
        return int(np.timedelta64(value, "s").astype(np.int64))
    unit = parse(attribute(step, "units").split(" since")[0])
    if unit is None:
        raise DataError(f"forecast step '{step.name}' has no time unit", fix="set its units, for example to 'hours'")
    return round(float(value) * unit.factor)
