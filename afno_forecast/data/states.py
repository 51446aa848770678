"""States at chosen times out of anything: a training store, or files as they are. For rollout, validation and scores."""

# N time, C channel, S static channel, H latitude row, W longitude column

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..channels import ChannelSet
from ..errors import DataError
from ..grid import Geometry, Grid, LatLonGrid, Orientation
from ..times import TimeAxis, format_instant
from .blocks import BlockReader, refuse_missing
from .sources import open_source
from .sources_notes import tell
from .store import Store, is_store, match_channels

Paths = str | Path | Sequence[str | Path]
_NUM_SHOWN = 5
_FIX = "fill the missing cells in the file, or build a store with `fill:`"


@dataclass(frozen=True, eq=False)
class States:
    """A record of states, read by position in time.

    Args:
        times: instants, strictly ascending.
        grid: canonical grid of what `read` returns.
        orientation: the user's own order of the grid; canonical for a store.
        channels: what `read` returns, in order.
        attrs: global attributes (`title`, `institution`, `license`, ...).
        notes: what the reader must know, in words.
        where: the files, in words.
    """

    times: TimeAxis
    grid: Grid
    orientation: Geometry
    channels: ChannelSet
    attrs: Mapping[str, Any]
    notes: tuple[str, ...]
    where: str
    _read: Callable[[NDArray[np.int64]], NDArray[np.float32]]
    _static: NDArray[np.float32]

    def read(self, indices: NDArray[np.int64] | Sequence[int]) -> NDArray[np.float32]:
        """States at positions in time.

        Args:
            indices: positions on `times`, any order; shape (N,).

        Returns:
            float32 in physical units, latitude ascending; shape (N, C, H, W).

        Raises:
            DataError: missing values (by variable, count and date), or a part of a file that cannot be read.
        """
        positions = np.atleast_1d(np.asarray(indices, dtype=np.int64))
        if len(positions) and not (positions.min() >= 0 and positions.max() < len(self.times)):
            raise IndexError(f"positions {positions.min()}..{positions.max()} of {len(self.times)} times")
        return self._read(positions)

    def within(self, first: int, last: int) -> States:
        """The part of the record from one instant to another, both included; seconds since 1970 in the calendar of `times`."""
        begin, end = np.searchsorted(self.times.seconds, [first, last + 1])
        return replace(self, times=self.times.at(slice(begin, end)), _read=lambda positions: self._read(positions + begin))

    def static(self) -> NDArray[np.float32]:
        """The static fields asked for, in that order; float32 (S, H, W)."""
        return self._static

    def index_of(self, seconds: NDArray[np.int64] | Sequence[int]) -> NDArray[np.int64]:
        """Positions of instants, in the shape given.

        Args:
            seconds: instants, seconds since 1970 in the calendar of `times`; any shape.

        Raises:
            DataError: dates that are not there, with the nearest that are.
        """
        wanted = np.asarray(seconds, dtype=np.int64)
        have = self.times.seconds
        if not len(have):
            raise DataError("the data have no time", where=self.where, fix="give files with a time coordinate")
        after = np.minimum(np.searchsorted(have, wanted), len(have) - 1)
        absent = np.unique(wanted[have[after] != wanted])
        if len(absent):
            nearest = [int(have[np.argmin(np.abs(have - s))]) for s in absent[:_NUM_SHOWN]]
            more = f" and {len(absent) - _NUM_SHOWN} more" if len(absent) > _NUM_SHOWN else ""
            raise DataError(f"no data for {self._dates(absent[:_NUM_SHOWN].tolist())}{more}; the record runs from {self.times.format(0)} to "
                            f"{self.times.format(-1)}", where=self.where, fix=f"the nearest dates are {self._dates(nearest)}")
        return np.asarray(after, dtype=np.int64)

    def _dates(self, seconds: Sequence[int]) -> str:
        return ", ".join(dict.fromkeys(format_instant(s, self.times.calendar) for s in seconds))


def open_states(path: Paths, channels: ChannelSet, static: ChannelSet | None = None, *, fill_absent: bool = False) -> States:
    """Open a training store, or whatever `open_source` reads, for some channels.

    Args:
        path: a store, or files, globs and folders.
        channels: channels wanted, matched by variable, level and units, in this order; others are ignored and noted.
        static: static fields wanted; None for none.
        fill_absent: as `open_source` has it; a training store always has all its chunks.

    Raises:
        DataError: a channel is missing (both lists are named), or the data cannot be read.
    """
    static = ChannelSet(()) if static is None else static
    if isinstance(path, str | Path) and is_store(path):
        return _of_store(Store.open(path), channels, static)
    return _of_source(path, channels, static, fill_absent)


def _of_store(store: Store, channels: ChannelSet, static: ChannelSet) -> States:
    index = store.channel_index(channels)
    fixed = match_channels(static, store.static_channels, str(store.path))
    grid = store.grid
    order = Orientation(grid.latitude, grid.longitude) if isinstance(grid, LatLonGrid) else grid

    def read(positions: NDArray[np.int64]) -> NDArray[np.float32]:
        out = np.empty((len(positions), len(channels), *grid.shape), np.float32)
        for n, position in enumerate(positions):
            out[n] = store.read(int(position), index)
        refuse_missing(out, channels, lambda n: store.times.format(int(positions[n])), where=str(store.path), fix="build the store again")
        return out

    notes = (*store.notes, *_extra(channels.names, store.channels.names))
    return States(store.times, grid, order, channels, store.source_attrs, notes, str(store.path), read, store.static()[fixed])


def _of_source(path: Paths, channels: ChannelSet, static: ChannelSet, fill_absent: bool) -> States:
    source = open_source(path, channels=channels.names, fill_absent=fill_absent)
    where = ", ".join(source.paths)
    match_channels(channels, source.channels, where)
    match_channels(static, source.static, where)
    reader = BlockReader(source, channels, static, fix=_FIX)
    grid = source.orientation.grid()
    fields = reader.read_static() if len(static) else np.empty((0, *grid.shape), np.float32)
    unused = dict.fromkeys(f.variable for f in source.findings if f.variable and not f.refused)
    notes = (*tell(source.notes), *_extra([c.variable for c in (*channels, *static)], list(unused)))
    return States(source.times, grid, source.orientation, channels, source.attrs, notes, where, reader.read, fields)


def _extra(wanted: Sequence[str], available: Sequence[str]) -> tuple[str, ...]:
    names = [n for n in available if n not in wanted]
    return (f"not used: {', '.join(names)}",) if names else ()
