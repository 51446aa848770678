"""Statistics of channels that add: any division of the record into blocks gives the same answer. float64, area-weighted."""

# N time, C channel, H latitude row, W longitude column

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Statistics:
    """Area-weighted statistics of each channel over a period; physical units; arrays float64 of shape (C,).

    Args:
        mean: mean over area and time.
        std: population standard deviation over area and time; 0 for a constant channel.
        minimum: smallest value.
        maximum: largest value.
        tendency_std: standard deviation of the difference over one `time_step`; NaN when the period holds no such pair.
        period: first and last instant covered, seconds in the store's calendar, inclusive.
    """

    mean: Float
    std: Float
    minimum: Float
    maximum: Float
    tendency_std: Float
    period: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Moments:
    """Weighted count, mean, sum of squared deviations, and range of each channel; each of shape (C,)."""

    weight: Float
    mean: Float
    squares: Float
    minimum: Float
    maximum: Float

    @classmethod
    def empty(cls, num_channels: int) -> Moments:
        """Of nothing."""
        zero = np.zeros(num_channels)
        return cls(zero, zero, zero, np.full(num_channels, np.inf), np.full(num_channels, -np.inf))

    @classmethod
    def of(cls, values: NDArray[np.floating], area_weights: Float) -> Moments:
        """Of states of shape (N, C, H, W) with weights (H, W): mean first, then deviations from it, both in float64."""
        return cls.of_channels((values[:, c] for c in range(values.shape[1])), values.shape[1], area_weights)

    @classmethod
    def of_channels(cls, channels: Iterable[NDArray[np.floating]], num_channels: int, area_weights: Float) -> Moments:
        """As `of`, of one channel (N, H, W) after another, so that only one need be held."""
        found = cls.empty(num_channels)
        weight, mean, squares = np.zeros(num_channels), np.zeros(num_channels), np.zeros(num_channels)
        for c, values in enumerate(channels):
            if not len(values):
                continue
            weight[c] = float(area_weights.sum()) * len(values)
            channel = values.astype(np.float64)
            mean[c] = np.einsum("nhw,hw->n", channel, area_weights).sum() / weight[c]
            channel -= mean[c]
            np.square(channel, out=channel)
            squares[c] = np.einsum("nhw,hw->n", channel, area_weights).sum()
            found.minimum[c], found.maximum[c] = values.min(), values.max()
        return cls(weight, mean, squares, found.minimum, found.maximum)

    def merge(self, other: Moments) -> Moments:
        """Of both together (Chan, Golub and LeVeque 1983)."""
        weight = self.weight + other.weight
        share = np.divide(other.weight, weight, out=np.zeros_like(weight), where=weight > 0)
        difference = other.mean - self.mean
        return Moments(weight, self.mean + difference * share, self.squares + other.squares + difference**2 * self.weight * share,
                       np.minimum(self.minimum, other.minimum), np.maximum(self.maximum, other.maximum))

    def std(self) -> Float:
        """Population standard deviation; exactly 0 where all values are equal, NaN of nothing; shape (C,)."""
        variance = np.divide(self.squares, self.weight, out=np.full_like(self.weight, np.nan), where=self.weight > 0)
        return np.where(self.minimum == self.maximum, 0.0, np.sqrt(variance))


@dataclass(frozen=True, eq=False)
class PartialStatistics:
    """What one block of the record contributes: moments of its states, and of the differences that end in it."""

    state: Moments
    tendency: Moments

    @classmethod
    def empty(cls, num_channels: int) -> PartialStatistics:
        """Of nothing."""
        return cls(Moments.empty(num_channels), Moments.empty(num_channels))

    def merge(self, other: PartialStatistics) -> PartialStatistics:
        """Of both blocks."""
        return PartialStatistics(self.state.merge(other.state), self.tendency.merge(other.tendency))

    def finalize(self, period: tuple[int, int]) -> Statistics:
        """The statistics of everything merged so far."""
        return Statistics(self.state.mean, self.state.std(), self.state.minimum, self.state.maximum, self.tendency.std(), period)

    def save(self, path: Path) -> None:
        """Write to a temporary name, flush to disk, rename."""
        arrays = {f"{part}_{f.name}": getattr(getattr(self, part), f.name) for part in ("state", "tendency") for f in fields(Moments)}
        temporary = path.with_name(f"{path.name}.{uuid4().hex}.tmp")  # several processes may measure the same
        with temporary.open("wb") as handle:
            np.savez(handle, allow_pickle=False, **arrays)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> PartialStatistics:
        """What `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            state, tendency = (Moments(**{f.name: arrays[f"{part}_{f.name}"] for f in fields(Moments)}) for part in ("state", "tendency"))
        return cls(state, tendency)
