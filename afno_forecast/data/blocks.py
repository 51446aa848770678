"""Blocks of states out of a source, through dask: checked for missing values, filled where declared, rounded where asked."""

# N time, C channel, S static channel, H latitude row, W longitude column

from __future__ import annotations

from collections.abc import Mapping

import dask
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from .. import vocabulary
from ..channels import Channel, ChannelSet
from ..errors import ConfigError, DataError
from .sources import Source


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


class BlockReader:
    """Reads states of a source as float32 arrays.

    Args:
        source: the record.
        channels: channels in the order wanted.
        static: static fields in the order wanted.
        fill: value for missing cells by channel name; elsewhere missing cells are refused.
        round_bits: mantissa bits to keep, or None.
    """

    def __init__(self, source: Source, channels: ChannelSet, static: ChannelSet, *, fill: Mapping[str, float], round_bits: int | None) -> None:
        self._source = source
        self._channels = channels
        self._static = static
        self._fill = fill
        self._round_bits = round_bits
        self._arrays = [_array(source.dataset, c) for c in channels]

    @property
    def notes(self) -> list[str]:
        """What a reader of the store must know about its values."""
        notes = [f"missing cells of {name} filled with {value:g}" for name, value in sorted(self._fill.items())]
        return [*notes, f"rounded to {self._round_bits} mantissa bits"] if self._round_bits is not None else notes

    def read(self, times: slice) -> NDArray[np.float32]:
        """States at a slice of times; (N, C, H, W). Raises DataError for missing values and files that cannot be read."""
        when = f"{self._source.times.format(times.start)} to {self._source.times.format(times.stop - 1)}"
        block = np.stack(self._compute([a.isel(time=times) for a in self._arrays], when), axis=1)
        self._check(block, self._channels, times.start)
        if self._round_bits is not None:
            round_mantissa(block, self._round_bits)
        return block

    def read_static(self) -> NDArray[np.float32]:
        """The static fields; (S, H, W). Raises DataError as `read` does."""
        fields = np.stack(self._compute([_array(self._source.dataset, c) for c in self._static], "static fields"))
        self._check(fields[None], self._static, None)
        return fields

    def _compute(self, arrays: list[xr.DataArray], when: str) -> list[NDArray[np.float32]]:
        """All at once, so that a chunk of the source is read once."""
        try:
            parts = dask.compute(*(a.data for a in arrays))
        except (OSError, RuntimeError, ValueError) as error:
            raise DataError(f"the source cannot be read ({str(error).splitlines()[0] if str(error) else type(error).__name__})",
                            where=f"{', '.join(str(p) for p in self._source.paths)}; {when}",
                            fix="check the files with `afno-forecast data inspect`") from error
        with np.errstate(over="ignore"):  # a value beyond float32 becomes infinite and is refused below
            return [np.asarray(p, dtype=np.float32) for p in parts]

    def _check(self, states: NDArray[np.float32], channels: ChannelSet, first: int | None) -> None:
        """Fill declared missing cells in place; raise DataError for the others, counted by channel."""
        bad: list[str] = []
        for c, channel in enumerate(channels):
            values = states[:, c]
            if np.isfinite(values).all():
                continue
            missing = np.isnan(values)
            if channel.name in self._fill:
                values[missing] = self._fill[channel.name]
                missing = ~np.isfinite(values)
                if not missing.any():
                    continue
            missing |= ~np.isfinite(values)
            at = "" if first is None else f", first at {self._source.times.format(first + int(np.flatnonzero(missing.any(axis=(1, 2)))[0]))}"
            bad.append(f"{channel.name}: {int(missing.sum())} of {missing.size}{at}")
        if bad:
            span = "" if first is None else f" in the {len(states)} times from {self._source.times.format(first)}"
            raise DataError(f"missing or infinite values{span}: {'; '.join(bad)}", where=", ".join(str(p) for p in self._source.paths),
                            fix="leave the variable out, or declare a value under `fill:` in the recipe")


def _array(ds: xr.Dataset, channel: Channel) -> xr.DataArray:
    """One channel, dims ([time], latitude, longitude)."""
    array = ds[channel.variable]
    if channel.level is not None:
        array = array.sel(level=channel.level)
    return array.transpose(*(("time",) if "time" in array.dims else ()), "latitude", "longitude")
