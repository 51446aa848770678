"""A training store as a labelled dataset, for drawing and for users of xarray."""

from __future__ import annotations

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from .. import vocabulary
from .store import Store


def store_dataset(store: Store) -> xr.Dataset:
    """The states and static fields of a store as named variables (time, [level], latitude, longitude), or (..., y, x), read and checked when used."""
    coords = {"time": store.times.values(), **{name: (name, values) for name, values in store.grid.axes.items()}}
    variables = {name: _lazy(store, name) for name in dict.fromkeys(c.variable for c in store.channels)}
    static = store.static()
    variables |= {c.variable: xr.DataArray(static[i], dims=tuple(store.grid.axes), attrs=_attrs(c.variable, c.units))
                  for i, c in enumerate(store.static_channels)}
    return xr.Dataset(variables, coords=coords, attrs=store.source_attrs)


def _lazy(store: Store, variable: str) -> xr.DataArray:
    """One variable; a dask block is one time with all its levels, in ascending order."""
    rows = sorted((c.level or 0, i) for i, c in enumerate(store.channels) if c.variable == variable)
    index = np.asarray([i for _, i in rows], dtype=np.int64)
    height, width = store.grid.shape

    def read(block_info: dict[int | None, dict[str, list[tuple[int, int]]]]) -> NDArray[np.float32]:
        return store.read(block_info[None]["array-location"][0][0], index)[None]

    chunks = ((1,) * len(store.times), (len(index),), (height,), (width,))
    blocks = da.map_blocks(read, chunks=chunks, dtype=np.float32, meta=np.empty((0,) * 4, np.float32))
    channel = store.channels.channels[index[0]]
    item = xr.DataArray(blocks, dims=("time", "level", *store.grid.axes), attrs=_attrs(variable, channel.units))
    if channel.level is None:
        return item.isel(level=0)
    levels = np.asarray([level for level, _ in rows])
    return item.assign_coords(level=("level", levels, {"units": "hPa"})).assign_attrs(available_levels=levels.tolist())


def _attrs(variable: str, units: str) -> dict[str, str]:
    known = vocabulary.BY_NAME.get(variable)
    return {"units": units, "long_name": variable.replace("_", " "), **({"standard_name": known.standard_name} if known else {})}
