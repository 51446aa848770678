"""The horizontal axes of an opened dataset: latitude and longitude by their metadata, or the x and y of a box."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import xarray as xr

from afno_forecast.errors import DataError
from afno_forecast.grid import BoxGrid, Geometry, Orientation

Boundary = Literal["periodic", "open"]
_LATITUDE = ("latitude", "lat", "nav_lat", "latitudes", "lats")
_LONGITUDE = ("longitude", "lon", "long", "nav_lon", "longitudes", "lons")


def attribute(variable: xr.Variable | xr.DataArray, key: str) -> str:
    """An attribute as text, also where xarray has put it with the encoding; empty when there is none."""
    return str(variable.attrs.get(key, variable.encoding.get(key, ""))).strip()


def find_horizontal(ds: xr.Dataset, path: str, boundary: Boundary | None = None) -> tuple[str, str, Geometry]:
    """(dimension of the rows, dimension of the columns, geometry without transposition).

    Args:
        ds: an opened dataset.
        path: for messages.
        boundary: how a box continues over its edges where the file does not say.

    Raises:
        DataError: no regular mesh, or a box that does not say how it ends.
    """
    latitude = _horizontal(ds, "latitude", _LATITUDE, ("degrees_north", "degree_north", "degree_n", "degrees_n", "degreen", "degreesn"))
    longitude = _horizontal(ds, "longitude", _LONGITUDE, ("degrees_east", "degree_east", "degree_e", "degrees_e", "degreee", "degreese"))
    if latitude is None or longitude is None:
        if all(name in ds.coords and ds[name].dims == (name,) and ds[name].dtype.kind in "fiu" for name in ("x", "y")):
            return "y", "x", _box(ds, path, boundary)
        have = ", ".join(f"{d}: {n}" for d, n in list(ds.sizes.items())[:8])
        raise DataError(f"no latitude and longitude found, and no x and y; dimensions are {have or 'none'}", where=path,
                        fix="give the coordinates units degrees_north and degrees_east")
    if latitude.ndim != 1 or longitude.ndim != 1 or latitude.dims == longitude.dims:
        kind = "a curvilinear or rotated grid" if latitude.ndim == 2 else "a reduced or unstructured grid"
        raise DataError(f"{kind}: latitude has dimensions {tuple(map(str, latitude.dims))}", where=path,
                        fix="regrid it to a latitude-longitude grid first")
    if longitude.size > 1 and abs(abs(float(longitude.values[-1]) - float(longitude.values[0])) - 360) < 1e-3:
        raise DataError(f"longitude repeats its first column at its end ({longitude.values[0]:g} and {longitude.values[-1]:g})", where=path,
                        fix="drop the last column")
    try:
        orientation = Orientation(latitude.values, longitude.values)
        orientation.grid()
    except DataError as error:
        raise DataError(error.what, where=path, fix=error.fix or "check the coordinates of the file") from error
    return str(latitude.dims[0]), str(longitude.dims[0]), orientation


def _horizontal(ds: xr.Dataset, standard_name: str, names: tuple[str, ...], units: tuple[str, ...]) -> xr.DataArray | None:
    """The coordinate of that meaning: by standard name, then units, then name; grids of rotated poles have other standard names."""
    candidates = [ds[name] for name in ds.variables if ds[name].ndim in (1, 2) and ds[name].dtype.kind in "fiu"]
    tests: tuple[Callable[[xr.DataArray], bool], ...] = (
        lambda v: attribute(v, "standard_name") == standard_name,
        lambda v: not attribute(v, "standard_name").startswith("grid_") and attribute(v, "units").lower() in units,
        lambda v: str(v.name).lower() in names)
    for test in tests:
        found = [v for v in candidates if test(v) and not str(v.name).endswith(("_bnds", "_bounds"))]
        if found:
            return min(found, key=lambda v: v.ndim)
    return None


def _box(ds: xr.Dataset, path: str, boundary: Boundary | None) -> BoxGrid:
    """The box of the coordinates x and y; whether they wrap stands in their attribute `boundary`: periodic, or wall, open, ..."""
    ends = {name: attribute(ds[name], "boundary").lower() or (boundary or "") for name in ("y", "x")}
    silent = [name for name, end in ends.items() if not end]
    if silent:
        raise DataError(f"the file does not say whether {' and '.join(silent)} wrap{'s' * (len(silent) == 1)}", where=path,
                        fix="give x and y the attribute boundary, periodic or open; or data build with --boundary periodic (in a recipe "
                            "`boundary: periodic`)")
    wraps = {name: end == "periodic" for name, end in ends.items()}
    if wraps["y"] and not wraps["x"]:
        raise DataError("the box is periodic in y but not in x", where=path, fix="exchange x and y: a channel runs along x")
    try:
        return BoxGrid(np.asarray(ds["y"].values, np.float64), np.asarray(ds["x"].values, np.float64), wraps["x"], wraps["y"])
    except DataError as error:
        raise DataError(error.what, where=path, fix=error.fix or "check the coordinates of the file") from error
