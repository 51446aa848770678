"""Analyses and climatologies in memory, for tests of scores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from afno_forecast.channels import ChannelSet
from afno_forecast.grid import LatLonGrid
from afno_forecast.times import TimeAxis


@dataclass
class Record:
    """Analyses, which count how often they are read."""

    fields: np.ndarray
    times: TimeAxis
    channels: ChannelSet
    grid: LatLonGrid
    reads: int = 0
    where: str = "memory"

    def read(self, indices: np.ndarray) -> np.ndarray:
        self.reads += len(indices)
        return self.fields[indices]

    def index_of(self, seconds: np.ndarray) -> np.ndarray:
        index = np.searchsorted(self.times.seconds, seconds)
        assert (self.times.seconds[index] == seconds).all()
        return index


@dataclass
class Clim:
    """A climatology of one state, none from `blank_from` on."""

    state: np.ndarray
    channels: ChannelSet
    grid: LatLonGrid
    blank_from: int = 1 << 60
    path: Path = Path("clim.zarr/climatology")

    def at(self, seconds: np.ndarray, calendar: str) -> np.ndarray:
        return np.stack([self.state if s < self.blank_from else np.full_like(self.state, np.nan) for s in seconds])


def walk(num: int, channels: ChannelSet, grid: LatLonGrid, start: int, step: int) -> Record:
    """A random walk of `num` analyses, `step` seconds apart."""
    fields = 280 + np.random.default_rng(1).normal(0, 2, (num, len(channels), *grid.shape)).cumsum(axis=0)
    return Record(fields.astype(np.float32), TimeAxis(start + step * np.arange(num, dtype=np.int64)), channels, grid)
