"""Blocks of states out of a source, through dask: checked for missing values, filled where declared, rounded where asked."""

# N time, C channel, S static channel, H latitude row, W longitude column

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from .. import vocabulary
from ..channels import Channel, ChannelSet
from ..errors import ConfigError, DataError
from .sources import Source
from .sources_files import READ_ERRORS


def match_fill(fill: Mapping[str, float], channels: ChannelSet, static: ChannelSet) -> dict[str, float]:
    """Fill values by channel name, from what a person typed (a variable stands for all its levels). Raises ConfigError."""
    matched: dict[str, float] = {}
    for typed, value in fill.items():
        variable, level = vocabulary.split_name(typed)
        names = [c.name for c in (*channels, *static) if c.variable == variable and level in (None, c.level)]
        if not names:
            raise ConfigError(f"fill names '{typed}', which is not among the channels", fix=f"use one of {', '.join(channels.shorts)}")
        if not np.isfinite(np.float32(value)):
            raise ConfigError(f"fill for '{typed}' is {value}, which is no finite float32", fix="give a finite number")
        matched.update(dict.fromkeys(names, float(value)))
    return matched


def round_mantissa(values: NDArray[np.float32], bits: int) -> None:
    """Keep `bits` of the 23 mantissa bits of finite float32 values, in place, rounding to nearest, ties to even."""
    if bits >= 23:
        return
    drop = 23 - bits
    integers = values.view(np.uint32)
    integers += np.uint32((1 << (drop - 1)) - 1) + ((integers >> np.uint32(drop)) & np.uint32(1))
    integers &= np.uint32(0xFFFFFFFF ^ ((1 << drop) - 1))


def refuse_missing(states: NDArray[np.float32], channels: ChannelSet, date: Callable[[int], str], *, where: str, fix: str,
                   scope: str = "") -> None:
    """Raise DataError for cells that are not finite, counted by channel, with the first date.

    Args:
        states: (N, C, H, W).
        channels: their channels.
        date: what to call the n-th state.
        where: the files.
        fix: what to do.
        scope: which part of the record was counted; empty when all of it was.
    """
    bad = []
    for c, channel in enumerate(channels):
        missing = ~np.isfinite(states[:, c])
        if missing.any():
            rows = np.flatnonzero(missing.any(axis=(1, 2)))
            bad.append(f"{channel.name}: {int(missing.sum())} of {missing.size}, in {len(rows)} of {len(states)} states, first {date(int(rows[0]))}")
    if bad:
        raise DataError(f"missing or infinite values in {'; '.join(bad)}{f' ({scope})' if scope else ''}", where=where, fix=fix)


class _Place:
    """Where dask puts the chunks of one channel: a view of the block."""

    def __init__(self, values: NDArray[np.float32]) -> None:
        self._values = values

    def __dask_tokenize__(self) -> tuple[object, ...]:
        """Its address: without this, dask reads and hashes the whole block to name it."""
        return type(self).__name__, self._values.__array_interface__["data"][0], self._values.shape

    def __setitem__(self, where: tuple[slice, ...], chunk: NDArray[Any]) -> None:
        with np.errstate(over="ignore"):  # a value beyond float32 becomes infinite and is refused
            self._values[where] = chunk


class BlockReader:
    """Reads states of a source as float32 arrays.

    Args:
        source: the record.
        channels: channels in the order wanted.
        static: static fields in the order wanted.
        fill: value for missing cells by channel name; elsewhere missing cells are refused.
        round_bits: mantissa bits to keep, or None.
        fix: what to do about missing cells.
    """

    def __init__(self, source: Source, channels: ChannelSet, static: ChannelSet, *, fill: Mapping[str, float] | None = None,
                 round_bits: int | None = None, fix: str = "leave the variable out, or declare a value under `fill:` in the recipe") -> None:
        self._source = source
        self._channels = channels
        self._static = static
        self._fill = fill or {}
        self._round_bits = round_bits
        self._fix = fix
        self._arrays = [_array(source.dataset, c) for c in channels]
        self.where = ", ".join(str(p) for p in source.paths)

    @property
    def attrs(self) -> Mapping[str, Any]:
        """What the source says of itself."""
        return self._source.attrs

    @property
    def notes(self) -> list[str]:
        """What a reader of the states must know about their values."""
        notes = [f"missing cells of {name} filled with {value:g}" for name, value in sorted(self._fill.items())]
        return [*notes, f"rounded to {self._round_bits} mantissa bits"] if self._round_bits is not None else notes

    def read(self, times: slice | NDArray[np.int64]) -> NDArray[np.float32]:
        """States at some times; (N, C, H, W). Raises DataError for missing values and files that cannot be read."""
        positions = np.arange(len(self._source.times))[times]
        if not len(positions):
            return np.empty((0, len(self._channels), *self._source.grid.shape), np.float32)

        def date(n: int) -> str:
            return self._source.times.format(int(positions[n]))

        states = self._compute([a.isel(time=times) for a in self._arrays], f"{date(0)} to {date(-1)}", axis=1)
        scope = "" if len(positions) == len(self._source.times) else f"counted from {date(0)} to {date(-1)} only"
        return self._finish(states, self._channels, date, scope)

    def read_static(self) -> NDArray[np.float32]:
        """The static fields; (S, H, W). Raises DataError as `read` does."""
        fields = self._compute([_array(self._source.dataset, c) for c in self._static], "static fields", axis=0)
        self._finish(fields[None], self._static, lambda n: "the static fields")
        return fields

    def _compute(self, arrays: list[xr.DataArray], when: str, *, axis: int) -> NDArray[np.float32]:
        """All stacked along an axis, computed at once, so that a chunk of the source is read once, and let go when it has found its place.

        In threads of this process, whatever scheduler dask would take: the place is this process' memory.
        """
        shape = arrays[0].shape
        states = np.empty((*shape[:axis], len(arrays), *shape[axis:]), np.float32)
        places: Any = [_Place(states[(slice(None),) * axis + (n,)]) for n in range(len(arrays))]
        try:
            da.store([a.data for a in arrays], places, lock=False, compute=True, scheduler="threads")
        except READ_ERRORS as error:
            raise DataError(f"the source cannot be read ({str(error).splitlines()[0] if str(error) else type(error).__name__})",
                            where=f"{self.where}; {when}", fix="check the files with `afno-forecast data inspect`") from error
        return states

    def _finish(self, states: NDArray[np.float32], channels: ChannelSet, date: Callable[[int], str],
                scope: str = "") -> NDArray[np.float32]:
        """Fill declared missing cells, refuse the others, round; in place."""
        for c, channel in enumerate(channels):
            if channel.name in self._fill:
                np.nan_to_num(states[:, c], copy=False, nan=self._fill[channel.name], posinf=np.inf, neginf=-np.inf)
        refuse_missing(states, channels, date, where=self.where, fix=self._fix, scope=scope)
        if self._round_bits is not None:
            round_mantissa(states, self._round_bits)
        return states


def _array(ds: xr.Dataset, channel: Channel) -> xr.DataArray:
    """One channel, dims ([time], latitude, longitude) or ([time], y, x)."""
    array = ds[channel.variable]
    if channel.level is not None:
        array = array.sel(level=channel.level)
    return array.transpose(*(("time",) if "time" in array.dims else ()), ...)
