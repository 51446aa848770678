"""What batches are made of: a record of states, read by position in time into memory that is already there."""

# C channel, H latitude row, W longitude column

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..channels import ChannelSet
from ..grid import Grid
from ..times import TimeAxis
from .blocks import BlockReader
from .sources import Source
from .store import Scaling, match_channels


class Record(Protocol):
    """A training store, or files as they are; safe to share between threads."""

    @property
    def times(self) -> TimeAxis:
        """Instants, strictly ascending."""
        ...

    @property
    def grid(self) -> Grid:
        """Canonical grid of what is read."""
        ...

    @property
    def where(self) -> str:
        """The files, in words."""
        ...

    def channel_index(self, channels: ChannelSet) -> NDArray[np.int64]:
        """Positions of the wanted channels, by variable, level and units. Raises DataError."""
        ...

    def run_of(self, time: int) -> tuple[int, int]:
        """The times (first, beyond the last) whose states lie in the same chunks: what one read decodes anyway."""
        ...

    def read_into(self, times: Sequence[int], outs: Sequence[NDArray[np.float32]], *, channel_index: NDArray[np.int64], rows: slice | None = None,
                  scaling: Scaling | None = None) -> None:
        """States at positions in time, each into an array (C, rows, W), physical units unless scaled. Raises DataError."""
        ...


class SourceRecord:
    """Files as they are, read through xarray: any layout, at the speed of its chunks. Missing values are refused.

    Args:
        source: the record.
        channels: channels that may be asked for; all that vary in time by default.
        fix: what to do about missing cells.
    """

    def __init__(self, source: Source, channels: ChannelSet | None = None, *, fix: str = "fill the missing cells in the file") -> None:
        self.times = source.times
        self.grid: Grid = source.orientation.grid()
        self.channels = channels or source.channels
        self.where = ", ".join(source.paths)
        self._reader = BlockReader(source, self.channels, ChannelSet(()), fix=fix)
        chunks = [source.dataset[v].chunksizes.get("time", (len(self.times),)) for v in dict.fromkeys(c.variable for c in self.channels)]
        edges = max((np.cumsum((0, *sizes)) for sizes in chunks), key=lambda e: int(np.diff(e).max()))
        self._edges: NDArray[np.int64] = np.asarray(edges, dtype=np.int64)
        self._lock = threading.Lock()

    def channel_index(self, channels: ChannelSet) -> NDArray[np.int64]:
        """Positions of the wanted channels, by variable, level and units. Raises DataError."""
        return match_channels(channels, self.channels, self.where)

    def run_of(self, time: int) -> tuple[int, int]:
        """The times (first, beyond the last) whose states lie in the same chunks of the files, of the variable with the longest ones."""
        place = int(np.searchsorted(self._edges, time, side="right"))
        return int(self._edges[place - 1]), int(self._edges[place])

    def read_into(self, times: Sequence[int], outs: Sequence[NDArray[np.float32]], *, channel_index: NDArray[np.int64], rows: slice | None = None,
                  scaling: Scaling | None = None) -> None:
        """As `Record.read_into`; all times in one read, so that a chunk they share is decoded once."""
        order = np.argsort(times)
        with self._lock:  # libraries below are not all safe to share, and decoding here holds Python's lock anyway
            states = self._reader.read(np.asarray(times, dtype=np.int64)[order])
        for n, state in zip(order, states, strict=True):
            outs[n][...] = state[channel_index, rows or slice(None)]
            if scaling is not None:
                scaling.apply(outs[n])
